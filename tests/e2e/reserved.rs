//! The gate's own addresses.

use http::Method;

use crate::harness::gate::route;
use crate::harness::{Gate, Recorder, port};

const ADDRESSES: &[&str] = &["", "/", "/me", "/login", "/callback", "/signed-out", "/jwks.json"];

#[tokio::test]
async fn each_takes_its_own_methods_and_no_other() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let signed_in = gate.login("vera").await;
    let before = upstream.requests().len();
    let wrong = [Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    for mut browser in [gate.browser(), gate.browser_h2(), signed_in.clone()] {
        for address in ADDRESSES.iter().chain(&["/logout", "/nothing"]) {
            let target = format!("/.wicketgate{address}");
            let posts = (*address != "/logout").then_some(Method::POST);
            for method in wrong.iter().cloned().chain(posts) {
                let answer = browser.send(method.clone(), &target, &[], "".into()).await;
                assert_eq!(answer.status, 405, "{method} {target}: {answer:?}");
                assert!(answer.header("allow").unwrap().contains("GET"), "{answer:?}");
                assert!(answer.header("x-wicketgate-decision").is_some(), "{answer:?}");
            }
        }
    }
    signed_in.clone().as_program().get("/").await.expect(200);
    assert_eq!(upstream.requests().len(), before + 1, "none of them reached the upstream");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    for mut browser in [gate.browser(), gate.browser_h2()] {
        for address in ["/jwks.json", "/signed-out", "/login"] {
            let target = format!("/.wicketgate{address}");
            let get = browser.get(&target).await.expect(200);
            let head = browser.send(Method::HEAD, &target, &[], "".into()).await.expect(200);
            assert_eq!(head.body.len(), 0);
            assert_eq!(head.header("content-type"), get.header("content-type"));
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_never_the_upstreams() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = gate.login("vera").await;
    let before = upstream.requests().len();
    for target in [
        "/.wicketgate/nothing",
        "/.wicketgate/login/more",
        "/.wicketgate//me",
        "/.wicketgate/%6de/x",
        "/%2ewicketgate/nothing",
    ] {
        let answer = browser.get(target).await;
        assert!(matches!(answer.status, 400 | 404), "{target}: {answer:?}");
        assert!(answer.header("x-wicketgate-decision").is_some(), "{target}");
    }
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn every_page_of_the_gate_carries_its_headers() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let (signed_in, nobody) = (gate.login("vera").await, gate.browser());
    for (browser, address, status) in [
        (&signed_in, "/me", 200),
        (&signed_in, "/logout", 200),
        (&nobody, "/login", 200),
        (&nobody, "/signed-out", 200),
        (&nobody, "/nothing", 404),
        (&nobody, "/callback", 400),
    ] {
        let mut browser = browser.clone();
        let answer = browser.get(&format!("/.wicketgate{address}")).await.expect(status);
        let policy = answer.header("content-security-policy").unwrap();
        for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(rule), "{address}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{address}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{address}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{address}");
        assert_eq!(answer.header("cross-origin-opener-policy"), Some("same-origin"), "{address}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{address}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{address}");
        assert!(answer.header("permissions-policy").unwrap().contains("camera=()"), "{address}");
        assert!(answer.header("strict-transport-security").is_some(), "{address}");
        let page = answer.text();
        assert!(!page.contains("<script") && !page.contains("style=\""), "{address}");
        assert!(!page.contains("eyJ"), "no token on a page: {address}");
    }
}

#[tokio::test]
async fn an_error_page_names_the_host_that_it_is_of_and_none_that_is_not_the_gates() {
    let nobody = format!("http://{}", port::free());
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).route(route("gone", "/gone", &nobody)).start().await;
    let host = gate.url("").replace("https://", "");
    let mut browser = gate.login("vera").await;
    for (target, status) in [("/.wicketgate/nothing", 404), ("/gone", 502)] {
        let page = browser.get(target).await.expect(status).text();
        assert!(page.contains(&format!("<span class=\"host\">{host}</span>")), "{target}: {page}");
        let program = browser.clone().as_program().get(target).await.expect(status);
        assert!(!program.text().contains(&host), "{target}");
    }
    for named in ["evil.example", "evil.example:443", "<b>evil</b>"] {
        let mut raw = gate.raw().await;
        let fields = "accept: text/html\r\nconnection: close";
        raw.send(format!("GET / HTTP/1.1\r\nhost: {named}\r\n{fields}\r\n\r\n").as_bytes()).await;
        let answer = raw.rest().await;
        assert!(answer.contains("<p class=\"brand\">Wicketgate</p>"), "{named}: {answer}");
        assert!(!answer.contains("evil"), "{named}: {answer}");
    }
}
