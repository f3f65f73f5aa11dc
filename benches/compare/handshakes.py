"""New connections as fast as they can be made, each with a full handshake or with the last one's ticket.

wrk is no use here: it resumes sessions, and doesn't say so.
"""

import json

from load import compiled, header_arguments, run

CLIENTS = 16


def measure(world, name, seconds, kind):
    """A TLS 1.3 handshake and one request each; `kind` is full or resumed."""
    port = world.servers[name].port
    headers = header_arguments(world.headers.get(name, {}))[1::2]
    program = compiled("handshakes", "-lpthread")
    before = world.cpu(name)
    said = json.loads(run([program, port, kind, seconds, CLIENTS, *headers]))
    cpu = world.cpu(name) - before
    made, resumed = said["made"], said["resumed"]
    # Each client's first has nothing to resume.
    if (made - resumed if kind == "resumed" else resumed) > CLIENTS:
        raise SystemExit(f"{name} resumed {resumed} of {made} connections, asked for {kind} ones")
    return {"rps": made / said["seconds"], "cpu_us": cpu * 1e6 / made, **said}
