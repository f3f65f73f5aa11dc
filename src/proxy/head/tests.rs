//! Every stream is given in every way of cutting it in two and byte by byte; random streams in
//! random pieces.

use proptest::prelude::*;

use super::*;

/// The first ambiguity that is told, with the bytes given in these pieces.
fn observe<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Ambiguity> {
    let mut observer = Observer::default();
    let mut first = None;
    for piece in pieces {
        first = first.or(observer.observe(piece));
    }
    first
}

#[track_caller]
fn assert_always(stream: &[u8], expected: Option<Ambiguity>) {
    let shown = String::from_utf8_lossy(stream);
    assert_eq!(observe(stream.chunks(1)), expected, "{shown:?} byte by byte");
    for at in 0..=stream.len() {
        let (one, two) = stream.split_at(at);
        assert_eq!(observe([one, two]), expected, "{shown:?} cut at {at}");
    }
}

/// Requests that read in one way.
const LEGAL: [&str; 15] = [
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /a?b=c HTTP/1.0\r\n\r\n",
    "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\nx:\r\ny: # \u{e9}\tz \r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\nCONTENT-LENGTH:\t 6 \t\r\n\r\n#\r\n\n\0 ",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\na\nb\r",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:0012\r\n\r\nGET / HTTP/1",
    "PUT / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked \r\n\r\n0\r\n\r\n",
    "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:chunked\r\n\r\n4\r\n\r\n\n\0\r\n000\r\n\r\n",
    "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
     1;a=\"b;c\";d\r\nx\r\nA ; e\r\n0123456789\r\n0;f\r\nx-sum: 1\r\nx: #\r\n\r\n",
    "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
     0\r\ncontent-length: 7\r\ntransfer-encoding: x\r\n\r\n",
    "PUT / HTTP/1.1\r\ncontent-length2: 1\r\nxcontent-length: 2\r\ncontent-lengt: 3\r\n\
     transfer-encodings: x\r\ntransfer-encoding-of-a-long-name: y\r\n\r\n",
    "DELETE /a%23b HTTP/1.1\r\nhost: a\r\nx-a-rather-long-header-name: content-length: 5\r\n\r\n",
];

/// A head with these lines in it.
fn head(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n")
}

fn ambiguous() -> Vec<(String, Ambiguity)> {
    use Ambiguity::*;
    let chunked = head("transfer-encoding: chunked");
    let mut cases: Vec<(String, Ambiguity)> = [
        ("\nGET / HTTP/1.1\r\n\r\n", LineFeed),
        ("\r\n\nGET / HTTP/1.1\r\n\r\n", LineFeed),
        ("GET / HTTP/1.1\nhost: a\n\n", LineFeed),
        ("GET / HTTP/1.1\r\nhost: a\n\r\n", LineFeed),
        ("GET / HTTP/1.1\r\nhost: a\r\n\n", LineFeed),
        ("GET / HTTP/1.1\r\nhost: a\r\rx: y\r\n\r\n", CarriageReturn),
        ("GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", CarriageReturn),
        ("GET / HTTP/1.1\r\nhost: a\r\n\rb: c\r\n\r\n", CarriageReturn),
        ("GET /\rHTTP/1.1\r\n\r\n", CarriageReturn),
        ("\rGET / HTTP/1.1\r\n\r\n", CarriageReturn),
        ("GET /\0 HTTP/1.1\r\n\r\n", Control),
        ("GET /\tHTTP/1.1\r\n\r\n", Control),
        ("GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", Control),
        ("GET / HTTP/1.1\r\nx\0: a\r\n\r\n", Control),
        ("GET /a#b HTTP/1.1\r\n\r\n", Fragment),
        ("GET /a# HTTP/1.1\r\n\r\n", Fragment),
        ("GET http://a/#/../b HTTP/1.1\r\n\r\n", Fragment),
        ("GET / HTTP/1.1\r\n x: y\r\n\r\n", Folding),
        ("GET / HTTP/1.1\r\nx: y\r\n\tz\r\n\r\n", Folding),
        ("GET / HTTP/1.1\r\nx : y\r\n\r\n", SpaceInName),
        ("GET / HTTP/1.1\r\nx\t: y\r\n\r\n", SpaceInName),
        ("GET / HTTP/1.1\r\nx\r\n\r\n", NoColon),
    ]
    .map(|(stream, ambiguity)| (stream.to_owned(), ambiguity))
    .into();
    cases.extend(
        [
            ("content-length: 5\r\ntransfer-encoding: chunked", TwoLengths),
            ("transfer-encoding: chunked\r\ncontent-length: 5", TwoLengths),
            ("content-length: 5\r\nx: y\r\nContent-Length: 5", TwoLengths),
            ("content-length: 0\r\ncontent-length: 0", TwoLengths),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", TwoLengths),
            ("content-length:", Length),
            ("content-length: 5, 5", Length),
            ("content-length: 5 5", Length),
            ("content-length: +5", Length),
            ("content-length: -1", Length),
            ("content-length: 0x5", Length),
            ("content-length: 18446744073709551616", Length),
            ("transfer-encoding:", Coding),
            ("transfer-encoding: identity", Coding),
            ("transfer-encoding: chunk", Coding),
            ("transfer-encoding: xchunked", Coding),
            ("transfer-encoding: chunkedx", Coding),
            ("transfer-encoding: chun ked", Coding),
            ("transfer-encoding: chunked, identity", Coding),
            ("transfer-encoding: gzip, chunked", Coding),
            ("transfer-encoding: \u{b}chunked", Control),
            ("content-length: 5\r\n folded", Folding),
            ("transfer-encoding : chunked", SpaceInName),
        ]
        .map(|(lines, ambiguity)| (head(lines), ambiguity)),
    );
    cases.extend(
        [
            ("fffffffffffffffff\r\n", Chunk),
            ("10000000000000000\r\n", Chunk),
            ("-1\r\n", Chunk),
            ("0x1\r\n", Chunk),
            ("\r\n", Chunk),
            ("g\r\n", Chunk),
            ("1\nx\n", Chunk),
            ("1;a\nx", Chunk),
            ("1;a\0b\r\nx", Chunk),
            ("1 \u{b}\r\nx", Chunk),
            ("1\rx", CarriageReturn),
            ("1\r\nxx\r\n", Chunk),
            ("1\r\nx\n0\r\n", Chunk),
            ("1\r\nx\r0\r\n", CarriageReturn),
            ("0\r\nx: y\n\r\n", LineFeed),
            ("0\r\n x: y\r\n", Folding),
            ("0\r\nGET / HTTP/1.1\r\n", SpaceInName),
        ]
        .map(|(body, ambiguity)| (format!("{chunked}{body}"), ambiguity)),
    );
    cases
}

