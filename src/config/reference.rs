//! Every key of the configuration file, once: the parser takes its known keys from here, and
//! `docs/configuration.md` shows them.

use std::fmt::Write;

/// One key. Lists of maps are written with `[]`: `routes[].upstreams[].url`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub path: &'static str,
    pub kind: &'static str,
    /// Empty when the key is required.
    pub default: &'static str,
    pub doc: &'static str,
}

const fn key(
    path: &'static str,
    kind: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key { path, kind, default, doc }
}

const NONE: &str = "none";

/// In the order of the documentation. A section's own entry comes before its keys.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("listeners", "list", "", "Where clients connect. At least one with `tls`."),
    key("listeners[].name", "name", "", "For logs and metrics. Unique."),
    key("listeners[].address", "address", "", "IP address and port, as `0.0.0.0:443` or `[::]:443`."),
    key("listeners[].tls", "map", NONE, "Serves the routes over TLS. Exactly one of `tls` and `redirect_to_https` is set."),
    key("listeners[].tls.certificates", "list", "", "Certificates, chosen by the name that the client asks for: of those that cover it the first that is in date serves it."),
    key("listeners[].tls.certificates[].certificate", "file", "", "PEM: the certificate, then its intermediates."),
    key("listeners[].tls.certificates[].key", "file", "", "PEM: the private key. Must not be open to every user of the machine."),
    key("listeners[].tls.client_ca", "file", NONE, "PEM bundle of the device CA. When set, client certificates are asked for and verified; policies decide whether one is needed."),
    key("listeners[].tls.client_crl", "file", "none: nothing is revoked", "PEM bundle of certificate revocation lists, one for each CA of a client's chain. Read again when it changes. A client certificate that they list, or whose CA's list is missing or past its `nextUpdate`, is refused, and on connections that are open stands for nobody."),
    key("listeners[].tls.ticket_keys", "file", "the process's own", "Secrets that TLS session tickets are sealed with, so that sessions resume after a restart and at other gates: a line of base64 each (`openssl rand -base64 48`), the newest first. Must not be open to every user of the machine. See [operating.md](operating.md#tls-session-tickets)."),
    key("listeners[].tls.minimum_version", "`1.2` or `1.3`", "`1.2`", "Oldest TLS version that is accepted."),
    key("listeners[].redirect_to_https", "boolean", "`false`", "Plain HTTP that answers 308 to the same address under https, and nothing else."),
    key("listeners[].redirect_port", "number", "`443`", "The port of that address. Only with `redirect_to_https`. From 1 to 65535."),
    key("listeners[].proxy_protocol", "map", NONE, "Connections begin with a PROXY protocol header (version 1 or 2) that says where the client is, ahead of TLS."),
    key("listeners[].proxy_protocol.trusted", "list of networks", "", "Whose header is read: `10.0.0.5` or `10.0.0.0/8`. From them a connection without one is closed."),
    key("listeners[].proxy_protocol.others", "`close` or `serve`", "`close`", "Everybody else: closed at once, because a way past the proxy is a way past what it checks; or served as themselves. Their header is never read."),
    key("listeners[].trusted_proxies", "list of networks", NONE, "HTTP proxies whose `X-Forwarded-For` is believed: from the right, the first address that is none of them is the client. A request whose field can't be read so far is answered 400; one without the field is the proxy's own. From anybody else the field is ignored."),
    key("listeners[].allow_from", "list of networks", "everybody", "Who may connect; all others are closed before TLS. A connection from a proxy in `trusted_proxies` is always taken; its requests from other addresses are answered 403."),
    key("listeners[].limits", "map", "as below", "What a client may take up."),
    key("listeners[].limits.handshake_timeout", "duration", "`10s`", "From accept to the end of the TLS handshake."),
    key("listeners[].limits.header_timeout", "duration", "`10s`", "From the first byte of a request to the end of its header section."),
    key("listeners[].limits.idle_timeout", "duration", "`75s`", "Between two requests on a connection."),
    key("listeners[].limits.max_header_bytes", "size", "`32KiB`", "Header section of a request. From `8KiB` to `1MiB`."),
    key("listeners[].limits.max_headers", "number", "`100`", "Header fields of a request. From 16 to 1000."),
    key("listeners[].limits.max_connections", "number", "`10000`", "Open connections on this listener. From 1 to 1000000."),
    key("listeners[].limits.max_connections_per_address", "number", "`1000`", "Open connections of one client address, or of one IPv6 `/64`. Not for `trusted_proxies`, which carry many clients. From 1 to 1000000."),
    key("listeners[].limits.max_handshakes", "number", "`1000`", "TLS handshakes under way. When there is one more, the oldest of the address (IPv6: /64) that has the most is given up, if those are more than an eighth of the bound; else the oldest of all. From 1 to 1000000."),
    key("listeners[].limits.min_data_rate", "size", "`240B`", "What a client has to send of a body and take of an answer in each second that it is waited for, on average. `0B` for none. gRPC (routes with `protocol: http2`) is exempt: its streams may be quiet. Up to `1MiB`."),
    key("listeners[].limits.data_rate_grace", "duration", "`20s`", "How long a client may be waited for on top of that."),
    key("admin", "map", "as below", "The listener for metrics and health. Never serves a route."),
    key("admin.address", "address", "`127.0.0.1:9180`", "IP address and port; a loopback address unless there is a reason."),
    key("admin.socket", "path", "`admin.sock` in `audit.directory`", "Unix socket for `wicketgate sessions`, `users`, `devices` and `tenants`. Only root and the user that the gate runs as are answered. Up to 103 bytes."),
    key("identity_providers", "list", "", "Who signs users in, in the order in which the sign-in page offers them. No two may be the same client of the same issuer."),
    key("identity_providers[].name", "name", "", "First part of every user's id, `NAME/SUBJECT`, in policies and in the audit log. Changing it makes all users new ones."),
    key("identity_providers[].display_name", "text", "the name", "What the sign-in page calls it."),
    key("identity_providers[].issuer", "URL", "", "The OpenID issuer, exactly as the provider writes it. `https`, except on a loopback host."),
    key("identity_providers[].client_id", "text", "", "As registered at the provider, with the redirect URI `https://HOST/.wicketgate/callback` of every host (of the sign-in host alone with `session.sign_in_host`)."),
    key("identity_providers[].client_secret", "secret", NONE, "What the gate proves with that it is the client. Without it and `client_key` it is a public client (PKCE is always used)."),
    key("identity_providers[].client_key", "secret", NONE, "A private key in PEM in place of a secret (`private_key_jwt`, RFC 7523): EC P-256 or P-384, RSA from 2048 bits, or Ed25519. The provider gets the public half."),
    key("identity_providers[].client_key_id", "text", NONE, "What the provider calls the key (`kid`)."),
    key("identity_providers[].client_authentication", "`client_secret_basic`, `client_secret_post`, `private_key_jwt` or `none`", "by what is given", "With a secret: `client_secret_basic`, unless the provider says that it takes `client_secret_post` only."),
    key("identity_providers[].client_assertion_audience", "`issuer` or `token_endpoint`", "`issuer`", "Whom what is signed with `client_key` is meant for. `token_endpoint` for providers that insist on it."),
    key("identity_providers[].callback", "`shared` or `own`", "`shared`", "`own`: users come back to `/.wicketgate/callback/NAME`, which is then the redirect URI to register. Needed where there are several providers and this one doesn't say who answers (`iss`, RFC 9207): without either, one provider could pass another's answer off as its own, so nobody can sign in with it."),
    key("identity_providers[].authorization_parameters", "map of texts", NONE, "Goes with every request to sign in: `{prompt: select_account}`. None that the gate itself sets."),
    key("identity_providers[].scopes", "list of texts", "`[openid, profile, email]`", "Must hold `openid`."),
    key("identity_providers[].ca", "file", "the system's", "PEM bundle to verify the provider's TLS certificate with."),
    key("identity_providers[].claims", "map", "as below", "Which claims of the ID token carry what. `realm_access.roles` is the claim `roles` in the object `realm_access`; a dot that belongs to a name is written `\\.`; a name with a `:` or `/` is one name, dots and all."),
    key("identity_providers[].claims.user", "text", "`sub`", "The user's id."),
    key("identity_providers[].claims.email", "text", "`email`", "Used only when `email_verified` is true."),
    key("identity_providers[].claims.name", "text", "`name`", "For people."),
    key("identity_providers[].claims.groups", "text", "`groups`", "A list of texts, or one text."),
    key("identity_providers[].claims.roles", "text", NONE, "A list of texts, or one text. Each becomes the group `role:NAME`; then no group may begin with `role:`."),
    key("identity_providers[].claims.separator", "text", NONE, "What groups and roles are separated by where they are one text: `,`."),
    key("identity_providers[].claims.group_prefix", "text", NONE, "Stands before the name of each group, roles included. Without it groups of the same name of two providers are one and the same to policies: give a provider that others administer one, as `acme:`."),
    key("identity_providers[].claims.tenant", "text", "`tenant`", "The customer organisation."),
    key("identity_providers[].step_up", "list", NONE, "What the provider can be asked for when a policy denies and would allow a stronger sign-in, in order of preference; at most 8. A more recent sign-in can always be asked for."),
    key("identity_providers[].step_up[].acr", "text", "", "The authentication context class to ask for (`acr_values`). A sign-in that comes back without it is refused."),
    key("identity_providers[].step_up[].amr", "list of texts", "none beyond the session's", "The methods that a sign-in of this kind proves, as policies read them. A sign-in that comes back without one of them is refused."),
    key("identity_providers[].tenant", "text", "by its claim", "The customer organisation that all of its users belong to, whatever claims say: for a provider that a customer administers."),
    key("identity_providers[].bearer", "map", "none are taken", "Its access tokens that are taken on routes with `authentication: [bearer]`: signed JWTs of the type `at+jwt` (RFC 9068). See [identity.md](identity.md#access-tokens)."),
    key("identity_providers[].bearer.audiences", "list of texts", "", "What the gate is called as a resource at the provider. A token has to name one of them in `aud`."),
    key("identity_providers[].refresh", "map or `off`", "as below", "How sessions are kept up to date where the provider gives refresh tokens (many do for the scope `offline_access` only, which is then to be among `scopes`). `off`: what it said at the sign-in holds until the session ends. See [identity.md](identity.md#refreshed-sessions)."),
    key("identity_providers[].refresh.interval", "duration", "`5m`", "How old what the provider said of a user may be before it is asked again. At least `1s`."),
    key("identity_providers[].refresh.max_age", "duration", "`1h`", "How old it may be while the provider does not answer. Then the user's requests get 503 and open connections are closed, until it does. Not shorter than `interval`."),
    key("identity_providers[].revoke_tokens", "boolean", "`true`", "Whether the provider is asked to revoke the tokens of a session that somebody ended (RFC 7009). `false` where that takes back tokens that others still use. See [identity.md](identity.md#refreshed-sessions)."),
    key("identity_providers[].userinfo", "boolean", "`true`", "Whether the userinfo endpoint is asked for claims that the ID token lacks. `false` where the ID token has all that there are, or where access tokens are for an application (`upstream_token`) and are not taken there."),
    key("identity_providers[].timeout", "duration", "`10s`", "For each call to the provider."),
    key("session", "map", "as below", "How long a sign-in lasts."),
    key("session.idle_timeout", "duration", "`30m`", "Without a request, a part of an upload or a WebSocket message. Not longer than `absolute_lifetime`."),
    key("session.absolute_lifetime", "duration", "`10h`", "From sign-in, whatever happens."),
    key("session.keep_forms", "size", "`64KiB`", "Largest form that is kept, sealed, for ten minutes, when it meets no session; after sign-in a page asks whether to send it. `0B` for none. Up to `1MiB`."),
    key("session.sign_out_urls", "list of `https` URLs", "none", "Where `/.wicketgate/logout?return_to=...` may lead after signing out, besides the gate's own hosts on the same port. Each counts letter by letter."),
    key("session.sign_in_host", "host name", "none: each host itself", "Where users of all hosts sign in, so that one redirect URI, `https://SIGN_IN_HOST/.wicketgate/callback`, serves any number of hosts. It needs a certificate, and no routes. Afterwards the browser carries a code back that works once, for a minute, and for this browser and host."),
    key("session.max_per_user", "number", "`100`", "Sessions that a user may have at once; with one more sign-in the oldest ends. From 1 to 10000."),
    key("session.key", "secret", NONE, "Wraps the key that the store's session records are sealed with, so that the store alone opens none: a line of at least 32 characters (`openssl rand -base64 32`). A second line holds the former one while it is exchanged. See [identity.md](identity.md#what-the-store-keeps)."),
    key("devices", "map", "none: no device is known", "The known devices."),
    key("devices.registry", "file", "", "YAML file with the devices and their posture, and with the services that are known by their certificates; see `devices.yaml` and [identity.md](identity.md#client-certificates)."),
    key("policies", "map", "", "The Cedar policies that decide every request."),
    key("policies.directory", "directory", "", "Every `*.cedar` file in it, in the order of their names."),
    key("policies.schema", "file", "`wicketgate.cedarschema` in the directory", "The schema that the policies are validated against."),
    key("applications", "list", "", "What routes belong to, for policies and for people."),
    key("applications[].name", "name", "", "As policies write it: `Wicketgate::Application::\"NAME\"`. Unique."),
    key("applications[].display_name", "text", "the name", "What pages call it."),
    key("applications[].zone", "name", NONE, "The IEC 62443 zone that it belongs to."),
    key("applications[].identity_providers", "list of names", "all", "Whose users and access tokens its routes take, by the names in `identity_providers`."),
    key("applications[].tenant", "text", NONE, "The customer organisation that owns it."),
    key("applications[].session", "map", "as `session`", "For how long a session counts for this application, where that is shorter than it lasts. After that a person signs in anew, and elsewhere the session goes on. See [identity.md](identity.md#limits-of-an-application)."),
    key("applications[].session.idle_timeout", "duration", "`session.idle_timeout`", "A session that was once without use for so long, at whatever application, no longer counts here. Not longer than `session.idle_timeout`."),
    key("applications[].session.absolute_lifetime", "duration", "`session.absolute_lifetime`", "From sign-in: at the gate, and at the identity provider where it says when that was. Not longer than `session.absolute_lifetime`."),
    key("routes", "list", "", "From host and path to upstreams. The longest path that matches wins; what no route matches is answered 404."),
    key("routes[].name", "name", "", "As policies write it: `Wicketgate::Route::\"NAME\"`. Unique."),
    key("routes[].host", "host name", "", "Exactly this host, without a port. A listener's certificate has to cover it."),
    key("routes[].path", "path", "`/`", "Prefix, in whole segments: `/a` matches `/a` and `/a/b`, not `/ab`. It is not cut off for the upstream."),
    key("routes[].application", "name", "", "One of `applications`."),
    key("routes[].authentication", "list of `session`, `bearer` and `certificate`", "`[session]`", "What callers identify themselves with: `session`, the cookie of somebody who signed in; `bearer`, an access token in `Authorization: Bearer` of a provider with `bearer`; `certificate`, a client certificate that stands for a service in the device registry. The first that a request brings in the order bearer, session, certificate counts. Where `bearer` stands, `Authorization` belongs to the gate: a request with one is judged by it alone, and it isn't forwarded. Without `session` nobody is sent to sign in."),
    key("routes[].audience", "text", "any of the provider's", "The one audience whose access tokens this route takes, so that those for another application don't open it."),
    key("routes[].upstream_token", "`drop`, `pass` or a map", "`drop`", "Which access token the upstream gets in `Authorization`, in the place of what the client sent there: none (`drop`, which on routes without `bearer` leaves the client's own); with `pass` the one that the caller brought or that came with his sign-in; or, as a map, one that the provider gives in exchange for it. Somebody whose token has expired signs in anew. Not with `certificate`. See [identity.md](identity.md#access-tokens-for-applications)."),
    key("routes[].upstream_token.exchange", "map", "", "Token exchange (RFC 8693) at the provider that issued the token, with the gate's client. Kept until shortly before the new token's end."),
    key("routes[].upstream_token.exchange.audience", "text", "", "What the upstream is called at the provider."),
    key("routes[].upstream_token.exchange.scope", "text", "what the provider gives by itself", "Scopes to ask for, separated by blanks."),
    key("routes[].tenant", "text", "the application's", "The customer organisation that owns this route."),
    key("routes[].identity_providers", "list of names", "the application's", "Whose users and access tokens are taken. A session of another provider counts as none here: its browser is sent to sign in with one of these. A token of another is answered 401. What is open is cut when a reload takes its provider out."),
    key("routes[].allow_from", "list of networks", "everybody", "Whose requests are taken; all others are answered 403, whatever the policies say. WebSockets and streams are cut when a reload takes their client out."),
    key("routes[].upstreams", "list", "", "`http://HOST:PORT` or `https://HOST:PORT`, each as a text or as a map with a weight. All of one scheme."),
    key("routes[].upstreams[].url", "URL", "", "Scheme, host and port; no path."),
    key("routes[].upstreams[].weight", "number", "`1`", "Share of the requests, against the other weights. From 1 to 256."),
    key("routes[].selection", "`round_robin`, `random` or `sticky`", "`round_robin`", "Which upstream takes the next request. `sticky`: one for all requests of a session, by a hash of it, and for all with access tokens or certificates of one user or service; another only while that one is out."),
    key("routes[].protocol", "`http1` or `http2`", "`http1`", "What the upstreams speak. gRPC needs `http2`."),
    key("routes[].tls", "map", "as below", "How `https` upstreams are verified. They always are."),
    key("routes[].tls.ca", "file", "the system's", "PEM bundle to verify with."),
    key("routes[].tls.server_name", "host name", "the upstream's host", "The name to ask for and to verify."),
    key("routes[].tls.client_certificate", "map", NONE, "What the gate identifies itself with."),
    key("routes[].tls.client_certificate.certificate", "file", "", "PEM: the certificate, then its intermediates."),
    key("routes[].tls.client_certificate.key", "file", "", "PEM: the private key. Must not be open to every user of the machine."),
    key("routes[].credential", "map", NONE, "What a legacy backend wants to see on each request: exactly one of `basic` and `header`."),
    key("routes[].credential.basic", "map", NONE, "HTTP basic authentication (RFC 7617)."),
    key("routes[].credential.basic.username", "text", "", "Without a `:`."),
    key("routes[].credential.basic.password", "secret", "", "The password."),
    key("routes[].credential.header", "map", NONE, "A fixed header."),
    key("routes[].credential.header.name", "header name", "", "None that the gate or HTTP itself sets."),
    key("routes[].credential.header.value", "secret", "", "The header's value."),
    key("routes[].upstream_host", "`preserve`, or host and port", "`preserve`", "What the upstream sees in `Host`: the public host, or this."),
    key("routes[].health_check", "map", NONE, "Takes upstreams out that don't answer. Exactly one of `tcp` and `http` is set."),
    key("routes[].health_check.tcp", "map", NONE, "Healthy is what accepts a connection. Written `tcp: {}`."),
    key("routes[].health_check.http", "map", NONE, "Healthy is what answers a GET with 2xx or 3xx."),
    key("routes[].health_check.http.path", "path", "`/`", "What to GET, with a query if need be."),
    key("routes[].health_check.interval", "duration", "`5s`", "Between two checks."),
    key("routes[].health_check.timeout", "duration", "`2s`", "For one check."),
    key("routes[].health_check.unhealthy_after", "number", "`3`", "Failures in a row until an upstream is taken out. From 1 to 100."),
    key("routes[].health_check.healthy_after", "number", "`1`", "Successes in a row until it is taken back. From 1 to 100."),
    key("routes[].outlier_detection", "map", "as below", "Takes upstreams out that fail requests: that can't be reached, don't answer in time, answer what is no HTTP, or answer 502, 503 or 504. When all are out, requests get 503 at once until one that is let through is answered."),
    key("routes[].outlier_detection.enabled", "boolean", "`true`", "Whether upstreams are taken out at all because of what requests see."),
    key("routes[].outlier_detection.consecutive_failures", "number", "`5`", "Failures in a row until an upstream is taken out. From 1 to 1000."),
    key("routes[].outlier_detection.failure_percent", "number", "`50`", "Or this share of its requests within `window`. From 1 to 100."),
    key("routes[].outlier_detection.minimum_requests", "number", "`20`", "Requests within `window` that the share is judged by at least. From 1 to 100000."),
    key("routes[].outlier_detection.window", "duration", "`10s`", "What the share is counted over."),
    key("routes[].outlier_detection.ejection_time", "duration", "`5s`", "How long an upstream stays out the first time, twice as long each further time. After it, one request at a time finds out whether it is well."),
    key("routes[].outlier_detection.max_ejection_time", "duration", "`30s`", "How long it stays out at most. Well for this long, it counts as never taken out."),
    key("routes[].outlier_detection.max_ejection_percent", "number", "`50`", "Share of the upstreams that may be out while others answer; one of several always may. The last one is taken out only when it can't be reached, or when requests of two users stay unanswered: what it does answer is passed on. From 1 to 100."),
    key("routes[].slow_start", "duration", NONE, "How long the share of an upstream that is back, or new, takes to grow to its full size."),
    key("routes[].retry_budget", "map", "as below", "How many requests may be sent a second time. Only those ever are that can't have arrived, and idempotent ones (RFC 9110, section 9.2.2) without a body when a kept connection dies before it answers."),
    key("routes[].retry_budget.percent", "number", "`20`", "Share of the answered requests. From 0 to 100."),
    key("routes[].retry_budget.minimum_per_second", "number", "`10`", "So many in any case. From 0 to 10000."),
    key("routes[].timeouts", "map", "as below", "How long an upstream may take."),
    key("routes[].timeouts.connect", "duration", "`5s`", "To connect, TLS included. At most as long again before it for a turn, where more than 128 connections to one address are being opened."),
    key("routes[].timeouts.response", "duration", "`60s`", "From the end of the request to the response's header."),
    key("routes[].timeouts.idle", "duration", "`5m`", "Without a byte in either direction on a response body or WebSocket."),
    key("routes[].max_idle_connections", "number", "`128`", "Idle connections kept for each upstream and worker thread. From 0 to 10000."),
    key("routes[].max_body", "size", "`10MiB`", "Largest request body."),
    key("routes[].websocket", "boolean", "`true`; `false` with `http2`", "Whether WebSockets may be opened. They need `protocol: http1`."),
    key("routes[].path_parameters", "boolean", "`false`", "Whether paths may carry `;parameters`. Servers disagree on what they mean; policies never see them."),
    key("routes[].audit", "`buffered` or `durable`", "`buffered`", "`durable` forwards a request only once its record is on the disk; `buffered` once the record is queued for the writer, a few milliseconds before it is in the file."),
    key("routes[].cross_site", "`refuse` or `allow`", "`refuse`", "State-changing requests and WebSockets that another site's page starts."),
    key("routes[].cross_site_origins", "list of origins", NONE, "Other sites whose pages may start them all the same, as `https://partner.example`; their CORS preflights are answered by the gate. The session cookie goes with requests of the same site only (`SameSite=Lax`), so this is for sibling hosts and for clients with tokens. Not with `cross_site: allow`."),
    key("routes[].response", "map", "as below", "What is changed in the upstream's answers."),
    key("routes[].response.rewrite_location", "boolean", "`true`", "`Location` and `Content-Location` that name an upstream become the public host."),
    key("routes[].response.cookie_domain", "`drop` or `keep`", "`drop`", "The `Domain` of the upstream's cookies. Dropped, they stay with this host."),
    key("routes[].rate_limits", "list", "none", "For this route, beside those of the whole gate. What is above is answered 429."),
    key("routes[].rate_limits[].per", "`address`, `session`, `tenant` or `route`", "", "Who shares the count: a client's IPv4 address or IPv6 /64; a session, or all access tokens or certificates of one user or service; the users of a tenant (those without one together); or all who are permitted on a route."),
    key("routes[].rate_limits[].requests", "number", "", "How many may pass in any stretch of time as long as the window. From 1 to 1000000."),
    key("routes[].rate_limits[].window", "duration", "", "Whole seconds, up to `1d`. What has passed counts for the window, and up to an eighth longer."),
    key("routes[].max_in_flight", "number", "`4096`", "Requests on their way at once; more are answered 503. One user gets three quarters of them at most. WebSockets don't count. From 1 to 1000000."),
    key("routes[].max_upstream_in_flight", "number", NONE, "The same over all routes that have the same upstreams, each with its own number. When a reload changes a route's upstreams, what is on its way there still counts. From 1 to 1000000."),
    key("routes[].max_websockets", "number", "`4096`", "Open WebSockets, of which one user gets three quarters at most. From 1 to 1000000."),
    key("routes[].websocket_limits", "map", "as below", "What a client may send on a WebSocket."),
    key("routes[].websocket_limits.max_message", "size", "`16MiB`", "Over all frames of a message, as sent (compressed, where that was agreed on). More is closed with 1009. From `125B`."),
    key("routes[].websocket_limits.max_frame", "size", "`16MiB`", "Of one frame. Not more than `max_message`. More is closed with 1009. From `125B`."),
    key("routes[].websocket_limits.frames_per_second", "number", "`10000`", "Frames of any kind, with a second's worth at once. More is closed with 1008. From 1 to 1000000."),
    key("audit", "map", "", "The audit log."),
    key("audit.directory", "directory", "", "Where its files are. Created when missing."),
    key("audit.queue", "number", "`65536`", "Records that may wait to be written, about 50 MiB of them at most. When it is full, access is denied. From 1 to 1000000."),
    key("audit.segment_size", "size", "`256MiB`", "Past this a new file is begun. From `1MiB`."),
    key("store", "map", "", "Where sessions are kept. Exactly one of `path` and `redis` is set."),
    key("store.path", "file", NONE, "The embedded store, of this gate alone. Created when missing."),
    key("store.redis", "map", NONE, "Valkey or Redis (6.2 or newer), which any number of gates share. Exactly one of `url`, `sentinel` and `cluster` is set. See [operating.md](operating.md#several-gates)."),
    key("store.redis.url", "URL", NONE, "One server: `rediss://HOST:PORT`; `redis://` without TLS, on a loopback address; or `unix:///PATH` for a socket."),
    key("store.redis.sentinel", "map", NONE, "Sentinels, which say who the master is."),
    key("store.redis.sentinel.master", "text", "", "The master's name, as the sentinels have it."),
    key("store.redis.sentinel.nodes", "list of URLs", "", "The sentinels, as `rediss://HOST:PORT`. Their scheme is the servers' too."),
    key("store.redis.sentinel.username", "text", NONE, "The user at the sentinels, which know other users than the servers."),
    key("store.redis.sentinel.password", "secret", NONE, "The password at the sentinels."),
    key("store.redis.cluster", "list of URLs", NONE, "Some nodes of a Cluster, as `rediss://HOST:PORT`; they name the others."),
    key("store.redis.username", "text", "the default user", "User of the servers' access control list (ACL)."),
    key("store.redis.password", "secret", NONE, "The password at the servers."),
    key("store.redis.database", "number", "`0`", "Number of the database. Not with `cluster`. From 0 to 1023."),
    key("store.redis.ca", "file", "the system's", "PEM bundle to verify the servers' certificates with. They always are."),
    key("store.redis.client_certificate", "map", NONE, "What the gate identifies itself with."),
    key("store.redis.client_certificate.certificate", "file", "", "PEM: the certificate, then its intermediates."),
    key("store.redis.client_certificate.key", "file", "", "PEM: the private key. Must not be open to every user of the machine."),
    key("store.redis.key_prefix", "text", "`wicketgate`", "What all keys begin with, so that several installations can share servers."),
    key("store.redis.timeout", "duration", "`1s`", "For each call. What takes longer is answered 503. From `50ms` to `10s`."),
    key("store.redis.allow_plaintext", "boolean", "`false`", "Whether `redis://` may leave this machine: for networks that are encrypted themselves."),
    key("store.lease", "duration", "`1500ms`", "Only with `redis`: how long sessions count as good after the gate last heard all that was ended elsewhere. Past it they are answered 503, and live connections are cut. From `500ms` to `1m`; more than the default is warned about."),
    key("rate_limits", "list", "none", "Over the whole gate. By `address` it covers every request, `/.wicketgate/` included; the others cover requests to routes."),
    key("rate_limits[].per", "`address`, `session`, `tenant` or `route`", "", "Who shares the count: a client's IPv4 address or IPv6 /64; a session, or all access tokens or certificates of one user or service; the users of a tenant (those without one together); or all who are permitted on a route."),
    key("rate_limits[].requests", "number", "", "How many may pass in any stretch of time as long as the window. From 1 to 1000000."),
    key("rate_limits[].window", "duration", "", "Whole seconds, up to `1d`. What has passed counts for the window, and up to an eighth longer."),
    key("limits", "map", "as below", "What the whole process may take."),
    key("limits.memory", "size", "three quarters of the machine's, or of the control group's", "Resident memory from which on new requests are answered 503; during an upgrade, of both processes together. From an eighth above until a tenth below that, new connections are closed, of HTTP/1 only the heads of requests are read and over HTTP/2 nothing, and an HTTP/2 connection on which something arrives while nothing is under way is asked to leave (GOAWAY). From `64MiB`."),
];

