use http::HeaderMap;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::pem::testing::{TestCa, read};

type Answer = Response<http_body_util::combinators::BoxBody<Bytes, hyper::Error>>;

/// Sends the body back, and its trailers, and the authority in a header.
async fn echo(request: Request<hyper::body::Incoming>) -> Result<Answer, hyper::Error> {
    let authority = request.uri().to_string();
    let te = request.headers().get("te").cloned();
    let mut answer = Response::new(request.into_body().boxed());
    answer.headers_mut().insert("x-uri", authority.parse().unwrap());
    if let Some(te) = te {
        answer.headers_mut().insert("x-te", te);
    }
    Ok(answer)
}

async fn serve_http2() -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let (listener, address) = listen().await;
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(echo)));
        }
    });
    (address, connections)
}

#[tokio::test]
async fn grpc_trailers_pass_both_ways_over_one_shared_connection() {
    let (address, connections) = serve_http2().await;
    let mut settings = upstream(&[address]);
    settings.protocol = UpstreamProtocol::Http2;
    let pool = pool(settings);
    for _ in 0..3 {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"message"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut outgoing = request("POST").map(|_| body);
        outgoing.headers_mut().insert("te", "trailers".parse().unwrap());
        let response = pool.ask(by(0), outgoing).await.unwrap();
        assert_eq!(response.headers()["x-uri"], "http://public.example/path?query");
        assert_eq!(response.headers()["x-te"], "trailers");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "message");
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

async fn serve_tls(ca: &TestCa, files: &CertificateFiles) -> SocketAddr {
    let (chain, key) = read(files);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let shown = stream.get_ref().1.peer_certificates().is_some();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let answer =
                    format!("HTTP/1.1 200 OK\r\nx-client: {shown}\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.read_u8().await;
            });
        }
    });
    address
}

pub(super) fn with_tls(address: SocketAddr, ca: &TestCa, name: Option<&str>) -> Upstream {
    let mut settings = upstream(&[address]);
    let server_name = name.map(|name| Host::parse(name).unwrap());
    settings.tls = Some(UpstreamTls { ca: Some(ca.file()), server_name, client_certificate: None });
    settings
}

#[tokio::test]
async fn an_upstream_is_verified_by_name_and_shown_our_certificate() {
    let ca = TestCa::new();
    let address = serve_tls(&ca, &ca.issue("server", &["app.internal"])).await;
    let mut settings = with_tls(address, &ca, Some("app.internal"));
    let response = pool(settings.clone()).ask(by(0), request("GET")).await.unwrap();
    assert_eq!(response.headers()["x-client"], "false");
    settings.tls.as_mut().unwrap().client_certificate = Some(ca.issue("gate", &["gate"]));
    let response = pool(settings).ask(by(0), request("GET")).await.unwrap();
    assert_eq!(response.headers()["x-client"], "true");
}

#[tokio::test]
async fn an_expired_foreign_or_misnamed_upstream_is_502() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let expired = serve_tls(&ca, &ca.issue_valid("expired", &["app.internal"], -2, -1)).await;
    let good = serve_tls(&ca, &ca.issue("server", &["app.internal"])).await;
    for settings in [
        with_tls(expired, &ca, Some("app.internal")),
        with_tls(good, &other, Some("app.internal")),
        with_tls(good, &ca, Some("else.internal")),
        with_tls(good, &ca, None),
    ] {
        let error = pool(settings).ask(by(0), request("GET")).await.map(drop).unwrap_err();
        assert_eq!((error.kind(), error.status().as_u16()), ("tls", 502), "{error}");
    }
}
