"""Requests that servers read differently: raw HTTP/1 in, and every byte that reached the upstream.

`tests/e2e/framing.rs` and `bypass.rs` hold the plain cases; here is the rest of what smuggling
tools send. A case passes when the upstream got whole requests in their plainest form only, none of
them the smuggled one, and none that the gate had not answered for.
"""

from lab import Cases, Http1, check, until

cases = Cases()

SMUGGLED = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
# No answer at all, or a refusal.
REFUSED = {0, 400, 405, 411, 413, 414, 415, 417, 421, 426, 431, 501, 505}


def request(world, lines="", body="", first="POST /first HTTP/1.1"):
    return f"{first}\r\n{world.who()}{lines}\r\n{body}".encode("latin-1")


def reached(world, *allowed):
    """At most these reached the upstream, each once, and nothing that is no request."""
    upstream = world.upstream
    check(not upstream.garbage, f"the upstream got {upstream.garbage}")
    with upstream.lock:
        rest, got = list(allowed), list(upstream.requests)
        broken = [bytes(part) for part in upstream.connections]
    for request in got:
        check(request.target in rest, f"the upstream got {got}, not only {allowed}")
        rest.remove(request.target)
    for part in broken:
        check(b"smuggled" not in part.partition(b"\r\n\r\n")[0], f"the upstream got {part}")
    return got


def refused(name, lines="", body=SMUGGLED, first="POST /first HTTP/1.1", raw=None, statuses=REFUSED, allowed=()):
    """The first answer is a refusal, the connection ends, and nothing whole reached the upstream."""

    @cases(name)
    def case(world):
        client = Http1(world)
        client.send(raw(world) if raw else request(world, lines, body, first))
        got = [client.answer()[0]]
        if got[0]:
            # A refusal that is clear about its end may leave the connection open.
            client.end()
            got += client.answers()
        check(got[0] in statuses, f"answered {got}")
        check(len(got) == 1, f"answered more than once: {got}")
        reached(world, *allowed)


def one(name, lines, body, forwarded, first="POST /first HTTP/1.1", check_request=lambda request: None):
    """Exactly one request reaches the upstream, with this body, and the one behind it is the next."""

    @cases(name)
    def case(world):
        client = Http1(world)
        client.send(request(world, lines, body, first))
        client.send(request(world, first="GET /second HTTP/1.1"))
        statuses = [client.answer()[0], client.answer()[0]]
        check(statuses == [200, 200], f"answered {statuses}")
        got = reached(world, "/first", "/second")
        check([r.target for r in got] == ["/first", "/second"], f"{got}")
        check(got[0].body == forwarded, f"the upstream got the body {got[0].body!r}")
        check_request(got[0])


CHUNKED = "5\r\nhello\r\n0\r\n\r\n"

# ---- lengths that disagree --------------------------------------------------------------------

refused("CL.TE: the front believes the length", "content-length: 6\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\nG" + SMUGGLED)
refused("TE.CL: the front believes the chunks", "transfer-encoding: chunked\r\ncontent-length: 4\r\n", "26\r\n" + SMUGGLED + "\r\n0\r\n\r\n")
refused("TE.0: the length behind is nothing", "transfer-encoding: chunked\r\ncontent-length: 0\r\n", CHUNKED + SMUGGLED)
for coding in (
    "Chunked, chunked", "chunked,", ",chunked", "chunked, ", "chunked;q=1", "\"chunked\"", "'chunked'", "chunked\x0b", "\x0cchunked",
    "chunked\xa0", "\xa0chunked", "chunke", "chunkedd", "c\thunked", "[chunked]", "chunked\0", "identity, chunked", "chunked, cow",
    "cow, chunked", "cow\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: cow", "\r\n chunked", "\n chunked", "\tchunked\x7f",
):
    refused(f"TE.TE: transfer-encoding: {coding!r}", f"content-length: 5\r\nTransfer-Encoding: {coding}\r\n", "0\r\n\r\n" + SMUGGLED)
    refused(f"TE alone: transfer-encoding: {coding!r}", f"Transfer-Encoding: {coding}\r\n", "0\r\n\r\n" + SMUGGLED, statuses=REFUSED)
for name in (
    "Transfer-Encoding ", "Transfer-Encoding\t", " Transfer-Encoding", "\tTransfer-Encoding", "Transfer-Encoding\0", "Transfer-Encoding\r",
    "\x0bTransfer-Encoding", "Foo\nTransfer-Encoding", "Foo: bar\n Transfer-Encoding", "Foo: bar\rTransfer-Encoding", "Transfer\r\n-Encoding",
    ":Transfer-Encoding", "Transfer-Encoding\xa0", "Transfer Encoding", "Transfer-Encod\xefng", "\"Transfer-Encoding\"", "(Transfer-Encoding)",
):
    refused(f"TE.TE: the name {name!r}", f"content-length: 5\r\n{name}: chunked\r\n", "0\r\n\r\n" + SMUGGLED)
