//! Identifiers, one type each, so that none can stand in for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::clock::Timestamp;

/// Crockford's base 32: no I, L, O or U, so that an id survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Names one decision: in `x-wicketgate-decision`, on pages, in logs and in the audit log.
///
/// 48 bits of time and 80 random bits in 26 characters of Crockford base 32 (the layout of a
/// ULID), so that ids sort by time and can't be guessed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId {
    // Two words and not a `u128`, whose alignment all that holds an id would have to keep.
    high: u64,
    low: u64,
}

impl DecisionId {
    /// `random` must come from a cryptographic generator; 80 of its bits are used.
    pub fn new(at: Timestamp, random: u128) -> Self {
        let millis = u128::try_from(at.as_millis()).unwrap_or(0) & 0xffff_ffff_ffff;
        Self::of((millis << 80) | (random & ((1 << 80) - 1)))
    }

    fn of(value: u128) -> Self {
        let word = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
        Self { high: word(value >> 64), low: word(value) }
    }

    fn value(self) -> u128 {
        (u128::from(self.high) << 64) | u128::from(self.low)
    }

    /// When the decision was made, to the millisecond.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.value() >> 80).unwrap_or(i64::MAX))
    }

    /// True for about one id in `of`, a power of two.
    pub fn is_sampled(self, of: u8) -> bool {
        u8::try_from(self.low & 0xff).is_ok_and(|random| random & of.wrapping_sub(1) == 0)
    }

    /// The 26 characters, without an allocation.
    pub fn encode(self) -> [u8; 26] {
        let mut out = [b'0'; 26];
        let mut rest = self.value();
        for slot in out.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or(0);
            *slot = ALPHABET.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        out
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.encode();
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a decision id is 26 characters of 0-9 and A-Z without I, L, O and U")]
pub struct BadDecisionId;

impl FromStr for DecisionId {
    type Err = BadDecisionId;

    fn from_str(text: &str) -> Result<Self, BadDecisionId> {
        if text.len() != 26 {
            return Err(BadDecisionId);
        }
        let mut value: u128 = 0;
        for (index, byte) in text.bytes().enumerate() {
            let digit = ALPHABET
                .iter()
                .position(|letter| *letter == byte.to_ascii_uppercase())
                .ok_or(BadDecisionId)?;
            if index == 0 && digit > 7 {
                return Err(BadDecisionId);
            }
            value = (value << 5) | u128::try_from(digit).map_err(|_| BadDecisionId)?;
        }
        Ok(Self::of(value))
    }
}

impl Serialize for DecisionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.encode();
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for DecisionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The SHA-256 of a session's secret, which itself only ever lives in the user's cookie; or of what
/// else a caller proves itself with, which is never 32 bytes long and so never another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 32]);

impl SessionId {
    /// The first 16 hex digits: enough to tell sessions apart in records, useless as a credential.
    pub fn short(self) -> String {
        self.digits().map(char::from).iter().collect()
    }

    /// The same digits, without an allocation.
    pub fn digits(self) -> [u8; 16] {
        let mut digits = [b'0'; 16];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            }
        }
        digits
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// The SHA-256 over the schema and every policy file of a set: the set's version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicySetHash(pub Arc<str>);

impl fmt::Display for PolicySetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_id_survives_its_text_form() {
        let id = DecisionId::new(Timestamp::from_millis(1_795_298_770_123), u128::MAX);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        assert_eq!(id.timestamp(), Timestamp::from_millis(1_795_298_770_123));
    }

    #[test]
    fn a_session_is_told_by_the_first_half_of_its_id() {
        let mut id = [0xff; 32];
        id[..8].copy_from_slice(&[0x00, 0x1f, 0xa0, 0xbc, 0xde, 0xf1, 0x23, 0x45]);
        assert_eq!(SessionId(id).short(), "001fa0bcdef12345");
    }

    #[test]
    fn text_that_is_no_decision_id_is_refused() {
        for text in [
            "",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
        ] {
            assert_eq!(text.parse::<DecisionId>(), Err(BadDecisionId), "{text}");
        }
    }
}
