"""A client of HTTP/1.1 and WebSockets that sees every byte, and a WebSocket upstream that echoes."""

import base64
import hashlib
import socket
import struct
import threading

from world import connect


class Client:
    """A connection that is closed at the end of a `with`."""

    def __init__(self, port):
        self.socket, self.buffer = connect(port, timeout=30), b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise ValueError(f"the connection ended after {self.buffer[:80]!r}")
        self.buffer += data

    def read(self, length):
        """Between one and `length` bytes."""
        if not self.buffer:
            self.more()
        data, self.buffer = self.buffer[:length], self.buffer[length:]
        return data

    def exactly(self, length):
        while len(self.buffer) < length:
            self.more()
        data, self.buffer = self.buffer[:length], self.buffer[length:]
        return data

    def head(self):
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict((name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines))
        return int(first.split(" ")[1]), headers

    def answer(self):
        status, headers = self.head()
        return status, self.exactly(int(headers.get("content-length", 0)))

    def ask(self, request):
        self.send(request)
        return self.answer()

    def message(self):
        """A server's frame of up to 65,535 bytes."""
        _, length = struct.unpack(">BB", self.exactly(2))
        if length == 126:
            [length] = struct.unpack(">H", self.exactly(2))
        return self.exactly(length)


class Echo:
    """A WebSocket upstream that sends every message back."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    @staticmethod
    def serve(stream):
        with stream, stream.makefile("rb") as source:
            key = ""
            while line := source.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                if name.lower() == "sec-websocket-key":
                    key = value.strip()
            accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
            head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            stream.sendall(f"{head}sec-websocket-accept: {base64.b64encode(accept).decode()}\r\n\r\n".encode())
            while len(start := source.read(2)) == 2:
                length = start[1] & 0x7F
                extended = source.read(2) if length == 126 else b""
                if extended:
                    [length] = struct.unpack(">H", extended)
                mask, payload = source.read(4), source.read(length)
                if start[0] == 0x88:
                    return
                stream.sendall(bytes([start[0], start[1] & 0x7F]) + extended + masked(payload, mask))


def masked(payload, mask):
    whole = mask * (len(payload) // 4 + 1)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole[: len(payload)], "big")).to_bytes(len(payload), "big")
