//! Which cipher suite a connection gets.
//!
//! AES-128 goes before AES-256: nothing known breaks either, and the suites of AES-256 come with
//! SHA-384, whose key schedule is a sixth of what a handshake costs the server. Whoever offers
//! AES-256 alone is served with it.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedCipherSuite};

/// The suites of rustls in the server's order.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    // Keeps its order otherwise: TLS 1.3 before 1.2.
    provider.cipher_suites.sort_by_key(|suite| (is_tls12(suite), rank(suite.suite())));
    provider
}

/// Whether the server's order counts. A client that would rather have ChaCha20 than AES has no AES
/// in its processor.
pub(super) fn is_servers_choice(offered: &[CipherSuite]) -> bool {
    let known = |suite: &&CipherSuite| rank(**suite) != Rank::Other;
    offered.iter().find(known).is_none_or(|first| rank(*first) != Rank::ChaCha20)
}

fn is_tls12(suite: &SupportedCipherSuite) -> bool {
    suite.tls13().is_none()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Aes128,
    Aes256,
    ChaCha20,
    /// Not served, GREASE among them (RFC 8701).
    Other,
}

fn rank(suite: CipherSuite) -> Rank {
    use CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Rank::Aes128,
        S::TLS13_AES_256_GCM_SHA384
        | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Rank::Aes256,
        S::TLS13_CHACHA20_POLY1305_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Rank::ChaCha20,
        _ => Rank::Other,
    }
}
