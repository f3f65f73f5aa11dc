//! The provider ends sessions: OpenID Connect Back-Channel Logout 1.0.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::client::Answer;
use crate::harness::gate::{SECOND_HOST, mentions, route};
use crate::harness::rogue::{Key, client_secret, encoded, now};
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Browser, Gate, Recorder, Rogue, caller, eventually, websocket};

const ADDRESS: &str = "/.wicketgate/backchannel-logout";
const FORM: &str = "application/x-www-form-urlencoded";

/// What PRODUCT.md promises.
const PROMISE: Duration = Duration::from_secs(2);

async fn post(browser: &mut Browser, kind: &str, body: &str) -> Answer {
    let fields = [("content-type", kind)];
    browser.send(Method::POST, ADDRESS, &fields, Bytes::copy_from_slice(body.as_bytes())).await
}

async fn send(gate: &Gate, token: &str) -> Answer {
    post(&mut gate.browser(), FORM, &format!("logout_token={token}")).await
}

async fn is_signed_in(browser: &Browser) -> bool {
    match browser.clone().as_program().get("/").await.status {
        200 => true,
        401 => false,
        other => panic!("neither signed in nor out: {other}"),
    }
}

#[tokio::test]
async fn signing_out_at_the_provider_ends_the_session_and_closes_its_websockets() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let setup = Gate::setup().route(route("app", "/", &page.url()));
    let mut gate = setup.route(route("ws", "/ws", &echo.url)).start().await;
    let mut browser = gate.login("vera").await;
    let other = gate.login("otto").await;
    let mut socket = websocket::opened(&browser, &mut echo).await;

    // As in another application of the provider's: the gate sees nothing of it.
    let issuer = gate.provider.issuer.clone();
    let form = browser.get(&format!("{issuer}/session/end")).await.expect(200).text();
    let token = form.split("name=\"xsrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let start = Instant::now();
    let confirm = format!("{issuer}/session/end/confirm");
    browser.post(&confirm, &format!("xsrf={token}&logout=yes")).await;
    let outcome = gate
        .provider
        .process
        .line("the outcome", |line| Some(line.to_owned()).filter(|l| l.contains("backchannel")))
        .await;
    assert_eq!(outcome, r#"{"backchannel":"success"}"#);
    websocket::closed(&mut socket).await;
    assert!(start.elapsed() < PROMISE, "{:?}", start.elapsed());
    assert_eq!(echo.next().await, Heard::Ended);
    assert!(!is_signed_in(&browser).await);
    assert!(is_signed_in(&other).await);
    let ended = ["session-ended", "test/vera", "provider-logout"];
    gate.audited("the end of the session", |record| mentions(record, &ended)).await;
    let asked =
        gate.audited("the provider's logout", |record| record["event"] == "provider-logout").await;
    assert_eq!((&asked["provider"], &asked["sessions"]), (&json!("test"), &json!(1)));
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_logout_token_ends_the_sessions_that_it_means_on_every_host_and_counts_once() {
    let page = Recorder::start().await;
    let rogue = Rogue::start().await;
    let mut second = route("second", "/", &page.url());
    second["host"] = SECOND_HOST.into();
    let gate = rogue.provides(Gate::with_upstream(&page).route(second)).start().await;
    let here = rogue.signed_in(&gate, "vera", Some("s1")).await;
    let mut there =
        Browser::new(&format!("https://{SECOND_HOST}:{}/", gate.port()), gate.client_tls());
    rogue.sign_in(&mut there, "vera", Some("s1")).await;
    let phone = rogue.signed_in(&gate, "vera", Some("s2")).await;
    let otto = rogue.signed_in(&gate, "otto", Some("s3")).await;

    let unknown = rogue.logout_token(&rogue.logout(Some("s9"), Some("vera")));
    let answer = send(&gate, &unknown).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(is_signed_in(&here).await, "a session that nobody has is over already");

    let token = rogue.logout_token(&rogue.logout(Some("s1"), None));
    send(&gate, &token).await.expect(200);
    assert!(!is_signed_in(&here).await && !is_signed_in(&there).await);
    assert!(is_signed_in(&phone).await && is_signed_in(&otto).await);

    let again = rogue.signed_in(&gate, "vera", Some("s1")).await;
    let replayed = send(&gate, &token).await.expect(400);
    assert_eq!(replayed.json()["error"], "invalid_request");
    assert!(is_signed_in(&again).await, "a token counts once");

    let everything = rogue.logout_token(&rogue.logout(None, Some("vera")));
    send(&gate, &everything).await.expect(200);
    assert!(!is_signed_in(&again).await && !is_signed_in(&phone).await);
    assert!(is_signed_in(&otto).await);
    let of_both = |record: &Value| {
        record["event"] == "provider-logout"
            && (&record["subject"], &record["sessions"]) == (&json!("vera"), &json!(2))
    };
    gate.audited("the end of both", of_both).await;
    let log = gate.audit().iter().map(Value::to_string).collect::<String>();
    assert!(!log.contains("eyJ"), "no token is on record");
}

/// The OpenID Foundation's names, and a few of our own.
#[tokio::test]
async fn every_logout_token_that_is_wrong_is_refused_and_ends_nothing() {
    let rogue = Rogue::start().await;
    let gate = rogue.provides(Gate::with_upstream(&Recorder::start().await)).start().await;
    let vera = rogue.signed_in(&gate, "vera", Some("s1")).await;
    let key = rogue.world().key.clone();
    let kind = |mut header: Value| {
        header["typ"] = "logout+jwt".into();
        header
    };
    let good = || rogue.logout(Some("s1"), Some("vera"));
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        rogue.logout_token(&claims)
    };
    let without = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        rogue.logout_token(&claims)
    };
    let unsigned = |header: Value| format!("{}.{}.", encoded(&header), encoded(&good()));
    let forged = Key::es256("k1");
    let public = Key::hs256(key.jwk()["n"].as_str().unwrap().as_bytes());
    let secret = client_secret();
    let tampered = rogue.logout_token(&good());
    let (message, signature) = tampered.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{message}.{flipped}{}", &signature[1..]);
    let mut brought = kind(forged.header());
    brought["jwk"] = forged.jwk();
    let id_token = {
        let mut claims = good();
        claims["nonce"] = "n".into();
        claims.as_object_mut().unwrap().remove("events");
        key.sign(&key.header(), &claims)
    };
    let other_event = json!({"http://schemas.openid.net/event/backchannel-login": {}});
    let mut nobody = good();
    nobody.as_object_mut().unwrap().retain(|name, _| name != "sid" && name != "sub");
    let cases = [
        ("rp-backchannel-rpinitlogout-invalid-iss", with("iss", json!("https://evil.example"))),
        ("rp-backchannel-rpinitlogout-invalid-aud", with("aud", json!("other"))),
        ("rp-backchannel-rpinitlogout-no-event", without("events")),
        ("rp-backchannel-rpinitlogout-wrong-event", with("events", other_event)),
        ("rp-backchannel-rpinitlogout-with-nonce", with("nonce", json!("n"))),
        ("rp-backchannel-rpinitlogout-alg-none", unsigned(kind(json!({"alg": "none"})))),
        ("rp-backchannel-rpinitlogout-wrong-alg", secret.sign(&kind(secret.header()), &good())),
        ("alg hs256 with the public key", public.sign(&kind(public.header()), &good())),
        ("rp-backchannel-rpinitlogout-wrong-kid", forged.sign(&kind(forged.header()), &good())),
        ("no signature", unsigned(kind(key.header()))),
        ("a changed signature", tampered),
        ("a key of its own", forged.sign(&brought, &good())),
        ("no iss", without("iss")),
        ("no aud", without("aud")),
        ("an audience too many", with("aud", json!(["wicketgate", "other"]))),
        ("no iat", without("iat")),
        ("no exp", without("exp")),
        ("no jti", without("jti")),
        ("neither sid nor sub", rogue.logout_token(&nobody)),
        ("too old", with("iat", json!(now() - 600))),
        ("of the future", with("iat", json!(now() + 600))),
        ("expired", with("exp", json!(now() - 90))),
        (
            "an access token",
            key.sign(&json!({"alg": "RS256", "kid": "k1", "typ": "at+jwt"}), &good()),
        ),
        ("an id token", id_token),
        ("nothing", String::new()),
        ("no jwt", "abc".to_owned()),
    ];
    for (name, token) in cases {
        let answer = send(&gate, &token).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
        assert_eq!(answer.json()["error"], "invalid_request", "{name}");
        let said = answer.json()["error_description"].as_str().unwrap().to_owned();
        assert!(!said.is_empty() && !said.contains("eyJ"), "{name}: {said}");
        let decision = answer.header("x-wicketgate-decision").unwrap().to_owned();
        let record = gate.audited(name, |record| record["id"] == decision.as_str()).await;
        assert_eq!(record["reason"], "logout-refused", "{name}");
        assert_eq!(record["detail"], said, "{name}");
        assert!(is_signed_in(&vera).await, "{name}");
    }
    send(&gate, &rogue.logout_token(&good())).await.expect(200);
    assert!(!is_signed_in(&vera).await);
}

