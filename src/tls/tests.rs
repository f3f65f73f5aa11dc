use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;

mod dates;
mod last_flight;
mod resumption;
mod suites;

use crate::config::finding::{Finding, Severity};
use crate::config::model::{CertificateFiles, ListenerTls, TlsVersion};
use crate::domain::canonical::Host;
use crate::domain::clock::Clock;
use crate::pem::testing::{TestCa, read};

const PATIENCE: Duration = Duration::from_secs(20);

fn listener(certificates: Vec<CertificateFiles>, client_ca: Option<&TestCa>) -> ListenerTls {
    let client_ca = client_ca.map(TestCa::file);
    let minimum_version = TlsVersion::Tls12;
    ListenerTls { certificates, client_ca, client_crl: None, minimum_version, ticket_keys: None }
}

fn acceptor(tls: ServerTls) -> Acceptor {
    Acceptor::new("public".into(), tls, own(&Clock::System))
}

fn own(clock: &Clock) -> Arc<OwnSecret> {
    Arc::new(OwnSecret::new(clock.clone()).unwrap())
}

fn load(certificates: Vec<CertificateFiles>, client_ca: Option<&TestCa>) -> ServerTls {
    ServerTls::load(&listener(certificates, client_ca), &Clock::System).unwrap()
}

fn findings(tls: &ListenerTls) -> Vec<Finding> {
    ServerTls::load(tls, &Clock::System).unwrap_err()
}

fn client(ca: &TestCa, device: Option<&CertificateFiles>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots);
    let mut config = match device {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = read(files);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// What both sides saw of one handshake.
struct Seen {
    server: Result<TlsFacts, TlsError>,
    client: Result<CertificateDer<'static>, std::io::Error>,
    key_exchange: Option<rustls::NamedGroup>,
    suite: Option<rustls::CipherSuite>,
}

async fn shake(acceptor: &Acceptor, config: &Arc<ClientConfig>, name: &str) -> Seen {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let server = async {
        let (stream, _) = socket.accept().await.unwrap();
        let (mut stream, facts) = acceptor.accept(stream, PATIENCE, &Turns::default()).await?;
        // The byte after the handshake brings the tickets to the client.
        let _ = stream.write_all(b"!").await;
        let _ = stream.shutdown().await;
        Ok(facts)
    };
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        stream.read_u8().await?;
        let connection = stream.get_ref().1;
        let certificate = connection.peer_certificates().unwrap()[0].clone();
        let group = connection.negotiated_key_exchange_group().map(|group| group.name());
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        Ok::<_, std::io::Error>((certificate, group, suite))
    };
    let (server, client) = tokio::join!(server, client);
    let key_exchange = client.as_ref().ok().and_then(|(_, group, _)| *group);
    let suite = client.as_ref().ok().and_then(|(_, _, suite)| *suite);
    Seen { server, client: client.map(|(certificate, ..)| certificate), key_exchange, suite }
}

fn first_of(files: &CertificateFiles) -> CertificateDer<'static> {
    read(files).0.remove(0)
}

#[tokio::test]
async fn each_name_is_served_its_own_certificate() {
    let ca = TestCa::new();
    let one = ca.issue("one", &["a.example", "127.0.0.1"]);
    let two = ca.issue("two", &["*.b.example", "a.example"]);
    let three = ca.issue("three", &["exact.b.example"]);
    let acceptor = acceptor(load(vec![one.clone(), two.clone(), three.clone()], None));
    let config = client(&ca, None);
    for (name, files) in [
        ("a.example", &one),
        ("A.EXAMPLE", &one),
        ("x.b.example", &two),
        ("exact.b.example", &three),
        // An address is never sent as SNI.
        ("127.0.0.1", &one),
    ] {
        let seen = shake(&acceptor, &config, name).await;
        assert_eq!(seen.client.unwrap(), first_of(files), "{name}");
        let facts = seen.server.unwrap();
        let expected = (name != "127.0.0.1").then(|| Host::parse(name).unwrap());
        assert_eq!(facts.server_name, expected);
        assert_eq!((facts.alpn, facts.version), (Alpn::Http2, "1.3"));
        assert_eq!(seen.key_exchange, Some(rustls::NamedGroup::X25519MLKEM768));
    }
}

