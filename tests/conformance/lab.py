"""What every suite stands on: cases, an upstream that keeps all bytes, a gate, a neighbour."""

import os
import socket
import subprocess
import threading
import time
import traceback

from world import HOST, Children, Gate, connect, make_certificate

EVERYBODY = '@id("signed-in") permit (principal is Wicketgate::User, action, resource);'
# Nothing here takes this long; what does is a failure.
PATIENCE = 15
# What the upstream sends for `/large`: more than sockets hold.
LARGE = b"x" * (12 << 20)


class Wrong(Exception):
    """The gate did not do what the case asks for."""


class Cases(list):
    """The cases of a suite, in order: `@cases("what is sent")` above a function of the world."""

    def __call__(self, name):
        def add(function):
            self.append((name, function))
            return function

        return add


def run(suite, folder, options):
    """Runs a suite; returns how many cases passed, and the others with their causes."""
    world = World(folder, options, getattr(suite, "configure", lambda config: None))
    passed, failures = 0, []
    try:
        for name, case in suite.cases:
            if options.only not in name:
                continue
            try:
                world.upstream.mark()
                case(world)
                world.neighbour_is_served()
                passed += 1
            except Wrong as wrong:
                failures.append((name, str(wrong)))
            except Exception:
                failures.append((name, traceback.format_exc(limit=-3).replace("\n", "\n    ")))
            if world.gate.process.poll() is not None:
                failures.append((name, f"the gate has ended:\n{world.children.log('wicketgate')[-2000:]}"))
                break
    finally:
        world.stop()
    return passed, failures


class World:
    def __init__(self, folder, options, configure):
        os.chmod(folder, 0o755)
        self.folder, self.children = folder, Children(folder)
        make_certificate(folder)
        self.upstream = Recorder()
        try:
            routes = [{"name": "early", "path": "/early", "max_body": "1KiB"}]
            upstreams = [f"http://127.0.0.1:{self.upstream.port}"]
            self.gate = Gate(self.children, options.gate, upstreams, EVERYBODY, routes, configure)
            self.authority = f"{HOST}:{self.gate.port}"
            self.neighbour = Http1(self)
        except BaseException:
            self.children.stop()
            raise

    def stop(self):
        self.children.stop()

    def neighbour_is_served(self):
        """Somebody on a connection of their own, opened before, gets their answer."""
        # After a rest the gate may have closed it, as it should.
        if time.monotonic() - self.neighbour.last > 2:
            self.neighbour = Http1(self)
        begun = time.monotonic()
        self.neighbour.send(f"GET /neighbour HTTP/1.1\r\n{self.who()}\r\n".encode())
        status, _, body = self.neighbour.answer()
        check((status, body) == (200, b"ok"), f"the neighbour got {status} {body[:100]!r}")
        took = time.monotonic() - begun
        check(took < PATIENCE, f"the neighbour waited {took:.1f} s")

    def who(self):
        """The lines that make a request a signed-in one."""
        return f"host: {self.authority}\r\ncookie: {self.gate.cookie}\r\n"


def check(holds, otherwise):
    if not holds:
        raise Wrong(otherwise)


def until(what, ask, seconds=PATIENCE):
    """Asks until there is an answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        check(time.monotonic() < deadline, f"waited for {what} in vain")
        time.sleep(0.01)
    return answer


def issue(folder):
    """A certificate as a site would have it, from an authority of its own (`ca.pem`)."""
    run = lambda *command: subprocess.run(["openssl", *command], check=True, capture_output=True, cwd=folder)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    uses = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    run("req", "-x509", *curve, "-days", "398", "-subj", "/CN=Conformance CA", *uses, "-keyout", "ca.key", "-out", "ca.pem")
    run("req", *curve, "-subj", f"/CN={HOST}", "-keyout", "key.pem", "-out", "leaf.csr")
    (folder / "leaf.cnf").write_text(
        f"subjectAltName=DNS:{HOST},IP:127.0.0.1\nextendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\n"
        "basicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        "crlDistributionPoints=URI:http://127.0.0.1:9/ca.crl\n"
    )
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "90", "-extfile", "leaf.cnf"]
    run("x509", "-req", "-in", "leaf.csr", *signing, "-out", "cert.pem")
    (folder / "key.pem").chmod(0o600)


def not_checked(why):
    """What this machine doesn't let a case check; `./test` repeats it at its end."""
    print(f"NOT CHECKED: {why}", flush=True)
    if path := os.environ.get("WICKETGATE_NOT_CHECKED"):
        with open(path, "a") as file:
            file.write(f"NOT CHECKED: {why}\n")


