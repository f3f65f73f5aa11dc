"""Markdown of what was measured: medians over the rounds, each measure with what it is held to."""

import os
import re
import statistics
import subprocess
from pathlib import Path

from servers import AUTHENTICATING, ITSELF, NAMES

GATE = "wicketgate"


def median(figures, key):
    return statistics.median(one[key] for one in figures)


def name_of(server):
    """`nginx, buffering off` and the like have the server's name before the comma."""
    name, comma, kind = server.partition(",")
    return NAMES[name] + comma + kind


def render(results, facts):
    parts = [
        f"{facts['stamp']} ({facts['cpu']}), kernel {facts['kernel']},"
        f" nginx {facts['nginx']}, HAProxy {facts['haproxy']}, Apache {facts['apache']}. Medians of"
        f" {facts['rounds']} interleaved rounds of {facts['seconds']} s, for requests at full load and handshakes of"
        f" {facts['bursts']} of 1 s; TLS 1.3, ECDSA P-256, 1 KiB answers, keep-alive to the"
        " upstream. Load generator, upstream and proxy share the machine, so compare the CPU of the proxy:"
        " against nginx's in the same round, the middle of the rounds and in brackets their quartiles."
    ]
    for key, title in (("h1", "HTTP/1.1, 64 connections"), ("h2", "HTTP/2, 32 connections x 10 streams")):
        if key in results:
            parts.append(requests(results[key], title))
    for key, title in (("h1", "HTTP/1.1"), ("h2", "HTTP/2")):
        if set(results.get(key, ())) >= {GATE, *AUTHENTICATING}:
            parts.append(authenticating(results[key], title))
    for key, part in (("latency", latency), ("down", bodies), ("echo-64", echoes)):
        if key in results:
            parts.append(part(results))
    if "checks" in results:
        parts.append(checks(results["checks"], facts["pairs"]))
    if "full" in results:
        parts.append(handshakes(results))
    if "idle" in results:
        parts.append(idle(results["idle"], facts["idle"]))
        if results.get("many"):
            parts.append(idle(results["many"], facts["many"]))
    return "\n\n".join(parts) + "\n"


