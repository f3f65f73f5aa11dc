//! What holds for every key and every input.

use proptest::prelude::*;

use super::*;
use crate::config::reference::KEYS;

fn depth(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '-']).len()
}

/// The full example, and what can't stand in it beside the rest.
fn samples() -> Vec<String> {
    let of_redis = [
        "
    sentinel:
      master: gates
      nodes: [rediss://a]
      username: asker
      password: file:private
    username: gate
    password: file:private
    database: 4
    ca: file
    client_certificate:
      certificate: file
      key: private
    key_prefix: a
    timeout: 1s
    allow_plaintext: true
  lease: 1s",
        "\n    url: rediss://a",
        "\n    cluster: [rediss://a]",
    ];
    let embedded = "store:\n  path: store.redb";
    assert!(FULL.contains(embedded));
    let shared = of_redis.map(|keys| FULL.replace(embedded, &format!("store:\n  redis:{keys}")));
    [FULL.to_owned()].into_iter().chain(shared).collect()
}

/// The line of a sample that sets `path`, found by indentation.
fn line_of(sample: &str, path: &str) -> Option<usize> {
    let lines: Vec<&str> = sample.lines().collect();
    let mut found = None;
    for part in path.split('.') {
        let from = found.map_or(0, |parent| parent + 1);
        let own = depth(lines.get(from)?);
        let key = format!("{}:", part.trim_end_matches("[]"));
        let sets = |line: &&str| {
            depth(line) == own && line.get(own..).is_some_and(|rest| rest.starts_with(&key))
        };
        found = Some(from + lines.iter().skip(from).position(sets)?);
    }
    found
}

#[test]
fn every_documented_key_is_read() {
    let samples = samples();
    for key in KEYS {
        let (sample, at) = samples
            .iter()
            .find_map(|sample| Some((sample, line_of(sample, key.path)?)))
            .unwrap_or_else(|| panic!("{} is not in full.yaml", key.path));
        // Everything below the key is replaced by a list that holds a map: no key takes that.
        let mut lines: Vec<String> = sample.lines().map(str::to_owned).collect();
        let own = depth(&lines[at]);
        while lines.get(at + 1).is_some_and(|line| depth(line) > own) {
            lines.remove(at + 1);
        }
        let name = lines[at].split(':').next().unwrap().to_owned();
        lines[at] = format!("{name}: [[{{nonsense: 1}}]]");
        let site = Site::with(&lines.join("\n"));
        let findings = site.load().err().unwrap_or_else(|| panic!("{} is not read", key.path));
        let last = key.path.rsplit('.').next().unwrap();
        let hit = findings.iter().any(|finding| {
            finding.path.as_deref().is_some_and(|path| path.contains(last))
                && finding.line == u32::try_from(at + 1).ok()
        });
        assert!(hit, "{}: {}", key.path, site.said().join("\n"));
    }
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0..6_u8, any::<u8>(), 0..40_usize);
    (prop::bool::ANY, prop::collection::vec(edit, 1..8)).prop_map(|(full, edits)| {
        let mut bytes = if full { FULL } else { MINIMAL }.as_bytes().to_vec();
        for (index, kind, byte, length) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            let end = (at + length).min(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.drain(at..end)),
                3 => bytes.truncate(at),
                4 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                _ => {
                    let special = b":-[]{}&*!|>'\"%@`#,?\n \t";
                    bytes.insert(at, special[usize::from(byte) % special.len()]);
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_input_panics_and_a_refusal_always_says_why(bytes in mutated()) {
        let site = Site::with("");
        fs::write(site.file(), &bytes).unwrap();
        if let Err(findings) = site.load() {
            prop_assert!(finding::has_errors(&findings));
            for finding in findings {
                prop_assert!(!finding.to_string().contains("hunter2"));
                prop_assert!(!finding.cause.chars().any(char::is_control), "{finding:?}");
            }
        }
    }
}