#[tokio::test]
async fn an_unknown_name_gets_an_alert_and_no_certificate() {
    let ca = TestCa::new();
    let acceptor = acceptor(load(vec![ca.issue("one", &["a.example", "*.b.example"])], None));
    for name in ["other.example", "b.example", "x.y.b.example"] {
        let seen = shake(&acceptor, &client(&ca, None), name).await;
        assert!(matches!(seen.server, Err(TlsError::UnknownName)), "{name}");
        let error = seen.client.unwrap_err().to_string();
        assert!(error.contains("UnrecognisedName"), "{error}");
    }
}

#[tokio::test]
async fn the_server_name_is_read_from_a_hello_that_comes_byte_by_byte() {
    let ca = TestCa::new();
    let one = ca.issue("one", &["a.example"]);
    let two = ca.issue("two", &["b.example"]);
    let acceptor = acceptor(load(vec![one, two.clone()], None));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let mut tls = rustls::ClientConnection::new(
        client(&ca, None),
        ServerName::try_from("b.example").unwrap(),
    )
    .unwrap();
    let mut hello = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut hello).unwrap();
    }
    // Beside the single bytes, the hello spans two TLS records (CVE-2026-32305).
    let body = hello.split_off(5);
    let (start, end) = body.split_at(40);
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], length.as_slice(), part].concat()
    };
    let bytes = [record(start), record(end)].concat();
    let (mut read, mut write) = tcp.into_split();
    let send = async {
        for byte in bytes {
            write.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 1];
        read.read_exact(&mut answer).await.unwrap();
        // A handshake record, not an alert.
        assert_eq!(answer, [22]);
        drop((read, write));
    };
    let accept = async {
        let (stream, _) = socket.accept().await.unwrap();
        acceptor.accept(stream, PATIENCE, &Turns::default()).await
    };
    let (_, result) = tokio::join!(send, accept);
    // The client hung up in the middle, after the server had found its certificate.
    assert!(matches!(result, Err(TlsError::Closed | TlsError::Io(_))), "{result:?}");
}

#[tokio::test]
async fn a_handshake_that_trickles_ends_at_its_deadline() {
    let ca = TestCa::new();
    let acceptor = acceptor(load(vec![ca.issue("one", &["a.example"])], None));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    client.write_all(&[22, 3]).await.unwrap();
    let (stream, _) = socket.accept().await.unwrap();
    let result = acceptor.accept(stream, Duration::from_millis(50), &Turns::default()).await;
    assert!(matches!(result, Err(TlsError::Timeout)));
}

#[tokio::test]
async fn a_handshake_waits_for_its_turn_and_gives_it_back() {
    let ca = TestCa::new();
    let acceptor = acceptor(load(vec![ca.issue("one", &["a.example"])], None));
    let turns = Turns::default();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    for is_taken in [true, false, false] {
        let all = if is_taken { 4 } else { 0 };
        let taken = turns.0.acquire_many(all).await.unwrap();
        let client = async {
            let name = ServerName::try_from("a.example").unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            TlsConnector::from(client(&ca, None)).connect(name, stream).await
        };
        let server = async {
            let (stream, _) = socket.accept().await.unwrap();
            let patience = if is_taken { Duration::from_millis(100) } else { PATIENCE };
            acceptor.accept(stream, patience, &turns).await
        };
        let (server, _) = tokio::join!(server, client);
        assert_eq!(matches!(server, Err(TlsError::Timeout)), is_taken, "{server:?}");
        drop(taken);
        assert_eq!(turns.0.available_permits(), 4);
    }
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let ca = TestCa::new();
    let acceptor = acceptor(load(vec![ca.issue("one", &["a.example"])], None));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    let (stream, _) = socket.accept().await.unwrap();
    let error = acceptor.accept(stream, PATIENCE, &Turns::default()).await.unwrap_err();
    assert_eq!(error.kind(), "protocol");
}

