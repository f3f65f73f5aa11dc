"""WebSocket frame by frame, after the Autobahn test suite's list (the numbers are its own).

The gate is a relay between two ends that each check what they get. It enforces what frames are and
who may send them; it never unmasks or holds back a payload, so what payloads say (UTF-8, close
codes, compressed data) passes as it came, in both directions.
"""

import struct

from lab import Cases, Http1, check, until

cases = Cases()

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
MASK = b"\x37\xfa\x21\x3d"


def frame(opcode, payload=b"", first=FIN, mask=MASK, form=None):
    """A client's frame; without a mask a server's. `form` is how the length is written."""
    length, masked = len(payload), 0x80 if mask else 0
    form = form or (7 if length < 126 else 16 if length < 65536 else 64)
    if form == 7:
        head = struct.pack(">BB", first | opcode, masked | length)
    elif form == 16:
        head = struct.pack(">BBH", first | opcode, masked | 126, length)
    else:
        head = struct.pack(">BBQ", first | opcode, masked | 127, length)
    if mask and len(payload) < 100_000:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + (mask or b"") + payload


class Socket(Http1):
    """An open WebSocket through the gate; `heard` is what the upstream has of it."""

    def __init__(self, world, say=b"", more="", extensions=b""):
        super().__init__(world)
        world.upstream.say, world.upstream.extensions = say, extensions
        before = len(world.upstream.heard)
        self.send(
            f"GET /ws HTTP/1.1\r\n{world.who()}origin: https://{world.authority}\r\n"
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            f"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n".encode()
        )
        status, self.headers = self.head()
        check(status == 101, f"answered {status}")
        heard = world.upstream.heard
        self.heard = until("the upstream", lambda: heard[before:])[0]
        world.upstream.say, world.upstream.extensions = b"", b""

    def passes(self, data):
        """All of it reaches the upstream, byte for byte."""
        before = len(self.heard)
        self.send(data)
        until("the bytes upstream", lambda: len(self.heard) >= before + len(data))
        check(bytes(self.heard[before:]) == data, f"the upstream got {bytes(self.heard[before:])[:80]!r}")

    def closed(self, *codes):
        """The gate ends it, with a close frame of one of these codes, and hangs up upstream."""
        while self.more():
            pass
        check(self.buffer[:1] == b"\x88", f"no close frame: {self.buffer[:80]!r}")
        code = int.from_bytes(self.buffer[2:4], "big")
        check(code in codes, f"closed with {code}, not one of {codes}: {self.buffer[4:80]!r}")
        until("the upstream to be hung up on", lambda: self.heard.endswith(b"<end>"))


def passes(name, *frames, **keywords):
    @cases(name)
    def case(world):
        socket = Socket(world, **keywords)
        for data in frames:
            socket.passes(data)
        socket.close()


def refused(name, code, *frames, before=b"", **keywords):
    """The connection ends at what is wrong; what came before it has passed and nothing else."""

    @cases(name)
    def case(world):
        socket = Socket(world, **keywords)
        if before:
            socket.passes(before)
        socket.send(b"".join(frames))
        socket.closed(code)
        heard = bytes(socket.heard).removesuffix(b"<end>")
        rest = heard.removeprefix(before)
        # The gate's own goodbye to the upstream, where that stands between two frames.
        check(heard.startswith(before) and rest in (b"", GOODBYE), f"the upstream got {heard[:80]!r}")


# Code 1001, masked with zeros.
GOODBYE = b"\x88\x82\0\0\0\0\x03\xe9"

for number, length in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1):
    passes(f"1.1.{number}: text of {length} bytes", frame(TEXT, b"*" * length))
    passes(f"1.2.{number}: binary of {length} bytes", frame(BINARY, b"\xfe" * length))


@cases("1.1.8: a frame that arrives in pieces of one byte")
def _(world):
    socket, data = Socket(world), frame(TEXT, b"*" * 300)
    for at in range(len(data)):
        socket.send(data[at : at + 1])
    until("the bytes upstream", lambda: len(socket.heard) >= len(data))
    check(bytes(socket.heard) == data, "other bytes reached the upstream")


for number, payload in enumerate((b"", b"Hello, world!", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125), 1):
    passes(f"2.{number}: a ping of {len(payload)} bytes", frame(PING, payload))
refused("2.5: a ping of 126 bytes", 1002, frame(PING, b"\xfe" * 126))
passes("2.7: pongs that nobody asked for", frame(PONG), frame(PONG, b"unsolicited"), frame(PING, b"x"))
passes("2.10: ten pings at once", b"".join(frame(PING, bytes([65 + n])) for n in range(10)))

