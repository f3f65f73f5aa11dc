//! The PROXY protocol's header (versions 1 and 2), as a pure function over bytes.
//!
//! Strict, because whoever writes this header chooses the address that everything is decided on:
//! what the specification (haproxy.org, `proxy-protocol.txt`) doesn't allow is refused. Of a header that isn't complete every byte belongs to it, so that a
//! reader never takes what comes after.
//!
//! INVARIANT: it reads no more than [`MAX_LENGTH`] bytes, and never panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is taken, in bytes. The specification asks senders to stay below 536;
/// extensions (TLVs) of cloud load balancers are longer, but never near this.
pub const MAX_LENGTH: usize = 4096;

/// Longest line of version 1, its end included (section 2.1).
const MAX_LINE: usize = 107;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length (section 2.2).
const FIXED: usize = 16;

/// A header that was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; what follows is the client's.
    pub length: usize,
    /// Where the client is. `None`: the proxy speaks for itself (LOCAL, as for health checks), or
    /// doesn't know (UNKNOWN, UNSPEC); the connection's own address holds.
    pub source: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("there is no PROXY protocol header")]
    Absent,
    #[error("the PROXY line is longer than {MAX_LINE} bytes")]
    LongLine,
    #[error("the PROXY line has another form than it must have")]
    Line,
    #[error("the header's version or command is not known")]
    Command,
    #[error("the header is about something else than a TCP connection")]
    Family,
    #[error("the header is longer than {MAX_LENGTH} bytes")]
    TooLong,
    #[error("the header's addresses or extensions don't fit its length")]
    Length,
}

/// Reads a header at the start of `bytes`. `None`: all of them belong to it, and more are needed.
///
/// # Errors
/// [`Malformed`]: of version 2 with the first byte that shows it, of version 1 when its line ends.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if is_begun(bytes, LINE_START) {
        line(bytes)
    } else if is_begun(bytes, SIGNATURE) {
        binary(bytes)
    } else {
        Err(Malformed::Absent)
    }
}

/// Whether one is the beginning of the other.
fn is_begun(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted)
}

/// Version 1: `PROXY TCP4 SOURCE DESTINATION PORT PORT`, CR and LF.
fn line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LINE { Ok(None) } else { Err(Malformed::LongLine) };
    };
    let text = bytes.get(LINE_START.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(Malformed::Line)?;
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(Malformed::Line);
    }
    let mut words = text.split(' ');
    let source = match words.next() {
        // What follows on this line is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(addresses::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(addresses::<Ipv6Addr>(words)?),
        _ => return Err(Malformed::Line),
    };
    Ok(Some(Header { length: end + 1, source }))
}

/// The source of the four words after the family, all of which have to be right.
fn addresses<'a, A>(mut words: impl Iterator<Item = &'a str>) -> Result<SocketAddr, Malformed>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut word = || words.next().ok_or(Malformed::Line);
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    let ended = words.next().is_none();
    match (source.parse::<A>(), destination.parse::<A>(), destination_port) {
        (Ok(source), Ok(_), _) if ended => Ok(SocketAddr::new(source.into(), source_port)),
        _ => Err(Malformed::Line),
    }
}

/// Decimal, without a sign or leading zeros.
fn port(word: &str) -> Result<u16, Malformed> {
    let plain = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| plain).ok_or(Malformed::Line)
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Malformed::Command),
    };
    // How long the block of addresses is. What a LOCAL header has there is to be skipped.
    let addresses = match bytes.get(13) {
        None => return Ok(None),
        Some(_) if local => 0,
        Some(0x00) => 0,
        Some(0x11) => 12,
        Some(0x21) => 36,
        // UDP and UNIX sockets: nothing that a TLS client comes from.
        Some(_) => return Err(Malformed::Family),
    };
    let (Some(high), Some(low)) = (bytes.get(14), bytes.get(15)) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    let length = FIXED + rest;
    if length > MAX_LENGTH {
        return Err(Malformed::TooLong);
    }
    if rest < addresses {
        return Err(Malformed::Length);
    }
    let Some(block) = bytes.get(FIXED..length) else { return Ok(None) };
    if local {
        return Ok(Some(Header { length, source: None }));
    }
    let (block, extensions) = block.split_at_checked(addresses).ok_or(Malformed::Length)?;
    // UNSPEC says nothing of what follows.
    if addresses > 0 && !are_extensions(extensions) {
        return Err(Malformed::Length);
    }
    Ok(Some(Header { length, source: source(block) }))
}

/// The first of the addresses and ports: source, destination, source port, destination port.
fn source(block: &[u8]) -> Option<SocketAddr> {
    let (address, port): (IpAddr, &[u8]) = match block.len() {
        12 => (Ipv4Addr::from(*block.first_chunk::<4>()?).into(), block.get(8..10)?),
        36 => (Ipv6Addr::from(*block.first_chunk::<16>()?).into(), block.get(32..34)?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*port.first_chunk()?)))
}

/// Whether these are whole TLVs: type, two bytes of length, value. None of them is used.
fn are_extensions(mut bytes: &[u8]) -> bool {
    while let Some(([_, high, low], rest)) = bytes.split_first_chunk::<3>() {
        let Some(after) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else {
            return false;
        };
        bytes = after;
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests;
