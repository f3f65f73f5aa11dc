"""A running gate with a certificate and a real OpenID provider, for scripts.

The scripts of `benches/` and `tests/conformance/run` share it. Everything listens on
127.0.0.1 only, and what was started is stopped by `Children.stop`.
"""

import functools
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# Resolved everywhere, so that every client sends it as the server name too.
HOST = "localhost"
# What clients of the provider, which all have the same name, prove themselves with.
CLIENT, SECRET = "wicketgate", "a-client-secret-of-a-test"
TICK = os.sysconf("SC_CLK_TCK")
# The ports that `free_port` answered with.
GIVEN_OUT = set()


def install_missing(packages):
    """Debian packages for what is missing; `packages` maps a command to its package."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [package for tool, package in packages.items() if not shutil.which(tool)]
    if missing:
        sudo = [] if os.getuid() == 0 else ["sudo"]
        wait = ["-o", "DPkg::Lock::Timeout=600"]
        subprocess.run([*sudo, "apt-get", "update", "-qq"], check=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wait, *missing]
        subprocess.run([*sudo, "env", "DEBIAN_FRONTEND=noninteractive", *command], check=True, stdout=sys.stderr)


def virtual_environment(requirements):
    """A Python of its own with the packages of a requirements file; made again when that changes."""
    home, wanted = TARGET / "python", requirements.read_text()
    stamp = home / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode:
            install_missing({"no command is called this": "python3-venv"})
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([home / "bin/pip", "install", "-q", "--disable-pip-version-check", "-r", requirements], check=True)
        stamp.write_text(wanted)
    return home / "bin/python3"


class Children:
    """The processes of a run and their logs."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []

    def start(self, name, command, port, **more):
        """Starts a process and waits until it listens."""
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, **more)
        self.processes.append(process)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process
            time.sleep(0.01)
        raise SystemExit(f"{name} doesn't listen:\n{self.log(name)}")

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def make_certificate(folder):
    """`cert.pem` and `key.pem` for the host and its address, ECDSA P-256."""
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, *files], check=True, capture_output=True)
    (folder / "key.pem").chmod(0o600)


def install_provider():
    install_missing({"node": "nodejs", "npm": "npm"})
    subprocess.run([ROOT / "tests/node/install"], check=True, stdout=subprocess.DEVNULL)


