//! The values of header fields, which arrive as slices of what was read from a connection.
//!
//! HTTP/2 keeps fields in the table of a connection (HPACK, RFC 7541, section 2.3.2) for as long as it
//! lasts: with each of them all that was read along with it, eight kibibytes or more for a few bytes.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

/// Moves the values together into memory of their own, which has room for nothing else.
pub fn compact(headers: &mut HeaderMap) {
    let mut text = Vec::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| text.extend_from_slice(value.as_bytes()));
    let mut text = Bytes::from(text);
    for value in headers.values_mut() {
        let own = text.split_to(value.len());
        if let Ok(mut own) = HeaderValue::from_maybe_shared(own) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn compact_values_are_the_same_and_keep_nothing_else() {
        let read = Bytes::from(b"a\xe4\tb, and a body".to_vec());
        let of = |range| HeaderValue::from_maybe_shared(read.slice(range)).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("x", of(0..4)), ("y", of(0..0)), ("x", of(4..9))] {
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
