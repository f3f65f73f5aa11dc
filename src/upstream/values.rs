//! The values of header fields, which arrive as slices of what was read from a connection.
//!
//! HTTP/2 keeps fields in the table of a connection (HPACK, RFC 7541, section 2.3.2) for as long as it
//! lasts: with each of them all that was read along with it, eight kibibytes or more for a few bytes.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, ETAG, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// In bytes. Longer values are for themselves: whoever keeps a short one doesn't keep them along.
const SHORT: usize = 64;

/// Whether `h2` leaves a field out of the table, because it will hardly come again.
fn is_passing(name: &HeaderName) -> bool {
    matches!(*name, CONTENT_LENGTH | ETAG | LOCATION | SET_COOKIE)
}

/// Moves the values that may be kept into memory that has room for nothing else: short ones together,
/// which costs one allocation for all of them.
pub fn compact(headers: &mut HeaderMap) {
    let kept = || headers.iter().filter(|(name, _)| !is_passing(name)).map(|(_, value)| value);
    let short = || kept().filter(|value| value.len() <= SHORT);
    let mut text = Vec::with_capacity(short().map(HeaderValue::len).sum());
    short().for_each(|value| text.extend_from_slice(value.as_bytes()));
    let mut text = Bytes::from(text);
    for (_, value) in headers.iter_mut().filter(|(name, _)| !is_passing(name)) {
        let own = match value.len() {
            length @ ..=SHORT => text.split_to(length),
            _ => Bytes::copy_from_slice(value.as_bytes()),
        };
        if let Ok(mut own) = HeaderValue::from_maybe_shared(own) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_values_are_the_same_and_keep_nothing_else() {
        let (short, long) = (b"a\xe4\tb", [b'x'; SHORT + 1]);
        let read = Bytes::from([&short[..], &long, b"and a body"].concat());
        let of = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
        let mut headers = HeaderMap::new();
        let values = [of(0..4), of(0..0), of(4..5 + SHORT), of(2..4)];
        for (name, value) in ["x", "y", "x", "z"].into_iter().zip(values) {
            headers.append(HeaderName::from_static(name), value);
        }
        headers.get_mut("y").unwrap().set_sensitive(true);
        let before = headers.clone();
        compact(&mut headers);
        assert_eq!(headers, before);
        assert!(headers["y"].is_sensitive() && !headers["x"].is_sensitive());
        drop(before);
        assert!(read.is_unique());
    }
}