#[test]
fn what_reads_in_one_way_is_never_ambiguous() {
    for stream in LEGAL {
        assert_always(stream.as_bytes(), None);
    }
}

#[test]
fn what_reads_in_two_ways_is_told_however_it_arrives() {
    for (stream, ambiguity) in ambiguous() {
        assert_always(stream.as_bytes(), Some(ambiguity));
    }
}

/// Cuts a stream into pieces of these lengths, over and over.
fn cut<'a>(stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = stream;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn a_body() -> impl Strategy<Value = String> {
    let length = prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| {
        let body = String::from_utf8_lossy(&body).into_owned();
        format!("content-length: {}\r\n\r\n{body}", body.len())
    });
    let chunk = ("[ -~\r\n#:]{1,20}", "(|;[a-z]{1,5}(=\"[ -!#-~]{0,8}\")?)")
        .prop_map(|(data, extension)| format!("{:X}{extension}\r\n{data}\r\n", data.len()));
    let chunks = (prop::collection::vec(chunk, 0..4), "(x-[a-z]{1,20}: [ -~]{0,9}\r\n){0,3}")
        .prop_map(|(chunks, trailers)| {
            format!("transfer-encoding: chunked\r\n\r\n{}0\r\n{trailers}\r\n", chunks.concat())
        });
    prop_oneof![Just("\r\n".to_owned()), length, chunks]
}

fn a_request() -> impl Strategy<Value = String> {
    (
        "(\r\n)?[A-Z]{3,7} /[!-\"$-~]{0,30} HTTP/1\\.[01]\r\n([a-z-]{1,9}: ?[ -~]{0,20}\r\n){0,5}",
        a_body(),
    )
        .prop_map(|(head, body)| head + &body)
}

proptest! {
    #[test]
    fn pipelined_requests_are_followed_in_any_pieces(
        requests in prop::collection::vec(a_request(), 1..5),
        lengths in prop::collection::vec(1_usize..50, 1..10),
    ) {
        let stream = requests.concat();
        prop_assert_eq!(observe(cut(stream.as_bytes(), &lengths)), None);
    }

    #[test]
    fn an_ambiguous_request_is_found_after_any_others(
        requests in prop::collection::vec(a_request(), 0..4),
        case in prop::sample::select(ambiguous()),
        lengths in prop::collection::vec(1_usize..50, 1..10),
    ) {
        let (last, ambiguity) = case;
        let stream = requests.concat() + &last;
        prop_assert_eq!(observe(cut(stream.as_bytes(), &lengths)), Some(ambiguity));
    }

    #[test]
    fn the_pieces_make_no_difference(
        stream in prop::collection::vec(
            prop::sample::select(b"\r\n\r\n\r\n :#0a;\0xGET transfer-encoding: chunked".to_vec()), 0..80),
        lengths in prop::collection::vec(1_usize..9, 1..10),
    ) {
        prop_assert_eq!(observe(cut(&stream, &lengths)), observe([stream.as_slice()]));
    }
}

proptest! {
    #[test]
    fn the_first_byte_is_the_one_that_is_found_byte_by_byte(
        bytes in proptest::collection::vec(
            prop_oneof![8 => any::<u8>(), 4 => b'a'..=b'z', 1 => Just(b'\t'), 1 => Just(b'#')],
            0..80,
        ),
    ) {
        let control = |byte: u8| byte < b' ' && byte != b'\t';
        prop_assert_eq!(
            first(&bytes, |word| below(word, b' '), control),
            bytes.iter().position(|byte| control(*byte))
        );
        let either = |byte: u8| byte <= b' ' || byte == b'#';
        prop_assert_eq!(
            first(&bytes, |word| below(word, b' ' + 1) | equal(word, b'#'), either),
            bytes.iter().position(|byte| either(*byte))
        );
    }
}