class Http1:
    """A client's connection, as raw as it gets."""

    def __init__(self, world):
        self.socket = connect(world.gate.port, timeout=PATIENCE)
        self.buffer, self.last, self.ended = b"", time.monotonic(), False

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            # Closed before all of it was taken: what was answered can still be read.
            pass

    def more(self):
        """Reads on; false at the end."""
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise Wrong(f"nothing came, and no end either, after {self.buffer[:200]!r}") from None
        except OSError:
            data = b""
        self.buffer += data
        self.last = time.monotonic()
        self.ended = self.ended or not data
        return bool(data)

    def take(self, end):
        while end not in self.buffer:
            if not self.more():
                return None
        head, _, self.buffer = self.buffer.partition(end)
        return head

    def head(self):
        """The next answer's status and headers, or 0 at the end of the connection."""
        head = self.take(b"\r\n\r\n")
        if head is None:
            return 0, {}
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        return int(first.split(" ")[1]), headers

    def answer(self):
        status, headers = self.head()
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length and self.more():
            pass
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, headers, body

    def answers(self):
        """The statuses of all answers until the connection ends."""
        statuses = []
        while (status := self.answer()[0]) != 0:
            statuses.append(status)
        return statuses

    def end(self):
        """Nothing more is sent; answers are still read."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.socket.close()


class Recorder:
    """An upstream that keeps every byte of every connection, and reads requests strictly.

    `requests` are the whole ones. What isn't a request in its plainest form is `garbage`: whatever
    a client sends, the gate writes requests of its own.
    """

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.connections, self.requests, self.garbage = [], [], []
        # What a WebSocket's upstream says once it is open, and what it heard.
        self.say, self.heard, self.extensions = b"", [], b""
        threading.Thread(target=self.accept, daemon=True).start()

    def mark(self):
        """Forgets what came up to now."""
        with self.lock:
            self.requests, self.garbage, self.heard = [], [], []
            self.connections = []

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        buffer = b""
        try:
            while True:
                if buffer:
                    taken = self.read(buffer)
                    if taken is None:
                        with self.lock:
                            self.garbage.append(buffer)
                        return
                    if taken:
                        request, buffer = taken
                        with self.lock:
                            self.requests.append(request)
                        if request.value("upgrade") == "websocket":
                            return self.websocket(stream, request, buffer)
                        body = LARGE if request.target == "/large" else b"ok"
                        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n"
                        stream.sendall(head % len(body))
                        if request.method != "HEAD":
                            stream.sendall(body)
                        continue
                data = stream.recv(65536)
                if not data:
                    if buffer:
                        with self.lock:
                            self.connections.append(buffer)
                    return
                buffer += data
        except OSError:
            pass
        finally:
            stream.close()

    def websocket(self, stream, request, buffer):
        import base64
        import hashlib

        key = request.value("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        stream.sendall(head + self.extensions + b"sec-websocket-accept: " + accept + b"\r\n\r\n" + self.say)
        heard = bytearray(buffer)
        with self.lock:
            self.heard.append(heard)
        while data := stream.recv(65536):
            heard += data
        heard.extend(b"<end>")

    @staticmethod
    def read(buffer):
        """A request and what follows it; `()` when it isn't whole yet; None when it is no request."""
        head, end, rest = buffer.partition(b"\r\n\r\n")
        if not end:
            return None if len(buffer) > 200_000 else ()
        first, *lines = head.split(b"\r\n")
        words = first.split(b" ")
        bad = b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b"") or b"\0" in head
        if bad or len(words) != 3 or words[2] != b"HTTP/1.1" or not words[1].startswith(b"/"):
            return None
        fields = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip() or name != name.lower():
                return None
            fields.append((name.decode("latin-1"), value.strip().decode("latin-1")))
        lengths = [value for name, value in fields if name == "content-length"]
        codings = [value for name, value in fields if name == "transfer-encoding"]
        if len(lengths) + len(codings) > 1 or any(coding != "chunked" for coding in codings):
            return None
        if len([1 for name, _ in fields if name == "host"]) != 1:
            return None
        request = Request(words[0].decode(), words[1].decode("latin-1"), fields)
        if codings:
            while True:
                size, end, rest = rest.partition(b"\r\n")
                if not end:
                    return ()
                try:
                    length = int(size, 16)
                except ValueError:
                    return None
                if length == 0:
                    trailers = rest
                    while True:
                        line, end, trailers = trailers.partition(b"\r\n")
                        if not end:
                            return ()
                        if not line:
                            return request, trailers
                        request.trailers.append(line.decode("latin-1"))
                if len(rest) < length + 2:
                    return ()
                if rest[length : length + 2] != b"\r\n":
                    return None
                request.body += rest[:length]
                rest = rest[length + 2 :]
        length = int(lengths[0]) if lengths else 0
        if len(rest) < length:
            return ()
        request.body = rest[:length]
        return request, rest[length:]


class Request:
    def __init__(self, method, target, fields):
        self.method, self.target, self.fields, self.body, self.trailers = method, target, fields, b"", []

    def value(self, name):
        values = [value for own, value in self.fields if own == name]
        check(len(values) < 2, f"{name} reached the upstream {len(values)} times: {self.fields}")
        return values[0] if values else None

    def __repr__(self):
        return f"{self.method} {self.target} {self.body[:60]!r}"
