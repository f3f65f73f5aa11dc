//! The store's operations as messages between two processes, one of which has the file.
//!
//! A frame is its length (four bytes, big-endian) and JSON. A caller waits for the reply before
//! it sends the next call, so nothing needs a number.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Space;

/// Longest frame, in bytes: far more than a session or a batch of records takes.
const LONGEST: u32 = 64 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    pub space: Space,
    #[serde(with = "text")]
    pub key: Vec<u8>,
    pub what: What,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum What {
    Get,
    Put { value: Bytes, expires: i64 },
    PutIfAbsent { value: Bytes, expires: i64, now: i64 },
    Remove,
    Scan,
    Purge { now: i64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Value(Option<Bytes>),
    Values(Vec<(Bytes, Bytes)>),
    Done(bool),
    Count(usize),
    Failed(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Bytes(#[serde(with = "text")] pub Vec<u8>);

/// Bytes as base64: shorter than JSON's list of numbers.
mod text {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map_err(de::Error::custom)
    }
}

/// Writes a frame.
///
/// # Errors
/// The other side is gone; or the message is too long (`InvalidInput`), and nothing was written.
pub fn write_frame(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(body.len().saturating_add(4));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

/// Reads a frame, and not a byte more.
///
/// # Errors
/// The other side is gone, or sent something else.
pub fn read_frame<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
