//! The configuration file (`config::load`) and, below it, the YAML reader.

use std::path::Path;

use wicketgate::config::finding::{Finding, Severity};
use wicketgate::config::{self, yaml};

use super::site;

pub const WORDS: &[&[u8]] = &[
    b": ",
    b"- ",
    b"\n",
    b"\n  ",
    b"\n    ",
    b"[",
    b"]",
    b"{",
    b"}",
    b", ",
    b"&a ",
    b"*a",
    b"!!int ",
    b"---\n",
    b"...\n",
    b"%YAML 1.2\n",
    b"|",
    b">-",
    b"'",
    b"\"",
    b"\\u0000",
    b"\\",
    b"#",
    b"? ",
    b"~",
    b"null",
    b"true",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\t",
    b"\r",
    b"<<: ",
    b"name",
    b"listeners:",
    b"routes:",
    b"file:private",
    b"env:PATH",
    b"file",
    b"folder",
    b"10MiB",
    b"30s",
    b"18446744073709551616",
    b"-1",
    b"0",
    b"1e9",
    b".",
    b"[::]:443",
    b"https://a.example:1",
    b"limits:",
    b"health_check:",
    b"timeouts:",
    b"session:",
    b"credential:",
    b"devices:",
    b"posture:",
    b"certificate:",
    b"client_crl:",
    b"ticket_keys:",
    b"proxy_protocol:",
    b"trusted_proxies:",
    b"allow_from:",
    b"192.0.2.0/24",
    b"2001:db8::/32",
    b"rate_limits:",
    b"per: ",
    b"websocket_limits:",
    b"max_in_flight:",
    b"max_upstream_in_flight:",
    b"outlier_detection:",
    b"retry_budget:",
    b"slow_start:",
    b"selection: sticky",
    b"authentication:",
    b"bearer",
    b"step_up:",
    b"refresh:",
    b"cross_site_origins:",
    b"upstream_token:",
    b"applications:",
    b"redis:",
    b"sentinel:",
];

pub fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = yaml::parse(Path::new("fuzzed.yaml"), text);
    }
    site::with_file(data, |path| match config::load(path) {
        Ok((_, findings)) => {
            assert!(findings.iter().all(|finding| finding.severity != Severity::Error));
            check(&findings);
        }
        Err(findings) => {
            assert!(findings.iter().any(|finding| finding.severity == Severity::Error));
            check(&findings);
        }
    });
}

/// A finding is one line of bounded length without anything that a terminal would act on.
pub fn check(findings: &[Finding]) {
    for finding in findings {
        let said = finding.to_string();
        let plain = said.chars().all(|letter| letter == '\n' || !letter.is_control());
        assert!(plain, "{said:?}");
        assert!(said.len() < 4096, "{said:?}");
        assert!(!said.contains("hunter2"), "{said:?}");
    }
}
