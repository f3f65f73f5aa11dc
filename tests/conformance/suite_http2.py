"""HTTP/2 frame by frame: what RFC 9113 asks of a server, after the cases of h2spec."""

import struct

from frames import *
from lab import Cases, check

cases = Cases()


def on_connection(name, codes, *frames):
    """A case of frames that end the connection with one of these errors."""

    @cases(name)
    def case(world):
        client = Client(world)
        for part in frames:
            client.send(part(client) if callable(part) else part)
        client.goaway(*codes)
        reached(world)


def on_stream(name, codes, *frames, stream=1, fine=()):
    @cases(name)
    def case(world):
        client = Client(world)
        for part in frames:
            client.send(part(client) if callable(part) else part)
        client.refused(stream, *codes)
        # What was whole before the error may have been forwarded.
        reached(world, *[request.target for request in world.upstream.requests if request.target in fine])


def ignored(name, *frames):
    """A case of frames that a server has to ignore."""

    @cases(name)
    def case(world):
        client = Client(world)
        client.send(*frames)
        client.send(client.request(1))
        client.answered(1)
        reached(world, "/fine")


# ---- 3.4 preface, 4 frames --------------------------------------------------------------------


@cases("3.4: another preface ends the connection")
def _(world):
    client = Client(world, greet=False)
    client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings())
    while client.next() is not None:
        pass
    check(client.ended, "the connection is still open")
    reached(world)


@cases("3.4: a first frame that is not SETTINGS harms nobody")
def _(world):
    # A connection error; the gate's HTTP/2 library goes on with its defaults.
    client = Client(world, greet=False)
    client.send(PREFACE + frame(PING, 0, 0, b"12345678"), client.request(1))
    wanted = lambda kind, _, on, __: kind == GOAWAY or (kind == HEADERS and on == 1)
    client.until("an answer or GOAWAY", wanted)
    check(not world.upstream.garbage, f"{world.upstream.garbage}")


@cases("3.4: HTTP/1 on a connection that agreed on HTTP/2")
def _(world):
    client = Client(world, greet=False)
    client.send(f"GET /wrong HTTP/1.1\r\n{world.who()}\r\n".encode())
    while client.next() is not None:
        pass
    reached(world)