for value in ("0005", "010", "00", "00x5", "5\x0b", "\x0b5", "5;5", "5e0", "0b101", "５".encode().decode("latin-1"), "5,", ",5", "5\r\nContent-Length: 5", "1_0", "--5", "5.0", "٥".encode().decode("latin-1")):
    refused(f"content-length: {value!r}", f"Content-Length: {value}\r\n", "hello" + SMUGGLED)
for name in ("Content-Length ", "Content-Length\t", "\tContent-Length", "Content-Length\0", "Content\rLength", "\x0bContent-Length"):
    refused(f"the name {name!r}", f"{name}: 5\r\n", "hello" + SMUGGLED)

# ---- names that only look like it are headers like any other, on which nothing is framed --------

for name in ("Content-Encoding", "Transfer-Encodin", "Transfer_Encoding", "X-Transfer-Encoding"):
    one(f"{name}: chunked is no framing", f"content-length: 5\r\n{name}: chunked\r\n", "hello", b"hello",
        check_request=lambda r: check(r.value("transfer-encoding") is None, f"{r.fields}"))
one("a body of a GET", "content-length: 5\r\n", "GET /", b"GET /", first="GET /first HTTP/1.1")
one("a chunked body of a DELETE", "transfer-encoding: chunked\r\n", CHUNKED, b"hello", first="DELETE /first HTTP/1.1")
one("upper case", "TRANSFER-ENCODING: CHUNKED\r\n", CHUNKED, b"hello")
one("blanks around the value", "transfer-encoding: \t chunked \t\r\n", CHUNKED, b"hello")

# ---- Connection must not strip what frames and says who (CVE-2026-29054 and kin) ------------------

for name in ("content-length", "host", "cookie", "x-wicketgate-user", "x-wicketgate-assertion", "x-forwarded-for", "transfer-encoding", "close, content-length"):

    @cases(f"connection: {name} takes nothing away that the gate sets")
    def _(world, name=name):
        client = Http1(world)
        client.send(request(world, f"connection: {name}\r\ncontent-length: {len(SMUGGLED)}\r\n", SMUGGLED))
        status = client.answer()[0]
        got = reached(world, "/first")
        if status != 200:
            check(status in REFUSED | {302, 303, 401}, f"answered {status}")
            return
        [request_] = got
        check(request_.body == SMUGGLED.encode(), f"the body became {request_.body!r}")
        check(request_.value("x-wicketgate-user") == "test/vera", f"{request_.fields}")
        check(request_.value("x-wicketgate-assertion") is not None, f"{request_.fields}")
        check(request_.value("host") == world.authority, f"{request_.fields}")
        check(request_.value("connection") in (None, "keep-alive"), f"{request_.fields}")


# ---- chunks -----------------------------------------------------------------------------------

for what, body in {
    "an extension": "5;a=b\r\nhello\r\n0\r\n\r\n",
    "a quoted extension with a semicolon": '5;a="b;c"\r\nhello\r\n0;d\r\n\r\n',
    "a blank behind the size": "5 \r\nhello\r\n0 \r\n\r\n",
    "zeros in front of the size": "0000000005\r\nhello\r\n000\r\n\r\n",
    "upper and lower case": "0A\r\nhellohello\r\n0a\r\nhellohello\r\n0\r\n\r\n",
    "one byte each": "".join(f"1\r\n{letter}\r\n" for letter in "hello") + "0\r\n\r\n",
    "trailers": "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    "trailers that frame": "5\r\nhello\r\n0\r\ncontent-length: 100\r\ntransfer-encoding: chunked\r\n\r\n",
    "trailers that say who": "5\r\nhello\r\n0\r\nx-wicketgate-user: sam\r\nhost: evil\r\ncookie: a=b\r\nauthorization: x\r\n\r\n",
}.items():

    def plain(request):
        check(not any("a=b" in value for _, value in request.fields), f"{request.fields}")
        names = [line.split(":")[0].lower() for line in request.trailers]
        check(set(names) <= {"x-sum"}, f"the trailers {names} reached the upstream")

    expected = b"hello" if what != "upper and lower case" else b"hello" * 4
    one(f"chunks with {what} are written anew", "transfer-encoding: chunked\r\n", body, expected, check_request=plain)

