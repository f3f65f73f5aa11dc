//! Who vouches for a session, beyond the name that the configuration has for it.
//!
//! A name can be given to another provider, or to another client of the same one, whose users are
//! others: a session of the former would then speak for somebody of the latter.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

/// An issuer and the client of it that the gate is, as a number: compared with each request. Both
/// come from the configuration, so nobody can look for two that meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VouchedBy(u64);

impl VouchedBy {
    pub fn new(issuer: &str, client_id: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        // With its length, so that no two pairs run together into the same bytes.
        context.update(&u64::try_from(issuer.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(issuer.as_bytes());
        context.update(client_id.as_bytes());
        let digest = context.finish();
        let first = digest.as_ref().first_chunk::<8>().copied().unwrap_or_default();
        // Zero is nobody: what a record without one is read as.
        Self(u64::from_be_bytes(first).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_issuer_or_another_client_is_another_voucher_and_none_is_nobody() {
        let one = VouchedBy::new("https://a.example", "gate");
        assert_eq!(one, VouchedBy::new("https://a.example", "gate"));
        for (issuer, client) in [
            ("https://a.example/", "gate"),
            ("https://a.example", "other"),
            ("https://a.exampleg", "ate"),
        ] {
            assert_ne!(one, VouchedBy::new(issuer, client), "{issuer} {client}");
        }
        assert_ne!(one, VouchedBy::default());
    }
}
