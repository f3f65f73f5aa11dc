//! Applications that get the access token that a person's sign-in brought, or one in exchange for it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::gate::{SECOND_HOST, mentions, route};
use crate::harness::recorder::Recorded;
use crate::harness::{Browser, Gate, Recorder, Rogue, Setup, eventually};

const PORTAL: &str = "https://portal.example";
/// Whose tokens are good for a few seconds.
const SOON_OVER: &str = "https://soon-over.example";

/// `/pass` and `/exchange` get a token, the rest gets none. The provider is asked for this resource.
fn world(upstream: &Recorder, resource: &'static str) -> Setup {
    let route = |name: &str, path: &str| route(name, path, &upstream.url());
    let (mut pass, mut exchange) = (route("pass", "/pass"), route("exchange", "/exchange"));
    pass["upstream_token"] = json!("pass");
    let wanted = json!({ "audience": "https://backend.example", "scope": "orders:read" });
    exchange["upstream_token"] = json!({ "exchange": wanted });
    Gate::setup().route(route("app", "/")).route(pass).route(exchange).configure(move |config| {
        asks_for(config, resource);
    })
}

/// The provider's tokens are for this resource, and not for its userinfo endpoint.
fn asks_for(config: &mut Value, resource: &str) {
    let provider = &mut config["identity_providers"][0];
    provider["authorization_parameters"] = json!({ "resource": resource });
    provider["userinfo"] = json!(false);
}

fn token(seen: &Recorded) -> &str {
    seen.value("authorization").unwrap().strip_prefix("Bearer ").unwrap()
}

fn claims(seen: &Recorded) -> Value {
    let claims = token(seen).split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

/// The claims of the token that the upstream gets at this address.
async fn got(browser: &mut Browser, upstream: &Recorder, path: &str) -> Value {
    browser.get(path).await.expect(200);
    claims(&upstream.last())
}

#[tokio::test]
async fn an_application_gets_the_token_of_who_signed_in_and_no_other_does() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, PORTAL).start().await;
    let mut vera = gate.login("vera").await.with_header("authorization", "Basic ZXZpbDpldmls");
    let of_vera = got(&mut vera, &upstream, "/pass").await;
    assert_eq!((&of_vera["aud"], &of_vera["sub"]), (&json!(PORTAL), &json!("vera")));
    assert_eq!(of_vera["client_id"], "wicketgate");
    let passed = token(&upstream.last()).to_owned();
    // The application's own business where it gets no token.
    vera.get("/").await.expect(200);
    assert_eq!(upstream.last().value("authorization"), Some("Basic ZXZpbDpldmls"));
    let mut otto = gate.login("otto").await;
    otto.get("/").await.expect(200);
    assert_eq!(upstream.last().value("authorization"), None);
    assert_eq!(got(&mut otto, &upstream, "/pass").await["sub"], "otto");

    // The sessions' tokens are seen by nobody else.
    let me = vera.get("/.wicketgate/me").await.expect(200);
    gate.audited("the request", |record| mentions(record, &["permit", "/pass", "vera"])).await;
    let store = std::fs::read(gate.folder().join("store.redb")).unwrap();
    let part = passed.rsplit('.').next().unwrap();
    for (what, text) in [
        ("the page", me.text()),
        ("the audit log", json!(gate.audit()).to_string()),
        ("the gate's log", gate.process.output().join("\n")),
        ("the store", String::from_utf8_lossy(&store).into_owned()),
    ] {
        assert!(!text.contains(part), "{what}");
    }
}

#[tokio::test]
async fn a_token_got_in_exchange_is_kept_for_the_session_and_ends_with_it() {
    let upstream = Recorder::start().await;
    let mut gate = world(&upstream, PORTAL).start().await;
    let mut vera = gate.login("vera").await;
    let first = got(&mut vera, &upstream, "/exchange").await;
    assert_eq!(first["aud"], "https://backend.example");
    assert_eq!((&first["sub"], &first["scope"]), (&json!("vera"), &json!("orders:read")));
    assert_eq!(got(&mut vera, &upstream, "/exchange").await["jti"], first["jti"]);
    // Another session of the same user has its own.
    let mut elsewhere = gate.login("vera").await;
    assert_ne!(got(&mut elsewhere, &upstream, "/exchange").await["jti"], first["jti"]);
    assert_eq!(got(&mut vera, &upstream, "/exchange").await["jti"], first["jti"]);
    // Whom the provider refuses gets nothing, and not his own in its place.
    let mut sam = gate.login("sam").await.as_program();
    let before = upstream.requests().len();
    let answer = sam.get("/exchange").await.expect(502);
    assert_eq!(answer.json()["type"], "urn:wicketgate:token-exchange");
    assert_eq!(upstream.requests().len(), before);
    // What was got serves while the provider is away; a session that has none can't get one.
    let mut otto = gate.login("otto").await.as_program();
    gate.provider.process.kill();
    assert_eq!(got(&mut vera, &upstream, "/exchange").await["jti"], first["jti"]);
    otto.get("/exchange").await.expect(503);
}

