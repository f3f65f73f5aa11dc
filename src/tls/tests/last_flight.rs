//! What a handshake writes last, for clients that wait for it.

use super::*;

/// Over TLS 1.2 the gate has the last word of a full handshake, and the client that of a resumed one
/// (RFC 5246, section 7.3; RFC 5077, section 3.4).
#[tokio::test]
async fn a_tls_1_2_client_has_the_whole_handshake_before_anybody_says_a_word() {
    let ca = TestCa::new();
    let acceptor = acceptor(load(vec![ca.issue("one", &["a.example"])], None));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore { roots: client_roots(&ca) })
        .with_no_client_auth();
    let config = Arc::new(config);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for resumed in [false, true, true] {
        let turns = Turns::default();
        let server = async {
            let (stream, _) = socket.accept().await.unwrap();
            acceptor.accept(stream, PATIENCE, &turns).await.unwrap()
        };
        let client = async {
            let stream = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
            let name = ServerName::try_from("a.example").unwrap();
            TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.unwrap()
        };
        // What either has is neither read nor written until both are through.
        let both = async { tokio::join!(server, client) };
        let ((_, facts), _) = tokio::time::timeout(PATIENCE, both).await.expect("both ends");
        assert_eq!((facts.version, facts.resumed), ("1.2", resumed));
    }
}
