"""Gateways from Debian that authenticate: Apache with mod_auth_openidc, as the proxy itself and as
what nginx asks about each request.

Both sign in at the provider that the gate uses, over the same code flow with PKCE, and look the
session cookie up for each request in the module's cache in shared memory; sessions kept in the
cookie itself cost as much. Tuned as such a set-up would be: the event MPM with threads to spare,
keep-alive on both sides without an end, no access log, no `.htaccess`, no claims passed on that
nobody reads.
"""

import os
from pathlib import Path

from world import CLIENT, HOST, SECRET, free_port, sign_in

MODULES = Path("/usr/lib/apache2/modules")
COOKIE = "mod_auth_openidc_session"
# The gate's path, so that the provider knows it.
CALLBACK = "/.wicketgate/callback"
LOADED = "mpm_event authn_core authz_core authz_user headers auth_openidc".split()


class Apache:
    """An Apache that knows sessions. Without `tls` it is there for nginx to ask."""

    def __init__(self, world, name, port, tls=True):
        self.port, self.issuer, self.name = port, world.issuer, name
        home = world.folder / f"{name}-home"
        (home / "www").mkdir(parents=True)
        (home / "www/auth").write_text("")
        (home / "www/login").write_text("in")
        home.chmod(0o755)
        extra = ["ssl", "socache_shmcb", "http2", "proxy", "proxy_http"] if tls else []
        # Behind nginx it has a port of its own; people sign in through nginx all the same.
        self.listen = port if tls else free_port()
        body = self.proxy(world) if tls else self.answers()
        config = home / "apache.conf"
        config.write_text(
            "\n".join(f"LoadModule {module}_module {MODULES}/mod_{module}.so" for module in LOADED + extra)
            + f"""
ServerName {HOST}
ServerRoot {home}
DocumentRoot {home}/www
DefaultRuntimeDir {home}
PidFile {home}/pid
ErrorLog {home}/error.log
LogLevel error
{"User www-data" if os.getuid() == 0 else ""}
{"Group www-data" if os.getuid() == 0 else ""}
Listen 127.0.0.1:{self.listen}
ServerLimit 4
StartServers 2
ThreadLimit 256
ThreadsPerChild 256
MaxRequestWorkers 1024
MinSpareThreads 128
MaxSpareThreads 1024
MaxConnectionsPerChild 0
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 300
HostnameLookups Off
EnableSendfile On
<Directory />
  AllowOverride None
  Require all denied
</Directory>
OIDCProviderMetadataURL {self.issuer}/.well-known/openid-configuration
OIDCClientID {CLIENT}
OIDCClientSecret {SECRET}
OIDCRedirectURI https://{HOST}:{port}{CALLBACK}
OIDCScope "openid profile email"
OIDCPKCEMethod S256
OIDCCryptoPassphrase only-of-this-run
OIDCSessionType server-cache
OIDCCacheType shm
OIDCSessionInactivityTimeout 3600
OIDCRemoteUserClaim email
OIDCPassClaimsAs {"headers" if tls else "none"}
{body}
"""
        )
        command = ["apache2", "-f", str(config), "-DFOREGROUND"]
        self.process = world.start(f"{name}-apache", command, self.listen)

    def proxy(self, world):
        folder = world.folder
        return f"""
Protocols h2 http/1.1
SSLEngine On
SSLProtocol TLSv1.3
SSLCertificateFile {folder}/cert.pem
SSLCertificateKeyFile {folder}/key.pem
SSLSessionTickets On
ProxyPass / http://127.0.0.1:{world.upstream}/ keepalive=On max=256 ttl=300 connectiontimeout=5
<Location />
  AuthType openid-connect
  Require valid-user
</Location>
"""

    @staticmethod
    def answers():
        """`/auth` says 200 or 401 and who it is; `/login` sends to the provider."""
        return f"""
OIDCXForwardedHeaders X-Forwarded-Proto X-Forwarded-Host
<Location {CALLBACK}>
  AuthType openid-connect
  Require valid-user
</Location>
<Location /login>
  AuthType openid-connect
  Require valid-user
</Location>
<Location /auth>
  AuthType openid-connect
  Require valid-user
  OIDCUnAuthAction 401
  Header set X-User "expr=%{{REMOTE_USER}}"
</Location>
"""

    def sign_in(self, start):
        return sign_in(self.port, self.issuer, start=start, cookie=COOKIE)


def nginx_with_apache(world, name, port):
    """nginx that asks Apache about each request: the server, its helper and a client's headers."""
    apache = Apache(world, name, port, tls=False)
    forward = """proxy_http_version 1.1; proxy_set_header Connection "";
        proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https;
        proxy_set_header X-Forwarded-Host $http_host;"""
    server = world.start_front(
        name,
        port,
        check="""auth_request /_auth; auth_request_set $user $upstream_http_x_user;
            proxy_set_header X-User $user; error_page 401 = @login;""",
        more=f"""{asking("http://auth/auth")}
            location @login {{ return 302 /login; }}
            location = /login {{ proxy_pass http://auth; {forward} }}
            location = {CALLBACK} {{ proxy_pass http://auth; {forward} }}""",
        upstreams=f"upstream auth {{ server 127.0.0.1:{apache.listen}; keepalive 128; keepalive_requests 1000000000; }}",
    )
    return server, apache.process, {"Cookie": apache.sign_in("/login")}


def asking(url):
    """Where nginx's `auth_request` goes. The client's fields go with it, its cookie above all."""
    return f"""location = /_auth {{ internal; proxy_pass {url};
        proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
        proxy_pass_request_body off; proxy_set_header Content-Length ""; }}"""