#[tokio::test]
async fn who_has_an_expired_token_signs_in_anew_for_that_application_alone() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, SOON_OVER).start().await;
    let mut browser = gate.login("vera").await;
    let first = got(&mut browser, &upstream, "/pass").await;
    let session = browser.session_cookie().unwrap();
    let mut program = browser.clone().as_program();
    let refused = eventually("the end of the token", async || {
        let answer = program.get("/pass").await;
        (answer.status != 200).then_some(answer)
    })
    .await
    .expect(401);
    let told = refused.json();
    assert_eq!(told["type"], "urn:wicketgate:no-access-token");
    let login = told["login"].as_str().unwrap();
    assert!(login.starts_with("/.wicketgate/login?start&provider=test"), "{login}");
    assert!(!login.contains("max_age"), "nobody is asked for a password: {login}");
    assert!(refused.header("www-authenticate").unwrap().contains(login));
    let decision = refused.header("x-wicketgate-decision").unwrap().to_owned();
    let words = [&*decision, "no-access-token", "test/vera"];
    gate.audited("the refusal", |record| mentions(record, &words)).await;
    let before = upstream.requests().len();
    program.get("/exchange").await.expect(401);
    assert_eq!(upstream.requests().len(), before, "nothing without a token, nor with an old one");
    program.get("/").await.expect(200);

    let sent = browser.get("/pass?page=2").await.expect(303);
    let asked = sent.location();
    assert!(!asked.query_pairs().any(|(name, _)| name == "prompt" || name == "max_age"), "{asked}");
    let page = browser.follow(sent).await.expect(200);
    assert_eq!(page.url.as_str(), gate.url("/pass?page=2"));
    assert_ne!(claims(&upstream.last())["jti"], first["jti"]);
    assert_ne!(browser.session_cookie().unwrap(), session, "a new id at every sign-in");
}

#[tokio::test]
async fn a_token_is_kept_from_when_an_application_wants_it() {
    let upstream = Recorder::start().await;
    let mut gate =
        Gate::with_upstream(&upstream).configure(|config| asks_for(config, PORTAL)).start().await;
    let mut browser = gate.login("vera").await;
    gate.rewrite(|config| config["routes"][0]["upstream_token"] = json!("pass"));
    let mut program = browser.clone().as_program();
    let refused = eventually("the new configuration", async || {
        let answer = program.get("/").await;
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(refused.await.expect(401).json()["type"], "urn:wicketgate:no-access-token");
    let sent = browser.get("/").await.expect(303);
    browser.follow(sent).await.expect(200);
    assert_eq!(claims(&upstream.last())["sub"], "vera");
}

#[tokio::test]
async fn the_sign_in_host_hands_the_token_over() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, PORTAL)
        .configure(|config| config["session"] = json!({ "sign_in_host": SECOND_HOST }))
        .start()
        .await;
    let mut browser = gate.browser();
    let sent = browser.get("/pass").await.expect(303);
    let form = browser.follow(sent).await.expect(200);
    let answer = browser.post(form.url.as_str(), "user=vera").await;
    browser.follow(answer).await.expect(200);
    assert_eq!(claims(&upstream.last())["sub"], "vera");
}

/// Whatever the provider gives is of no use: a sign-in each time would be a circle.
#[tokio::test]
async fn a_provider_whose_tokens_are_over_at_once_or_of_another_kind_makes_no_circle() {
    let rogue = Rogue::start().await;
    let upstream = Recorder::start().await;
    let gate = rogue
        .provides(Gate::with_upstream(&upstream))
        .configure(|config| config["routes"][0]["upstream_token"] = json!("pass"))
        .start()
        .await;
    for (member, value) in [("expires_in", json!(0)), ("token_type", json!("DPoP"))] {
        rogue.behave();
        rogue.bend(|bend| {
            bend.tokens.push(Box::new(move |tokens| tokens[member] = value.clone()));
        });
        let mut browser = gate.browser();
        rogue.login(&mut browser).await.expect(303);
        // That one was by a click. Another is tried, once.
        let sent = browser.get("/").await.expect(303);
        assert!(sent.location().as_str().starts_with(&rogue.issuer));
        rogue.expect_nonce_of(&sent.location());
        browser.get(&rogue.callback(&sent.location())).await.expect(303);
        let page = browser.get("/").await.expect(401);
        assert!(page.text().contains("Sign out"), "{member}: {}", page.text());
        browser.get("/.wicketgate/me").await.expect(200);
    }
    assert!(upstream.requests().is_empty());
    rogue.behave();
    let mut browser = gate.browser();
    rogue.login(&mut browser).await.expect(303);
    browser.get("/").await.expect(200);
    assert!(token(&upstream.last()).len() > 3);
}