/// The keys directly below `parent`: `listeners[].tls`, or the empty text for the top.
pub fn children(parent: &str) -> Vec<&'static str> {
    KEYS.iter().filter_map(|key| child_of(key.path, parent)).collect()
}

fn child_of(path: &'static str, parent: &str) -> Option<&'static str> {
    let rest =
        if parent.is_empty() { path } else { path.strip_prefix(parent)?.strip_prefix('.')? };
    (!rest.contains('.')).then_some(rest)
}

/// The tables of `docs/configuration.md`, one for each section.
pub fn render() -> String {
    let mut text = String::new();
    for section in KEYS.iter().filter(|key| !key.path.contains('.')) {
        let needed = if section.default.is_empty() { "Required." } else { "May be left out." };
        // Writing to a String can't fail.
        let _ = writeln!(text, "### `{}`\n\n{} {needed}\n", section.path, section.doc);
        let _ = writeln!(text, "| key | type | default | meaning |\n|---|---|---|---|");
        let own = |key: &&Key| {
            let rest = key.path.strip_prefix(section.path).unwrap_or_default();
            rest.starts_with('.') || rest.starts_with("[]")
        };
        for key in KEYS.iter().filter(own) {
            let default = if key.default.is_empty() { "required" } else { key.default };
            let path = key.path.strip_prefix(section.path).unwrap_or(key.path);
            let path = path.strip_prefix("[]").unwrap_or(path).trim_start_matches('.');
            let _ = writeln!(text, "| `{path}` | {} | {default} | {} |", key.kind, key.doc);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- reference: begin; rendered from src/config/reference.rs -->\n\n";
    const END: &str = "<!-- reference: end -->";

    #[test]
    fn children_are_only_the_next_level() {
        let session = [
            "idle_timeout",
            "absolute_lifetime",
            "keep_forms",
            "sign_out_urls",
            "sign_in_host",
            "max_per_user",
            "key",
        ];
        assert_eq!(children("session"), session);
        assert_eq!(children("routes[].health_check.http"), ["path"]);
        assert_eq!(children("routes[].upstreams[]"), ["url", "weight"]);
        assert!(children("").contains(&"routes"));
        assert!(children("rout").is_empty());
    }

    #[test]
    fn no_key_is_described_twice_and_every_parent_is_described() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{}", key.path);
            if let Some((parent, _)) = key.path.rsplit_once('.') {
                let parent = parent.trim_end_matches("[]");
                assert!(KEYS[..index].iter().any(|other| other.path == parent), "{}", key.path);
            }
        }
    }

    /// `UPDATE_DOCS=1 cargo test --lib reference` writes the tables anew.
    #[test]
    fn the_committed_reference_is_what_the_table_renders() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let text = std::fs::read_to_string(file).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the begin mark");
        let (_, after) = rest.split_once(END).expect("the end mark");
        let wanted = format!("{before}{BEGIN}{}{END}{after}", render());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, &wanted).unwrap();
        } else {
            assert!(text == wanted, "docs/configuration.md is stale; run with UPDATE_DOCS=1");
        }
    }
}
