//! Requests that another site's page starts.

use http::Method;
use serde_json::json;

use crate::harness::{Gate, Recorder};

const PARTNER: &str = "https://partner.example";

async fn gate(upstream: &Recorder) -> Gate {
    Gate::with_upstream(upstream)
        .configure(|config| config["routes"][0]["cross_site_origins"] = json!([PARTNER]))
        .start()
        .await
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_unless_its_origin_is_listed() {
    let upstream = Recorder::start().await;
    let gate = gate(&upstream).await;
    let mut browser = gate.login("vera").await;
    let own = gate.url("");
    let form = "application/x-www-form-urlencoded";
    for (headers, status) in [
        (vec![("origin", own.as_str())], 200),
        (vec![("origin", PARTNER), ("sec-fetch-site", "cross-site")], 200),
        (vec![], 200),
        (vec![("origin", "https://evil.example")], 403),
        (vec![("origin", "null")], 403),
        (vec![("origin", "https://sub.app.localhost")], 403),
        (vec![("sec-fetch-site", "same-site")], 403),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("referer", "https://evil.example/")], 403),
        (vec![("origin", "https://evil.example"), ("content-type", "text/plain")], 403),
        (vec![("origin", "https://evil.example"), ("content-type", form)], 403),
        (vec![("origin", "https://evil.example"), ("x-http-method-override", "GET")], 403),
    ] {
        let before = upstream.requests().len();
        let answer = browser.send(Method::POST, "/x", &headers, "a=b".into()).await;
        assert_eq!(answer.status, status, "{headers:?}");
        let passed = upstream.requests().len() - before;
        assert_eq!(passed, usize::from(status == 200), "{headers:?}");
    }
    // What would make a GET a DELETE on the other side does not get there.
    for name in ["x-http-method-override", "x-http-method", "x_method_override"] {
        let headers = [(name, "DELETE"), ("origin", "https://evil.example")];
        browser.send(Method::GET, "/x", &headers, "".into()).await.expect(200);
        assert_eq!(upstream.last().line(), "GET /x HTTP/1.1");
        assert!(!upstream.last().head.contains("DELETE"), "{name}");
    }
}

#[tokio::test]
async fn the_gate_answers_the_preflight_of_a_listed_origin_and_lets_nothing_through() {
    let upstream = Recorder::start().await;
    let gate = gate(&upstream).await;
    let ask = async |origin: &str, method: Method| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "content-type, x-own"),
            ("sec-fetch-mode", "cors"),
        ];
        gate.browser().send(method, "/x", &headers, "".into()).await
    };
    let answer = ask(PARTNER, Method::OPTIONS).await.expect(204);
    for (name, value) in [
        ("access-control-allow-origin", PARTNER),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "content-type, x-own"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    assert!(answer.header("vary").unwrap().contains("origin"));
    for (origin, method) in [
        ("https://evil.example", Method::OPTIONS),
        ("null", Method::OPTIONS),
        ("http://partner.example", Method::OPTIONS),
        (PARTNER, Method::GET),
    ] {
        let refused = ask(origin, method).await.expect(401);
        assert_eq!(refused.header("access-control-allow-origin"), None, "{origin}");
    }
    // The request itself still needs a session.
    let headers = [("origin", PARTNER), ("sec-fetch-mode", "cors")];
    gate.browser().send(Method::PUT, "/x", &headers, "a".into()).await.expect(401);
    assert_eq!(upstream.bytes(), b"");
}
