//! Real sockets: servers of a few hand-written bytes for misbehaviour, hyper for the rest.

mod answers;
mod ejection;
mod health;
mod http2;
mod opening;
mod retries;
mod selection;
mod sticky;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt as _, Empty, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::model::*;
use crate::domain::canonical::Host;
use crate::domain::id::SessionId;
use crate::metrics::Metrics;

fn endpoint(address: SocketAddr) -> Endpoint {
    let host = Host::parse(&address.ip().to_string()).unwrap();
    Endpoint { host, port: address.port(), weight: 1 }
}

fn upstream(addresses: &[SocketAddr]) -> Upstream {
    Upstream {
        endpoints: addresses.iter().copied().map(endpoint).collect(),
        selection: Selection::RoundRobin,
        protocol: UpstreamProtocol::Http1,
        tls: None,
        credential: None,
        host: UpstreamHost::Preserve,
        health: None,
        outliers: Some(OutlierDetection::default()),
        slow_start: None,
        retries: RetryBudget::default(),
        connect_timeout: Duration::from_secs(10),
        response_timeout: Duration::from_secs(20),
        idle_timeout: Duration::from_secs(20),
        max_idle: 4,
    }
}

fn route(upstream: Upstream) -> Arc<Route> {
    let application = Application {
        name: "app".into(),
        display_name: "App".into(),
        zone: None,
        tenant: None,
        identity_providers: None,
        session: None,
    };
    Arc::new(Route {
        name: "route".into(),
        host: Host::parse("public.example").unwrap(),
        path: "/".into(),
        application: Arc::new(application),
        accepted: crate::config::model::Accepted::default(),
        allow_from: None,
        tenant: None,
        identity_providers: None,
        upstream,
        max_body_bytes: 1024 * 1024,
        websocket: true,
        path_parameters: false,
        audit: AuditDurability::Buffered,
        refuse_cross_site: true,
        cross_site_origins: Vec::new(),
        response: ResponseRewrite { location: true, cookie_domain: true },
        bounds: RouteBounds::default(),
    })
}

fn pool(upstream: Upstream) -> Arc<Pool> {
    Pool::new(&route(upstream), 2, &Metrics::new()).unwrap()
}

/// The caller of a worker, always the same session of the same user.
fn by(worker: usize) -> Caller<'static> {
    Caller { worker, session: SessionId([7; 32]), principal: "test/vera" }
}

impl Pool {
    async fn ask(
        &self,
        caller: Caller<'_>,
        request: Request<impl Body<Data = Bytes, Error: Into<body::BoxError>> + Send + 'static>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let (head, body) = request.into_parts();
        self.send(caller, Box::new(head), body).await.map(|response| *response)
    }
}

fn request(method: &str) -> Request<Empty<Bytes>> {
    let request =
        Request::builder().method(method).uri("/path?query").header("host", "public.example");
    request.body(Empty::new()).unwrap()
}

async fn text(response: Response<UpstreamBody>) -> Result<String, UpstreamError> {
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address on which nothing listens.
async fn nowhere() -> SocketAddr {
    listen().await.1
}

/// Reads one request without a body; `None` at the end of the connection.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Answers every request on every connection with these bytes, and closes the connection after
/// that many requests. Counts connections.
async fn scripted(
    answer: &'static str,
    requests: usize,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (listener, address) = listen().await;
    let (heads, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            number += 1;
            let heads = heads.clone();
            tokio::spawn(async move {
                for _ in 0..requests {
                    let Some(head) = read_head(&mut stream).await else { return };
                    let _ = heads.send(format!("{number} {head}"));
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

/// Lets the connection's own task see what the socket has for it.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the condition never came true");
}
