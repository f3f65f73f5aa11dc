//! The PROXY protocol's header (`proxy::proxy_protocol`).

use std::net::SocketAddr;

use wicketgate::proxy::proxy_protocol::{MAX_LENGTH, parse};

pub const WORDS: &[&[u8]] = &[
    b"PROXY ",
    b"TCP4 ",
    b"TCP6 ",
    b"UNKNOWN",
    b"\r\n",
    b"\n",
    b" ",
    b"127.0.0.1",
    b"::1",
    b"1",
    b"65535",
    b"65536",
    b"0",
    b"00",
    b"+1",
    b"::ffff:1.2.3.4",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21\x11\x00\x0c",
    b"\x21\x21\x00\x24",
    b"\x20\x00\x00\x00",
    b"\x21\x31",
    b"\xff\xff",
    b"\x04\x00\x00",
    b"GET / HTTP/1.1\r\n",
];

pub fn run(data: &[u8]) {
    let whole = parse(data);
    if let Ok(Some(header)) = whole {
        assert!(header.length <= data.len() && header.length <= MAX_LENGTH, "{header:?}");
        // What follows the header has no say in it.
        assert_eq!(parse(&data[..header.length]), whole);
        if let Some(source) = header.source {
            check(data, header.length, source);
        }
    }
    // A reader that asks with every byte gets the same, and never reads past the end.
    for end in 0..data.len() {
        match parse(&data[..end]) {
            Ok(None) => {}
            early => {
                assert_eq!(early, whole, "after {end} bytes");
                break;
            }
        }
    }
}

/// The address, written as version 1 has it, is the same address.
fn check(data: &[u8], length: usize, source: SocketAddr) {
    if let Some(line) = data[..length].strip_prefix(b"PROXY ") {
        let line = std::str::from_utf8(line).expect("a line is ASCII");
        let port = source.port().to_string();
        assert_eq!(line.trim_end().split(' ').nth(3), Some(port.as_str()), "{line:?}");
    }
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (source.ip(), source.port());
    let line = format!("PROXY {family} {ip} {ip} {port} {port}\r\n");
    if port > 0 {
        let again = parse(line.as_bytes()).ok().flatten().and_then(|header| header.source);
        assert_eq!(again, Some(source), "{line:?}");
    }
}
