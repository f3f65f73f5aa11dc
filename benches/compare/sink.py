"""An upstream that reads a request's body, keeps nothing of it and says how long it was.

python3 sink.py PORT
"""

import socket
import sys
import threading


def serve(connection):
    with connection:
        buffer = memoryview(bytearray(1 << 20))
        head = b""
        while True:
            while b"\r\n\r\n" not in head:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                head += chunk
            lines, _, rest = head.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b":", 1) for line in lines.split(b"\r\n")[1:])
            if b"content-length" not in fields:
                connection.sendall(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            length = int(fields[b"content-length"])
            head, got = rest[length:], min(len(rest), length)
            while got < length:
                count = connection.recv_into(buffer[: length - got])
                if count == 0:
                    return
                got += count
            answer = str(got).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))


with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128) as server:
    while True:
        accepted, _ = server.accept()
        threading.Thread(target=serve, args=(accepted,), daemon=True).start()
