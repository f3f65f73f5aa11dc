"""Load of short requests: as many as there is time for, or at a rate, and connections that idle.

A measure takes the world, a server's name and seconds, and returns its figures. CPU is that of the
server's processes; load generator and upstream run beside it.
"""

import json
import math
import re
import subprocess
import time
from pathlib import Path

from http2 import Http2
from world import HOST, TARGET, connect, install_missing

# With so many idle connections a server has loaded what it needs once.
IDLE_FIRST = 50
# How long idle connections rest before the memory that they hold is looked at.
IDLE_SECONDS = 3


def run(command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def h1(world, name, seconds):
    """HTTP/1.1 keep-alive, 64 connections."""
    return wrk(world, name, seconds, ["-c", "64", "-t", "2"])


def wrk(world, name, seconds, arguments):
    port = world.servers[name].port
    headers = {"Host": f"{HOST}:{port}", **world.headers.get(name, {})}
    command = ["wrk", "-d", f"{seconds}s", "--latency", *arguments, *header_arguments(headers)]
    before = world.cpu(name)
    text = run([*command, f"https://{HOST}:{port}/1k"])
    cpu = world.cpu(name) - before
    requests = int(re.search(r"(\d+) requests in", text).group(1))
    elapsed = duration(re.search(r"requests in ([\d.]+\w+)", text).group(1)) / 1e6
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: (.*)", text)
    if bad or requests == 0:
        raise SystemExit(f"{name} answered wrongly under load:\n{text}")
    return {
        "rps": requests / elapsed,
        "p50_us": duration(re.search(r"50%\s+([\d.]+\w+)", text).group(1)),
        "p99_us": duration(re.search(r"99%\s+([\d.]+\w+)", text).group(1)),
        "cpu_us": cpu * 1e6 / requests,
        "errors": errors.group(1) if errors else "",
    }


def h2(world, name, seconds):
    """HTTP/2, 32 connections with 10 streams each."""
    port = world.servers[name].port
    # Not beside the configuration: the gate watches that folder.
    log = world.folder / "load" / "h2load.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    command = ["h2load", "-t", "2", "-D", str(seconds), f"--log-file={log}", "-c", "32", "-m", "10"]
    before = world.cpu(name)
    text = run([*command, *header_arguments(world.headers.get(name, {})), f"https://{HOST}:{port}/1k"])
    cpu = world.cpu(name) - before
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    times = sorted(int(row[2]) for row in rows if row[1] == "200")
    if not times or len(times) < len(rows) or "Application protocol: h2" not in text:
        raise SystemExit(f"{name} answered wrongly under load:\n{text}")
    return {
        "rps": len(times) / seconds,
        "p50_us": times[len(times) // 2],
        "p99_us": times[len(times) * 99 // 100],
        "cpu_us": cpu * 1e6 / len(times),
        "errors": "",
    }


def at_rate(world, name, seconds, rate):
    """HTTP/1.1 at so many requests a second, whether or not the last one was answered in time."""
    port = world.servers[name].port
    headers = [": ".join(pair) for pair in world.headers.get(name, {}).items()]
    stages = world.stages() if name == "wicketgate" else None
    before = world.cpu(name)
    said = json.loads(run([compiled("paced", "-lm"), port, rate, seconds, 64, "/1k", 1, *headers]))
    cpu = world.cpu(name) - before
    if said["requests"] < enough(rate * seconds):
        raise SystemExit(f"{name} was asked for {rate} requests a second and got {said}")
    figures = {"rps": said["requests"] / seconds, "cpu_us": cpu * 1e6 / said["requests"], **said}
    return {**figures, **checks(stages, world.stages())} if stages else figures


def enough(due):
    """How many of the requests that were due must have been sent: they come at random, so few vary more."""
    return 0.9 * due - 4 * math.sqrt(due)


def compiled(name, *libraries):
    """A load generator in C; compiled when it is missing or older than its source."""
    source, program = Path(__file__).with_name(f"{name}.c"), TARGET / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        TARGET.mkdir(parents=True, exist_ok=True)
        if not Path("/usr/include/openssl/ssl.h").exists():
            install_missing({"no command is called this": "libssl-dev"})
        run(["cc", "-O2", "-o", program, source, "-lssl", "-lcrypto", *libraries])
    return program


def checks(before, after):
    """What the gate's own clock says of its stages: their time in all, and how slow they get."""
    mean = p99 = 0
    for stage, (buckets, total, count) in after.items():
        old, old_total, old_count = before[stage]
        requests = count - old_count
        mean += (total - old_total) / requests * 1e6
        p99 += quantile([(edge, most - less) for (edge, most), (_, less) in zip(buckets, old)], requests * 0.99)
    # The stages are hardly ever slow together, so this is above what they take together.
    return {"checks_mean_us": mean, "checks_p99_us": p99}


def quantile(buckets, wanted):
    """In microseconds, within its bucket in proportion."""
    low = below = 0
    for edge, count in buckets:
        if count >= wanted:
            return (low + (edge - low) * (wanted - below) / (count - below)) * 1e6
        low, below = edge, count
    return math.inf


def idle(world, name, connections, protocol):
    """Memory with connections that have sent one request, rest for a few seconds and stay open: bytes
    that each adds, the first fifty aside, with which a server also loads what it needs once; and all
    that the server has."""
    if protocol == "h2":
        headers, port = world.headers.get(name, {}), world.servers[name].port
        opened = lambda source: Http2(port, headers, source=source)
        ask = lambda connection: connection.ask() == 1024 and not connection.leaves
    else:
        opened, ask = over_http1(world, name)
    held = []

    def with_connections(count):
        for number in range(len(held), count):
            # The gate bounds the connections of one address, by default to a thousand.
            held.append(opened(f"127.0.0.{1 + number // 500}"))
            if not ask(held[-1]):
                raise SystemExit(f"{name} refused an idle connection over {protocol}")
        time.sleep(IDLE_SECONDS)
        return world.resident(name)

    before, after = with_connections(IDLE_FIRST), with_connections(connections)
    # None was given up meanwhile.
    if not all(ask(held[at]) for at in (0, connections // 2, -1)):
        raise SystemExit(f"{name} gave up an idle connection over {protocol}")
    for connection in held:
        connection.close()
    return {"each_bytes": max(0, after - before) / (connections - IDLE_FIRST), "total_bytes": after}


def over_http1(world, name):
    """How a connection is opened, and how asked: whether it answers 200."""
    port = world.servers[name].port
    request = f"GET /1k HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
    request += "".join(f"{key}: {value}\r\n" for key, value in world.headers.get(name, {}).items())

    def ask(connection):
        connection.sendall(f"{request}\r\n".encode())
        answer, head = b"", b""
        # The file has 1 KiB, and may come in several pieces.
        while not head or len(answer) < len(head) + 4 + 1024:
            if not (more := connection.recv(65536)):
                break
            answer += more
            head = answer.partition(b"\r\n\r\n")[0] if b"\r\n\r\n" in answer else b""
        return answer.startswith(b"HTTP/1.1 200")

    return lambda source: connect(port, source=source), ask


def header_arguments(headers):
    return [word for pair in headers.items() for word in ("-H", ": ".join(pair))]


def duration(text):
    """wrk's `1.25ms` and the like, in microseconds."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]
