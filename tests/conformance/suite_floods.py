"""What a client may send without end over HTTP/2 (RFC 9113, section 10.5, and the advisories)."""

import struct
import threading

from frames import *
from lab import Cases, Wrong, check
from world import resident

cases = Cases()


def survives(world, client, *codes):
    """The gate goes on serving this client, or ends it with one of these errors."""
    client.send(frame(PING, payload=b"are you?"))
    while (got := client.next()) is not None:
        kind, flags, _, payload = got
        if kind == PING and flags & ACK and payload == b"are you?":
            return
        if kind == GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            check(code in codes, f"GOAWAY has error {code}, not one of {codes}")
            return


def resets(name, fields, breaks, codes):
    @cases(name)
    def case(world):
        client, streams = Client(world), iter(range(1, 20_000, 2))

        def some():
            own = [next(streams) for _ in range(50)]
            return b"".join(client.request(stream, "/flood", **fields) + breaks(stream) for stream in own)

        client.flood(some, 100)
        client.ends(*codes)
        count = len(world.upstream.requests)
        check(count < 1000, f"{count} requests of the flood reached the upstream")


resets(
    "rapid reset (CVE-2023-44487) ends the connection", {},
    lambda stream: frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)), [ENHANCE_YOUR_CALM],
)
resets(
    "resets that the gate is made to send (CVE-2025-8671) end the connection", {"method": "POST", "end": False},
    lambda stream: frame(WINDOW_UPDATE, 0, stream, b"\0\0\0\0"), [ENHANCE_YOUR_CALM, PROTOCOL_ERROR],
)


@cases("a flood of CONTINUATION (VU#421644) ends the connection")
def _(world):
    client = Client(world)
    client.send(frame(HEADERS, END_STREAM, 1, client.block("/wrong")))
    # A literal field that isn't indexed: one letter, 255 letters.
    client.flood(frame(CONTINUATION, 0, 1, (b"\x00\x01x\x7f\x80\x01" + b"y" * 255) * 50), 200)
    client.ends(ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR)
    check(client.ended, "the gate takes in all that is sent")
    reached(world)


@cases("a flood of empty CONTINUATION ends the connection")
def _(world):
    client = Client(world)
    client.send(frame(HEADERS, END_STREAM, 1, client.block("/wrong")))
    client.flood(frame(CONTINUATION, 0, 1) * 1000, 50)
    client.ends(ENHANCE_YOUR_CALM, PROTOCOL_ERROR)
    check(client.ended, "the gate takes in all that is sent")
    reached(world)


@cases("a header block that unpacks to far more than it is (RFC 7541, 7.3) is refused")
def _(world):
    client = Client(world)
    # One field of 4,000 bytes, put into the table and named ten thousand times.
    entry = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
    block = client.block("/wrong") + entry + b"\xbe" * 10_000
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
    wanted = lambda kind, _, on, __: kind == GOAWAY or (on == 1 and kind in (RST_STREAM, HEADERS))
    kind, _, _, payload = client.until("a refusal", wanted)
    check(kind != HEADERS or payload[":status"] == "431", f"answered {payload}")
    reached(world)


for what, part, codes in (
    ("SETTINGS", settings((INITIAL_WINDOW, 65535)), (ENHANCE_YOUR_CALM,)),
    ("PING", frame(PING, 0, 0, b"12345678"), (ENHANCE_YOUR_CALM,)),
    ("PRIORITY", frame(PRIORITY, 0, 1, b"\0\0\0\0\x09"), (ENHANCE_YOUR_CALM,)),
    ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x01"), (ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR)),
    ("unknown frames", frame(0xEE, 0, 0, b"x"), (ENHANCE_YOUR_CALM,)),
):

    @cases(f"a flood of {what} harms nobody else")
    def _(world, part=part, codes=codes):
        client = Client(world)
        sender = threading.Thread(target=lambda: client.send(part * 50_000))
        sender.start()
        for _ in range(3):
            world.neighbour_is_served()
        survives_in(world, client, sender, codes)
        reached(world, "/neighbour", "/neighbour", "/neighbour")


def survives_in(world, client, sender, codes):
    while sender.is_alive():
        # The gate's replies are taken, or both sides would wait for each other.
        if client.next() is None:
            break
        if client.frames[-1][0] == GOAWAY:
            break
        client.frames = client.frames[-8:]
    sender.join(15)
    check(not sender.is_alive(), "the flood was never taken in")
    survives(world, client, *codes)


@cases("a client that floods with PING and reads nothing is not answered into memory")
def _(world):
    client = Client(world)
    client.socket.settimeout(1)
    before = resident(world.gate.process.pid)
    try:
        for _ in range(200):
            client.socket.sendall(frame(PING, 0, 0, b"12345678") * 10_000)
        raise Wrong("the gate takes in pings whose answers nobody reads")
    except OSError:
        pass
    grown = resident(world.gate.process.pid) - before
    check(grown < 8 * 1024 * 1024, f"{grown // 1024} KiB grew while nothing was read")
    client.socket.close()


@cases("a flood of empty DATA harms nobody else")
def _(world):
    client = Client(world)
    client.send(client.request(1, "/slow", "POST", end=False))
    for _ in range(20):
        client.send(frame(DATA, 0, 1) * 5000)
        world.neighbour_is_served()
    survives(world, client, ENHANCE_YOUR_CALM)
    check(not world.upstream.garbage, f"{world.upstream.garbage}")
    check(all(r.target == "/neighbour" for r in world.upstream.requests), f"{world.upstream.requests[-1]}")
