//! A client's certificate as the gate reads it (`pem`, `posture`).

use std::cell::LazyCell;

use wicketgate::domain::canonical::Host;
use wicketgate::domain::clock::Timestamp;
use wicketgate::pem::CertificateFacts;
use wicketgate::posture::Registry;

use super::site;

const DEVICES: &[u8] = b"devices:\n  - id: one\n    certificate: {common_name: a.example}\n";

thread_local! {
    static REGISTRY: LazyCell<Registry> = LazyCell::new(|| {
        site::with_file(DEVICES, |path| Registry::load(path).expect("a good registry"))
    });
}

pub fn run(data: &[u8]) {
    let now = Timestamp::from_seconds(1_800_000_000);
    if let Some(facts) = CertificateFacts::of(data) {
        assert!(!facts.names.iter().any(|name| name.bytes().any(|byte| byte.is_ascii_uppercase())));
        let _ = facts.is_current(now);
        let host = Host::parse("a.example").expect("a plain name");
        let named = facts.names.iter().any(|name| name == "a.example" || name == "*.example");
        assert_eq!(facts.covers(&host), named, "{:?}", facts.names);
    }
    REGISTRY.with(|registry| {
        let _ = registry.identify(Some(data), now);
    });
}