ignored("4.1: a frame of an unknown type", frame(0x16, 0, 0, b"x" * 8), frame(0x2A, 0xFF, 9, b"x"))
ignored("4.1: flags that are not defined", frame(PING, 0x16, 0, b"12345678"))
ignored("4.1: the reserved bit", frame(PING, 0, 1 << 31, b"12345678"))
ignored("5.1: PRIORITY on an idle stream", frame(PRIORITY, 0, 5, struct.pack(">IB", 0, 9)))
ignored("6.5.2: a setting that is not defined", settings((0xFF, 1)))
on_stream(
    "4.2: DATA larger than the largest frame", [FRAME_SIZE_ERROR],
    lambda c: c.request(1, "/wrong", "POST", end=False), frame(DATA, 0, 1, b"x" * 16385),
)
on_connection("4.2: HEADERS larger than the largest frame", [FRAME_SIZE_ERROR], frame(HEADERS, 5, 1, b"x" * 16385))
on_connection("4.2: SETTINGS larger than the largest frame", [FRAME_SIZE_ERROR], frame(SETTINGS, 0, 0, b"\0" * 16386))
on_connection("4.3: a header block that is none", inexactly(COMPRESSION_ERROR), frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff"))
on_connection("4.3: an index beyond the table", inexactly(COMPRESSION_ERROR), frame(HEADERS, 5, 1, b"\xff\x80\x01"))
on_connection("4.3: a table larger than agreed on (RFC 7541, 6.3)", inexactly(COMPRESSION_ERROR), frame(HEADERS, 5, 1, b"\x3f\xe1\xff\x03"))
on_connection(
    "4.3: a frame of another kind within a header block", [PROTOCOL_ERROR],
    lambda c: frame(HEADERS, END_STREAM, 1, c.block("/wrong")), frame(PING, 0, 0, b"12345678"),
)
on_connection(
    "4.3: another stream's header block within a header block", [PROTOCOL_ERROR],
    lambda c: frame(HEADERS, END_STREAM, 1, c.block("/wrong")), lambda c: c.request(3, "/wrong"),
)

# ---- 5 streams --------------------------------------------------------------------------------

for kind, payload in (("DATA", b"x"), ("RST_STREAM", b"\0\0\0\x08"), ("WINDOW_UPDATE", b"\0\0\0\x01"), ("CONTINUATION", b"")):
    on_connection(f"5.1: {kind} on an idle stream", [PROTOCOL_ERROR], frame(globals()[kind], 0, 1, payload))
on_stream(
    "5.1: DATA on a stream that the client has ended", inexactly(STREAM_CLOSED),
    lambda c: c.request(1, "/early", "POST", end=False), frame(DATA, END_STREAM, 1, b"x"), frame(DATA, END_STREAM, 1, b"late"),
    fine=["/early"],
)
on_stream(
    "5.1: HEADERS on a stream that the client has reset", [STREAM_CLOSED, PROTOCOL_ERROR],
    lambda c: c.request(1, "/wrong", "POST", end=False), frame(RST_STREAM, 0, 1, struct.pack(">I", CANCEL)),
    lambda c: c.request(1, "/wrong"),
)
on_connection("5.1.1: a stream of an even number", [PROTOCOL_ERROR], lambda c: c.request(2, "/wrong"))


@cases("5.1.1: a stream of a smaller number than one before")
def _(world):
    client = Client(world)
    client.send(client.request(5))
    client.answered(5)
    client.send(client.request(3, "/wrong"))
    client.goaway(PROTOCOL_ERROR, STREAM_CLOSED)
    reached(world, "/fine")


@cases("5.1.2: more streams at once than the gate allows")
def _(world):
    client = Client(world)
    client.alive()
    allowed = next(payload for kind, flags, _, payload in client.frames if kind == SETTINGS and not flags & ACK)
    pairs = [struct.unpack(">HI", allowed[at : at + 6]) for at in range(0, len(allowed), 6)]
    most = dict(pairs)[MAX_STREAMS]
    check(most <= 256, f"{most} streams at once")
    streams = range(1, 2 * most + 1, 2)
    client.send(*(client.request(stream, "/wrong", "POST", end=False) for stream in streams))
    client.send(client.request(2 * most + 1, "/wrong", "POST", end=False))
    client.refused(2 * most + 1, REFUSED_STREAM, PROTOCOL_ERROR)


for kind, part in (
    ("PRIORITY", frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 9))),
    ("HEADERS", lambda c: frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, struct.pack(">IB", 1, 9) + c.block())),
):

    @cases(f"5.3.1 of RFC 7540: {kind} that makes a stream depend on itself harms nobody")
    def _(world, part=part):
        client = Client(world)
        client.send(part(client) if callable(part) else part)
        client.send(client.request(3))
        wanted = lambda kind, _, on, __: kind == GOAWAY or (kind == HEADERS and on == 3)
        kind, _, _, payload = client.until("an answer or GOAWAY", wanted)
        if kind == GOAWAY:
            check(int.from_bytes(payload[4:8], "big") == PROTOCOL_ERROR, f"{payload}")
        check(not world.upstream.garbage, f"{world.upstream.garbage}")


# ---- 6 frame definitions ----------------------------------------------------------------------

