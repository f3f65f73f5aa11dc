//! The validated configuration. Behind these types nothing is checked again.

mod callers;
mod claim;
mod client;
mod provider;
mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::secret::Secret;
use crate::domain::canonical::{Authority, Host};
use crate::domain::connection::{ClientAddr, SourceRules};
use crate::domain::network::Networks;

pub use callers::{Accepted, AccessTokens, CERTIFICATES, TokenExchange, UpstreamToken};
pub use claim::{ClaimNames, ClaimPath};
pub use client::{AssertionAudience, ClientAuthentication, SecretMethod};
pub use provider::{IdentityProvider, Issuer, ProviderNames, Refresh};
pub use session::{Session, SessionLimits};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that this was read from, for messages and for reload.
    pub source: PathBuf,
    pub listeners: Vec<Listener>,
    pub admin: Admin,
    /// At least one, in the order in which they are offered.
    pub identity_providers: Vec<Arc<IdentityProvider>>,
    pub session: Session,
    /// Where a browser may go after signing out, besides the gate's own hosts; letter by letter.
    pub sign_out_urls: Arc<[Box<str>]>,
    pub devices: Option<Devices>,
    pub policies: Policies,
    pub applications: Vec<Arc<Application>>,
    pub routes: Vec<Arc<Route>>,
    pub audit: Audit,
    pub store: Store,
    /// Over all routes, the gate's own pages included where they count by address.
    pub rate_limits: Vec<RateLimit>,
    pub limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub role: ListenerRole,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub source: Arc<SourceRules>,
    pub limits: ListenerLimits,
}

/// Connections begin with a header of the PROXY protocol, version 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Whose header is read, and has to be there.
    pub trusted: Networks,
    /// Whether all others are served as themselves. Default false: they are closed, because a way
    /// past the proxy is a way past what it checks.
    pub serves_others: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Terminates TLS and serves the routes.
    Tls(ListenerTls),
    /// Plain HTTP that answers 308 to the same address under https, at this port, and nothing else.
    RedirectToHttps { port: u16 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// PEM files. Of the certificates that cover a name the first that is in date serves it.
    pub certificates: Vec<CertificateFiles>,
    /// PEM bundle of the device CA. When set, client certificates are asked for (never required
    /// at this level: policies decide) and, when sent, must verify.
    pub client_ca: Option<PathBuf>,
    /// PEM bundle of revocation lists, one for each CA. A client certificate of which they don't
    /// say that it is good is refused.
    pub client_crl: Option<PathBuf>,
    pub minimum_version: TlsVersion,
    /// What session tickets are sealed with; the process's own secret without it.
    pub ticket_keys: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// From accept to the end of the TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its header section. Default 10 s.
    pub header_timeout: Duration,
    /// Between requests on a connection. Default 75 s.
    pub idle_timeout: Duration,
    /// Header section, in bytes. Default 32 KiB.
    pub max_header_bytes: usize,
    /// Header fields. Default 100.
    pub max_headers: usize,
    /// Open connections on this listener. Default 10,000.
    pub max_connections: usize,
    /// Of them, those of one address; of an IPv6 client, its /64. Default 1,000.
    pub max_connections_per_address: usize,
    /// TLS handshakes under way. Past this the oldest is given up. Default 1,000.
    pub max_handshakes: usize,
    /// Bytes per second that a client has to send of a body and take of an answer, on average over
    /// the time that it is waited for. Default 240; none where it is zero.
    pub min_data_rate: u64,
    /// How long a client may be waited for on top of that. Default 20 s.
    pub data_rate_grace: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
    /// Where operators ask the gate for changes. Default `admin.sock` in `audit.directory`.
    pub socket: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// YAML file with the known devices and their posture.
    pub registry: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// `*.cedar` in this directory, in the order of their names.
    pub directory: PathBuf,
    pub schema: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    pub name: Arc<str>,
    /// For people: what pages and the assertion's readers see.
    pub display_name: Arc<str>,
    pub zone: Option<Arc<str>>,
    pub tenant: Option<Arc<str>>,
    /// Whose users come in, where its routes don't say. All providers' where it is absent.
    pub identity_providers: Option<ProviderNames>,
    pub session: Option<SessionLimits>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: Arc<str>,
    pub host: Host,
    /// Decoded path prefix; matches whole segments. `/` matches everything.
    pub path: Arc<str>,
    pub application: Arc<Application>,
    /// What callers identify themselves with.
    pub accepted: Accepted,
    /// Whose requests are taken. Everybody's where it is absent.
    pub allow_from: Option<Networks>,
    /// Overrides the application's tenant.
    pub tenant: Option<Arc<str>>,
    /// Whose users come in: the route's own, else the application's. All providers' where both are
    /// absent.
    pub identity_providers: Option<ProviderNames>,
    pub upstream: Upstream,
    /// Largest request body, in bytes. Default 10 MiB.
    pub max_body_bytes: u64,
    /// Whether WebSockets may be opened. Default true.
    pub websocket: bool,
    /// Whether paths may carry `;parameters`. Default false.
    pub path_parameters: bool,
    pub audit: AuditDurability,
    /// Whether cross-site state-changing requests and WebSockets are refused. Default true.
    pub refuse_cross_site: bool,
    /// Whose pages may send them all the same, by their origins under https.
    pub cross_site_origins: Vec<Authority>,
    /// Whether the upstream's `Location` and cookie domains are mapped to the public host.
    pub response: ResponseRewrite,
    pub bounds: RouteBounds,
}

