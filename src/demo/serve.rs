//! A small HTTP server for everything in the demo. It binds the loopback address and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(super) type Reply = Response<Full<Bytes>>;

/// The largest request body that anything in the demo reads, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Answers the requests of one application.
pub(super) trait Handler: Clone + Send + 'static {
    fn handle(self, request: Request<Incoming>) -> impl Future<Output = Reply> + Send;
}

/// Binds a port that the operating system chooses.
pub(super) async fn bind() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Serves plain HTTP until `stop`; connections that are still open are closed then.
pub(super) async fn plain(listener: TcpListener, stop: CancellationToken, handler: impl Handler) {
    accept(listener, stop, move |stream| connection(stream, handler.clone())).await;
}

/// Serves HTTPS until `stop`.
pub(super) async fn tls(
    listener: TcpListener,
    stop: CancellationToken,
    config: Arc<rustls::ServerConfig>,
    handler: impl Handler,
) {
    let acceptor = TlsAcceptor::from(config);
    accept(listener, stop, move |stream| {
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        async move {
            let handshake =
                tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await;
            if let Ok(Ok(stream)) = handshake {
                connection(stream, handler).await;
            }
        }
    })
    .await;
}

/// Runs `serve` for every connection until `stop`.
pub(super) async fn accept<F>(
    listener: TcpListener,
    stop: CancellationToken,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream));
                }
                // Out of file descriptors, most likely: let some connections end first.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

async fn connection<S>(stream: S, handler: impl Handler)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request).await) }
    });
    // An error here is a client that went away.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// The whole body, or `None` when it is too large or breaks off.
pub(super) async fn body(incoming: Incoming) -> Option<Bytes> {
    let collected = Limited::new(incoming, MAX_BODY).collect().await.ok()?;
    Some(collected.to_bytes())
}

pub(super) fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

pub(super) fn html(status: StatusCode, page: String) -> Reply {
    reply(status, "text/html; charset=utf-8", page)
}

pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Reply {
    reply(status, "application/json", value.to_string())
}

/// A request header as text.
pub(super) fn header<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// 256 random bits, in base64url.
pub(super) fn random_token() -> Option<String> {
    use base64::Engine as _;
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}
