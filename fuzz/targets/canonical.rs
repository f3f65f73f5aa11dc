//! Host and request target (`domain::canonical`): the first line is the authority, the rest the
//! target.

use wicketgate::domain::canonical::{Authority, CanonicalPath, CanonicalRequest, Host};

pub const WORDS: &[&[u8]] = &[
    b"%2e",
    b"%2E",
    b"%25",
    b"%2f",
    b"%5c",
    b"%3b",
    b"%00",
    b"%32",
    b"%65",
    b"%45",
    b"%c0%ae",
    b"%u002e",
    b"..",
    "\u{ff0e}".as_bytes(),
    b"../",
    b"/./",
    b"//",
    b";",
    b";a=b",
    b"\\",
    b"?",
    b"#",
    b"https://",
    b"http://",
    b"a.example",
    b":443",
    b"@",
    b"[::1]",
    b"xn--",
    b"127.0.0.1",
    b".",
    b"-",
    b"\n/",
    b"\r",
    b"\0",
    b" ",
    b"%",
    b"%%",
    b"%25%32%65",
];

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (host, target) = text.split_once('\n').unwrap_or(("a.example", text));
    if let Ok(host) = Host::parse(host) {
        assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host), "a host is its own spelling");
    }
    let authority = Authority::parse(host).ok();
    if let Some(authority) = &authority {
        check_authority(authority);
    }
    if let Ok(path) = CanonicalPath::parse(target) {
        check_path(&path);
    }
    let authority =
        authority.unwrap_or_else(|| Authority::parse("a.example").expect("a plain name"));
    if let Ok(request) = CanonicalRequest::parse("GET".into(), authority.clone(), target) {
        check_path(&request.path);
        let forwarded = request.target();
        assert!(forwarded.starts_with('/') && !forwarded.contains('#'), "{forwarded:?}");
        assert!(forwarded.bytes().all(|byte| byte.is_ascii_graphic()), "{forwarded:?}");
        let again = CanonicalRequest::parse("GET".into(), authority, &forwarded);
        assert_eq!(again.as_ref(), Ok(&request), "{forwarded:?} is a fixed point");
    }
}

fn check_authority(authority: &Authority) {
    let shown = authority.to_string();
    assert_eq!(Authority::parse(&shown).as_ref(), Ok(authority), "{shown:?} is a fixed point");
    let host = authority.host.as_str();
    assert!(!host.is_empty() && !host.ends_with('.'), "{host:?}");
    assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '), "{host:?}");
    assert!(!host.contains(['/', '\\', '@', '%', '?', '#', ',']), "{host:?}");
}

fn check_path(path: &CanonicalPath) {
    let encoded = path.encoded();
    let again = CanonicalPath::parse(encoded);
    assert_eq!(again.as_ref(), Ok(path), "{encoded:?} is a fixed point");
    assert!(encoded.starts_with('/') && !encoded.contains("//"), "{encoded:?}");
    assert!(!encoded.bytes().any(|byte| byte.is_ascii_control()), "{encoded:?}");
    assert!(!path.decoded().chars().any(char::is_control), "{encoded:?}");
    // Servers that decode once, twice and three times.
    let mut reading = encoded.as_bytes().to_vec();
    for times in 0..4 {
        check_segments(&reading, encoded, times);
        reading = decoded(&reading);
    }
    if !path.has_parameters() {
        let once = decoded(encoded.as_bytes());
        assert_eq!(once, path.decoded().as_bytes(), "routes see what {encoded:?} says");
    }
}

fn check_segments(reading: &[u8], encoded: &str, times: usize) {
    for segment in reading.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(
            name != b"." && name != b"..",
            "{encoded:?}, decoded {times} times, has a dot segment"
        );
    }
    let slashes = reading.iter().filter(|byte| matches!(byte, b'/' | b'\\')).count();
    let own = encoded.bytes().filter(|byte| *byte == b'/').count();
    assert_eq!(slashes, own, "{encoded:?}, decoded {times} times, has other segments");
}

/// What a lenient server makes of it: what is no escape stays as it is.
fn decoded(text: &[u8]) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = text.get(at) {
        match (*byte, hex(text.get(at + 1)), hex(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}
