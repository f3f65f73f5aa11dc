//! Only the gate says who somebody is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::harness::{Gate, Recorder};

const OURS: [&str; 5] = [
    "x-wicketgate-assertion",
    "x-wicketgate-user",
    "x-wicketgate-email",
    "x-wicketgate-groups",
    "x-wicketgate-tenant",
];

/// Everything that reached the upstream in any spelling of one of our headers.
fn forged(head: &str) -> Vec<&str> {
    let plain = |line: &str| line.to_ascii_lowercase().replace(['_', '.'], "-");
    head.lines()
        .filter(|line| plain(line).starts_with("x-wicketgate") && line.contains("forged"))
        .collect()
}

#[tokio::test]
async fn the_upstream_learns_who_it_is_from_a_signed_assertion_and_plain_headers() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut ada = gate.login("ada").await;
    ada.get("/orders").await.expect(200);
    let seen = upstream.last();
    assert_eq!(seen.value("x-wicketgate-user"), Some("test/ada"));
    assert_eq!(seen.value("x-wicketgate-email"), Some("ada@acme.example"));
    assert_eq!(seen.value("x-wicketgate-groups"), Some("customers"));
    assert_eq!(seen.value("x-wicketgate-tenant"), Some("acme"));

    let token = seen.value("x-wicketgate-assertion").unwrap().to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    let decode = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let (header, claims) = (decode(parts[0]), decode(parts[1]));
    assert_eq!(header["alg"], "ES256");
    assert_eq!(claims["sub"], "test/ada");
    assert_eq!(claims["tenant"], "acme");

    let keys = ada.get("/.wicketgate/jwks.json").await.expect(200).json();
    let fits = |key: &&Value| key["kid"] == header["kid"];
    let key = keys["keys"].as_array().unwrap().iter().find(fits).expect("the signing key");
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let signed = format!("{}.{}", parts[0], parts[1]);
    aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED,
        point,
    )
    .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).unwrap())
    .expect("the assertion verifies with the published key");
}

#[tokio::test]
async fn a_client_cannot_send_identity_headers_in_any_spelling() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    // Nell has no claim at all: nothing of ours would overwrite what she sends.
    let nell = gate.login("nell").await;
    let cookie = nell.cookies_for(&nell.url("/"));
    for name in OURS {
        for spelling in [
            name.to_owned(),
            name.to_ascii_uppercase(),
            name.replace('-', "_"),
            name.replace('-', "."),
            name.replacen('-', "_", 1),
            name.replacen("wicketgate-", "wicketgate_", 1),
            "X-Wicketgate-Anything".to_owned(),
        ] {
            let before = upstream.requests().len();
            let mut raw = gate.raw().await;
            let host = gate.url("/").replace("https://", "").replace('/', "");
            raw.send(
                format!(
                    "GET / HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\
                     {spelling}: forged\r\n{spelling}: forged-again\r\nconnection: close\r\n\r\n"
                )
                .as_bytes(),
            )
            .await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!(answer.status, 200, "{spelling}: {answer:?}");
            assert_eq!(upstream.requests().len(), before + 1, "{spelling}");
            for request in &upstream.requests()[before..] {
                assert_eq!(forged(&request.head), Vec::<&str>::new(), "{spelling}");
                assert_eq!(request.value("x-wicketgate-user"), Some("test/nell"));
                assert_eq!(request.value("x-wicketgate-email"), None);
                assert_eq!(request.value("x-wicketgate-tenant"), None);
            }
        }
    }
}

#[tokio::test]
async fn connection_cannot_name_our_headers_away() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut ada = gate.login("ada").await;
    let before = upstream.requests().len();
    let names = "close, x-wicketgate-user, X-Wicketgate-Assertion, x-forwarded-for, host, cookie";
    let answer = ada.send(http::Method::GET, "/", &[("connection", names)], "".into()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(upstream.requests().len(), before + 1);
    for request in &upstream.requests()[before..] {
        assert_eq!(request.value("x-wicketgate-user"), Some("test/ada"));
        assert!(request.value("x-wicketgate-assertion").is_some());
        assert!(request.value("x-forwarded-for").is_some());
    }
}

#[tokio::test]
async fn the_gates_cookies_stay_at_the_gate_and_others_pass() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let ada = gate.login("ada").await;
    let cookie = format!("theme=dark; {}; last=1", ada.cookies_for(&ada.url("/")));
    gate.browser().with_header("cookie", &cookie).get("/").await.expect(200);
    let seen = upstream.last();
    assert_eq!(seen.value("cookie"), Some("theme=dark; last=1"));
    let secret = ada.session_cookie().unwrap();
    let bytes = String::from_utf8_lossy(&upstream.bytes()).into_owned();
    assert!(!bytes.contains(&secret), "the session's secret reached an upstream");
}

#[tokio::test]
async fn forwarding_headers_are_the_gates_own() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let forged = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-uri", "/admin"),
        ("x-forwarded-port", "1"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("x-real-ip", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9;host=evil.example"),
    ];
    gate.login("ada").await.send(http::Method::GET, "/", &forged, "".into()).await.expect(200);
    let seen = upstream.last();
    for value in ["203.0.113.9", "evil.example", "/admin"] {
        assert!(!seen.head.contains(value), "{value} in {}", seen.head);
    }
    assert_eq!(seen.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.value("x-forwarded-proto"), Some("https"));
}
