"""New connections one after another, each with a full handshake or with the last one's ticket.

    python3 handshakes.py PORT full|resumed SECONDS 'NAME: VALUE'...

Prints what it did as JSON. As a module it runs some of these side by side against a server.
"""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/python"))
from world import HOST, tls_context

CLIENTS = 3


def measure(world, name, seconds, kind):
    port = world.servers[name].port
    headers = [": ".join(pair) for pair in world.headers.get(name, {}).items()]
    command = [sys.executable, __file__, str(port), kind, str(seconds), *headers]
    before = world.cpu(name)
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]
    said = [json.loads(client.communicate()[0] or "null") for client in clients]
    cpu = world.cpu(name) - before
    if None in said:
        raise SystemExit(f"{name} refused a connection")
    made, resumed = (sum(one[key] for one in said) for key in ("made", "resumed"))
    # Each client's first has nothing to resume.
    if (made - resumed if kind == "resumed" else resumed) > CLIENTS:
        raise SystemExit(f"{name} resumed {resumed} of {made} connections, asked for {kind} ones")
    return {"rate": made / seconds, "cpu_us": cpu * 1e6 / made}


def client(port, kind, seconds, headers):
    context, session = tls_context(), None
    head = "".join(f"{line}\r\n" for line in (f"Host: {HOST}:{port}", "Connection: close", *headers))
    request = f"GET /1k HTTP/1.1\r\n{head}\r\n".encode()
    made = resumed = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain, server_hostname=HOST, session=session) as connection:
            connection.sendall(request)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"answered {answer[:200]!r}")
            made += 1
            resumed += bool(connection.session_reused)
            if kind == "resumed":
                # A ticket comes after the handshake; this is the newest.
                session = connection.session
    print(json.dumps({"made": made, "resumed": resumed}))


if __name__ == "__main__":
    _, port, kind, seconds, *headers = sys.argv
    client(int(port), kind, float(seconds), headers)
