"""What the gate is held to, against what the last runs of the scripts measured: made from their JSON
files, so that no sentence about it can grow old."""

import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests/python"), str(HERE / "compare")]
from servers import AUTHENTICATING

GATE = "wicketgate"
# A reload's worst kind counts; `none` is without one.
KINDS = ("one", "all", "routes")


class Target(NamedTuple):
    what: str
    source: str
    limit: float
    is_most: bool
    shape: str
    measured: object
    # What the same binary differs by from itself, where that may be more than the limit.
    noise: object = None


def median(figures, key):
    return statistics.median(one[key] for one in figures)


def against(key, figure, other="nginx"):
    """The middle of the rounds, each against the other server in the same one."""

    def measured(results):
        pairs = zip(results[key][GATE], results[key][other])
        return statistics.median(one[figure] / two[figure] for one, two in pairs)

    return measured


def of_medians(key, figure, other):
    return lambda results: median(results[key][GATE], figure) / median(results[key][other], figure)


def of_best(direction):
    def measured(results):
        best = max(median(figures, "mib_s") for name, figures in results[direction].items() if name.startswith("nginx"))
        return median(results[direction][GATE], "mib_s") / best

    return measured


def times_the_best(key):
    """Requests per CPU second against the better of the gateways that authenticate."""
    return lambda results: min(median(results[key][name], "cpu_us") for name in AUTHENTICATING) / median(results[key][GATE], "cpu_us")


def added_p99(other):
    """By how much the p99 is more than another's in the same turn."""

    def measured(results):
        pairs = zip(results["checks"][GATE], results["checks"][other])
        return statistics.median(one["p99_us"] - two["p99_us"] for one, two in pairs)

    return measured


def soaked(measured):
    """Only what ran its ten minutes with a processor at its side says anything."""

    def of_a_whole(results):
        if results["seconds"] < 600 or results["not checked"]:
            raise ValueError("too short, or starved")
        return measured(results)

    return of_a_whole


def beyond_its_error(results):
    found = results["memory, MiB in ten minutes"]
    return max(found["slope"] - found["error"], 0)


def targets(many):
    most = lambda what, source, limit, measured, shape="{:.2f}", noise=None: Target(what, source, limit, True, shape, measured, noise)
    least = lambda what, source, limit, measured, shape="{:.2f}": Target(what, source, limit, False, shape, measured)
    kib = lambda protocol: lambda results: results["idle"][GATE][protocol]["each_bytes"] / 1024
    mib = lambda protocol: lambda results: results["many"][GATE][protocol]["total_bytes"] / (1 << 20)
    slowest = lambda key: lambda results: max(results["reload"][kind][key] for kind in KINDS)
    piece = lambda start, but="-": lambda results: max(
        value for name, value in results["medians"].items() if name.startswith(start) and but not in name
    )
    return [
        most("CPU of a request over HTTP/1.1, of nginx's as a plain proxy", "compare", 1.1, against("h1", "cpu_us")),
        most("the same over HTTP/2", "compare", 1.3, against("h2", "cpu_us")),
        most("CPU of full handshakes, of nginx's", "compare", 0.5, against("full", "cpu_us")),
        most("memory of an idle connection over HTTP/1.1, KiB", "compare", 20, kib("h1"), "{:.1f}"),
        most("the same over HTTP/2, KiB", "compare", 20, kib("h2"), "{:.1f}"),
        most(f"memory in all with {many:,} idle connections over HTTP/1.1, MiB", "compare", 250, mib("h1"), "{:.0f}"),
        most("the same over HTTP/2, MiB", "compare", 250, mib("h2"), "{:.0f}"),
        most(
            "p99 at half load that more to check adds, the gate beside itself, µs", "compare", 100,
            added_p99("gate-least"), "{:+.0f}", added_p99("gate-again"),
        ),
        most(
            "p99 of all checks at half load by the gate's own clock, µs", "compare", 100,
            lambda results: median(results["latency"][GATE], "checks_p99_us"), "{:.0f}",
        ),
        least("1 GiB down, of nginx's best rate", "compare", 0.9, of_best("down")),
        least("1 GiB up, of nginx's best rate", "compare", 0.9, of_best("up")),
        least("WebSocket echo of 64 bytes, messages per CPU second, of HAProxy's", "compare", 0.9, of_medians("echo-64", "per_cpu_second", "haproxy")),
        least("the same of 16 KiB", "compare", 0.9, of_medians("echo-16384", "per_cpu_second", "haproxy")),
        least("requests per CPU second, of the best gateway that authenticates, HTTP/1.1", "compare", 3, times_the_best("h1"), "{:.1f}"),
        least("the same over HTTP/2", "compare", 3, times_the_best("h2"), "{:.1f}"),
        most("p99 under reload at full load, of that without", "growth", 2, slowest("p99_times")),
        most("the same at half load", "growth", 2, slowest("half_p99_times")),
        most("requests that failed under reload", "growth", 0, slowest("failed"), "{:.0f}"),
        most(
            "requests that failed while the binary was replaced", "upgrade", 0,
            lambda results: sum(one["failed"] for rounds in results.values() if isinstance(rounds, list) for one in rounds), "{:.0f}",
        ),
        most(
            "from signing out to the last closed WebSocket at another gate, ms", "shared", 2000,
            lambda results: results["revocation"]["other_gate"]["after_request"]["max_ms"], "{:.0f}",
        ),
        most("a session, µs", "pieces", 1, piece("session/hit")),
        most("canonicalisation and routing, µs", "pieces", 1, piece("canonicalise + route")),
        most("a decision with repeated inputs, µs", "pieces", 2, piece("decision/remembered")),
        most("the append of an audit record, µs", "pieces", 2, piece("audit/append", "durable")),
        most("counting, µs", "pieces", 0.3, piece("metrics/request")),
        most("wrong answers in the soak", "soak", 0, soaked(lambda results: results["wrong answers"]), "{:.0f}"),
        most("growth of memory in the soak beyond its error, MiB in ten minutes", "soak", 1, soaked(beyond_its_error)),
    ]