/// How much of a route may be in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteBounds {
    /// Of this route alone, beside those of the whole gate.
    pub rate_limits: Vec<RateLimit>,
    /// Requests on their way at once. Default 4,096.
    pub max_in_flight: usize,
    /// The same over all routes with the same endpoints.
    pub max_upstream_in_flight: Option<usize>,
    /// Open WebSockets. Default 4,096.
    pub max_websockets: usize,
    pub websocket: WebSocketLimits,
}

impl Default for RouteBounds {
    fn default() -> Self {
        Self {
            rate_limits: Vec::new(),
            max_in_flight: 4096,
            max_upstream_in_flight: None,
            max_websockets: 4096,
            websocket: WebSocketLimits::default(),
        }
    }
}

/// At most so many requests in any stretch of time as long as the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub per: LimitPer,
    /// From 1.
    pub requests: u32,
    /// Whole seconds, as the `RateLimit` fields have them.
    pub window: Duration,
}

/// Who shares a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitPer {
    /// The client's IPv4 address, or its IPv6 /64.
    Address,
    Session,
    /// The principal's tenant; those without one share one.
    Tenant,
    /// All who are permitted on a route.
    Route,
}

impl LimitPer {
    pub const ALL: [Self; 4] = [Self::Address, Self::Session, Self::Tenant, Self::Route];

    /// As configuration, records and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Session => "session",
            Self::Tenant => "tenant",
            Self::Route => "route",
        }
    }
}

/// What a client may send on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// Payload of one frame, in bytes. Default 16 MiB.
    pub max_frame: u64,
    /// Payload of a message over all its frames, in bytes. Default 16 MiB.
    pub max_message: u64,
    /// Frames of any kind, with a second's worth at once. Default 10,000.
    pub frames_per_second: u32,
}

impl Default for WebSocketLimits {
    fn default() -> Self {
        Self { max_frame: 16 << 20, max_message: 16 << 20, frames_per_second: 10_000 }
    }
}

/// What the whole process may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Resident memory from which on new requests are turned away, in bytes. `None`: three
    /// quarters of what the machine or the control group has.
    pub memory: Option<u64>,
}

impl Route {
    /// Whether requests of a client at this address are taken.
    pub fn allows(&self, client: ClientAddr) -> bool {
        self.allow_from.as_ref().is_none_or(|allowed| allowed.contains(client.0))
    }

