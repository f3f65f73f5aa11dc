use super::*;
use proptest::prelude::*;

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

/// Version 2 with this command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xc3, 0x50, 1, 0xbb];

fn ipv6() -> Vec<u8> {
    let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
    [&source.octets()[..], &[0; 16], &[0xc3, 0x50, 1, 0xbb]].concat()
}

/// Every header that is good, and the source in it.
fn good() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
    let line = |text: &str| text.as_bytes().to_vec();
    let ipv4 = address("192.0.2.7:50000");
    let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), MAX_LINE);
    vec![
        (line("PROXY TCP4 192.0.2.7 10.0.0.1 50000 443\r\n"), ipv4),
        (line("PROXY TCP6 2001:db8::7 ::1 50000 0\r\n"), address("[2001:db8::7]:50000")),
        (line("PROXY UNKNOWN\r\n"), None),
        (line("PROXY UNKNOWN what ever\r\n"), None),
        (line(longest), None),
        (v2(0x21, 0x11, &IPV4), ipv4),
        (v2(0x21, 0x21, &ipv6()), address("[2001:db8::7]:50000")),
        // An empty TLV and one of two bytes.
        (v2(0x21, 0x11, &[&IPV4[..], &[4, 0, 0, 0xee, 0, 2, 1, 2]].concat()), ipv4),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x00, b"anything"), None),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &IPV4), None),
        // The family of a LOCAL header is to be ignored.
        (v2(0x20, 0x99, b"anything"), None),
    ]
}

#[test]
fn a_good_header_is_read_and_nothing_after_it() {
    for (bytes, source) in good() {
        let header = Header { length: bytes.len(), source };
        assert_eq!(parse(&bytes), Ok(Some(header)), "{bytes:?}");
        for after in [&b"\x16\x03\x01"[..], b"\r\n", b"PROXY UNKNOWN\r\n", &bytes] {
            assert_eq!(parse(&[&bytes, after].concat()), Ok(Some(header)), "{bytes:?}");
        }
    }
}

#[test]
fn every_beginning_of_a_good_header_wants_more() {
    for (bytes, _) in good() {
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Ok(None), "{bytes:?} {length}");
        }
    }
}

#[test]
fn what_is_no_header_is_refused_with_the_first_byte_that_shows_it() {
    for bytes in
        [&b"\x16\x03\x01"[..], b"GET / HTTP/1.1\r\n", b"proxy ", b"\r\n\r\n\0\r\nQUIX", b"\0"]
    {
        assert_eq!(parse(bytes), Err(Malformed::Absent), "{bytes:?}");
    }
    for (bytes, error) in [
        (v2(0x22, 0x11, &IPV4)[..13].to_vec(), Malformed::Command),
        (v2(0x11, 0x11, &IPV4)[..13].to_vec(), Malformed::Command),
        (v2(0x21, 0x12, &IPV4)[..14].to_vec(), Malformed::Family),
        (v2(0x21, 0x31, &[0; 216])[..14].to_vec(), Malformed::Family),
        (v2(0x21, 0x11, &IPV4[..11])[..16].to_vec(), Malformed::Length),
        (v2(0x21, 0x21, &ipv6()[..35])[..16].to_vec(), Malformed::Length),
        (v2(0x20, 0x00, &[0; MAX_LENGTH - FIXED + 1])[..16].to_vec(), Malformed::TooLong),
        (v2(0x21, 0x11, &[&IPV4[..], &[4]].concat()), Malformed::Length),
        (v2(0x21, 0x11, &[&IPV4[..], &[4, 0, 2, 1]].concat()), Malformed::Length),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn a_line_with_anything_wrong_in_it_is_refused() {
    for text in [
        "PROXY TCP4 192.0.2.7 10.0.0.1 50000 443\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 50000\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 50000 443 1\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 50000 443 \r\n",
        "PROXY TCP4  192.0.2.7 10.0.0.1 50000 443\r\n",
        "PROXY TCP4 192.0.2.7\t10.0.0.1 50000 443\r\n",
        "PROXY TCP4 192.0.2.07 10.0.0.1 50000 443\r\n",
        "PROXY TCP4 192.0.2 10.0.0.1 50000 443\r\n",
        "PROXY TCP4 192.0.2.7 ::1 50000 443\r\n",
        "PROXY TCP4 ::1 ::1 50000 443\r\n",
        "PROXY TCP6 192.0.2.7 10.0.0.1 50000 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 050000 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 +5000 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 50000 65536\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 50000 -1\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 50000 443\r\r\n",
        "PROXY UDP4 192.0.2.7 10.0.0.1 50000 443\r\n",
        "PROXY tcp4 192.0.2.7 10.0.0.1 50000 443\r\n",
        "PROXY UNKNOWN a\rb\r\n",
        "PROXY \r\n",
        "PROXY \n",
    ] {
        assert_eq!(parse(text.as_bytes()), Err(Malformed::Line), "{text:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(MAX_LINE));
    assert_eq!(parse(&endless.as_bytes()[..MAX_LINE - 1]), Ok(None));
    assert_eq!(parse(&endless.as_bytes()[..MAX_LINE]), Err(Malformed::LongLine));
}

proptest! {
    /// Whatever is sent: no panic, no header longer than what is there, and a verdict once given
    /// stays when more bytes follow.
    #[test]
    fn hostile_bytes_get_one_verdict(
        start in prop::sample::select(vec![&b""[..], LINE_START, SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, &rest].concat();
        let mut verdict = None;
        for length in 0..=bytes.len() {
            let now = parse(&bytes[..length]);
            if let Ok(Some(header)) = now {
                prop_assert!(header.length <= length);
            }
            match verdict {
                None if now != Ok(None) => verdict = Some(now),
                None => {}
                Some(before) => prop_assert_eq!(before, now),
            }
        }
    }
}
