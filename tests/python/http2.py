"""A client of HTTP/2 that is as little as possible: one connection, one stream at a time.

Answers are known by their length alone, because it reads no header blocks: what it asks for has a
length that no refusal has.
"""

import struct

from world import HOST, connect

HEADERS, DATA, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 1, 0, 3, 4, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
# Indexes of the static table (RFC 7541, appendix A).
GET, HTTPS = 0x82, 0x87


class Refused(Exception):
    """The server ended the stream or the connection."""


class Http2:
    """What repeats is in the header table, as a browser has it."""

    def __init__(self, port, headers, path="/1k", source=None):
        self.socket, self.buffer, self.stream = connect(port, alpn=["h2"], timeout=60, source=source), b"", 1
        # The server has said goodbye: what is under way is still answered.
        self.leaves = False
        most = struct.pack(">I", 2**31 - 1 - 65535)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS) + frame(WINDOW_UPDATE, payload=most))
        fields = [(":authority", f"{HOST}:{port}"), (":path", path)] + [(name.lower(), value) for name, value in headers.items()]
        self.block = bytes([GET, HTTPS]) + b"".join(b"\x40" + text(name) + text(value) for name, value in fields)
        # From then on the table has them, the last one first.
        self.known = bytes([GET, HTTPS, *(0x80 | (62 + at) for at in reversed(range(len(fields))))])

    def ask(self):
        """One request: the length of its answer's body."""
        self.socket.sendall(frame(HEADERS, END_STREAM | END_HEADERS, self.stream, self.block))
        self.block, length, ended = self.known, 0, False
        while not ended:
            kind, flags, stream, payload = self.read()
            if kind == SETTINGS and not flags & ACK:
                self.socket.sendall(frame(SETTINGS, ACK))
            if kind == GOAWAY:
                last, code = struct.unpack(">II", payload[:8])
                self.leaves = True
                if code or last & 0x7FFFFFFF < self.stream:
                    raise Refused(f"the server leaves before stream {self.stream}: {payload!r}")
            if stream == self.stream:
                if kind == RST_STREAM:
                    raise Refused(f"the server resets stream {self.stream}: {payload!r}")
                length += len(payload) if kind == DATA else 0
                ended = kind in (DATA, HEADERS) and flags & END_STREAM
        self.stream += 2
        return length

    def read(self):
        head = self.exactly(9)
        length, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
        return kind, flags, stream, self.exactly(length)

    def exactly(self, length):
        while len(self.buffer) < length:
            more = self.socket.recv(65536)
            if not more:
                raise Refused("the server closed the connection")
            self.buffer += more
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def close(self):
        self.socket.close()


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(words):
    """A string without Huffman code; its length as an integer with a prefix of seven bits (RFC 7541, 5.1)."""
    words, head = words.encode(), b""
    if len(words) < 127:
        return bytes([len(words)]) + words
    left = len(words) - 127
    while left >= 128:
        head += bytes([left % 128 | 128])
        left //= 128
    return bytes([127]) + head + bytes([left]) + words
