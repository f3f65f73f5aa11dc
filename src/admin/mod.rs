//! The admin listener: metrics, liveness and readiness, on an address of its own; and the socket
//! over which operators change something ([`manage`]).
//!
//! INVARIANT: nothing here is ever served on a public listener, and nothing at the address changes
//! anything: GET and HEAD only. A page in the operator's browser can't read it by DNS rebinding, because a
//! host must be named by an IP literal or `localhost`.

pub mod manage;
pub mod protocol;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::canonical::Authority;
use crate::domain::clock::Timestamp;
use crate::metrics::Metrics;

/// Connections at once; a scraper and a few probes need no more.
const CONNECTIONS: usize = 64;

/// For a request's header; also between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// After an error of `accept`, which mostly means that no file descriptor is left.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What `/readyz` tells.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// The public listeners, with the addresses that they listen on; empty until they do.
    pub listeners: Vec<ListenerState>,
    /// Counts the configurations loaded since the start, from 1; 0 before the first.
    pub configuration_generation: u64,
    /// Absent until the first reload.
    pub last_reload: Option<Reload>,
    /// Why renewed certificates are not served: they are out of date, and those before them aren't.
    pub refused_certificates: Vec<String>,
    /// Whether records can be kept. Without, access is denied.
    pub audit_healthy: bool,
    pub store_healthy: bool,
    /// Nothing more is accepted: whoever balances load goes elsewhere.
    pub stopping: bool,
    /// By name, for information: without one nobody new signs in there, and sessions go on. `None`:
    /// not asked yet.
    pub identity_providers_reachable: BTreeMap<Arc<str>, Option<bool>>,
    /// Whether new requests are turned away to save memory.
    pub memory_short: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct ListenerState {
    pub name: Arc<str>,
    pub address: SocketAddr,
}

#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    pub at: Timestamp,
    /// Why it was refused; the configuration before it is still in force. Absent on success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Readiness {
    /// Whether requests are served. A refused reload leaves a gate that serves.
    pub fn is_ready(&self) -> bool {
        !self.listeners.is_empty()
            && self.configuration_generation > 0
            && self.audit_healthy
            && self.store_healthy
            && !self.memory_short
            && !self.stopping
    }
}

/// What the admin listener shows.
#[derive(Clone)]
pub struct Admin {
    pub metrics: Arc<Metrics>,
    /// Asked at each request; cheap, and it never blocks.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Listens on the admin address, on the runtime that this is called on.
///
/// # Errors
/// The address is taken, not this machine's, or not permitted.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

impl Admin {
    /// Serves until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                    let (admin, stop) = (self.clone(), stop.clone());
                    connections.spawn(async move {
                        admin.connection(stream, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "no admin connection can be accepted");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    async fn connection(self, stream: TcpStream, stop: CancellationToken) {
        let service = service_fn(move |request: Request<Incoming>| {
            let (head, _) = request.into_parts();
            std::future::ready(Ok::<_, Infallible>(self.answer(&head)))
        });
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an admin connection failed");
        }
    }

    fn answer(&self, head: &request::Parts) -> Response<Full<Bytes>> {
        if !names_this_machine(head) {
            return text(StatusCode::MISDIRECTED_REQUEST, "name the host by its IP address\n");
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match head.uri.path() {
            "/metrics" => answer(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.render().into(),
            ),
            "/healthz" => text(StatusCode::OK, "alive\n"),
            "/readyz" => readyz(&(self.readiness)()),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }
}

/// Whether the one `Host` is an IP literal or `localhost`. A name that an attacker controls can
/// be made to resolve to this machine; those can't.
fn names_this_machine(head: &request::Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    head.uri.authority().is_none()
        && host
            .to_str()
            .ok()
            .and_then(|host| Authority::parse(host).ok())
            .is_some_and(|named| named.host.is_ip() || named.host.as_str() == "localhost")
}

fn readyz(readiness: &Readiness) -> Response<Full<Bytes>> {
    #[derive(Serialize)]
    struct Body<'a> {
        ready: bool,
        #[serde(flatten)]
        readiness: &'a Readiness,
    }
    let ready = readiness.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_vec_pretty(&Body { ready, readiness }) {
        Ok(body) => answer(status, "application/json", body.into()),
        Err(error) => {
            tracing::error!(%error, "readiness can't be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "readiness can't be written\n")
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