#[tokio::test]
async fn what_is_no_logout_request_is_refused_before_a_token_is_looked_at() {
    let rogue = Rogue::start().await;
    let upstream = Recorder::start().await;
    let gate = rogue.provides(Gate::with_upstream(&upstream)).start().await;
    let vera = rogue.signed_in(&gate, "vera", Some("s1")).await;
    let token = rogue.logout_token(&rogue.logout(Some("s1"), None));
    let form = format!("logout_token={token}");
    for mut browser in [gate.browser(), gate.browser_h2(), vera.clone()] {
        let answer = browser.get(&format!("{ADDRESS}?{form}")).await.expect(405);
        assert_eq!(answer.header("allow"), Some("POST"));
        for (kind, body) in [
            ("text/plain", form.clone()),
            ("application/json", json!({"logout_token": token}).to_string()),
            (FORM, String::new()),
            (FORM, format!("{form}&{form}")),
            (FORM, format!("token={token}")),
        ] {
            let answer = post(&mut browser, kind, &body).await.expect(400);
            assert_eq!(answer.json()["error"], "invalid_request", "{kind}: {body}");
        }
        let huge = format!("{form}&more={}", "x".repeat(64 * 1024));
        post(&mut browser, FORM, &huge).await.expect(413);
    }
    // Without a length, it is the bytes that count.
    let mut raw = gate.raw().await;
    let host = format!("host: app.localhost:{}\r\n", gate.port());
    let head = format!(
        "POST {ADDRESS} HTTP/1.1\r\n{host}content-type: {FORM}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    raw.send(head.as_bytes()).await;
    raw.send(format!("5000\r\n{}\r\n", "x".repeat(0x5000)).as_bytes()).await;
    let answer = raw.answer().await.unwrap();
    assert_eq!((answer.status, answer.value("connection")), (413, Some("close")), "{answer:?}");
    assert!(is_signed_in(&vera).await);
    // A parameter of the form's kind, and whatever else a provider sends along, are no reason.
    let body = format!("a=b&{form}&c=d");
    post(&mut gate.browser_h2(), &format!("{FORM}; charset=utf-8"), &body).await.expect(200);
    assert!(!is_signed_in(&vera).await);
    assert!(!String::from_utf8_lossy(&upstream.bytes()).contains("backchannel"));
}

#[tokio::test]
async fn who_sends_forged_tokens_is_turned_away_and_a_provider_is_not() {
    let rogue = Rogue::start().await;
    let gate = rogue.provides(Gate::with_upstream(&Recorder::start().await)).start().await;
    let vera = rogue.signed_in(&gate, "vera", Some("s1")).await;
    let forger = Key::es256("unknown");
    let fetched = rogue.asked("/jwks");
    let mut raw = caller::call_with(&gate, 9, b"").await.unwrap();
    let mut turned_away = None;
    for _ in 0..1000 {
        let token = forger.sign(&forger.header(), &rogue.logout(Some("s1"), None));
        let body = format!("logout_token={token}");
        let request = format!(
            "POST {ADDRESS} HTTP/1.1\r\nhost: app.localhost:{}\r\ncontent-type: {FORM}\r\n\
             content-length: {}\r\n\r\n{body}",
            gate.port(),
            body.len()
        );
        raw.send(request.as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        if answer.status != 400 {
            turned_away = Some(answer);
            break;
        }
    }
    let answer = turned_away.expect("forged tokens have a limit");
    assert_eq!(answer.status, 429);
    assert!(answer.value("retry-after").is_some(), "{answer:?}");
    assert_eq!(rogue.asked("/jwks"), fetched + 1, "an unknown key is asked for once");
    // The provider has an address of its own, and may end as many sessions as there are.
    for _ in 0..120 {
        send(&gate, &rogue.logout_token(&rogue.logout(Some("s7"), None))).await.expect(200);
    }
    assert!(is_signed_in(&vera).await);
    send(&gate, &rogue.logout_token(&rogue.logout(Some("s1"), None))).await.expect(200);
    assert!(!is_signed_in(&vera).await);
}

#[tokio::test]
async fn without_the_providers_keys_a_logout_is_unavailable_and_may_be_sent_again() {
    let rogue = Rogue::start().await;
    let gate = rogue.provides(Gate::with_upstream(&Recorder::start().await)).start().await;
    rogue.bend(|bend| bend.answer("/jwks", 500, "{}"));
    let token = rogue.logout_token(&rogue.logout(Some("s1"), None));
    let answer = send(&gate, &token).await.expect(503);
    assert_eq!(answer.json()["error"], "server_error");
    assert!(answer.header("retry-after").is_some());
    rogue.behave();
    eventually("the keys", async || (send(&gate, &token).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn keys_that_can_t_be_had_are_not_held_against_the_provider() {
    let rogue = Rogue::start().await;
    let gate = rogue.provides(Gate::with_upstream(&Recorder::start().await)).start().await;
    rogue.bend(|bend| bend.answer("/jwks", 500, "{}"));
    let token = rogue.logout_token(&rogue.logout(Some("s1"), None));
    for _ in 0..150 {
        send(&gate, &token).await.expect(503);
    }
    rogue.behave();
    eventually("the keys", async || {
        let status = send(&gate, &token).await.status;
        assert!(matches!(status, 200 | 503), "{status}");
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sign_in_under_way_ends_with_the_login_that_it_is_of() {
    let rogue = Rogue::start().await;
    let gate = rogue.provides(Gate::with_upstream(&Recorder::start().await)).start().await;
    (rogue.world().user, rogue.world().sid) = ("vera".to_owned(), Some("s1".to_owned()));
    let mut browser = gate.browser();
    let began = rogue.begin(&mut browser).await.unwrap();
    send(&gate, &rogue.logout_token(&rogue.logout(Some("s1"), None))).await.expect(200);
    let answer = browser.get(&rogue.callback(&began)).await.expect(403);
    assert!(answer.text().contains("signed out while"), "{}", answer.text());
    assert_eq!(browser.session_cookie(), None);
    let words = ["login-failed", "signed out while"];
    gate.audited("the refusal", |record| mentions(record, &words)).await;
    assert!(!gate.audit().iter().any(|record| record["event"] == "session-started"));
    rogue.signed_in(&gate, "vera", Some("s1")).await;
}
