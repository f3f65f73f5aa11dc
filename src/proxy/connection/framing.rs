//! What hyper makes of malformed and ambiguous HTTP/1 (SECURITY.md, "Framing"), on raw bytes.
//!
//! These tests hold what the gate relies on. What hyper lets through is listed in
//! `hyper_leaves_these_to_the_gate`: the observer of the bytes (`head`) or the pipeline's
//! normaliser refuses it.

use super::tests::{Exchanges, converse, limits};

const OK: &str = "HTTP/1.1 200 OK";
const BAD: &str = "HTTP/1.1 400 Bad Request";

async fn send(input: &str) -> Exchanges {
    converse(input.as_bytes(), &limits()).await
}

/// Refused by hyper with this status line, before anything saw a request.
async fn refused(input: &str, status: &str) {
    let result = send(input).await;
    assert!(result.answer.starts_with(status), "{input:?} -> {:?}", result.answer);
    assert!(result.seen.is_empty(), "{input:?} -> {:?}", result.seen);
    assert_eq!(result.answer.matches("HTTP/1.1").count(), 1, "{input:?} -> {:?}", result.answer);
}

#[tokio::test(start_paused = true)]
async fn malformed_heads_are_answered_400_and_never_reach_a_route() {
    for input in [
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\n leading: space\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n: empty\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET / HTTP/0.9\r\nhost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "G(T / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / /x HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a\0b HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        refused(input, BAD).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ambiguous_lengths_are_answered_400() {
    for lengths in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5, 5",
        "content-length: +5",
        "content-length: -1",
        "content-length: 0x5",
        "content-length: 5 5",
        "content-length: ",
        "content-length: 18446744073709551616",
        "transfer-encoding: identity",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
    ] {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{lengths}\r\n\r\nhello");
        refused(&head, BAD).await;
    }
    refused("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", BAD).await;
}

#[tokio::test(start_paused = true)]
async fn both_lengths_at_once_read_as_chunked_and_close_the_connection() {
    // RFC 9112, section 6.3. hyper takes the Content-Length away, so that the pipeline can't see
    // it; the observer does.
    for lengths in [
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "content-length: 3\r\ntransfer-encoding: chunked",
    ] {
        let input = format!(
            "POST / HTTP/1.1\r\nhost: a\r\n{lengths}\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        let result = send(&input).await;
        assert_eq!(result.bodies(), [b"hello"]);
        assert_eq!(result.targets(), ["/"]);
        let head = result.seen.first().unwrap();
        assert!(head.headers.get("content-length").is_none());
        assert!(result.answer.contains("connection: close"), "{:?}", result.answer);
    }
}

#[tokio::test(start_paused = true)]
async fn broken_chunks_end_the_connection_without_a_second_request() {
    for chunks in [
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
    ] {
        let input = format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}\
             GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        let result = send(&input).await;
        assert_eq!(result.targets(), ["/"], "{chunks:?}");
        assert!(result.broken, "{chunks:?} was read as {:?}", result.bodies());
    }
}

#[tokio::test(start_paused = true)]
async fn endless_chunk_extensions_and_trailers_are_bounded() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let extension = format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(64 * 1024));
    let trailers = format!("{head}0\r\n{}\r\n", "x: y\r\n".repeat(20_000));
    for input in [extension, trailers] {
        assert!(send(&input).await.broken);
    }
}

#[tokio::test(start_paused = true)]
async fn oversized_heads_are_answered_431_or_414() {
    let many = "x: y\r\n".repeat(101);
    refused(&format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "HTTP/1.1 431").await;
    let long = "y".repeat(limits().max_header_bytes);
    refused(&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), "HTTP/1.1 431").await;
    // It ends nowhere, and is given up all the same.
    refused(&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}"), "HTTP/1.1 431").await;
    refused(&format!("GET /{long}{long}{long} HTTP/1.1\r\n"), "HTTP/1.1 431").await;
}

#[tokio::test(start_paused = true)]
async fn hyper_leaves_these_to_the_gate() {
    // Each of these arrives as a request. The pipeline has to refuse it or to read it in the one
    // way that is meant here.
    let get = |head: &str| format!("GET {head}\r\n\r\n");
    for (what, input) in [
        ("no host", get("/ HTTP/1.1")),
        ("two hosts", get("/ HTTP/1.1\r\nhost: a\r\nhost: b")),
        ("an empty host", get("/ HTTP/1.1\r\nhost:")),
        ("a host with user information", get("/ HTTP/1.1\r\nhost: a@b")),
        ("absolute form", get("http://b/ HTTP/1.1\r\nhost: a")),
        ("two times chunked", {
            let te = "transfer-encoding: chunked\r\ntransfer-encoding: chunked";
            format!("POST / HTTP/1.1\r\nhost: a\r\n{te}\r\n\r\n0\r\n\r\n")
        }),
        (
            "another coding before chunked",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
                .into(),
        ),
        ("h2c", get("/ HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c")),
        ("authority form", "CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("asterisk form", "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("a method of its own", "PURGE / HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("lower case method", "get / HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("bare line feeds", "GET / HTTP/1.1\nhost: a\n\n".into()),
        ("bytes above ASCII in a value", get("/ HTTP/1.1\r\nhost: a\r\nx: \u{e9}")),
        ("underscores in a name", get("/ HTTP/1.1\r\nhost: a\r\nx_user: a")),
        ("HTTP/1.0 without host", get("/ HTTP/1.0")),
    ] {
        let result = send(&input).await;
        assert_eq!(result.seen.len(), 1, "{what}: {:?}", result.answer);
        assert!(result.answer.contains(" 200 OK"), "{what}: {:?}", result.answer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fragment_in_the_target_is_cut_off_before_anyone_sees_it() {
    // `http::Uri` drops it (CVE-2026-41059 was a proxy that decided on one half and forwarded
    // both). The observer has the request refused.
    let result = send("GET /a#/../b HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(result.targets(), ["/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_left_unread_is_never_the_next_request() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for input in [
        format!("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{smuggled}"),
        format!(
            "POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ),
        format!(
            "POST /early HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n26\r\n{smuggled}"
        ),
        format!(
            "POST /early HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n{smuggled}"
        ),
    ] {
        let result = send(&input).await;
        assert_eq!(result.targets(), ["/early"], "{input:?}");
        assert_eq!(result.answer.matches("HTTP/1.1 ").count(), 1, "{:?}", result.answer);
        assert!(result.answer.starts_with(OK), "{:?}", result.answer);
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_arrives_although_the_client_is_still_sending() {
    // More than hyper drains by itself, so that the connection closes with bytes unread.
    let body = "x".repeat(200_000);
    let input = format!("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n{body}");
    let result = send(&input).await;
    assert!(result.answer.ends_with("ok"), "{:?}", result.answer);
    assert!(result.all_sent);
}