for bits in range(1, 8):
    refused(f"3.{bits}: reserved bits {bits} on text", 1002, frame(TEXT, b"x", first=FIN | bits << 4), before=frame(TEXT, b"fine"))
    refused(f"3.{bits}: reserved bits {bits} on a ping", 1002, frame(PING, b"x", first=FIN | bits << 4))

for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    refused(f"4: reserved opcode {opcode}", 1002, frame(opcode), frame(PING), before=frame(TEXT, b"fine"))
    refused(f"4: reserved opcode {opcode} with a payload", 1002, frame(opcode, b"reserved"))

refused("5.1: a ping in two fragments", 1002, frame(PING, b"a", first=0), frame(CONTINUATION, b"b"))
refused("5.2: a pong in two fragments", 1002, frame(PONG, b"a", first=0), frame(CONTINUATION, b"b"))
passes("5.3: text in two fragments", frame(TEXT, b"a", first=0) + frame(CONTINUATION, b"b"))
passes("5.6: a ping between two fragments", frame(TEXT, b"a", first=0), frame(PING, b"x"), frame(CONTINUATION, b"b"))
passes("5.8: fragments of no bytes", frame(TEXT, first=0) + frame(CONTINUATION, first=0) + frame(CONTINUATION))
refused("5.9: a continuation of nothing", 1002, frame(CONTINUATION, b"x"), frame(TEXT, b"y"))
refused("5.11: a first fragment that continues nothing", 1002, frame(CONTINUATION, b"x", first=0))
refused("5.16: a continuation after the end", 1002, frame(CONTINUATION, b"c"), before=frame(TEXT, b"a", first=0) + frame(CONTINUATION, b"b"))
passes(
    "5.19: pings between five fragments",
    frame(TEXT, b"1", first=0), frame(CONTINUATION, b"2", first=0), frame(PING, b"x"),
    frame(CONTINUATION, b"3", first=0), frame(PING, b"y"), frame(CONTINUATION, b"5"),
)


@cases("5.18: a message within a message")
def _(world):
    socket, begun = Socket(world), frame(TEXT, b"a", first=0)
    socket.passes(begun)
    socket.send(frame(TEXT, b"b"))
    socket.closed(1002)
    check(bytes(socket.heard).startswith(begun) and b"b" not in socket.heard[len(begun) :][:8], f"{socket.heard}")


for what, payload in {
    "6.3: text that is no UTF-8": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    "6.4: a code point beyond the last": b"\xf4\x90\x80\x80",
    "6.6: text that ends within a letter": b"\xce",
    "6.8: an overlong slash": b"\xc0\xaf",
}.items():
    passes(f"{what} is for the two ends to judge", frame(TEXT, payload))
passes("6.4.1: a letter cut by two fragments", frame(TEXT, b"\xce", first=0) + frame(CONTINUATION, b"\xba"))

passes("7.1.1: a close frame", frame(CLOSE, struct.pack(">H", 1000) + b"bye"))
passes("7.3.1: a close frame without a code", frame(CLOSE))
refused("7.3.2: a close frame of one byte", 1002, frame(CLOSE, b"\x03"))
passes("7.3.5: a close frame with the longest reason", frame(CLOSE, struct.pack(">H", 1000) + b"*" * 123))
refused("7.3.6: a close frame that is too long", 1002, frame(CLOSE, struct.pack(">H", 1000) + b"*" * 124))
passes("7.5.1: a reason that is no UTF-8 is for the two ends to judge", frame(CLOSE, struct.pack(">H", 1000) + b"\xc0\xaf"))
for code in (1000, 1011, 3000, 4999, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535):
    passes(f"7.7, 7.9: close code {code} passes as it came", frame(CLOSE, struct.pack(">H", code)))


@cases("7.1.2: nothing passes after a close frame")
def _(world):
    socket, close = Socket(world), frame(CLOSE, struct.pack(">H", 1000))
    socket.passes(close)
    socket.send(frame(TEXT, b"late") + frame(PING, b"late"))
    socket.end()
    until("the upstream to be hung up on", lambda: socket.heard.endswith(b"<end>"))
    check(bytes(socket.heard) == close + b"<end>", f"the upstream got {bytes(socket.heard)!r}")


@cases("9.1: a message of 4 MiB, in one frame and in many")
def _(world):
    socket = Socket(world)
    one = frame(BINARY, b"\0" * (4 << 20))
    socket.passes(one)
    parts = [frame(BINARY, b"\0" * 65536, first=0), *[frame(CONTINUATION, b"\0" * 65536, first=0)] * 62]
    socket.passes(b"".join(parts) + frame(CONTINUATION, b"\0" * 65536))