#[tokio::test]
async fn a_device_certificate_is_a_fact_only_when_the_device_ca_issued_it() {
    let (ca, devices, strangers) = (TestCa::new(), TestCa::new(), TestCa::new());
    let server = ca.issue("server", &["a.example"]);
    let acceptor = acceptor(load(vec![server], Some(&devices)));
    let device = devices.issue("device", &["device-1"]);

    let seen = shake(&acceptor, &client(&ca, Some(&device)), "a.example").await;
    let expected = first_of(&device);
    assert_eq!(seen.server.unwrap().client_certificate.as_deref(), Some(expected.as_ref()));

    // Without a certificate the connection is fine; policies decide.
    let seen = shake(&acceptor, &client(&ca, None), "a.example").await;
    assert_eq!(seen.server.unwrap().client_certificate, None);

    for bad in [
        strangers.issue("stranger", &["device-1"]),
        devices.issue_valid("expired", &["device-1"], -2, -1),
        devices.issue_valid("future", &["device-1"], 1, 2),
    ] {
        let seen = shake(&acceptor, &client(&ca, Some(&bad)), "a.example").await;
        let error = seen.server.unwrap_err();
        // rustls clients don't offer what the server's CA list excludes, so a stranger comes
        // without a certificate only where the client is honest about it.
        assert_eq!(error.kind(), "client_certificate", "{error}");
        assert!(seen.client.is_err());
    }
}

#[tokio::test]
async fn sessions_resume_across_a_reload_with_the_device_still_known() {
    let (ca, devices) = (TestCa::new(), TestCa::new());
    let server = ca.issue("server", &["a.example"]);
    let acceptor = acceptor(load(vec![server.clone()], Some(&devices)));
    let device = devices.issue("device", &["device-1"]);
    let config = client(&ca, Some(&device));

    let first = shake(&acceptor, &config, "a.example").await.server.unwrap();
    assert!(!first.resumed);
    acceptor.replace(load(vec![server], Some(&devices)));
    let second = shake(&acceptor, &config, "a.example").await.server.unwrap();
    assert!(second.resumed);
    assert_eq!(second.client_certificate, first.client_certificate);
    assert!(second.client_certificate.is_some());
}

#[tokio::test]
async fn a_session_does_not_outlive_the_device_ca_that_it_was_begun_under() {
    let (ca, old, new) = (TestCa::new(), TestCa::new(), TestCa::new());
    let server = ca.issue("server", &["a.example"]);
    let acceptor = acceptor(load(vec![server.clone()], Some(&old)));
    let device = old.issue("device", &["device-1"]);
    let config = client(&ca, Some(&device));
    shake(&acceptor, &config, "a.example").await.server.unwrap();

    acceptor.replace(load(vec![server.clone()], Some(&new)));
    let seen = shake(&acceptor, &config, "a.example").await.server;
    assert!(!seen.is_ok_and(|facts| facts.resumed || facts.client_certificate.is_some()));

    acceptor.replace(load(vec![server], None));
    let seen = shake(&acceptor, &config, "a.example").await.server.unwrap();
    assert!(!seen.resumed && seen.client_certificate.is_none());
}

#[tokio::test]
async fn a_renewed_certificate_is_served_to_the_next_client() {
    let ca = TestCa::new();
    let acceptor = acceptor(load(vec![ca.issue("old", &["a.example"])], None));
    let new = ca.issue("new", &["a.example"]);
    acceptor.replace(load(vec![new.clone()], None));
    let seen = shake(&acceptor, &client(&ca, None), "a.example").await;
    assert_eq!(seen.client.unwrap(), first_of(&new));
}