for what, body in {
    "a bare LF behind the size": "5\nhello\r\n0\r\n\r\n",
    "a bare LF in an extension (TERM.EXT)": "5;\nhello\r\n0\r\n\r\n",
    "a bare LF behind an extension": "5;a\nxx\r\n0\r\n\r\n",
    "a bare CR in an extension (EXT.TERM)": "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a bare CR behind the size": "5\rhello\r\n0\r\n\r\n",
    "CR CR LF behind the size": "5\r\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": "5;a\0b\r\nhello\r\n0\r\n\r\n",
    "a bare LF behind the data": "5\r\nhello\n0\r\n\r\n",
    "other bytes behind the data (SPILL)": "5\r\nhelloXX0\r\n\r\n",
    "a blank in front of the size": " 5\r\nhello\r\n0\r\n\r\n",
    "a size that is negative": "-5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": "0_5\r\nhello\r\n0\r\n\r\n",
    "a size that wraps around 64 bits": "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a size of many digits": "f" * 40 + "\r\nhello\r\n0\r\n\r\n",
    "a size with a sign": "+5\r\nhello\r\n0\r\n\r\n",
    "a size with 0x": "0x5\r\nhello\r\n0\r\n\r\n",
    "a blank within the size": "0 5\r\nhello\r\n0\r\n\r\n",
    "an end without its empty line": "5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n",
    "a folded trailer": "5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n",
    "a trailer with a bare LF": "5\r\nhello\r\n0\r\nx: y\nz: a\r\n\r\n",
    "a trailer with a blank in its name": "5\r\nhello\r\n0\r\nx y: z\r\n\r\n",
    "endless extensions": "5;" + "a" * 100_000 + "\r\nhello\r\n0\r\n\r\n",
    "endless trailers": "5\r\nhello\r\n0\r\n" + "".join(f"x-{n}: y\r\n" for n in range(2000)) + "\r\n",
}.items():

    @cases(f"chunks with {what}: the connection ends there")
    def _(world, body=body):
        client = Http1(world)
        client.send(request(world, "transfer-encoding: chunked\r\n", body + SMUGGLED))
        client.end()
        statuses = client.answers() or [0]
        # A good part of the body may have been on its way; no request follows from what was bad.
        check(statuses[0] in REFUSED | {200, 502}, f"answered {statuses}")
        check(len(statuses) == 1, f"what follows was answered: {statuses}")
        reached(world, "/first")


# ---- lines, targets, hosts ----------------------------------------------------------------------