def lines(head, rows):
    columns = head.count("|") - 1
    return "\n".join([head, "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)])


def requests(results, title):
    rows = []
    for name, figures in results.items():
        cpu = median(figures, "cpu_us")
        against = ratios(figures, results["nginx"]) if "nginx" in results else ""
        rows.append([
            NAMES[name], f"{median(figures, 'rps'):,.0f}", f"{median(figures, 'p50_us') / 1e3:.2f}",
            f"{median(figures, 'p99_us') / 1e3:.2f}", f"{cpu:.1f}", "1" if name == "nginx" else against,
        ])
    return lines(f"| {title} | requests/s | p50 ms | p99 ms | CPU us/request | against nginx |", rows)


def ratios(figures, others):
    """Round by round: what else the machine does then hits both alike."""
    return quartiles([one["cpu_us"] / other["cpu_us"] for one, other in zip(figures, others)], "{:.2f}")


def authenticating(results, title):
    """Requests for each second of CPU, and how many times as many the gate answers."""
    rate = lambda name: 1e6 / median(results[name], "cpu_us")
    rows = [
        [NAMES[name], f"{rate(name):,.0f}", "" if name == GATE else f"{rate(GATE) / rate(name):.1f}"]
        for name in (GATE, *AUTHENTICATING)
    ]
    return lines(f"| gateways that authenticate, {title} | requests per CPU second | the gate is so many times it |", rows)


def latency(results):
    results = results["latency"]
    rows = []
    for name, figures in results.items():
        row = [NAMES[name], f"{median(figures, 'rps'):,.0f}"]
        for key in ("p50_us", "p99_us"):
            values = [one[key] for one in figures]
            row.append(f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})")
            if "nginx" in results:
                # Round by round: what else the machine does then hits both alike, if anything does.
                pairs = zip(values, (one[key] for one in results["nginx"]))
                row.append("" if name == "nginx" else f"{statistics.median(a - b for a, b in pairs):+,.0f}")
            else:
                row.append("")
        rows.append([*row, f"{median(figures, 'late_p99_us'):,.0f}"])
    head = (
        "| at half of the gate's highest rate, HTTP/1.1 | requests/s | p50 us | more than nginx | p99 us"
        " | more than nginx | sent late, p99 us |"
    )
    text = lines(head, rows)
    if GATE in results:
        mean, p99 = (median(results[GATE], f"checks_{key}_us") for key in ("mean", "p99"))
        text += (
            f"\n\nBy the gate's own clock, all checks, the record and the rewriting of the header took {mean:.0f} us of a"
            f" request on average, and {p99:.0f} us where each stage is counted with its own p99."
        )
    return text


def checks(results, pairs):
    """The gate beside itself, in pairs of the same second or two."""
    rows = []
    for name, figures in results.items():
        row = [ITSELF[name]]
        for key in ("p50_us", "p99_us"):
            row.append(f"{median(figures, key):,.0f}")
            row.append("" if name == GATE else quartiles(more_than(results, name, key), "{:+,.0f}"))
        rows.append(row)
    head = (
        f"| the gate beside itself, {median(results[GATE], 'rps'):,.0f} requests/s, {pairs} rounds of 1 s"
        " | p50 us | with more to check, more by | p99 us | more by |"
    )
    return lines(head, rows)


def more_than(results, name, key):
    """By how much the gate with more to check is above this one, round by round."""
    return [full[key] - one[key] for full, one in zip(results[GATE], results[name])]


def quartiles(values, shape):
    if len(values) < 4:
        return shape.format(statistics.median(values))
    low, middle, high = (shape.format(value) for value in statistics.quantiles(values, method="inclusive"))
    return f"{middle} ({low} to {high})"


def bodies(results):
    parts = []
    for key, title in (("down", "1 GiB down"), ("up", "1 GiB up")):
        rows = []
        plain = [median(figures, "mib_s") for name, figures in results[key].items() if name.startswith("nginx")]
        for name, figures in results[key].items():
            rate = median(figures, "mib_s")
            memory = [f"{median(figures, moment) / (1 << 20):.1f}" for moment in ("before", "most", "after")]
            against = f"{rate / max(plain):.2f}" if plain else ""
            rows.append([name_of(name), f"{rate:,.0f}", against, f"{median(figures, 'cpu_s'):.2f}", *memory])
        head = f"| {title} | MiB/s | against nginx's best | CPU s | MiB before | at most | after |"
        parts.append(lines(head, rows))
    return "\n\n".join(parts)


def echoes(results):
    parts = []
    for key, title in (("echo-64", "64 bytes"), ("echo-16384", "16 KiB")):
        rows = []
        for name, figures in results[key].items():
            rate = median(figures, "per_cpu_second")
            other = median(results[key]["haproxy"], "per_cpu_second") if "haproxy" in results[key] else None
            against = f"{rate / other:.2f}" if other else ""
            cpu = f"{median(figures, 'cpu_us'):.1f}"
            rows.append([NAMES[name], f"{median(figures, 'rate'):,.0f}", f"{rate:,.0f}", cpu, against])
        head = f"| WebSocket echo of {title}, 64 connections | messages/s | messages per CPU second | CPU us/message | against HAProxy |"
        parts.append(lines(head, rows))
    return "\n\n".join(parts)


def handshakes(results):
    parts = []
    for kind, title in (("full", "full handshake"), ("resumed", "resumed session")):
        rows = []
        for name, figures in results[kind].items():
            against = ratios(figures, results[kind]["nginx"]) if "nginx" in results[kind] else ""
            cpu, p50, p99 = (f"{median(figures, key):,.0f}" for key in ("cpu_us", "p50_us", "p99_us"))
            rows.append([NAMES[name], f"{median(figures, 'rps'):,.0f}", p50, p99, cpu, "1" if name == "nginx" else against])
        head = f"| {title} + request, 16 clients | handshakes/s | p50 us | p99 us | CPU us | against nginx |"
        parts.append(lines(head, rows))
    return "\n\n".join(parts)


def idle(results, connections):
    rows = [
        [NAMES[name], *(f"{figures[protocol]['each_bytes'] / 1024:.1f}" for protocol in ("h1", "h2")),
         *(f"{figures[protocol]['total_bytes'] / 2**20:.0f}" for protocol in ("h1", "h2"))]
        for name, figures in results.items()
    ]
    return lines(
        f"| {connections:,} idle connections | HTTP/1.1: KiB each | HTTP/2: KiB each | HTTP/1.1: MiB in all | HTTP/2: MiB in all |", rows
    )


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())

    def version(pattern, *command):
        done = subprocess.run(command, capture_output=True, text=True)
        return re.search(pattern, done.stdout + done.stderr).group(1)

    return {
        "cpu": model.group(1) if model else "unknown",
        "kernel": os.uname().release,
        "nginx": version(r"nginx/([\d.]+)", "nginx", "-v"),
        "haproxy": version(r"version ([\d.]+)", "haproxy", "-v"),
        "apache": version(r"Apache/([\d.]+)", "apache2", "-v"),
    }
