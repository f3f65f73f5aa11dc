//! The hash chain: how a record becomes a line, and how a line is checked.
//!
//! A line is `{"seq":N,"at":"TIME","prev":"HEX",EVENT,"hash":"HEX"}`, in exactly this order and
//! without blanks. `prev` is the `hash` of the line before, or [`GENESIS`] in the first. `hash` is
//! the SHA-256, in lower-case hex, over the 64 characters of `prev` followed by the line without
//! `,"hash":"HEX"`. Both are text, so that `sha256sum` can check a line by hand.
//!
//! INVARIANT: a line is checked as the bytes that it is, never as what a JSON parser makes of
//! them: two spellings of one record are two records.

use std::io::Write;

use aws_lc_rs::digest;

use crate::domain::clock::Timestamp;

/// What the first record calls the hash of the one before.
pub const GENESIS: [u8; HEX_LENGTH] = [b'0'; HEX_LENGTH];

pub(super) const HEX_LENGTH: usize = 64;

/// SHA-256 in lower-case hex.
pub(super) type Hex = [u8; HEX_LENGTH];

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the line is no audit record")]
    Malformed,
    #[error("the line ends before the record does")]
    Unfinished,
    #[error("the record was changed: its hash does not match")]
    Changed,
    #[error(
        "the record has sequence {found} where {expected} was due: records were removed, inserted or reordered"
    )]
    Sequence { expected: u64, found: u64 },
    #[error("`prev` is not the hash of the record before: records were removed or replaced")]
    Previous,
    #[error(
        "the file's name says that it begins with sequence {found} where {expected} was due: a file was removed or renamed"
    )]
    FileName { expected: u64, found: u64 },
}

/// The parts of a line that the chain is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub sequence: u64,
    pub at: &'a [u8],
    pub previous: &'a Hex,
    pub hash: &'a Hex,
    /// The line up to `,"hash"`.
    covered: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes a line apart, without its line feed; checks nothing but the form.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"{\"seq\":")?;
        let (digits, rest) = rest.split_at_checked(rest.iter().position(|byte| *byte == b',')?)?;
        let rest = rest.strip_prefix(b",\"at\":\"")?;
        let (at, rest) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'"')?)?;
        let rest = rest.strip_prefix(b"\",\"prev\":\"")?;
        let (previous, rest) = rest.split_first_chunk::<HEX_LENGTH>()?;
        let rest = rest.strip_prefix(b"\",")?;
        let rest = rest.strip_suffix(b"\"}")?;
        let (rest, hash) = rest.split_last_chunk::<HEX_LENGTH>()?;
        rest.strip_suffix(b",\"hash\":\"")?;
        let covered_length =
            line.len().checked_sub(b",\"hash\":\"".len() + HEX_LENGTH + b"\"}".len())?;
        let text = std::str::from_utf8(digits).ok()?;
        let sequence: u64 = text.parse().ok()?;
        (sequence.to_string() == text).then_some(())?;
        Some(Self { sequence, at, previous, hash, covered: line.get(..covered_length)? })
    }

    /// Whether the line is what was hashed.
    pub(super) fn is_intact(&self) -> bool {
        digest(self.previous, self.covered) == *self.hash
    }
}

fn digest(previous: &Hex, covered: &[u8]) -> Hex {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(previous);
    context.update(covered);
    context.update(b"}");
    let mut hex = GENESIS;
    let (pairs, _) = hex.as_chunks_mut();
    for ([high, low], byte) in pairs.iter_mut().zip(context.finish().as_ref()) {
        (*high, *low) = (byte >> 4, byte & 15);
    }
    // By itself, so that it is done for many digits at once.
    for digit in &mut hex {
        *digit += if *digit < 10 { b'0' } else { b'a' - 10 };
    }
    hex
}

/// Where the chain stands: what the next record has to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub next: u64,
    pub previous: Hex,
}

impl Chain {
    pub(super) const fn genesis() -> Self {
        Self { next: 1, previous: GENESIS }
    }

    /// Appends the line, with its line feed, of an event that was serialised as a JSON object.
    pub(super) fn append(&mut self, at: Timestamp, event: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        // Writing to a vector can't fail.
        let _ = write!(out, "{{\"seq\":{},\"at\":\"{at}\",\"prev\":\"", self.next);
        out.extend_from_slice(&self.previous);
        out.extend_from_slice(b"\",");
        let inner = event.strip_prefix(b"{").unwrap_or(event);
        out.extend_from_slice(inner.strip_suffix(b"}").unwrap_or(inner));
        let hash = digest(&self.previous, out.get(start..).unwrap_or_default());
        out.extend_from_slice(b",\"hash\":\"");
        out.extend_from_slice(&hash);
        out.extend_from_slice(b"\"}\n");
        self.next += 1;
        self.previous = hash;
    }

    /// Checks that the line is intact and is the next one, and steps over it.
    pub(super) fn check(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let frame = Frame::parse(line).ok_or(Flaw::Malformed)?;
        if !frame.is_intact() {
            return Err(Flaw::Changed);
        }
        if frame.sequence != self.next {
            return Err(Flaw::Sequence { expected: self.next, found: frame.sequence });
        }
        if *frame.previous != self.previous {
            return Err(Flaw::Previous);
        }
        self.next += 1;
        self.previous = *frame.hash;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_documented_form_and_hash() {
        let mut out = Vec::new();
        Chain::genesis().append(Timestamp::from_seconds(0), br#"{"event":"stopped"}"#, &mut out);
        let zeros = "0".repeat(64);
        let covered = format!(
            r#"{{"seq":1,"at":"1970-01-01T00:00:00.000Z","prev":"{zeros}","event":"stopped""#
        );
        // Computed with another tool: printf '%s%s}' "$prev" "$covered" | sha256sum
        let hash = "bd11983d43dccf8a56365d36981245b4cb9b43bca8c5a084d767f24ade7a58e9";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{covered},\"hash\":\"{hash}\"}}\n"));
    }

    #[test]
    fn a_sequence_in_another_spelling_is_no_record() {
        let mut out = Vec::new();
        Chain::genesis().append(Timestamp::from_seconds(0), br#"{"event":"stopped"}"#, &mut out);
        let line = String::from_utf8(out).unwrap();
        for spelling in ["01", "+1", "1.0", " 1", ""] {
            let other = line.trim_end().replacen("\"seq\":1,", &format!("\"seq\":{spelling},"), 1);
            assert!(Frame::parse(other.as_bytes()).is_none(), "{other}");
        }
    }
}