refused("a folded header", "x: y\r\n\tfolded\r\n", "")
refused("a folded Host", raw=lambda w: f"GET /first HTTP/1.1\r\nhost:\r\n {w.authority}\r\ncookie: {w.gate.cookie}\r\n\r\n".encode())
refused("a bare LF at the end of the head", raw=lambda w: f"GET /first HTTP/1.1\r\n{w.who()}\n{SMUGGLED}".encode())
refused("a bare CR at the end of the head", raw=lambda w: f"GET /first HTTP/1.1\r\n{w.who()}\r{SMUGGLED}".encode())
refused("NUL in a value", "x: a\0b\r\n", "", first="GET /first HTTP/1.1")
refused("DEL in a value", "x: a\x7fb\r\n", "", first="GET /first HTTP/1.1")
refused("a blank in front of the first header", raw=lambda w: f"GET /first HTTP/1.1\r\n x: y\r\n{w.who()}\r\n".encode())
refused("the first line twice", raw=lambda w: f"GET /first HTTP/1.1\r\nGET /smuggled HTTP/1.1\r\n{w.who()}\r\n".encode())
refused("a header without a colon", "smuggled\r\n", "", first="GET /first HTTP/1.1")
refused("Host twice, the same", raw=lambda w: f"GET /first HTTP/1.1\r\nhost: {w.authority}\r\n{w.who()}\r\n".encode())
refused("Host twice, one hidden by a blank", raw=lambda w: f"GET /first HTTP/1.1\r\nhost : evil\r\n{w.who()}\r\n".encode())
refused("Host with a path", raw=lambda w: f"GET /first HTTP/1.1\r\nhost: {w.authority}/x\r\ncookie: {w.gate.cookie}\r\n\r\n".encode())
refused("no Host", raw=lambda w: f"GET /first HTTP/1.1\r\ncookie: {w.gate.cookie}\r\n\r\n".encode())
refused("HTTP/1.0 with chunks", "transfer-encoding: chunked\r\n", CHUNKED + SMUGGLED, first="POST /first HTTP/1.0")
refused("HTTP/1.0 with chunks and a length", "content-length: 5\r\ntransfer-encoding: chunked\r\n", CHUNKED + SMUGGLED, first="POST /first HTTP/1.0")
for version in ("HTTP/1.2", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1x", "http/1.1", "HTTP/1,1", "HTTP/11", "HTTP/1.", "HTTP/ 1.1", ""):
    if version != "HTTP/1.2":
        refused(f"the version {version!r}", "", "", first=f"GET /first {version}")
for target in ("http://evil.example/", "https://evil.example/first", "//evil.example/first", "\\first", "@evil.example/first", "/first\t/x",
               "/first\x0b", "/%00first", "/first%0d%0ax:y", "/first#/smuggled", "first", "*", "https:///first", "https:first", "/a/%2e%2e/first"):
    refused(f"the target {target!r}", "", "", first=f"GET {target} HTTP/1.1", statuses=REFUSED | {404})
for method in ("GET\x0b", "G\0ET", "GET:", "GE T", "\xe9", "(GET)", "GET/"):
    refused(f"the method {method!r}", "", "", first=f"{method} /first HTTP/1.1")


@cases("an absolute target of this host is the same request")
def _(world):
    client = Http1(world)
    client.send(request(world, first=f"GET https://{world.authority}/first HTTP/1.1"))
    check(client.answer()[0] == 200, "not answered 200")
    [got] = reached(world, "/first")
    check(got.value("host") == world.authority, f"{got.fields}")


# ---- one request behind another -------------------------------------------------------------------


@cases("ten requests at once are ten requests, answered in order")
def _(world):
    client = Http1(world)
    heads = [request(world, first=f"GET /{number} HTTP/1.1") for number in range(10)]
    client.send(b"".join(heads))
    check([client.answer()[0] for _ in heads] == [200] * 10, "not ten answers")
    got = reached(world, *(f"/{number}" for number in range(10)))
    check([r.target for r in got] == [f"/{number}" for number in range(10)], f"{got}")


for what, lines, body in (
    ("by its length", "content-length: 5000\r\n", "x" * 100),
    ("by its chunks", "transfer-encoding: chunked\r\n", f"{2000:x}\r\n{'x' * 2000}\r\n"),
):

    @cases(f"a body too large {what}: what follows the early answer is no request")
    def _(world, lines=lines, body=body):
        client = Http1(world)
        client.send(request(world, lines, body + SMUGGLED * 50, first="POST /early HTTP/1.1"))
        statuses = client.answers()
        check(statuses in ([413], [400]), f"answered {statuses}")
        reached(world)


for expectation in ("100-continue", "100-Continue", "x 100-continue", "100-continue, 100-continue", "\t100-continue", "y"):

    @cases(f"expect: {expectation!r} and a body that is a request")
    def _(world, expectation=expectation):
        client = Http1(world)
        head = f"expect: {expectation}\r\ncontent-length: {len(SMUGGLED)}\r\n"
        client.send(request(world, head, SMUGGLED))
        status, _ = client.head()
        if status == 100:
            status = client.answer()[0]
        check(status in REFUSED | {200}, f"answered {status}")
        for got in reached(world, "/first"):
            check(got.body == SMUGGLED.encode(), f"{got.body!r}")


@cases("a refused request with a body leaves nothing behind for the next one")
def _(world):
    for lines in (f"content-length: {len(SMUGGLED)}\r\n", "transfer-encoding: chunked\r\n"):
        client = Http1(world)
        body = SMUGGLED if "length" in lines else f"{len(SMUGGLED):x}\r\n{SMUGGLED}\r\n0\r\n\r\n"
        client.send(f"POST /first HTTP/1.1\r\nhost: {world.authority}\r\naccept: application/json\r\n{lines}\r\n{body}".encode())
        client.send(request(world, first="GET /second HTTP/1.1"))
        statuses = [client.answer()[0]]
        check(statuses[0] in (401, 403), f"answered {statuses}")
        status = client.answer()[0]
        check(status in (0, 200), f"the next one was answered {status}")
        for got in reached(world, "/second"):
            check(got.target == "/second", f"{got}")
        world.upstream.mark()


@cases("an answer to HEAD has no body that could be another answer")
def _(world):
    client = Http1(world)
    client.send(request(world, first="HEAD /first HTTP/1.1"))
    status, headers = client.head()
    check((status, headers.get("content-length")) == (200, "2"), f"{status} {headers}")
    client.send(request(world, first="GET /second HTTP/1.1"))
    check(client.answer()[0] == 200, "out of step")
    reached(world, "/first", "/second")


@cases("a half request is never finished by somebody else's")
def _(world):
    client = Http1(world)
    client.send(request(world, "content-length: 1000\r\n", "half"))
    for number in range(5):
        other = Http1(world)
        other.send(request(world, first=f"GET /other-{number} HTTP/1.1"))
        check(other.answer()[0] == 200, "the other was not served")
        other.close()
    client.close()
    reached(world, *(f"/other-{number}" for number in range(5)))