#[tokio::test]
async fn tls_1_2_is_spoken_unless_the_listener_wants_more() {
    let ca = TestCa::new();
    let mut settings = listener(vec![ca.issue("one", &["a.example"])], None);
    let mut config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS12])
    .unwrap()
    .with_root_certificates(RootCertStore { roots: client_roots(&ca) })
    .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);

    let acceptor = acceptor(ServerTls::load(&settings, &Clock::System).unwrap());
    let facts = shake(&acceptor, &config, "a.example").await.server.unwrap();
    assert_eq!((facts.version, facts.alpn), ("1.2", Alpn::Http1));
    let facts = shake(&acceptor, &config, "a.example").await.server.unwrap();
    assert!(facts.resumed);

    settings.minimum_version = TlsVersion::Tls13;
    acceptor.replace(ServerTls::load(&settings, &Clock::System).unwrap());
    let seen = shake(&acceptor, &config, "a.example").await;
    assert_eq!(seen.server.unwrap_err().kind(), "protocol");
    let error = seen.client.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
}

fn client_roots(ca: &TestCa) -> Vec<rustls_pki_types::TrustAnchor<'static>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    roots.roots
}

#[test]
fn every_problem_of_a_listener_is_reported_at_once() {
    let ca = TestCa::new();
    let (one, two) = (ca.issue("one", &["a.example"]), ca.issue("two", &["b.example"]));
    let open = ca.issue("open", &["c.example"]);
    fs::set_permissions(&open.key, fs::Permissions::from_mode(0o644)).unwrap();
    let swapped = CertificateFiles { certificate: one.certificate, key: two.key };
    let missing = CertificateFiles { certificate: ca.path("no.pem"), key: ca.path("no.key") };
    let mut settings = listener(vec![swapped.clone(), open.clone(), missing.clone()], None);
    settings.client_ca = Some(ca.path("no-ca.pem"));

    let found = findings(&settings);
    let causes: Vec<_> = found.iter().map(|finding| (&finding.file, &*finding.cause)).collect();
    assert_eq!(found.len(), 5, "{causes:?}");
    let cause = |file: &std::path::Path| {
        causes.iter().find(|(found, _)| *found == file).map(|(_, cause)| *cause).unwrap()
    };
    assert!(cause(&swapped.key).contains("does not belong to the certificate"));
    assert!(cause(&open.key).contains("read by everyone"));
    assert!(cause(&missing.certificate).contains("can't be read"));
    assert!(cause(&missing.key).contains("can't be read"));
    assert!(cause(&ca.path("no-ca.pem")).contains("can't be read"));
    assert!(found.iter().all(|finding| finding.hint.is_some()));
    assert!(!findings(&listener(vec![], None)).is_empty());
}

/// The script that the documentation tells people to run.
#[tokio::test]
async fn what_certs_generate_makes_serves_and_verifies() {
    let folder = tempfile::TempDir::new().unwrap();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/generate");
    let run = |names: &[&str]| {
        let status = std::process::Command::new(&script)
            .arg("-o")
            .arg(folder.path())
            .args(names)
            .stdout(std::process::Stdio::null())
            .status();
        status.unwrap().success()
    };
    assert!(run(&["portal.example", "*.apps.example", "127.0.0.1"]));
    assert!(!run(&["not a name"]));
    let file = |name: &str| folder.path().join(name);
    for key in ["ca.key", "device-ca.key", "server.key", "device-1.key"] {
        let mode = fs::metadata(file(key)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{key}");
    }
    let pair = |name: &str| CertificateFiles {
        certificate: file(&format!("{name}.pem")),
        key: file(&format!("{name}.key")),
    };
    let settings = ListenerTls {
        certificates: vec![pair("server")],
        client_crl: None,
        client_ca: Some(file("device-ca.pem")),
        minimum_version: TlsVersion::Tls13,
        ticket_keys: None,
    };
    let tls = ServerTls::load(&settings, &Clock::System).unwrap();
    assert_eq!(tls.warnings(), []);
    assert!(tls.covers(&Host::parse("x.apps.example").unwrap()));
    let acceptor = acceptor(tls);
    let mut roots = RootCertStore::empty();
    roots.add(crate::pem::certificates(&file("ca.pem")).unwrap().remove(0)).unwrap();
    let (chain, key) = read(&pair("device-1"));
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_client_auth_cert(chain, key)
    .unwrap();
    let seen = shake(&acceptor, &Arc::new(config), "portal.example").await;
    assert!(seen.server.unwrap().client_certificate.is_some());
    seen.client.unwrap();
}
