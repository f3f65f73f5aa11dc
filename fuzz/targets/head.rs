//! The observer of what hyper doesn't tell (`proxy::head`).

use wicketgate::proxy::head::{Ambiguity, Observer};

use super::connection::readings;
use super::{pieces, seed_of};

pub const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b"GET / HTTP/1.1\r\n",
    b"POST /a HTTP/1.1\r\n",
    b"GET /b HTTP/1.0\r\n",
    b"host: a\r\n",
    b"content-length: ",
    b"Content-Length:5\r\n",
    b"content-length: 0\r\n",
    b"transfer-encoding: chunked\r\n",
    b"Transfer-Encoding: ",
    b"transfer-encoding: identity\r\n",
    b"chunked",
    b"gzip, chunked",
    b"connection: close\r\n",
    b"connection: keep-alive\r\n",
    b"upgrade: websocket\r\n",
    b"expect: 100-continue\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"1;a=b\r\nx\r\n",
    b"1 \r\nx\r\n",
    b"0;x\r\n",
    b"00000000000000001\r\n",
    b"fffffffffffffffff\r\n",
    b" ",
    b"\t",
    b"\0",
    b"\x0b",
    b"#",
    b": ",
    b":",
    b"x: y\r\n",
    b" folded\r\n",
    b"hello",
    b"\xc3\xa9",
    b"\xff",
];

pub fn run(data: &[u8]) {
    let observe = |pieces: &mut dyn Iterator<Item = &[u8]>| -> Option<Ambiguity> {
        let mut observer = Observer::default();
        let mut first = None;
        for piece in pieces {
            let told = observer.observe(piece);
            assert!(first.is_none() || told.is_none(), "an ambiguity is told once");
            first = first.or(told);
        }
        first
    };
    let whole = observe(&mut std::iter::once(data));
    assert_eq!(whole, observe(&mut pieces(data, seed_of(data))), "cut into pieces");
    assert_eq!(whole, observe(&mut data.chunks(1)), "byte by byte");
    if whole.is_none() {
        // Servers that read kindly, each in another way, read the same requests.
        let [first, others @ ..] = readings(data);
        for other in others {
            let count = first.len().min(other.len());
            assert_eq!(first[..count], other[..count], "{:?}", String::from_utf8_lossy(data));
            assert_eq!(first.len(), other.len(), "{:?}", String::from_utf8_lossy(data));
        }
    }
}