def sources(folder, stamp):
    """The figures of each script, and which of them are none of this binary's."""
    found, foreign = {}, set()
    for name in ("compare", "growth", "shared", "upgrade", "pieces", "soak"):
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        figures = json.loads(file.read_text())
        found[name] = figures["results"] if name == "compare" else figures
        stamps = figures["machine"]["stamp"] if name == "compare" else figures.get("stamps", figures.get("machine"))
        if name == "growth":
            # Its other parts have no targets.
            stamps = stamps.get("reload", "")
        # Of `pieces` the program is another one, which refuses to be older than its sources.
        for of in stamps.values() if isinstance(stamps, dict) else [stamps]:
            if name != "pieces" and digest(of) != digest(stamp):
                foreign.add(name)
    return found, foreign


def digest(stamp):
    return stamp.partition("sha256 ")[2][:8]


def render(folder, stamp):
    """The table, and what is missed."""
    found, foreign = sources(folder, stamp)
    many = json.loads((folder / "compare.json").read_text())["machine"]["many"] if "compare" in found else 10_000
    lines, missed = [f"{stamp}.", "", "| what | target | measured | |", "|---|---|---|---|"], []
    for target in targets(many):
        bound = f"at {'most' if target.is_most else 'least'} {target.limit:g}"
        try:
            value = None if target.source in foreign else target.measured(found[target.source])
        except (KeyError, ValueError):
            value = None
        if value is None:
            lines.append(f"| {target.what} | {bound} | | not measured with this binary |")
            continue
        kept = value <= target.limit if target.is_most else value >= target.limit
        noise = abs(target.noise(found[target.source])) if target.noise else 0
        verdict = "less than the noise" if noise > max(abs(value), target.limit) else "kept" if kept else "**missed**"
        figure = target.shape.format(value)
        if not kept and float(figure) == target.limit:
            # Rounded, it would look as if it were kept.
            figure = f"{value:.4g}"
        lines.append(f"| {target.what} | {bound} | {figure} | {verdict} |")
        if verdict == "**missed**":
            missed.append(target.what)
    return "\n".join(lines), missed
