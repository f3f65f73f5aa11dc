"""HTTP/2 frames by hand, and a connection on which a case writes every one itself."""

import select
import struct

from hpack import Decoder, Encoder

from lab import Wrong, check
from world import connect

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
(
    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR,
    REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM,
) = range(12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)


def inexactly(code):
    """The gate's HTTP/2 library says PROTOCOL_ERROR in places where section 7 has a word of its own.
    The connection ends all the same; should the library become exact, this still holds."""
    return [code, PROTOCOL_ERROR]


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


class Client:
    """A connection whose every frame the case writes itself."""

    def __init__(self, world, greet=True, own=()):
        self.world, self.socket = world, connect(world.gate.port, alpn=["h2"])
        check(self.socket.selected_alpn_protocol() == "h2", "HTTP/2 was not negotiated")
        self.buffer, self.frames, self.encoder, self.decoder = b"", [], Encoder(), Decoder()
        self.ended = False
        if greet:
            self.send(PREFACE + settings(*own))

    def send(self, *parts):
        try:
            self.socket.sendall(b"".join(parts))
        except OSError:
            pass

    def fields(self, path="/fine", method="GET", more=(), without=(), change=()):
        fields = {":method": method, ":scheme": "https", ":authority": self.world.authority, ":path": path}
        fields.update(change)
        pairs = [pair for pair in fields.items() if pair[0] not in without]
        return [*pairs, ("cookie", self.world.gate.cookie), *more]

    def block(self, *arguments, **keywords):
        return self.encoder.encode(self.fields(*arguments, **keywords), huffman=False)

    def request(self, stream, *arguments, end=True, **keywords):
        flags = END_HEADERS | (END_STREAM if end else 0)
        return frame(HEADERS, flags, stream, self.block(*arguments, **keywords))

    def next(self):
        """The next frame as (kind, flags, stream, payload); None at the end."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise Wrong(f"nothing came; before that: {self.told()}") from None
            except OSError:
                data = b""
            if not data:
                self.ended = True
                return None
            self.buffer += data
        length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + self.buffer[:9])
        payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK))
        if kind == HEADERS:
            payload = dict(self.decoder.decode(payload))
        self.frames.append((kind, flags, stream, payload))
        return self.frames[-1]

    def pump(self):
        """Takes what is there already, without waiting: an end with bytes unread loses the rest."""
        while not self.ended and select.select([self.socket], [], [], 0)[0]:
            if self.next() is None or self.frames[-1][0] == GOAWAY:
                return

    def flood(self, part, times):
        """Sends until it is all sent, or the gate has had enough."""
        for _ in range(times):
            self.send(part() if callable(part) else part)
            self.pump()
            if self.ended or any(kind == GOAWAY for kind, *_ in self.frames):
                return

    def told(self):
        names = "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION".split()
        return [(names[kind], flags, stream, payload) for kind, flags, stream, payload in self.frames[-4:]]

    def until(self, what, wanted):
        while (got := self.next()) is not None:
            if wanted(*got):
                return got
        raise Wrong(f"the connection ended without {what}: {self.told()}")

    # ---- what is expected ------------------------------------------------------------------

    def goaway(self, *codes):
        """A connection error: GOAWAY with one of these codes, then the end."""
        said = [payload for kind, _, _, payload in self.frames if kind == GOAWAY]
        payload = said[0] if said else self.until("GOAWAY", lambda kind, *_: kind == GOAWAY)[3]
        code = int.from_bytes(payload[4:8], "big")
        check(code in codes, f"GOAWAY has error {code}, not {codes}: {payload[8:]!r}")
        while self.next() is not None:
            pass

    def ends(self, *codes):
        """As `goaway`, but to a client that goes on sending: closing a socket with bytes unread
        resets it, and the reset can overtake the GOAWAY."""
        try:
            self.goaway(*codes)
        except Wrong:
            check(self.ended and not any(kind == GOAWAY for kind, *_ in self.frames), f"{self.told()}")

    def refused(self, stream, *codes):
        """A stream error, or the connection error that it may be treated as (section 5.4.2)."""
        wanted = lambda kind, _, on, __: kind == GOAWAY or (kind == RST_STREAM and on == stream)
        kind, _, _, payload = self.until("RST_STREAM or GOAWAY", wanted)
        code = int.from_bytes(payload[:4] if kind == RST_STREAM else payload[4:8], "big")
        check(code in codes, f"error {code}, not one of {codes}")

    def malformed(self, stream, *statuses):
        """A malformed request: a stream error of PROTOCOL_ERROR, or the answer 400 (section 8.1.1)."""
        wanted = lambda kind, _, on, __: kind == GOAWAY or (on == stream and kind in (RST_STREAM, HEADERS))
        kind, _, _, payload = self.until("a refusal", wanted)
        if kind == HEADERS:
            check(payload[":status"] in ("400", *statuses), f"answered {payload[':status']}")
            return
        code = int.from_bytes(payload[:4] if kind == RST_STREAM else payload[4:8], "big")
        check(code == PROTOCOL_ERROR, f"error {code}, not PROTOCOL_ERROR")

    def answered(self, stream, status="200"):
        wanted = lambda kind, _, on, __: (kind == HEADERS and on == stream) or (kind == RST_STREAM and on == stream) or kind == GOAWAY
        kind, _, _, payload = self.until("an answer", wanted)
        check(kind == HEADERS, f"stream {stream} was refused: {self.told()}")
        check(payload[":status"] == status, f"answered {payload[':status']}, not {status}")
        return payload

    def alive(self):
        """A ping comes back, so everything before it was taken in."""
        self.send(frame(PING, payload=b"are you?"))
        self.until("PING", lambda kind, flags, _, payload: kind == PING and flags & ACK and payload == b"are you?")


def reached(world, *targets):
    """Exactly these requests, in any order, reached the upstream, and nothing that is no request."""
    upstream = world.upstream
    check(not upstream.garbage, f"the upstream got {upstream.garbage}")
    got = sorted(request.target for request in upstream.requests)
    check(got == sorted(targets), f"these requests reached the upstream: {upstream.requests}")
