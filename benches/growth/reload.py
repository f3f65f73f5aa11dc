"""Reloads of many routes and policies under load: what fails, and what happens to the p99 beside them."""

import statistics
import threading

# Of the p99 without a reload, in the same round.
P99_AT_MOST = 2

# What is changed before each reload, and what the table calls it.
RELOADS = {
    "none": "nothing: no reload",
    "one": "one of ten policy files",
    "all": "every policy file",
    "routes": "every policy file, and every route's upstream and limits",
}

ROUTES_LUA = """
local number = 0
function request()
  number = number + 1
  return wrk.format("GET", "/part-" .. number % ROUTES .. "/1k")
end
"""


def measure(world, _):
    """Load without a reload, then with one after the other, round by round: as much as the gate can do,
    and half of that, at a rate. Each request goes to the next route."""
    routes, policies = world.reloaded
    world.start(routes=routes + 1, policies=policies)
    figures = {kind: [] for kind in RELOADS}
    alone = {kind: world.reload_of(kind) for kind in RELOADS if kind != "none"}
    seconds = max(2 * world.options.seconds, 8)
    script = world.folder / "load" / "routes.lua"
    script.write_text(ROUTES_LUA.replace("ROUTES", str(routes)))
    full = lambda seconds: world.wrk("-c", "64", "-s", str(script), seconds=seconds)
    rate = full(3)["requests"] / 3 / 2
    for _ in range(world.options.rounds):
        for kind in figures:
            load, took = while_reloading(world, kind, lambda: full(seconds))
            if load["failed"] or load["errors"]:
                raise SystemExit(f"under reload, not every request went well: {load}\n{world.log()}")
            half, took_at_half = while_reloading(world, kind, lambda: world.at_rate(rate, seconds))
            figures[kind].append({
                **load, "half_p99_ms": half["p99_us"] / 1e3, "half_requests": half["requests"],
                "reloads": len(took) + len(took_at_half), "took_s": statistics.median(took) if took else 0,
                "half_took_s": statistics.median(took_at_half) if took_at_half else 0,
            })
    rows = {kind: reload_row(rounds, figures["none"], seconds, alone.get(kind)) for kind, rounds in figures.items()}
    rows["none"] |= {"routes": routes, "policies": policies}
    return rows


def while_reloading(world, kind, load):
    """What the load says, and how long each reload took that was done meanwhile."""
    over, took = threading.Event(), []
    thread = threading.Thread(target=reloading, args=(world, kind, over, took))
    thread.start()
    try:
        said = load()
    finally:
        over.set()
        thread.join()
    if kind != "none" and not took:
        raise SystemExit(f"no reload came to its end under load\n{world.log()}")
    return said, took


def reloading(world, kind, over, took):
    while kind != "none" and not over.is_set():
        world.rewrite(kind)
        took.append(world.reload()[0])


def reload_row(rounds, without, seconds, alone):
    median = lambda key: statistics.median(one[key] for one in rounds)
    # Round by round: what else the machine does then hits both alike.
    times = lambda key: statistics.median(one[key] / other[key] for one, other in zip(rounds, without))
    return {
        "p99_ms": median("p99_ms"), "p99_times": times("p99_ms"), "rps": median("requests") / seconds, "took_s": median("took_s"),
        "half_p99_ms": median("half_p99_ms"), "half_p99_times": times("half_p99_ms"), "half_took_s": median("half_took_s"),
        "half_rps": median("half_requests") / seconds, "reloads": sum(one["reloads"] for one in rounds),
        "requests": sum(one["requests"] + one["half_requests"] for one in rounds), "failed": 0,
        "alone_s": alone[0] if alone else 0, "alone_cpu_s": alone[1] if alone else 0,
    }


def too_slow(figures):
    loads = (("p99_times", "at full load"), ("half_p99_times", "at half of it"))
    return [
        f"{RELOADS[kind]}, {load}: {one[key]:.2f} times" for kind, one in figures.items() for key, load in loads
        if one[key] > P99_AT_MOST
    ]


def table(figures):
    none = figures["none"]
    lines = [
        f"{none['routes']:,} routes and {none['policies']:,} policies, reload after reload, with requests to all routes from"
        f" 64 connections: at full load ({none['rps']:,.0f} requests a second without a reload), and at {none['half_rps']:,.0f} a second,"
        " half of what it took right before, due at random moments whatever the gate takes. *Times*: the p99 without a reload, in the"
        " same round.", "",
        "| what changes | requests | failed | reloads | full load: p99 ms | times | requests/s | half load: p99 ms | times | a reload takes, s: full load | half load | no load |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, one in figures.items():
        took = [rounded(one[key]) if one["reloads"] else "" for key in ("took_s", "half_took_s", "alone_s")]
        times = ["" if kind == "none" else f"{one[key]:.2f}" for key in ("p99_times", "half_p99_times")]
        row = [
            RELOADS[kind], f"{one['requests']:,}", str(one["failed"]), str(one["reloads"]), f"{one['p99_ms']:.2f}", times[0],
            f"{one['rps']:,.0f}", f"{one['half_p99_ms']:.2f}", times[1], *took,
        ]
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


def rounded(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