@cases("9: a frame that says it is larger than any may be is refused before it comes")
def _(world):
    socket = Socket(world)
    socket.send(struct.pack(">BBQ", FIN | BINARY, 0x80 | 127, 16 * 1024 * 1024 + 1) + MASK)
    socket.closed(1009)


refused("10: a frame without a mask", 1002, frame(TEXT, b"x", mask=b""))
refused("10: a ping without a mask", 1002, frame(PING, b"x", mask=b""), before=frame(TEXT, b"fine"))
refused("10: a length of 125 in 16 bits", 1002, frame(TEXT, b"x" * 125, form=16))
refused("10: a length of 65,535 in 64 bits", 1002, frame(TEXT, b"x" * 65535, form=64))
refused("10: a length with its highest bit", 1002, struct.pack(">BBQ", 0x81, 0xFF, 1 << 63) + MASK)

DEFLATE = "sec-websocket-extensions: permessage-deflate\r\n"
AGREED = b"sec-websocket-extensions: permessage-deflate\r\n"
passes("12: compressed text where both agreed", frame(TEXT, b"\xf2\x48\xcd\0\0", first=FIN | RSV1), more=DEFLATE, extensions=AGREED)
refused("12: compressed text where the upstream did not agree", 1002, frame(TEXT, b"\xf2\x48", first=FIN | RSV1), more=DEFLATE)
refused("12: a compressed ping", 1002, frame(PING, b"", first=FIN | RSV1), more=DEFLATE, extensions=AGREED)

@cases("12: a compressed continuation")
def _(world):
    socket = Socket(world, more=DEFLATE, extensions=AGREED)
    begun = frame(TEXT, b"a", first=RSV1)
    socket.passes(begun)
    socket.send(frame(CONTINUATION, b"b", first=FIN | RSV1))
    socket.closed(1002)
    check(len(socket.heard) <= len(begun) + len(GOODBYE) + 5, f"{socket.heard}")


for what, data in {
    "text, binary, pings and a close frame": b"".join(
        frame(opcode, b"x" * 200 if opcode < 8 else b"\x03\xe8", mask=b"") for opcode in (TEXT, BINARY, PING, PONG, CLOSE)
    ),
    "text that is no UTF-8": frame(TEXT, b"\xed\xa0\x80", mask=b""),
    "reserved bits and opcodes": frame(TEXT, b"x", first=FIN | RSV2, mask=b"") + frame(5, b"x", mask=b""),
    "masked frames": frame(TEXT, b"hello"),
}.items():

    @cases(f"from the server: {what} passes as it came")
    def _(world, data=data):
        socket = Socket(world, say=data)
        while len(socket.buffer) < len(data) and socket.more():
            pass
        check(socket.buffer == data, f"{socket.buffer[:80]!r}")


@cases("what a client sends before it has the 101 is no request and reaches no upstream before it")
def _(world):
    client = Http1(world)
    early = frame(TEXT, b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n", mask=b"\0\0\0\0")
    client.send(
        f"GET /ws HTTP/1.1\r\n{world.who()}origin: https://{world.authority}\r\n"
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode() + early
    )
    status, _ = client.head()
    if status == 400:
        # RFC 6455, section 4.1: a client waits. As it reads in two ways, it is refused.
        check(not world.upstream.requests, f"{world.upstream.requests}")
        return
    check(status == 101, f"answered {status}")
    heard = until("the upstream", lambda: world.upstream.heard)[0]
    until("the frame", lambda: len(heard) >= len(early))
    check(bytes(heard) == early, f"{bytes(heard)!r}")
    check([request.target for request in world.upstream.requests] == ["/ws"], f"{world.upstream.requests}")


for what, lines in {
    "another version": "sec-websocket-version: 12\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "no version": "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "no key": "sec-websocket-version: 13\r\n",
    "a key of another length": "sec-websocket-version: 13\r\nsec-websocket-key: c2hvcnQ=\r\n",
    "two keys": "sec-websocket-version: 13\r\n" + "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n" * 2,
    "a body": "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\ncontent-length: 5\r\n",
    "a foreign origin": "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://evil.example\r\n",
}.items():

    @cases(f"the handshake: {what} opens nothing")
    def _(world, lines=lines, what=what):
        client = Http1(world)
        origin = "" if "origin" in lines else f"origin: https://{world.authority}\r\n"
        head = f"GET /ws HTTP/1.1\r\n{world.who()}{origin}connection: Upgrade\r\nupgrade: websocket\r\n{lines}\r\n"
        client.send(head.encode())
        status, _ = client.head()
        check(400 <= status < 500, f"answered {status}")
        check(not world.upstream.heard, "a WebSocket was opened")
