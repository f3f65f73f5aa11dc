"""WebSocket messages there and back: 64 connections, one message under way on each."""

import json
import subprocess

from servers import HERE

CONNECTIONS = 64
# Payloads, in bytes.
SIZES = (64, 16 * 1024)


def echo(world, name, seconds, size):
    port = world.servers[name].port
    headers = [f"Cookie: {world.operator['Cookie']}"] if name == "wicketgate" else []
    command = ["node", HERE / "echo.mjs", "load", port, CONNECTIONS, size, seconds, *headers]
    client = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if client.stdout.readline() != "ready\n":
        raise SystemExit(f"{name} opens no WebSocket: {client.communicate()[1][:500]}")
    before = world.cpu(name)
    said, wrong = client.communicate("go\n")
    cpu = world.cpu(name) - before
    if client.returncode != 0:
        raise SystemExit(f"{name} broke a WebSocket: {wrong[:500]}")
    messages = json.loads(said)["messages"]
    return {"rate": messages / seconds, "cpu_us": cpu * 1e6 / messages, "per_cpu_second": messages / cpu}
