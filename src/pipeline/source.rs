//! Where a request comes from.
//!
//! `X-Forwarded-For` is read only when the connection's own source is a trusted proxy, and only as
//! far as trusted proxies wrote it: from the right, each entry was added by the hop named right of
//! it. The first entry that is no trusted proxy is the client; what stands left of it is what that
//! client made up. The other spellings of the same (`Forwarded`, `X-Real-IP`) are never read: two
//! fields that may differ are two answers to one question.
//!
//! What can't be read on that way was not written by a proxy that can be trusted to write it, and
//! whose request it is isn't known. To take it for the proxy's own would lend the proxy's address
//! to anybody, so it is refused. A proxy that sends no such field asks for itself.
//!
//! INVARIANT: nobody but a trusted proxy chooses the address that is decided on and recorded.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::domain::connection::{ClientAddr, Connection, SourceAddr, SourceRules};

use super::headers::FORWARDED_FOR;

/// A trusted proxy names a client that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the `X-Forwarded-For` field of a trusted proxy can't be read")]
pub struct Unreadable {
    /// The last address that is known: a trusted proxy's.
    pub nearest: ClientAddr,
}

/// The address of whoever sent this request.
///
/// # Errors
/// [`Unreadable`]; the request is to be refused.
pub fn client(connection: &Connection, headers: &HeaderMap) -> Result<ClientAddr, Unreadable> {
    walk(&connection.rules, connection.source, headers)
}

fn walk(
    rules: &SourceRules,
    source: SourceAddr,
    headers: &HeaderMap,
) -> Result<ClientAddr, Unreadable> {
    let trusted = &rules.trusted_proxies;
    let mut nearest = source.0;
    if trusted.is_empty() || !trusted.contains(nearest) {
        return Ok(ClientAddr(nearest));
    }
    // Several fields are one list in their order (RFC 9110, section 5.3).
    let fields = headers.get_all(FORWARDED_FOR).iter().rev();
    for written in fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b',')) {
        nearest = address(written).ok_or(Unreadable { nearest: ClientAddr(nearest) })?;
        if !trusted.contains(nearest) {
            break;
        }
    }
    Ok(ClientAddr(nearest))
}

/// An address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(written: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(written.trim_ascii()).ok()?;
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let address = text
        .parse()
        .ok()
        .or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
        .or_else(bare)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::network::network;
    use http::HeaderValue;

    fn found(source: &str, trusted: &[&str], fields: &[&'static str]) -> String {
        walked(source, trusted, fields).unwrap().0.to_string()
    }

    fn walked(
        source: &str,
        trusted: &[&str],
        fields: &[&'static str],
    ) -> Result<ClientAddr, Unreadable> {
        let trusted_proxies = trusted.iter().map(|text| network(text).unwrap()).collect();
        let rules = SourceRules { trusted_proxies, allow_from: None };
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(field));
        }
        walk(&rules, SourceAddr(source.parse().unwrap()), &headers)
    }

    #[test]
    fn the_first_address_from_the_right_that_is_not_trusted_is_the_client() {
        let trusted = &["10.0.0.0/8", "2001:db8:1::/48"][..];
        for (fields, client) in [
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&["1.1.1.1, 192.0.2.7"], "192.0.2.7"),
            (&["1.1.1.1, 192.0.2.7, 10.0.0.9,10.0.0.8"], "192.0.2.7"),
            (&["1.1.1.1", "192.0.2.7, 10.0.0.9"], "192.0.2.7"),
            (&["192.0.2.7", "10.0.0.9"], "192.0.2.7"),
            (&["192.0.2.7:50000"], "192.0.2.7"),
            (&["\t192.0.2.7 "], "192.0.2.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:50000, 2001:db8:1::9"], "2001:db8::7"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            // Inside the trusted networks the first hop is the client.
            (&["10.9.9.9, 10.0.0.8"], "10.9.9.9"),
        ] {
            assert_eq!(found("10.0.0.1", trusted, fields), client, "{fields:?}");
        }
    }

    #[test]
    fn a_malformed_entry_on_the_way_to_the_client_is_refused() {
        for (fields, nearest) in [
            (&["192.0.2.7, unknown"][..], "10.0.0.1"),
            (&["192.0.2.7, unknown, 10.0.0.9"], "10.0.0.9"),
            (&["192.0.2.7,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["192.0.2.7", ""], "10.0.0.1"),
            (&["192.0.2.07"], "10.0.0.1"),
            (&["[192.0.2.7]"], "10.0.0.1"),
            (&["for=192.0.2.7"], "10.0.0.1"),
            (&["192.0.2.7 10.0.0.9"], "10.0.0.1"),
        ] {
            let nearest = ClientAddr(nearest.parse().unwrap());
            let walked = walked("10.0.0.1", &["10.0.0.0/8"], fields);
            assert_eq!(walked, Err(Unreadable { nearest }), "{fields:?}");
        }
    }

    #[test]
    fn what_stands_left_of_the_client_is_not_read_and_a_proxy_without_the_field_asks_for_itself() {
        let trusted = &["10.0.0.0/8"];
        assert_eq!(found("10.0.0.1", trusted, &["unknown, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(found("10.0.0.1", trusted, &["", "192.0.2.7"]), "192.0.2.7");
        assert_eq!(found("10.0.0.1", trusted, &[]), "10.0.0.1");
    }

    #[test]
    fn nobody_else_is_believed() {
        assert_eq!(found("192.0.2.1", &["10.0.0.0/8"], &["10.0.0.5"]), "192.0.2.1");
        assert_eq!(found("192.0.2.1", &["10.0.0.0/8"], &["1.1.1.1, 10.0.0.5"]), "192.0.2.1");
        assert_eq!(found("10.0.0.1", &[], &["192.0.2.7"]), "10.0.0.1");
    }
}