    /// Whether the users of this identity provider come in.
    pub fn takes(&self, provider: &str) -> bool {
        self.identity_providers
            .as_ref()
            .is_none_or(|taken| taken.iter().any(|name| **name == *provider))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    pub selection: Selection,
    pub protocol: UpstreamProtocol,
    /// Set when the endpoints are `https`.
    pub tls: Option<UpstreamTls>,
    pub credential: Option<UpstreamCredential>,
    /// What the upstream sees in `Host`.
    pub host: UpstreamHost,
    pub health: Option<HealthCheck>,
    /// `None` where it is switched off.
    pub outliers: Option<OutlierDetection>,
    /// How long the share of an endpoint that is new or back takes to grow. None by default.
    pub slow_start: Option<Duration>,
    pub retries: RetryBudget,
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// From the end of the request to the response's header. Default 60 s.
    pub response_timeout: Duration,
    /// Without a byte in either direction on a response body or upgraded stream. Default 5 min.
    pub idle_timeout: Duration,
    /// Idle pooled connections kept for each endpoint and worker. Default 32.
    pub max_idle: usize,
}

impl Upstream {
    /// Whether what is open to `former` may stay open: all of its servers are still among these,
    /// and are spoken to in the same way. How they are chosen and watched and how long they may
    /// take is for what comes next.
    pub fn continues(&self, former: &Self) -> bool {
        let is_here = |gone: &Endpoint| {
            self.endpoints.iter().any(|here| (&here.host, here.port) == (&gone.host, gone.port))
        };
        self.protocol == former.protocol
            && self.tls == former.tls
            && self.credential == former.credential
            && self.host == former.host
            && former.endpoints.iter().all(is_here)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: Host,
    pub port: u16,
    pub weight: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    RoundRobin,
    Random,
    /// The requests of a session go to one endpoint while it is well.
    Sticky,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, and whatever a 1.0 server answers.
    Http1,
    /// HTTP/2 with prior knowledge, or by ALPN over TLS. What gRPC needs.
    Http2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM bundle to verify with, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Name to verify and to send as SNI, where it isn't the endpoint's own.
    pub server_name: Option<Host>,
    pub client_certificate: Option<CertificateFiles>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamCredential {
    /// RFC 7617.
    Basic { username: String, password: Secret },
    /// A fixed header. The name is lower case and valid.
    Header { name: String, value: Secret },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamHost {
    /// The public one, as the client sent it (canonical). The default.
    Preserve,
    Fixed(Authority),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub kind: HealthCheckKind,
    pub interval: Duration,
    pub timeout: Duration,
    /// Consecutive failures until an endpoint is taken out. Default 3.
    pub unhealthy_after: usize,
    /// Consecutive successes until it is taken back. Default 1.
    pub healthy_after: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckKind {
    Tcp,
    /// GET this path; 2xx and 3xx are healthy.
    Http {
        path: String,
    },
}

/// When endpoints are taken out because of what requests saw of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures without a success between them. Default 5.
    pub consecutive_failures: u32,
    /// Or this share of the requests within `window`, in percent. Default 50.
    pub failure_percent: u32,
    /// Requests that the share is judged by at least. Default 20.
    pub minimum_requests: u32,
    /// Default 10 s.
    pub window: Duration,
    /// For how long the first time; twice as long each further time. Default 5 s.
    pub ejection_time: Duration,
    /// And how long at most. Default 30 s.
    pub max_ejection_time: Duration,
    /// Endpoints that may be out while others still answer, in percent, but at least one of
    /// several. Default 50.
    pub max_ejection_percent: usize,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_percent: 50,
            minimum_requests: 20,
            window: Duration::from_secs(10),
            ejection_time: Duration::from_secs(5),
            max_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 50,
        }
    }
}

/// How many requests may be sent a second time, counted over some seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests that were answered. Default 20.
    pub percent: u32,
    /// And this many each second in any case. Default 10.
    pub minimum_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, minimum_per_second: 10 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditDurability {
    /// The record is queued for the writer, which takes a few milliseconds; it is denied where
    /// the queue is full. The default.
    Buffered,
    /// The request is forwarded only once the record is on the disk (fdatasync).
    Durable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseRewrite {
    /// Map `Location` and `Content-Location` that name an upstream endpoint to the public host.
    /// Default true.
    pub location: bool,
    /// Drop the `Domain` attribute of the upstream's cookies, so that they stay with the host.
    /// Default true.
    pub cookie_domain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Directory of the log's files.
    pub directory: PathBuf,
    /// Records that may wait for the writer. When it is full, access is denied. Default 8,192.
    pub queue: usize,
    /// A file is closed and a new one begun past this size, in bytes. Default 256 MiB.
    pub segment_bytes: u64,
}

pub use super::shared::{Redis, RedisNode, RedisServers, RedisTls, Store};