on_connection("6.1: DATA on stream 0", [PROTOCOL_ERROR], frame(DATA, 0, 0, b"x"))
on_connection(
    "6.1: more padding than DATA", [PROTOCOL_ERROR],
    lambda c: c.request(1, "/wrong", "POST", end=False), frame(DATA, END_STREAM | PADDED, 1, b"\x09hi"),
)
on_connection("6.2: HEADERS on stream 0", [PROTOCOL_ERROR], lambda c: frame(HEADERS, 5, 0, c.block("/wrong")))
on_connection("6.2: more padding than HEADERS", [PROTOCOL_ERROR], frame(HEADERS, 5 | PADDED, 1, b"\xf0\x82"))
on_connection("6.3: PRIORITY on stream 0", [PROTOCOL_ERROR], frame(PRIORITY, 0, 0, b"\0\0\0\x01\x09"))
on_stream("6.3: PRIORITY of another length", inexactly(FRAME_SIZE_ERROR), frame(PRIORITY, 0, 1, b"\0\0\0\x01"))
on_connection("6.4: RST_STREAM on stream 0", [PROTOCOL_ERROR], frame(RST_STREAM, 0, 0, b"\0\0\0\x08"))
on_connection(
    "6.4: RST_STREAM of another length", inexactly(FRAME_SIZE_ERROR),
    lambda c: c.request(1, "/wrong", "POST", end=False), frame(RST_STREAM, 0, 1, b"\0\0\0"),
)
on_connection("6.5: SETTINGS with ACK and a payload", inexactly(FRAME_SIZE_ERROR), frame(SETTINGS, ACK, 0, b"\0" * 6))
on_connection("6.5: SETTINGS on a stream", [PROTOCOL_ERROR], frame(SETTINGS, 0, 1, b"\0\x03\0\0\0\x64"))
on_connection("6.5: SETTINGS of a broken length", inexactly(FRAME_SIZE_ERROR), frame(SETTINGS, 0, 0, b"\0\x03\0"))
on_connection("6.5.2: ENABLE_PUSH of 2", [PROTOCOL_ERROR], settings((ENABLE_PUSH, 2)))
on_connection("6.5.2: an initial window beyond the largest", inexactly(FLOW_CONTROL_ERROR), settings((INITIAL_WINDOW, 1 << 31)))
on_connection("6.5.2: a largest frame below the smallest", [PROTOCOL_ERROR], settings((MAX_FRAME, 16383)))
on_connection("6.5.2: a largest frame beyond the largest", [PROTOCOL_ERROR], settings((MAX_FRAME, 1 << 24)))
on_connection(
    "6.6: PUSH_PROMISE from a client", [PROTOCOL_ERROR],
    lambda c: frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + c.block("/wrong")),
)
on_connection("6.7: PING on a stream", [PROTOCOL_ERROR], frame(PING, 0, 1, b"12345678"))
on_connection("6.7: PING of another length", inexactly(FRAME_SIZE_ERROR), frame(PING, 0, 0, b"123456"))
on_connection("6.8: GOAWAY on a stream", [PROTOCOL_ERROR], frame(GOAWAY, 0, 1, b"\0" * 8))
on_connection("6.9: a window of the connection opened by 0", [PROTOCOL_ERROR], frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"))
on_connection("6.9: WINDOW_UPDATE of another length", inexactly(FRAME_SIZE_ERROR), frame(WINDOW_UPDATE, 0, 0, b"\0\0\x01"))
on_stream(
    "6.9: a window of a stream opened by 0", [PROTOCOL_ERROR],
    lambda c: c.request(1, "/wrong", "POST", end=False), frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\0"),
)
on_connection("6.9.1: a window of the connection beyond the largest", [FLOW_CONTROL_ERROR], frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"))
on_stream(
    "6.9.1: a window of a stream beyond the largest", [FLOW_CONTROL_ERROR],
    lambda c: c.request(1, "/wrong", "POST", end=False), frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
)
on_connection("6.10: CONTINUATION on stream 0", [PROTOCOL_ERROR], frame(CONTINUATION, END_HEADERS, 0, b"\x82"))
on_connection(
    "6.10: CONTINUATION after the end of the headers", [PROTOCOL_ERROR, STREAM_CLOSED],
    lambda c: c.request(1, "/wrong", "POST", end=False), frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
)


@cases("6.7: a PING with ACK is not answered")
def _(world):
    client = Client(world)
    client.send(frame(PING, ACK, 0, b"unasked!"))
    client.alive()
    check(not any(payload == b"unasked!" for *_, payload in client.frames), "it was")


@cases("6.9.1: an answer waits for the window that it needs")
def _(world):
    client = Client(world, own=[(INITIAL_WINDOW, 1)])
    client.send(client.request(1))
    client.answered(1)
    data = lambda kind, _, on, __: kind == DATA and on == 1
    check(client.until("DATA", data)[3] == b"o", "more than one byte came")
    client.alive()
    client.send(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"))
    check(client.until("DATA", data)[3] == b"k", "the rest did not come")


@cases("6.9.1: a body takes no more than the window that was given")
def _(world):
    client = Client(world)
    client.send(client.request(1, "/wrong", "POST", end=False))
    # Whether the window is ever exceeded is for the machine to say: a gate that keeps up gives more
    # in time. What it didn't give it doesn't take in: an error of the stream or of the connection.
    sent = 200 * 16384
    client.flood(frame(DATA, 0, 1, b"x" * 16384), 200)
    refused = lambda: [
        payload[:4] for kind, _, stream, payload in client.frames if kind == RST_STREAM and stream == 1
    ]
    given = lambda: sum(
        int.from_bytes(payload, "big") for kind, _, stream, payload in client.frames
        if kind == WINDOW_UPDATE and stream == 1
    )
    while not refused() and given() < sent - (1 << 20):
        if client.ended or any(kind == GOAWAY for kind, *_ in client.frames) or client.next() is None:
            client.ends(FLOW_CONTROL_ERROR)
            break
    check(all(int.from_bytes(code, "big") == FLOW_CONTROL_ERROR for code in refused()), f"{refused()}")
    reached(world)


@cases("6.10: a header block in pieces is one header block")
def _(world):
    client = Client(world)
    block = client.block(more=[("x-long", "y" * 500)])
    parts = [block[at : at + 200] for at in range(0, len(block), 200)]
    client.send(frame(HEADERS, END_STREAM, 1, parts[0]))
    client.send(*(frame(CONTINUATION, 0, 1, part) for part in parts[1:-1]))
    client.send(frame(CONTINUATION, END_HEADERS, 1, parts[-1]))
    client.answered(1)
    reached(world, "/fine")


# ---- 8 HTTP -----------------------------------------------------------------------------------


def bad_request(name, *statuses, body=None, method="GET", path="/wrong", **keywords):
    @cases(name)
    def case(world):
        client = Client(world)
        client.send(client.request(1, path, method, end=body is None, **keywords))
        if body is not None:
            client.send(frame(DATA, END_STREAM, 1, body))
        client.malformed(1, *statuses)
        client.send(client.request(3))
        if not any(kind == GOAWAY for kind, *_ in client.frames):
            client.answered(3)
        reached(world, *(["/fine"] if not any(kind == GOAWAY for kind, *_ in client.frames) else []))


for what, pair in {
    "8.2.1: a name in upper case": ("X-Upper", "y"),
    "8.2.1: a blank in a name": ("x y", "z"),
    "8.2.1: an empty name": ("", "y"),
    "8.2.1: NUL in a name": ("x\0y", "z"),
    "8.2.1: a colon in a name": ("x:y", "z"),
    "8.2.1: CR LF in a name": ("x\r\ny", "z"),
    "8.2.1: CR LF in a value": ("x-a", "b\r\nx-smuggled: c"),
    "8.2.1: LF in a value": ("x-a", "b\nx-smuggled: c"),
    "8.2.1: CR in a value": ("x-a", "b\rc"),
    "8.2.1: NUL in a value": ("x-a", "b\0c"),
    "8.2.1: a request and its end in a value": ("x-a", "b\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"),
    "8.2.2: connection": ("connection", "keep-alive"),
    "8.2.2: connection that names a header": ("connection", "cookie"),
    "8.2.2: transfer-encoding": ("transfer-encoding", "chunked"),
    "8.2.2: upgrade": ("upgrade", "h2c"),
    "8.2.2: keep-alive": ("keep-alive", "5"),
    "8.2.2: proxy-connection": ("proxy-connection", "keep-alive"),
    "8.2.2: te with another value than trailers": ("te", "gzip"),
    "8.3: a pseudo-header behind a header": (":path", "/wrong"),
    "8.3: an unknown pseudo-header": (":test", "x"),
    "8.3: a pseudo-header of answers": (":status", "200"),
}.items():
    bad_request(what, more=[pair])

for name in (":method", ":scheme", ":path", ":authority"):
    bad_request(f"8.3.1: without {name}", without=[name])
bad_request("8.3.1: an empty path", path="")
bad_request("8.3.1: a path that does not begin with a slash", path="wrong")
bad_request("8.3.1: a path of another server", path="https://evil.example/wrong")
bad_request("8.3.1: the asterisk for GET", path="*")
bad_request("8.3.1: the asterisk for OPTIONS", "404", path="*", method="OPTIONS")
bad_request("8.3.1: a blank in the path", path="/wrong HTTP/1.1")
bad_request("8.3.1: CR LF in the path", path="/wrong HTTP/1.1\r\nx: y")
bad_request("8.3.1: CR LF in the method", method="GET /smuggled HTTP/1.1\r\nx: y")
bad_request("8.3.1: a blank in the method", method="GET /smuggled")
bad_request("8.3.1: an empty method", method="")
bad_request("8.3.1: user information in the authority", "421", change={":authority": "user@localhost"})
bad_request("8.3.1: an empty authority", change={":authority": ""})
bad_request("8.3.1: an authority of two hosts", "421", change={":authority": "localhost, evil.example"})
bad_request("8.3.1: a foreign authority", "404", "421", change={":authority": "evil.example"})
bad_request("8.3.1: another scheme", change={":scheme": "http"})
bad_request("8.3.1: a scheme that is a request", change={":scheme": "https://localhost/smuggled?"})
bad_request("8.3.1: a host that is not the authority", "421", more=[("host", "evil.example")])
bad_request("8.3.1: two hosts", "421", more=[("host", "localhost"), ("host", "evil.example")])
bad_request("8.1.1: a body shorter than content-length", method="POST", body=b"123", more=[("content-length", "4")])
bad_request("8.1.1: a body longer than content-length", method="POST", body=b"12345", more=[("content-length", "4")])
bad_request("8.1.1: content-length without a body", method="POST", more=[("content-length", "4")])
bad_request("8.1.1: two content-lengths", method="POST", body=b"1234", more=[("content-length", "4"), ("content-length", "5")])
bad_request("8.1.1: content-length that is no number", method="POST", body=b"1234", more=[("content-length", "+4")])
bad_request("8.1.1: content-length with zeros in front", method="POST", body=b"1234", more=[("content-length", "04")])
bad_request("8.5: CONNECT", "405", "501", method="CONNECT", path="/wrong")


@cases("8.3: a pseudo-header twice")
def _(world):
    for name in (":method", ":scheme", ":authority", ":path"):
        client = Client(world)
        fields = client.fields("/wrong")
        twice = [(name, dict(fields)[name]), *fields]
        client.send(frame(HEADERS, 5, 1, client.encoder.encode(twice)))
        client.malformed(1)
        reached(world)


@cases("8.1: a second HEADERS that does not end the stream")
def _(world):
    client = Client(world)
    client.send(client.request(1, "/wrong", "POST", end=False))
    client.send(frame(HEADERS, END_HEADERS, 1, client.encoder.encode([("x-trailer", "y")])))
    client.malformed(1)
    reached(world)


@cases("8.1: a pseudo-header in trailers goes no further than the gate")
def _(world):
    # Malformed (section 8.1); the gate's HTTP/2 library drops such fields and goes on.
    client = Client(world)
    client.send(client.request(1, method="POST", end=False))
    client.send(frame(HEADERS, 5, 1, client.encoder.encode([(":method", "GET"), (":path", "/wrong")])))
    client.until("an answer", lambda kind, _, on, __: on == 1 and kind in (HEADERS, RST_STREAM))
    check(not world.upstream.garbage, f"{world.upstream.garbage}")
    for request in world.upstream.requests:
        check((request.method, request.target, request.trailers) == ("POST", "/fine", []), f"{request}")


@cases("8.2.1: blanks around a value do not reach the upstream as they are")
def _(world):
    client = Client(world)
    client.send(client.request(1, more=[("x-a", " b ")]))
    wanted = lambda kind, _, on, __: on == 1 and kind in (HEADERS, RST_STREAM)
    client.until("an answer", wanted)
    check(all(request.value("x-a") == "b" for request in world.upstream.requests), f"{world.upstream.requests}")


@cases("8.3.1: a fragment in the path is refused or gone")
def _(world):
    client = Client(world)
    client.send(client.request(1, "/fine#/../wrong"))
    client.until("an answer", lambda kind, _, on, __: on == 1 and kind in (HEADERS, RST_STREAM))
    for request in world.upstream.requests:
        check(request.target == "/fine", f"{request}")


@cases("8.5: CONNECT as RFC 9113 has it, and for WebSockets (RFC 8441)")
def _(world):
    client = Client(world)
    connect_to = [(":method", "CONNECT"), (":authority", "127.0.0.1:22"), ("cookie", world.gate.cookie)]
    client.send(frame(HEADERS, END_HEADERS, 1, client.encoder.encode(connect_to)))
    client.malformed(1, "404", "405", "421", "501")
    client = Client(world)
    websocket = [(":method", "CONNECT"), (":protocol", "websocket"), *client.fields("/wrong")[1:]]
    client.send(frame(HEADERS, END_HEADERS, 1, client.encoder.encode(websocket)))
    client.malformed(1, "405", "501")
    reached(world)


@cases("8.2.3: a cookie in pieces is one cookie")
def _(world):
    client = Client(world)
    client.send(client.request(1, more=[("cookie", "a=1"), ("cookie", "b=2")]))
    client.answered(1)
    [request] = world.upstream.requests
    got = "; ".join(value for name, value in request.fields if name == "cookie")
    check(got == "a=1; b=2", f"the upstream got the cookies {got!r}")
