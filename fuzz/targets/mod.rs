//! What is fuzzed: one plain function for each parser of bytes that somebody else wrote.
//!
//! A target panics when a property doesn't hold, and that alone is a finding. libFuzzer's entries
//! (`fuzz_targets/`) and the stable driver (`stable/`) share these functions and the corpora.

pub mod audit;
pub mod canonical;
pub mod certificate;
pub mod config;
pub mod connection;
pub mod cookie;
pub mod devices;
pub mod frames;
pub mod head;
pub mod proxy_protocol;
pub mod site;

/// A target and the words that are worth putting into its input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub words: &'static [&'static [u8]],
}

/// All of them. Each has a folder `corpus/NAME` and an entry `fuzz_targets/NAME.rs`.
pub const TARGETS: &[Target] = &[
    Target { name: "audit", run: audit::run, words: audit::WORDS },
    Target { name: "canonical", run: canonical::run, words: canonical::WORDS },
    Target { name: "certificate", run: certificate::run, words: &[] },
    Target { name: "config", run: config::run, words: config::WORDS },
    Target { name: "connection", run: connection::run, words: head::WORDS },
    Target { name: "cookie", run: cookie::run, words: cookie::WORDS },
    Target { name: "devices", run: devices::run, words: config::WORDS },
    Target { name: "frames", run: frames::run, words: frames::WORDS },
    Target { name: "head", run: head::run, words: head::WORDS },
    Target { name: "proxy_protocol", run: proxy_protocol::run, words: proxy_protocol::WORDS },
];

/// Cuts `bytes` into pieces whose lengths depend on `seed`, one to sixteen bytes each.
pub fn pieces(mut bytes: &[u8], seed: u64) -> impl Iterator<Item = &[u8]> {
    let mut state = seed | 1;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let (piece, rest) = bytes.split_at(bytes.len().min(1 + (state % 16) as usize));
        bytes = rest;
        Some(piece)
    })
}

/// A number that depends on all of the bytes.
pub fn seed_of(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
