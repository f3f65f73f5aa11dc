"""The servers under test, their upstream, and what a client needs to reach them.

All terminate TLS 1.3 with the same ECDSA certificate, keep their connections to the same upstream
open and write no access log; the gate writes its audit log. Each is what a Debian package gives.
"""

import math
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import load
from gateways import Apache, asking, nginx_with_apache
from world import HOST, Children, Gate, cpu_seconds, exchange, free_port, make_certificate, resident, sign_in, start_provider

NAMES = {
    "wicketgate": "wicketgate, all checks on",
    "nginx": "nginx, plain proxy",
    "haproxy": "HAProxy, plain proxy",
    "nginx-auth": "nginx + auth_request, answered 204",
    "apache": "Apache + mod_auth_openidc",
    "nginx-apache": "nginx + auth_request to Apache + mod_auth_openidc",
}
# The gate beside itself, for the measure `checks`.
ITSELF = {
    "wicketgate": "20 policies, 11 routes",
    "gate-again": "the same once more",
    "gate-least": "one policy that permits everything, one route",
}
# Those that know who is asking, and all go to the same provider for it.
AUTHENTICATING = ("apache", "nginx-apache")
GIBIBYTE = 1 << 30
SAMPLE = re.compile(r'^wicketgate_stage_duration_seconds_(\w+){stage="(\w+)"(?:,le="([^"]+)")?} (\S+)$', re.M)
HERE = Path(__file__).resolve().parent


class Server(NamedTuple):
    """What listens on the port. What helps it is in `World.helpers`."""

    process: object
    port: int


