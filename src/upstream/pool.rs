//! A route's upstream: selects, connects, sends, and tries again where that is safe.

use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, request};
use http_body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attempt::Caller;
use super::balance::{Balance, Target};
use super::body::{BoxError, RequestBody, UpstreamBody};
use super::breaker::Breaker;
use super::budget::Budget;
use super::connect::Connector;
use super::credential;
use super::error::UpstreamError;
use super::health::Probe;
use super::idle::Idle;
use super::send::{self, Limits, Outgoing, Try};
use super::tls;
use super::upkeep::{Shown, Upkeep};
use super::vitals::Payload;
use super::wire::Http1;
use crate::config::finding::Finding;
use crate::config::model::{Route, Upstream, UpstreamHost, UpstreamProtocol};
use crate::domain::canonical::Authority;
use crate::metrics::{Metrics, RouteMetrics};

/// Times that one request is sent at most, when kept connections turn out to be dead.
const MAX_TRIES: usize = 3;

/// The connections to a route's upstream.
///
/// Dropping it ends its background task and closes what is idle; responses that still stream
/// keep their connections.
#[derive(Debug)]
pub struct Pool {
    upstream: Upstream,
    scheme: &'static str,
    connector: Connector,
    balance: Arc<Balance>,
    breaker: Arc<Breaker>,
    retries: Budget,
    idle: Arc<Idle>,
    credential: Option<(HeaderName, HeaderValue)>,
    origins: Vec<Authority>,
    metrics: RouteMetrics,
    route: Arc<str>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Pool {
    /// Prepares a route's upstream; opens nothing.
    ///
    /// # Errors
    /// Findings: certificates or keys that can't be used, a credential that is no header.
    pub fn new(
        route: &Arc<Route>,
        workers: usize,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, Vec<Finding>> {
        let upstream = route.upstream.clone();
        let here = format!("routes.{}.upstream", route.name);
        let mut findings = Vec::new();
        let scheme = if upstream.tls.is_some() { "https" } else { "http" };
        let tls = match &upstream.tls {
            None => None,
            Some(tls) => match tls::client_config(tls, upstream.protocol, Path::new("")) {
                Ok(config) => Some(config),
                Err(found) => {
                    findings.extend(found.into_iter().map(|finding| finding.at_path(here.clone())));
                    None
                }
            },
        };
        let credential = match upstream.credential.as_ref().map(credential::header).transpose() {
            Ok(credential) => credential,
            Err(cause) => {
                findings.push(Finding::error("", cause).at_path(format!("{here}.credential")));
                None
            }
        };
        if upstream.endpoints.is_empty() {
            findings.push(Finding::error("", "the upstream has no endpoint").at_path(here));
        }
        if !findings.is_empty() {
            return Err(findings);
        }
        let connector = Connector { tls, http2: upstream.protocol == UpstreamProtocol::Http2 };
        let host = match &upstream.host {
            UpstreamHost::Preserve => route.host.to_string(),
            UpstreamHost::Fixed(authority) => authority.to_string(),
        };
        let breaker = Arc::new(Breaker::new(&route.name, &upstream));
        let balance = Balance::new(&upstream, workers, Arc::clone(&breaker), |targets| {
            let settings = upstream.health.clone()?;
            Some(Box::new(Probe {
                route: Arc::clone(&route.name),
                settings,
                connector: connector.clone(),
                protocol: upstream.protocol,
                host,
                targets,
                breaker: Arc::clone(&breaker),
            }))
        });
        let stop = CancellationToken::new();
        Ok(Arc::new(Self {
            scheme,
            connector,
            balance: Arc::new(balance),
            breaker,
            retries: Budget::new(upstream.retries),
            idle: Arc::new(Idle::new(workers, upstream.max_idle)),
            credential,
            origins: origins(&upstream),
            metrics: metrics.route(&route.name),
            route: Arc::clone(&route.name),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            upstream,
        }))
    }

    /// Takes the place of an earlier pool of the route: what is new in it begins slowly.
    pub fn follow(&self, former: &Self) {
        self.balance.follow(&former.balance);
    }

    /// The header that the gate itself authenticates with at the upstream.
    pub fn credential(&self) -> Option<(HeaderName, HeaderValue)> {
        self.credential.clone()
    }

    /// Whether a URL, or just its `scheme://authority`, names this upstream: an endpoint, or the
    /// fixed host that it is called by.
    pub fn owns_origin(&self, url: &str) -> bool {
        let Some((scheme, rest)) = url.split_once("://") else { return false };
        let default_port = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => 80,
            _ if scheme.eq_ignore_ascii_case("https") => 443,
            _ => return false,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let Ok(authority) = Authority::parse(authority) else { return false };
        let port = authority.port.unwrap_or(default_port);
        scheme.eq_ignore_ascii_case(self.scheme)
            && self.origins.iter().any(|own| own.host == authority.host && own.port == Some(port))
    }

    /// The pool's background work: resolving names again, checking health, closing what has been
    /// idle for too long. To be spawned once, when the pool is in use; it ends when the pool is
    /// dropped. From here on its endpoints are in the metrics, as healthy until a check says else.
    pub fn health(&self, metrics: &Metrics) -> impl Future<Output = ()> + Send + 'static {
        let healthy = self.labels().map(|label| metrics.upstream_healthy(&self.route, &label));
        let upkeep = Upkeep {
            balance: Arc::clone(&self.balance),
            idle: Arc::clone(&self.idle),
            shown: Shown::new(&self.breaker),
            healthy: healthy.collect(),
            interval: self.upstream.health.as_ref().map(|check| check.interval),
        };
        upkeep.begin(metrics.upstream(&self.route, self.labels()));
        let stop = self.stop.clone();
        async move {
            stop.run_until_cancelled_owned(upkeep.run()).await;
        }
    }

    /// What each endpoint is called in the metrics.
    pub fn labels(&self) -> impl Iterator<Item = String> {
        let endpoints = self.upstream.endpoints.iter();
        endpoints.map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port))
    }

    /// Sends a request, whose head is final, from the runtime of the caller's worker.
    ///
    /// The target is in origin form and `Host` is set, for HTTP/2 as well. An answer of 101
    /// carries the upgraded stream (`hyper::upgrade::on`).
    ///
    /// Counts failures and the time to the response's header in the route's metrics.
    ///
    /// # Errors
    /// [`UpstreamError`]; its `status` is what the client is answered.
    pub async fn send<B>(
        &self,
        caller: Caller<'_>,
        head: Box<request::Parts>,
        body: B,
    ) -> Result<Box<Response<UpstreamBody>>, UpstreamError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let began = Instant::now();
        let request = Outgoing { head, body: RequestBody::new(body) };
        match self.try_endpoints(caller, began, request).await {
            Ok(response) => {
                self.metrics.upstream_latency(began.elapsed());
                Ok(response)
            }
            Err(error) => {
                self.metrics.upstream_error(error.kind());
                Err(error)
            }
        }
    }

    async fn try_endpoints(
        &self,
        caller: Caller<'_>,
        began: Instant,
        mut request: Outgoing,
    ) -> Result<Box<Response<UpstreamBody>>, UpstreamError> {
        match self.upstream.protocol {
            UpstreamProtocol::Http1 => send::prepare_http1(&mut request.head)?,
            UpstreamProtocol::Http2 => send::prepare_http2(&mut request.head, self.scheme)?,
        }
        if !self.balance.is_resolved() {
            let resolved = self.balance.ensure_resolved();
            if tokio::time::timeout(self.upstream.connect_timeout, resolved).await.is_err() {
                return Err(UpstreamError::NoHealthyEndpoint);
            }
        }
        let limits =
            Limits { response: self.upstream.response_timeout, idle: self.upstream.idle_timeout };
        let mut tried: Vec<SocketAddr> = Vec::new();
        let deadline = self.upstream.connect_timeout;
        let mut left = Left { turn: deadline, connecting: deadline };
        let mut now = began;
        let mut last = None;
        let mut sent = 0;
        let payload = if request.body.is_empty() { Payload::None } else { Payload::Body };
        while let Some(attempt) = self.balance.select(&tried, caller, payload) {
            let (target, worker) = (attempt.target(), caller.worker);
            // Once a kept connection has failed, the others to the endpoint are as likely dead.
            let kept = if sent > 0 { None } else { self.kept(worker, target, now) };
            let (connection, reused) = match kept {
                Some(kept) => (kept, true),
                None => {
                    // The time that is left is shared with the endpoints that may follow.
                    let others = u32::try_from(self.balance.untried(&tried).clamp(1, 3));
                    let others = others.unwrap_or(1);
                    let connected = match self.upstream.protocol {
                        UpstreamProtocol::Http1 => {
                            self.http1(worker, target, &mut left, others, sent > 0).await
                        }
                        UpstreamProtocol::Http2 => {
                            self.http2(worker, target, &mut left, others).await
                        }
                    };
                    now = Instant::now();
                    match connected {
                        Ok(connected) => connected,
                        Err(error) => {
                            tracing::debug!(%error, "an upstream endpoint can't be reached");
                            tried.push(target.address);
                            attempt.failed(&error);
                            // Who only waited has asked nothing of an endpoint.
                            let asked = !matches!(error, UpstreamError::ConnectQueue { .. });
                            if asked && (left.connecting.is_zero() || !self.may_retry(&tried)) {
                                return Err(error);
                            }
                            last = Some(error);
                            continue;
                        }
                    }
                }
            };
            sent += 1;
            let outcome = match connection {
                Connection::Http1(connection) => {
                    send::over_http1(connection, reused, request, limits, worker, now, &self.idle)
                        .await
                }
                Connection::Http2(sender) => {
                    send::over_http2(sender, reused, request, limits).await
                }
            };
            match outcome {
                Try::Answered(response) => {
                    attempt.answered(response.status());
                    return Ok(response);
                }
                // That a kept connection has died says nothing about the endpoint.
                Try::Again(again, _) if sent < MAX_TRIES && self.may_retry(&tried) => {
                    request = again;
                }
                Try::Again(_, error) => return Err(error),
                Try::Failed(error) => {
                    attempt.failed(&error);
                    return Err(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.balance.unavailable()))
    }

    /// Whether the budget has room for one more try, where there is anything left to try.
    fn may_retry(&self, tried: &[SocketAddr]) -> bool {
        if self.balance.untried(tried) == 0 {
            return true;
        }
        let allowed = self.retries.take(self.balance.answered(), Instant::now());
        self.metrics.upstream_retry(allowed);
        allowed
    }

    /// An open connection that waits for a request.
    fn kept(&self, worker: usize, target: &Target, now: Instant) -> Option<Connection> {
        match self.upstream.protocol {
            UpstreamProtocol::Http1 => {
                self.idle.take(worker, target.address, now).map(Connection::Http1)
            }
            // Shared by all requests, and found together with the lock to open one.
            UpstreamProtocol::Http2 => None,
        }
    }

    /// Opens a connection. While as many are being opened as may be, it waits for its turn, or for a
    /// connection that another request is done with; not for such a one when it is to be `new`.
    async fn http1(
        &self,
        worker: usize,
        target: &Target,
        left: &mut Left,
        others: u32,
        new: bool,
    ) -> Result<(Connection, bool), UpstreamError> {
        let address = target.address;
        let mut place = target.opening.try_acquire().ok();
        if place.is_none() {
            let began = Instant::now();
            let given =
                async { if new { pending().await } else { self.idle.next(worker, address).await } };
            let turn = async {
                tokio::select! {
                    biased;
                    Ok(kept) = given => Some(kept),
                    free = target.opening.acquire() => {
                        place = free.ok();
                        None
                    }
                }
            };
            let turn = tokio::time::timeout(left.turn / others, turn).await;
            left.turn = left.turn.saturating_sub(began.elapsed());
            match turn {
                Ok(Some(kept)) => return Ok((Connection::Http1(kept), true)),
                Ok(None) => {}
                Err(_) => return Err(UpstreamError::ConnectQueue { address }),
            }
        }
        let began = Instant::now();
        let connected = self.connector.connect(target, left.connecting / others).await;
        left.connecting = left.connecting.saturating_sub(began.elapsed());
        drop(place);
        let (stream, trace) = connected?;
        Ok((Connection::Http1(Http1::open(address, stream, trace).await?), false))
    }

    async fn http2(
        &self,
        worker: usize,
        target: &Target,
        left: &mut Left,
        others: u32,
    ) -> Result<(Connection, bool), UpstreamError> {
        let address = target.address;
        let (began, share) = (Instant::now(), left.connecting / others);
        let slot = self.idle.http2(worker, address);
        let connect = async {
            let mut shared = slot.lock().await;
            if let Some(sender) = shared.as_ref().filter(|sender| sender.is_ready()) {
                return Ok((Connection::Http2(sender.clone()), true));
            }
            let (stream, _) = self.connector.connect(target, share).await?;
            let (sender, connection) = send::http2_builder()
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| UpstreamError::from_hyper(&error))?;
            tokio::spawn(async move {
                let _ = connection.await;
            });
            *shared = Some(sender.clone());
            Ok((Connection::Http2(sender), false))
        };
        let connected = tokio::time::timeout(share, connect).await;
        left.connecting = left.connecting.saturating_sub(began.elapsed());
        match connected {
            Ok(result) => result,
            Err(_) => Err(UpstreamError::ConnectTimeout { address }),
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.idle.waiting()
    }

    #[cfg(test)]
    pub(super) fn all_closed(&self) -> bool {
        self.idle.all_closed()
    }

    #[cfg(test)]
    pub(super) fn all_ready(&self) -> bool {
        self.idle.all_ready()
    }

    /// The places at the only endpoint.
    #[cfg(test)]
    pub(super) fn opening(&self) -> Arc<tokio::sync::Semaphore> {
        Arc::clone(&self.balance.targets()[0].opening)
    }

    #[cfg(test)]
    pub(super) async fn check_health(&self) {
        self.balance.check_health().await;
    }
}

/// What a request has left until it has a connection, at all endpoints together.
struct Left {
    turn: Duration,
    connecting: Duration,
}

enum Connection {
    Http1(Box<Http1>),
    Http2(http2::SendRequest<RequestBody>),
}

fn origins(upstream: &Upstream) -> Vec<Authority> {
    let default_port = if upstream.tls.is_some() { 443 } else { 80 };
    let endpoints = upstream
        .endpoints
        .iter()
        .map(|endpoint| Authority { host: endpoint.host.clone(), port: Some(endpoint.port) });
    let fixed = match &upstream.host {
        UpstreamHost::Preserve => None,
        UpstreamHost::Fixed(authority) => Some(Authority {
            host: authority.host.clone(),
            port: authority.port.or(Some(default_port)),
        }),
    };
    endpoints.chain(fixed).collect()
}
