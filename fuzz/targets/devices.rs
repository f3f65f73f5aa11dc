//! The file of known devices (`posture`).

use wicketgate::posture::Registry;

use super::{config, site};

pub fn run(data: &[u8]) {
    site::with_file(data, |path| {
        if let Err(findings) = Registry::load(path) {
            assert!(!findings.is_empty(), "a refusal says why");
            config::check(&findings);
        }
    });
}