def start_provider(children, ports):
    """An OpenID provider for what listens on these ports of the host. Returns its issuer."""
    install_provider()
    settings = json.dumps({"origins": [f"https://{HOST}:{port}" for port in ports], "secret": SECRET})
    provider = subprocess.Popen(
        ["node", str(ROOT / "tests/node/provider.mjs"), settings],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    children.processes.append(provider)
    return json.loads(provider.stdout.readline())["issuer"]


def start_upstream(children, name="upstream"):
    """nginx with a file of 1 KiB under any path that ends with `/1k`; the port."""
    port, home = free_port(), children.folder / name
    home.mkdir()
    paths = " ".join(f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(
        f"""daemon off; worker_processes 1; pid {home}/pid; error_log stderr; events {{ worker_connections 16384; }}
        http {{ access_log off; {paths} keepalive_requests 1000000000;
          server {{ listen 127.0.0.1:{port}; root {home}; location ~ /1k$ {{ try_files /1k =404; }}
            location = /1m {{ }} }} }}"""
    )
    (home / "1k").write_bytes(b"x" * 1024)
    # The worker runs as whoever runs this, so that it can read the folder.
    user = "user root;" if os.getuid() == 0 else "worker_priority 0;"
    children.start(name, ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-g", user], port)
    return port


class Gate:
    """A running gate. `cookie` is the header's value of somebody who is signed in at the provider of
    this `issuer`, `started_in` the seconds until it listened. `policies`: a text, or a list of them, a file each.

    It starts a provider of its own, unless it is given a port and the issuer of one that knows it.
    """

    def __init__(
        self, children, binary, upstreams, policies, routes=(), configure=lambda config: None, user="vera",
        port=None, issuer=None,
    ):
        binary = binary.resolve()
        if not binary.exists():
            raise SystemExit(f"{binary} is missing: build the gate first")
        self.folder, self.binary = children.folder, binary
        self.port, self.admin = port or free_port(), free_port()
        self.issuer = issuer = issuer or start_provider(children, [self.port])
        secret = self.folder / "client-secret"
        secret.touch(0o600)
        secret.write_text(SECRET)
        folder = self.folder / "policies"
        folder.mkdir()
        files = {"all": policies} if isinstance(policies, str) else {f"{at:03}": text for at, text in enumerate(policies)}
        for name, text in files.items():
            (folder / f"{name}.cedar").write_text(text)
        config = self.configuration(issuer, upstreams, routes)
        configure(config)
        self.config = self.folder / "wicketgate.yaml"
        self.config.write_text(json.dumps(config, indent=1))
        begun = time.monotonic()
        self.process = children.start("wicketgate", [str(binary), "run", "--config", str(self.config)], self.port)
        self.started_in = time.monotonic() - begun
        self.cookie = sign_in(self.port, issuer, user)

    def configuration(self, issuer, upstreams, routes):
        home = self.folder
        route = {"host": HOST, "application": "app", "upstreams": upstreams}
        pair = {"certificate": f"{home}/cert.pem", "key": f"{home}/key.pem"}
        return {
            "listeners": [{
                "name": "public", "address": f"127.0.0.1:{self.port}",
                "tls": {"certificates": [pair], "minimum_version": "1.3"},
                # Ten thousand of the benchmarks', and the one that tells whether it still serves.
                "limits": {"max_connections": 20_000},
            }],
            "admin": {"address": f"127.0.0.1:{self.admin}"},
            "identity_providers": [{
                "name": "test", "issuer": issuer, "client_id": CLIENT,
                "client_secret": "file:client-secret",
            }],
            "policies": {"directory": str(home / "policies"), "schema": str(ROOT / "policies/wicketgate.cedarschema")},
            "applications": [{"name": "app", "zone": "enterprise"}],
            "routes": [{"name": "app", "path": "/", **route}, *({**route, **more} for more in routes)],
            "audit": {"directory": str(home / "audit")},
            "store": {"path": str(home / "store.redb")},
        }

    def command(self, *words):
        """Another command of the binary with this configuration."""
        return subprocess.run([self.binary, *words, "--config", self.config], capture_output=True, text=True)


def sign_in(
    port, issuer, user="vera", start="/.wicketgate/login?start&return_to=/", cookie="__Host-wicketgate"
):
    """Signs in through the provider and returns the `cookie` header's value: that of the session."""
    jars = {}

    def visit(url, form=None):
        at = urlsplit(url)
        jar = jars.setdefault(at.hostname, {})
        headers = {"Host": at.netloc, "Accept": "text/html", "Connection": "close"}
        if jar:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        body = urlencode(form).encode() if form else b""
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            headers["Content-Length"] = str(len(body))
        target = at.path + (f"?{at.query}" if at.query else "")
        method = "POST" if form else "GET"
        status, lines, text = exchange(at.port, method, target, headers, at.scheme == "https", body)
        for name, value in lines:
            if name == "set-cookie":
                for key, morsel in SimpleCookie(value).items():
                    jar[key] = morsel.value
        location = dict(lines).get("location")
        return status, location and urljoin(url, location), text

    url = f"https://{HOST}:{port}{start}"
    for _ in range(16):
        status, location, text = visit(url)
        if status == 200 and url.startswith(issuer):
            _, location, _ = visit(url, {"user": user})
        if location is None:
            session = jars.get(HOST, {}).get(cookie)
            if session:
                return f"{cookie}={session}"
            raise SystemExit(f"no session: {url} answered {status}: {text[:500]!r}")
        url = location
    raise SystemExit("redirected in circles while signing in")


@functools.cache
def tls_context(alpn=()):
    # The certificate is a throw-away one of this run.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def connect(port, tls=True, alpn=(), timeout=10, source=None):
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout, source_address=source and (source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls_context(tuple(alpn)).wrap_socket(connection, server_hostname=HOST) if tls else connection


def exchange(port, method, target, headers, tls, body=b""):
    """One request that ends its connection: status, header lines, body."""
    # Under callgrind, on a busy machine, a handshake takes its time.
    with connect(port, tls, timeout=60) as connection:
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        connection.sendall(head.encode() + b"\r\n" + body)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except ssl.SSLEOFError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [(name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines)]
    return int(first.split(" ")[1]), pairs, body


def family(pid):
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def cpu_seconds(pid):
    """User and system time of a process and its children so far."""
    total = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def resident(pid):
    """Proportional set size of a process and its children, in bytes."""
    pages = 0
    for member in family(pid):
        text = Path(f"/proc/{member}/smaps_rollup").read_text()
        pages += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1))
    return pages * 1024


def free_port():
    """A port that nobody listens on, each only once: a server that comes later must find it free, and
    what waits for it must not take another for it. Below those that the kernel chooses from by itself.
    """
    while True:
        port = random.randrange(11_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in GIVEN_OUT:
            GIVEN_OUT.add(port)
            return port
