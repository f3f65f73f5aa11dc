//! Which suite wins, for clients that offer theirs in one order or another.

use rustls::CipherSuite as S;

use super::*;

/// A client that offers these, in this order.
fn client_of(ca: &TestCa, offered: &[S]) -> Arc<ClientConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let all = std::mem::take(&mut provider.cipher_suites);
    let find = |wanted: &S| all.iter().find(|suite| suite.suite() == *wanted).copied();
    provider.cipher_suites = offered.iter().filter_map(find).collect();
    Arc::new(
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore { roots: client_roots(ca) })
            .with_no_client_auth(),
    )
}

#[tokio::test]
async fn aes_128_is_chosen_unless_the_client_has_a_reason() {
    const AES_128: S = S::TLS13_AES_128_GCM_SHA256;
    const AES_256: S = S::TLS13_AES_256_GCM_SHA384;
    const CHACHA: S = S::TLS13_CHACHA20_POLY1305_SHA256;
    const OLD_128: S = S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    const OLD_256: S = S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    const OLD_CHACHA: S = S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    let ca = TestCa::new();
    let acceptor = acceptor(load(vec![ca.issue("one", &["a.example"])], None));
    for (offered, expected) in [
        (&[AES_256, CHACHA, AES_128][..], AES_128),
        (&[AES_128, AES_256], AES_128),
        (&[CHACHA, AES_256, AES_128], CHACHA),
        (&[AES_256, CHACHA], AES_256),
        (&[AES_256], AES_256),
        (&[OLD_256, OLD_CHACHA, OLD_128], OLD_128),
        (&[OLD_CHACHA, OLD_128], OLD_CHACHA),
        (&[OLD_256], OLD_256),
        (&[OLD_128, AES_256], AES_256),
    ] {
        let seen = shake(&acceptor, &client_of(&ca, offered), "a.example").await;
        assert_eq!(seen.suite, Some(expected), "{offered:?}");
    }
}
