//! A resumed session is checked like a new one.

use super::*;
use crate::domain::clock::Timestamp;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn with_secrets(mut listener: ListenerTls, ca: &TestCa) -> ListenerTls {
    let path = ca.path("ticket.keys");
    fs::write(&path, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    listener.ticket_keys = Some(path);
    listener
}

fn now() -> Timestamp {
    Clock::System.now()
}

#[tokio::test]
async fn two_gates_with_one_secret_resume_each_others_sessions_in_both_versions() {
    let (ca, devices) = (TestCa::new(), TestCa::new());
    let server = ca.issue("server", &["a.example"]);
    let settings = with_secrets(listener(vec![server], Some(&devices)), &ca);
    let device = devices.issue("device", &["device-1"]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (chain, key) = read(&device);
        let config = ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(RootCertStore { roots: client_roots(&ca) })
        .with_client_auth_cert(chain, key)
        .unwrap();
        let config = Arc::new(config);
        let (one, two) = (load_gate(&settings), load_gate(&settings));
        let first = shake(&one, &config, "a.example").await.server.unwrap();
        assert!(!first.resumed && first.client_certificate.is_some());
        for gate in [&two, &one, &two] {
            let again = shake(gate, &config, "a.example").await.server.unwrap();
            assert!(again.resumed, "{version:?}");
            assert_eq!(again.client_certificate, first.client_certificate);
        }
        // The same secret and name, another listener.
        let other = ServerTls::load(&settings, &Clock::System).unwrap();
        let other = Acceptor::new("other".into(), other, own(&Clock::System));
        assert!(!shake(&other, &config, "a.example").await.server.unwrap().resumed);
    }
}

fn load_gate(settings: &ListenerTls) -> Acceptor {
    acceptor(ServerTls::load(settings, &Clock::System).unwrap())
}

#[tokio::test]
async fn a_session_is_not_resumed_under_another_name() {
    let ca = TestCa::new();
    let server = ca.issue("server", &["a.example", "b.example"]);
    let gate = load_gate(&with_secrets(listener(vec![server], None), &ca));
    let config = client(&ca, None);
    shake(&gate, &config, "a.example").await.server.unwrap();
    // What a client that mixes the two up would send: the one name's ticket with the other name.
    let mut mixed = (*config).clone();
    mixed.resumption = rustls::client::Resumption::store(Arc::new(AnyName(
        rustls::client::ClientSessionMemoryCache::new(8),
    )));
    let mixed = Arc::new(mixed);
    assert!(!shake(&gate, &mixed, "a.example").await.server.unwrap().resumed);
    assert!(shake(&gate, &mixed, "a.example").await.server.unwrap().resumed);
    assert!(!shake(&gate, &mixed, "b.example").await.server.unwrap().resumed);
}

/// A client's sessions, without the names that they are for.
#[derive(Debug)]
struct AnyName(rustls::client::ClientSessionMemoryCache);

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};

impl ClientSessionStore for AnyName {
    fn set_kx_hint(&self, _: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(any(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(&any())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(any(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&any())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&any());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(any(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&any())
    }
}

fn any() -> ServerName<'static> {
    ServerName::try_from("any.example").unwrap()
}

#[tokio::test]
async fn a_certificate_that_expired_since_is_not_accepted_by_resumption() {
    let (ca, devices) = (TestCa::new(), TestCa::new());
    let server = ca.issue("server", &["a.example"]);
    let clock = Clock::manual(now());
    let tls = load(vec![server], Some(&devices));
    let gate = Acceptor::new("public".into(), tls, own(&clock));
    let utc = time::OffsetDateTime::now_utc();
    let (from, to) = (utc - time::Duration::HOUR, utc + time::Duration::HOUR * 2);
    let device = devices.issue_between("device", &["device-1"], from, to);
    let config = client(&ca, Some(&device));
    shake(&gate, &config, "a.example").await.server.unwrap();
    clock.advance(HOUR);
    assert!(shake(&gate, &config, "a.example").await.server.unwrap().resumed);
    clock.advance(2 * HOUR);
    let error = shake(&gate, &config, "a.example").await.server.unwrap_err();
    assert!(
        matches!(&error, TlsError::ClientCertificate(why) if why.contains("xpired")),
        "{error}"
    );
}

#[tokio::test]
async fn nothing_can_be_sent_before_the_handshake_is_over() {
    let ca = TestCa::new();
    let gate = load_gate(&with_secrets(listener(vec![ca.issue("s", &["a.example"])], None), &ca));
    let mut config = (*client(&ca, None)).clone();
    config.enable_early_data = true;
    let config = Arc::new(config);
    shake(&gate, &config, "a.example").await.server.unwrap();
    assert!(shake(&gate, &config, "a.example").await.server.unwrap().resumed);
    let name = ServerName::try_from("a.example").unwrap();
    let mut early = rustls::ClientConnection::new(config, name).unwrap();
    assert!(early.early_data().is_none(), "the ticket allows none");
}

#[test]
fn a_file_of_secrets_that_is_broken_is_a_finding_of_the_listener() {
    let ca = TestCa::new();
    let settings = with_secrets(listener(vec![ca.issue("s", &["a.example"])], None), &ca);
    let path = settings.ticket_keys.clone().unwrap();
    fs::write(&path, "c2hvcnQ=\n").unwrap();
    let found = findings(&settings);
    assert_eq!((found.len(), found[0].line, &found[0].file), (1, Some(1), &path));
}