class World:
    def __init__(self, folder, options, only):
        self.folder, self.options = folder, options
        self.children = Children(folder)
        self.servers, self.headers, self.helpers = {}, {}, {}
        make_certificate(folder)
        both = folder / "both.pem"
        both.touch(0o600)
        both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
        starters = {
            "wicketgate": self.start_gate,
            "nginx": lambda: self.start_nginx("nginx", auth=False),
            "haproxy": self.start_haproxy,
            "nginx-auth": lambda: self.start_nginx("nginx-auth", auth=True),
            "apache": self.start_apache,
            "nginx-apache": self.start_nginx_apache,
            "gate-again": lambda: self.start_another("gate-again", TWENTY_POLICIES, self.routes()),
            "gate-least": lambda: self.start_another("gate-least", ONE_POLICY, []),
        }
        try:
            self.upstream = self.start_upstream()
            self.sink = self.start_script("sink", ["python3", HERE / "sink.py"])
            self.echo = self.start_script("echo", ["node", HERE / "echo.mjs", "serve"])
            self.ports = {name: free_port() for name in (*ITSELF, *AUTHENTICATING)}
            self.issuer = start_provider(self.children, self.ports.values())
            for name in only:
                self.servers[name] = starters[name]()
                self.check(name)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        self.children.stop()

    def cpu(self, name):
        """User and system seconds of all processes of the set-up; the upstream is none of them."""
        return sum(cpu_seconds(process.pid) for process in self.processes(name))

    def resident(self, name):
        return sum(resident(process.pid) for process in self.processes(name))

    def processes(self, name):
        return [self.servers[name].process, *self.helpers.get(name, [])]

    def stages(self):
        """What the gate has counted in each stage so far: buckets, seconds in all, requests."""
        _, _, text = exchange(self.admin, "GET", "/metrics", {"Host": HOST, "Connection": "close"}, tls=False)
        stages = {}
        for kind, stage, edge, value in SAMPLE.findall(text.decode()):
            of = stages.setdefault(stage, [[], 0, 0])
            if kind == "bucket":
                of[0].append((math.inf if edge == "+Inf" else float(edge), float(value)))
            else:
                of[1 if kind == "sum" else 2] = float(value)
        return stages

    def check(self, name):
        """The server passes the upstream's answer on, and those that authenticate do."""
        port = self.servers[name].port
        plain = {"Host": f"{HOST}:{port}", "Connection": "close"}
        status, _, body = exchange(port, "GET", "/1k", {**plain, **self.headers.get(name, {})}, tls=True)
        if status != 200 or len(body) != 1024:
            raise SystemExit(f"{name} answers {status} with {len(body)} bytes: {body[:300]!r}")
        if name in self.headers:
            cookie = {"Cookie": self.headers[name]["Cookie"][:-8] + "AAAAAAAA"}
            for nobody in ({}, cookie):
                status, _, _ = exchange(port, "GET", "/1k", {**plain, **nobody}, tls=True)
                if status not in (302, 303, 401):
                    raise SystemExit(f"{name} answers {status} to somebody who isn't signed in")

    # ---- for scripts that profile one of them ----------------------------------------------

    def h1(self, name, seconds):
        return load.h1(self, name, seconds)

    def h2(self, name, seconds):
        return load.h2(self, name, seconds)

    # ---- what is started -------------------------------------------------------------------

    def start(self, name, command, port):
        return self.children.start(name, command, port)

    def start_script(self, name, command):
        port = free_port()
        self.start(name, [*command, str(port)], port)
        return port

    def start_upstream(self):
        port = free_port()
        www = self.folder / "www"
        www.mkdir()
        (www / "1k").write_bytes(b"x" * 1024)
        (www / "index.html").write_text("in")
        with open(www / "1g", "wb") as file:
            # A hole: it comes from the page cache, not from the disk.
            file.truncate(GIBIBYTE)
        self.nginx_config(
            "upstream",
            f"""keepalive_requests 1000000000; sendfile on;
            server {{ listen 127.0.0.1:{port}; root {www};
              location = /auth {{ return 204; }} }}""",
            workers=1,
        )
        self.start("upstream", self.nginx_command("upstream"), port)
        return port

    def start_nginx(self, name, auth):
        check = "auth_request /_auth; auth_request_set $user $upstream_http_x_user;" if auth else ""
        internal = asking("http://app/auth") if auth else ""
        return self.start_front(name, free_port(), check, internal)

    def start_front(self, name, port, check, more, upstreams=""):
        """nginx as the server that clients reach."""
        forward = """proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;"""
        self.nginx_config(
            name,
            f"""keepalive_requests 1000000000;
            upstream app {{ server 127.0.0.1:{self.upstream}; keepalive 128;
              keepalive_requests 1000000000; }}
            {upstreams}
            server {{ listen 127.0.0.1:{port} ssl http2 reuseport; server_name {HOST};
              http2_max_requests 1000000000; client_max_body_size 0;
              ssl_certificate {self.folder}/cert.pem; ssl_certificate_key {self.folder}/key.pem;
              ssl_protocols TLSv1.3; ssl_session_cache off; ssl_session_tickets on;
              {more}
              location / {{ {check} proxy_pass http://app; {forward} }}
              location /unbuffered/ {{ {check} proxy_pass http://app/; proxy_buffering off; {forward} }}
              location /sink {{ {check} proxy_pass http://127.0.0.1:{self.sink}; {forward} }}
              location /unbuffered/sink {{ {check} proxy_pass http://127.0.0.1:{self.sink};
                proxy_request_buffering off; {forward} }} }}""",
            workers=os.cpu_count(),
        )
        return Server(self.start(name, self.nginx_command(name), port), port)

    def nginx_config(self, name, http, workers):
        home = self.folder / name
        home.mkdir()
        paths = " ".join(
            f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (home / "nginx.conf").write_text(
            f"""daemon off; worker_processes {workers}; pid {home}/pid; error_log stderr;
            
            events {{ worker_connections {max(4096, 2 * self.options.many)}; }}
            http {{ access_log off; {paths} {http} }}"""
        )

    def nginx_command(self, name):
        home = self.folder / name
        return ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-g", user_directive()]

    def start_haproxy(self):
        port = free_port()
        config = self.folder / "haproxy.cfg"
        config.write_text(
            f"""global
  nbthread {os.cpu_count()}
  maxconn {max(4000, self.options.idle + 1000)}
  ssl-default-bind-options ssl-min-ver TLSv1.3
  tune.ssl.cachesize 0
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  option http-keep-alive
  http-reuse always
frontend front
  bind 127.0.0.1:{port} ssl crt {self.folder}/both.pem alpn h2,http/1.1
  option forwardfor
  use_backend sink if {{ path /sink }}
  use_backend echo if {{ path /echo }}
  default_backend app
backend app
  server one 127.0.0.1:{self.upstream} pool-max-conn 256
backend sink
  server one 127.0.0.1:{self.sink}
backend echo
  server one 127.0.0.1:{self.echo}
"""
        )
        return Server(self.start("haproxy", ["haproxy", "-db", "-f", str(config)], port), port)

    def routes(self):
        at = lambda port: [f"http://127.0.0.1:{port}"]
        routes = [{"name": f"route-{number}", "path": f"/route-{number}"} for number in range(8)]
        return routes + [
            {"name": "sink", "path": "/sink", "upstreams": at(self.sink), "max_body": "2GiB"},
            {"name": "echo", "path": "/echo", "upstreams": at(self.echo)},
        ]

    def start_another(self, name, policies, routes):
        """A gate with a folder of its own."""
        home = self.folder / name
        home.mkdir()
        for file in ("cert.pem", "key.pem"):
            shutil.copy(self.folder / file, home)
        inside = Children(home)
        inside.processes = self.children.processes
        gate = self.gate(inside, name, policies, routes)
        return Server(gate.process, gate.port)

    def gate(self, children, name, policies, routes):
        upstreams = [f"http://127.0.0.1:{self.upstream}"]
        gate = Gate(
            children, self.options.gate, upstreams, policies, routes, port=self.ports[name], issuer=self.issuer
        )
        self.headers[name] = {"Cookie": gate.cookie}
        return gate

    def start_gate(self):
        gate = self.gate(self.children, "wicketgate", TWENTY_POLICIES, self.routes())
        self.admin = gate.admin
        # Somebody who may also change things, which an upload and a WebSocket's messages are.
        self.operator = {"Cookie": sign_in(gate.port, self.issuer, "otto")}
        return Server(gate.process, gate.port)

    def start_apache(self):
        apache = Apache(self, "apache", self.ports["apache"])
        self.headers["apache"] = {"Cookie": apache.sign_in("/")}
        return Server(apache.process, apache.port)

    def start_nginx_apache(self):
        name, port = "nginx-apache", self.ports["nginx-apache"]
        server, helper, headers = nginx_with_apache(self, name, port)
        self.helpers[name], self.headers[name] = [helper], headers
        return server


def user_directive():
    """Workers run as whoever runs this, so that they can read the folder."""
    return "user root;" if os.getuid() == 0 else "worker_priority 0;"


ONE_POLICY = '@id("all") permit (principal, action, resource);'

# Twenty, all read with the request's route, principal or context; three of them can permit it.
TWENTY_POLICIES = "\n".join(
    [
        '@id("readers") permit (principal is Wicketgate::User, action in Wicketgate::Action::"view",'
        ' resource in Wicketgate::Application::"app");',
        '@id("vendors") permit (principal in Wicketgate::Group::"vendors",'
        ' action in Wicketgate::Action::"view", resource) when { context.path like "/1*" };',
        '@id("engineers") permit (principal in Wicketgate::Group::"ot-engineers", action, resource);',
        '@id("not-from-there") forbid (principal, action, resource)'
        ' when { context.source.isInRange(ip("203.0.113.0/24")) };',
    ]
    + [
        f'@id("route-{number}") permit (principal in Wicketgate::Group::"group-{number}", action,'
        f' resource == Wicketgate::Route::"route-{number}") when {{ context.host == "{HOST}" }};'
        for number in range(8)
    ]
    + [
        f'@id("zone-{number}") permit (principal in Wicketgate::Group::"group-{number}", action,'
        f' resource in Wicketgate::Zone::"zone-{number}");'
        for number in range(8)
    ]
)
