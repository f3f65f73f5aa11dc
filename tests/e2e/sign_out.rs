//! Signing out in the browser: where it leads, and what a provider's page may do in a frame.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::harness::gate::mentions;
use crate::harness::provider::SECRET;
use crate::harness::rogue::{Bend, parameter};
use crate::harness::{Browser, Gate, Recorder, Rogue, eventually};

const LISTED: &str = "https://www.example.com/bye?from=gate";

async fn is_signed_in(browser: &Browser) -> bool {
    browser.clone().as_program().get("/").await.status == 200
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// What the button of the page does.
async fn press(browser: &mut Browser, wish: &str) -> crate::harness::client::Answer {
    let target = format!("/.wicketgate/logout?return_to={}", encoded(wish));
    let page = browser.get(&target).await.expect(200);
    let text = page.text();
    let action = text.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
    browser.post(&action.replace("&amp;", "&").replace("&#38;", "&"), "").await
}

#[tokio::test]
async fn after_signing_out_a_browser_goes_where_it_may_and_nowhere_else() {
    let rogue = Rogue::start().await;
    let gate = rogue
        .provides(Gate::with_upstream(&Recorder::start().await))
        .configure(|config| config["session"] = json!({ "sign_out_urls": [LISTED] }))
        .start()
        .await;
    let port = gate.port();
    let own = format!("https://app.localhost:{port}/start?x=1");
    for (wish, leads_to) in [
        ("/goodbye?a=b&c=d", Some(gate.url("/goodbye?a=b&c=d"))),
        (LISTED, Some(LISTED.to_owned())),
        (&own, Some(own.clone())),
        ("", None),
        ("https://www.example.com/", None),
        ("https://www.example.com/bye?from=gate&to=https://evil.example", None),
        ("https://www.example.com/bye?from=gate#evil", None),
        ("http://www.example.com/bye?from=gate", None),
        ("https://evil.example/", None),
        ("//evil.example/", None),
        ("/\\evil.example/", None),
        ("\\\\evil.example/", None),
        ("https:evil.example", None),
        ("https:/evil.example", None),
        ("https://app.localhost/", None),
        (&format!("https://app.localhost:{port}@evil.example/"), None),
        (&format!("https://app.localhost:{port}.evil.example/"), None),
        (&format!("https://evil.example\\@app.localhost:{port}/"), None),
        (&format!("https://app.localhost:{port}?@evil.example/"), None),
        (&format!("https://app.localhost:{port}/..//evil.example"), None),
        (&format!("http://app.localhost:{port}/"), None),
        (&format!("https://app.localhost:{port}/.wicketgate/login"), None),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        ("/a\r\nset-cookie: x=y", None),
        ("/\t/evil.example", None),
    ] {
        let mut browser = rogue.signed_in(&gate, "vera", None).await;
        let answer = press(&mut browser, wish).await.expect(303);
        assert!(!is_signed_in(&browser).await, "{wish}");
        let provider = answer.location();
        assert!(provider.as_str().starts_with(&format!("{}/end?", rogue.issuer)), "{provider}");
        assert!(!parameter(&provider, "id_token_hint").is_empty());
        assert_eq!(parameter(&provider, "client_id"), "wicketgate");
        let back = parameter(&provider, "post_logout_redirect_uri");
        assert_eq!(back, gate.url("/.wicketgate/signed-out"), "{wish}");
        let state = parameter(&provider, "state");
        for wrong in ["".to_owned(), "?state=x".to_owned(), format!("?state={state}&state={state}")]
        {
            browser.clone().get(&format!("{back}{wrong}")).await.expect(200);
        }
        let other = gate.browser().get(&format!("{back}?state={state}")).await;
        assert_eq!(other.status, 200, "in another browser: {other:?}");
        let answer = browser.get(&format!("{back}?state={state}")).await;
        match leads_to {
            Some(address) => {
                assert_eq!(answer.expect(303).location().as_str(), address, "{wish}");
                browser.get(&format!("{back}?state={state}")).await.expect(200);
            }
            None => assert_eq!(answer.status, 200, "{wish}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_cookie_that_somebody_planted_leads_nowhere_else() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    let mut led = async |address: &str| {
        let cookie =
            format!("__Host-wicketgate-after=x.{}", BASE64_URL_SAFE_NO_PAD.encode(address));
        let target = "/.wicketgate/signed-out?state=x";
        browser.send(Method::GET, target, &[("cookie", &cookie)], Bytes::new()).await
    };
    let own = gate.url("/goodbye");
    assert_eq!(led(&own).await.expect(303).location().as_str(), own, "the cookie is read");
    for elsewhere in ["https://evil.example/", "//evil.example/", LISTED, "javascript:alert(1)"] {
        let answer = led(elsewhere).await.expect(200);
        assert!(answer.header("location").is_none(), "{elsewhere}: {answer:?}");
    }
}

#[tokio::test]
async fn without_the_providers_own_sign_out_a_browser_goes_there_at_once() {
    let rogue = Rogue::start().await;
    rogue.bend(|bend| {
        bend.metadata.push(Box::new(|metadata| {
            metadata.as_object_mut().unwrap().remove("end_session_endpoint");
        }));
    });
    let gate = rogue.provides(Gate::with_upstream(&Recorder::start().await)).start().await;
    for (wish, leads_to) in [
        ("/goodbye", "/goodbye"),
        ("https://evil.example/", "/.wicketgate/signed-out"),
        ("", "/.wicketgate/signed-out"),
    ] {
        let mut browser = rogue.signed_in(&gate, "vera", None).await;
        let answer = press(&mut browser, wish).await.expect(303);
        assert_eq!(answer.location().as_str(), gate.url(leads_to), "{wish}");
        assert!(!is_signed_in(&browser).await);
    }
}

#[tokio::test]
async fn a_page_of_the_provider_ends_the_session_that_it_names_and_no_other() {
    let rogue = Rogue::start().await;
    let gate = rogue.provides(Gate::with_upstream(&Recorder::start().await)).start().await;
    let mut vera = rogue.signed_in(&gate, "vera", Some("s1")).await;
    let phone = rogue.signed_in(&gate, "vera", Some("s2")).await;
    let issuer = encoded(&rogue.issuer);
    let address = format!("/.wicketgate/frontchannel-logout?iss={issuer}&sid=");
    for wrong in [
        "/.wicketgate/frontchannel-logout".to_owned(),
        "/.wicketgate/frontchannel-logout?sid=s1".to_owned(),
        "/.wicketgate/frontchannel-logout?iss=https%3A%2F%2Fevil.example&sid=s1".to_owned(),
        address.clone(),
        format!("{address}s2"),
        format!("{address}s1&sid=s1"),
        format!("{address}s1&iss={issuer}"),
        address.replace("&sid=", ""),
    ] {
        let answer = vera.get(&wrong).await.expect(200);
        assert_eq!(answer.header("set-cookie"), None, "{wrong}");
        assert!(is_signed_in(&vera).await, "{wrong}");
    }
    let good = format!("{address}s1");
    vera.send(Method::HEAD, &good, &[], "".into()).await.expect(200);
    vera.send(Method::POST, &good, &[], "".into()).await.expect(405);
    gate.browser().get(&good).await.expect(200);
    assert!(is_signed_in(&vera).await, "only the browser's own session counts");

    let stranger = gate.browser().get("/.wicketgate/frontchannel-logout?iss=x").await.expect(200);
    let policy = stranger.header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");

    let copy = vera.clone();
    let answer = vera.get(&good).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains(&format!("frame-ancestors {}", rogue.issuer)), "{policy}");
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert_eq!(vera.session_cookie(), None);
    assert!(!is_signed_in(&copy).await && is_signed_in(&phone).await);
    let ended = ["session-ended", "test/vera", "provider-logout"];
    gate.audited("the end of the session", |record| mentions(record, &ended)).await;
}

/// What the provider says to somebody who has the refresh token that it gave for this user last.
async fn refresh_outside(gate: &Gate, token: &str) -> u16 {
    let client = BASE64_STANDARD.encode(format!("wicketgate:{}", encoded(SECRET)));
    let headers = [
        ("authorization", &*format!("Basic {client}")),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let form = format!("grant_type=refresh_token&refresh_token={}", encoded(token));
    let address = format!("{}/token", gate.provider.issuer);
    gate.browser().send(Method::POST, &address, &headers, form.into()).await.status
}

async fn refresh_token(gate: &Gate, user: &str) -> String {
    let address = format!("{}/test/refresh-token?user={user}", gate.provider.issuer);
    gate.browser().post(&address, "").await.expect(200).text()
}

async fn revocations(gate: &Gate, result: &str) -> f64 {
    gate.metric("wicketgate_token_revocations_total", result).await
}

#[tokio::test]
async fn after_signing_out_the_refresh_token_is_worthless_at_the_provider() {
    let page = Recorder::start().await;
    let gate = Gate::with_upstream(&page).refresh("1h", "2h").start().await;
    let mut vera = gate.login("vera").await;
    let _otto = gate.login("otto").await;
    let ada = gate.login("ada").await;
    let mut tokens = Vec::new();
    for user in ["vera", "otto", "ada"] {
        tokens.push(refresh_token(&gate, user).await);
    }
    vera.sign_out().await.expect(303);
    let revoked = gate.command(&["sessions", "revoke", "--user", "test/ada"]);
    assert!(revoked.status.success(), "{revoked:?}");
    assert!(!is_signed_in(&vera).await && !is_signed_in(&ada).await);
    eventually("both revocations", async || {
        (revocations(&gate, "revoked").await > 1.5).then_some(())
    })
    .await;
    for (token, status) in tokens.iter().zip([400, 200, 400]) {
        assert_eq!(refresh_outside(&gate, token).await, status);
    }
    assert!(revocations(&gate, "failed").await < 0.5);
}

const TOKEN: &str = "a-refresh-token-that-nobody-may-ever-see";

fn revokes(bend: &mut Bend) {
    bend.tokens.push(Box::new(|tokens| tokens["refresh_token"] = TOKEN.into()));
    bend.metadata.push(Box::new(|metadata| {
        let issuer = metadata["issuer"].as_str().unwrap().to_owned();
        metadata["revocation_endpoint"] = format!("{issuer}/revoke").into();
    }));
}

#[tokio::test]
async fn a_provider_that_revokes_nothing_or_never_answers_keeps_nobody_from_signing_out() {
    let (rogue, page) = (Rogue::start().await, Recorder::start().await);
    let gate = rogue
        .provides(Gate::with_upstream(&page).refresh("1h", "2h"))
        // Longer than a test waits for an answer.
        .configure(|config| config["identity_providers"][0]["timeout"] = "60s".into())
        .start()
        .await;
    rogue.bend(revokes);
    let failing: [fn(&mut Bend); 3] = [
        |bend| bend.answer("/revoke", 500, "{}"),
        |bend| bend.answer("/revoke", 400, r#"{"error":"unsupported_token_type"}"#),
        |bend| bend.hangs = Some("/revoke"),
    ];
    for (asked, bend) in failing.into_iter().enumerate() {
        let mut browser = rogue.signed_in(&gate, "vera", Some("s1")).await;
        rogue.bend(bend);
        let answer = browser.sign_out().await.expect(303);
        assert!(answer.location().as_str().starts_with(&format!("{}/end?", rogue.issuer)));
        assert!(!is_signed_in(&browser).await);
        eventually("the question", async || (rogue.asked("/revoke") > asked).then_some(())).await;
    }
    eventually("two that failed", async || {
        (revocations(&gate, "failed").await > 1.5).then_some(())
    })
    .await;
    let (head, body) = rogue.last("/revoke");
    assert!(head.to_lowercase().contains("authorization: basic "), "{head}");
    assert_eq!(body, format!("token={TOKEN}&token_type_hint=refresh_token"));
    let said = gate.process.output().join("\n");
    assert!(said.contains("was not revoked") && said.contains("unsupported_token_type"), "{said}");
    let log: String = gate.audit().iter().map(ToString::to_string).collect();
    assert!(!said.contains(TOKEN) && !log.contains(TOKEN));
}

#[tokio::test]
async fn where_the_provider_offers_no_revocation_nothing_is_asked() {
    let (rogue, page) = (Rogue::start().await, Recorder::start().await);
    let mut gate = rogue.provides(Gate::with_upstream(&page).refresh("1h", "2h")).start().await;
    rogue.bend(|bend| {
        bend.tokens.push(Box::new(|tokens| tokens["refresh_token"] = TOKEN.into()));
    });
    let mut browser = rogue.signed_in(&gate, "vera", None).await;
    browser.sign_out().await.expect(303);
    // The gate waits for what is under way.
    gate.process.signal("TERM");
    let exited = eventually("the gate to stop", async || gate.process.exited()).await;
    assert!(exited.success(), "{exited:?}");
    let known = ["/.well-known/openid-configuration", "/jwks", "/token", "/userinfo"];
    let world = rogue.world();
    for (head, _) in &world.seen {
        assert!(known.iter().any(|path| head.contains(path)), "{head}");
    }
}
