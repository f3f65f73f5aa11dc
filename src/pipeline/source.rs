//! Where a request comes from.
//!
//! `X-Forwarded-For` is read only when the connection's own source is a trusted proxy, and only as
//! far as trusted proxies wrote it: from the right, each entry was added by the hop named right of
//! it. The first entry that is no trusted proxy is the client; what stands left of it is what that
//! client made up. The other spellings of the same (`Forwarded`, `X-Real-IP`) are never read: two
//! fields that may differ are two answers to one question.
//!
//! INVARIANT: nobody but a trusted proxy chooses the address that is decided on and recorded.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::domain::connection::{ClientAddr, Connection, SourceAddr, SourceRules};

use super::headers::FORWARDED_FOR;

/// The address of whoever sent this request.
pub fn client(connection: &Connection, headers: &HeaderMap) -> ClientAddr {
    walk(&connection.rules, connection.source, headers)
}

fn walk(rules: &SourceRules, source: SourceAddr, headers: &HeaderMap) -> ClientAddr {
    let trusted = &rules.trusted_proxies;
    let mut nearest = source.0;
    if trusted.is_empty() || !trusted.contains(nearest) {
        return ClientAddr(nearest);
    }
    // Several fields are one list in their order (RFC 9110, section 5.3).
    let fields = headers.get_all(FORWARDED_FOR).iter().rev();
    for written in fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b',')) {
        // What can't be read was not written by a proxy that can be trusted to write it.
        let Some(address) = address(written) else { break };
        nearest = address;
        if !trusted.contains(nearest) {
            break;
        }
    }
    ClientAddr(nearest)
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
        let trusted_proxies = trusted.iter().map(|text| network(text).unwrap()).collect();
        let rules = SourceRules { trusted_proxies, allow_from: None };
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(field));
        }
        walk(&rules, SourceAddr(source.parse().unwrap()), &headers).0.to_string()
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
    fn a_malformed_entry_ends_the_walk_at_the_last_good_address() {
        for (fields, client) in [
            (&["192.0.2.7, unknown"][..], "10.0.0.1"),
            (&["192.0.2.7, unknown, 10.0.0.9"], "10.0.0.9"),
            (&["192.0.2.7,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["192.0.2.7", ""], "10.0.0.1"),
            (&["192.0.2.07"], "10.0.0.1"),
            (&["[192.0.2.7]"], "10.0.0.1"),
            (&["for=192.0.2.7"], "10.0.0.1"),
            (&["192.0.2.7 10.0.0.9"], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(found("10.0.0.1", &["10.0.0.0/8"], fields), client, "{fields:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        assert_eq!(found("192.0.2.1", &["10.0.0.0/8"], &["10.0.0.5"]), "192.0.2.1");
        assert_eq!(found("192.0.2.1", &["10.0.0.0/8"], &["1.1.1.1, 10.0.0.5"]), "192.0.2.1");
        assert_eq!(found("10.0.0.1", &[], &["192.0.2.7"]), "10.0.0.1");
    }
}
