//! Machines bring access tokens, which a certified provider issued.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use serde_json::{Value, json};

use crate::forms;
use crate::harness::gate::{mentions, route};
use crate::harness::provider::SECRET;
use crate::harness::recorder::Recorded;
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Browser, Gate, Recorder, Setup, eventually, websocket, within};

pub const PORTAL: &str = "https://portal.example";
const OTHER: &str = "https://other.example";
const BRIEF: &str = "https://brief.example";

const POLICY: &str = r#"
@id("signed-in")
permit (principal is Wicketgate::User, action, resource);
@id("machines-that-may-read-orders")
permit (principal is Wicketgate::Service in Wicketgate::Group::"machines", action, resource)
when { context has scopes && context.scopes.contains("orders:read") };
"#;

/// `/` takes sessions and tokens, `/api` tokens alone, `/page` sessions alone.
pub fn world(upstream: &Recorder) -> Setup {
    let route = |name: &str, path: &str| route(name, path, &upstream.url());
    let (mut both, mut api) = (route("both", "/"), route("api", "/api"));
    both["authentication"] = json!(["session", "bearer"]);
    api["authentication"] = json!(["bearer"]);
    api["audience"] = json!(PORTAL);
    Gate::setup().route(both).route(api).route(route("page", "/page")).policy(POLICY).configure(
        |config| {
            let audiences = json!({ "audiences": [PORTAL, OTHER, BRIEF] });
            config["identity_providers"][0]["bearer"] = audiences;
        },
    )
}

/// What the provider's token endpoint issues for a form.
async fn issued(gate: &Gate, form: &str) -> String {
    let form = format!("client_id=erp&client_secret={SECRET}&{form}");
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let endpoint = format!("{}/token", gate.provider.issuer);
    let answer = gate.browser().send(Method::POST, &endpoint, &headers, form.into()).await;
    let text = answer.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(text.split('.').count(), 3, "a JWT");
    text
}

pub async fn service_token(gate: &Gate, resource: &str) -> String {
    let form = format!("grant_type=client_credentials&resource={resource}&scope=orders:read");
    issued(gate, &form).await
}

pub async fn user_token(gate: &Gate, user: &str, resource: &str, more: &str) -> String {
    let form = format!("grant_type=urn:test:user&user={user}&resource={resource}{more}");
    issued(gate, &form).await
}

pub fn with(browser: Browser, token: &str) -> Browser {
    browser.as_program().with_header("authorization", &format!("Bearer {token}"))
}

/// The token with one member of its header or claims changed and the old signature.
fn forged(token: &str, part: usize, member: &str, value: Value) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut object: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[part]).unwrap()).unwrap();
    object[member] = value;
    parts[part] = URL_SAFE_NO_PAD.encode(object.to_string());
    parts.join(".")
}

#[tokio::test]
async fn a_service_gets_in_and_the_upstream_learns_who_but_not_how() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).start().await;
    let token = service_token(&gate, PORTAL).await;
    let mut client = with(gate.browser(), &token);
    for path in ["/orders", "/api/orders"] {
        client.get(path).await.expect(200);
        let seen = upstream.last();
        assert_eq!(seen.value("x-wicketgate-user"), Some("test/erp"));
        assert_eq!(seen.value("x-wicketgate-groups"), Some("machines"));
        let assertion = seen.value("x-wicketgate-assertion").unwrap();
        let claims = assertion.split('.').nth(1).unwrap();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!((&claims["sub"], &claims["kind"]), (&json!("test/erp"), &json!("service")));
    }
    // Over HTTP/2, and many times: the signature was checked once.
    let mut h2 = with(gate.browser_h2(), &token);
    for _ in 0..3 {
        h2.get("/api/orders").await.expect(200);
    }
    let results = async |result| gate.metric("wicketgate_access_tokens_total", result).await;
    assert_eq!(results("verified").await, 1.0);
    let bytes = String::from_utf8_lossy(&upstream.bytes()).into_owned();
    assert!(!bytes.contains(&token) && !bytes.to_lowercase().contains("authorization"), "{bytes}");
    let record = gate.audited("the service", |record| mentions(record, &["test/erp"])).await;
    assert_eq!(record["principal"]["kind"], "service");
    assert_eq!(record["authentication"]["scopes"], json!(["orders:read"]));
    assert_eq!(record["authentication"]["client"], "erp");
    assert!(!gate.audit().iter().any(|record| mentions(record, &[&token[..40]])));

    // Without the scope that the policy asks for.
    let weak = issued(&gate, &format!("grant_type=client_credentials&resource={PORTAL}")).await;
    let denied = with(gate.browser(), &weak).get("/orders").await.expect(403);
    assert_eq!(denied.json()["type"], "urn:wicketgate:denied");
}

#[tokio::test]
async fn a_users_token_is_the_user_who_signs_in() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).start().await;
    gate.login("ada").await.get("/orders").await.expect(200);
    let own = ["user", "groups", "tenant"].map(|name| format!("x-wicketgate-{name}"));
    let signed_in = upstream.last();
    let token = user_token(&gate, "ada", PORTAL, "").await;
    with(gate.browser(), &token).get("/orders").await.expect(200);
    let seen = upstream.last();
    for name in &own {
        assert!(seen.value(name).is_some(), "{name}");
        assert_eq!(seen.value(name), signed_in.value(name), "{name}");
    }
}

#[tokio::test]
async fn a_bad_token_is_refused_whatever_comes_with_it() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).start().await;
    let good = service_token(&gate, PORTAL).await;
    let mut browser = gate.login("ada").await.as_program();
    browser.get("/orders").await.expect(200);
    let before = upstream.requests().len();
    let signed = good.rsplit_once('.').unwrap().0;
    let id_token_like = forged(&good, 0, "typ", json!("JWT"));
    let bearer = |token: &str| format!("Bearer {token}");
    for value in [
        bearer(&forged(&good, 1, "sub", json!("ada"))),
        bearer(&forged(&good, 0, "alg", json!("none"))),
        bearer(&forged(&good, 0, "alg", json!("HS256"))),
        bearer(&forged(&good, 0, "kid", json!("another"))),
        bearer(&forged(&good, 0, "jku", json!("https://evil.example"))),
        bearer(&id_token_like),
        bearer(&format!("{signed}.")),
        bearer("opaque"),
        "Bearer".to_owned(),
        "Basic YWRhOmFkYQ==".to_owned(),
    ] {
        for path in ["/orders", "/api/orders"] {
            let headers = [("authorization", value.as_str())];
            let answer = browser.send(Method::GET, path, &headers, Bytes::new()).await.expect(401);
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, Some("Bearer error=\"invalid_token\""), "{value}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.json()["type"], "urn:wicketgate:invalid-token", "{value}");
            assert!(answer.header("set-cookie").is_none(), "the session is not to blame");
        }
    }
    // Twice the same good one.
    let twice = [("authorization", bearer(&good)), ("authorization", bearer(&good))];
    let twice = twice.each_ref().map(|(name, value)| (*name, value.as_str()));
    browser.send(Method::GET, "/orders", &twice, Bytes::new()).await.expect(400);
    assert_eq!(upstream.requests().len(), before, "nothing of it went on");
    browser.get("/orders").await.expect(200);
    gate.audited("a refusal", |record| mentions(record, &["refused", "invalid-token"])).await;
}

#[tokio::test]
async fn a_token_is_none_where_a_session_is_expected() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).start().await;
    let token = user_token(&gate, "ada", PORTAL, "").await;
    let mut client = with(gate.browser(), &token);
    client.get("/orders").await.expect(200);
    for path in ["/.wicketgate/me", "/page"] {
        let answer = client.get(path).await.expect(401);
        assert_eq!(answer.json()["type"], "urn:wicketgate:unauthenticated", "{path}");
    }
    // As a cookie it is no session either.
    let mut browser = gate.browser().as_program();
    browser.set_session_cookie(&token);
    browser.get("/orders").await.expect(401);
    // What the application's own clients send to a route without tokens is the application's.
    let before = upstream.requests().len();
    let mut ada = with(gate.login("ada").await, "its-own");
    ada.get("/page").await.expect(200);
    let seen = &upstream.requests()[before..];
    assert_eq!(seen.last().unwrap().value("authorization"), Some("Bearer its-own"));
}

#[tokio::test]
async fn a_session_is_none_where_tokens_alone_are_taken() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).start().await;
    let mut ada = gate.login("ada").await;
    // Not even a browser is sent to sign in, which would not help.
    let answer = ada.get("/api/orders").await.expect(401);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert!(answer.header("location").is_none());
    let answer = ada.clone().as_program().get("/api/orders").await.expect(401);
    assert_eq!(answer.json()["type"], "urn:wicketgate:token-required");
    // Where both are taken, a program hears of both.
    let answer = gate.browser().as_program().get("/orders").await.expect(401);
    let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
    assert!(challenges.iter().any(|challenge| *challenge == "Bearer"), "{challenges:?}");
    assert_eq!(gate.browser().get("/orders").await.status, 303);
}

#[tokio::test]
async fn a_token_for_another_application_opens_nothing() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).start().await;
    let other = service_token(&gate, OTHER).await;
    let mut client = with(gate.browser(), &other);
    client.get("/orders").await.expect(200);
    client.get("/api/orders").await.expect(401);
}

#[tokio::test]
async fn a_bound_token_is_worth_nothing_without_its_certificate() {
    let upstream = Recorder::start().await;
    let write = |name: &'static str| {
        move |authority: &crate::harness::pki::Authority, folder: &std::path::Path| {
            for name in [name, "other"] {
                authority.client(name).write(folder, name);
            }
            "devices: []\n".to_owned()
        }
    };
    let gate = world(&upstream).devices(write("erp")).start().await;
    let (own, other) = (gate.client("erp"), gate.client("other"));
    let bound = format!("&x5t={}", own.thumbprint());
    let token = user_token(&gate, "ada", PORTAL, &bound).await;
    with(gate.browser_on(&own), &token).get("/orders").await.expect(200);
    // Also once it is known.
    for browser in [gate.browser(), gate.browser_on(&other)] {
        let answer = with(browser, &token).get("/orders").await.expect(401);
        assert_eq!(answer.json()["type"], "urn:wicketgate:invalid-token");
    }
    with(gate.browser_on(&own), &token).get("/orders").await.expect(200);
}

/// The claims of the token that the upstream got.
fn passed_on(seen: &Recorded) -> Value {
    let token = seen.value("authorization").unwrap().strip_prefix("Bearer ").unwrap();
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn an_application_gets_the_token_that_its_route_says() {
    let upstream = Recorder::start().await;
    let (mut pass, mut exchange) =
        (route("pass", "/pass", &upstream.url()), route("exchange", "/exchange", &upstream.url()));
    for one in [&mut pass, &mut exchange] {
        one["authentication"] = json!(["bearer"]);
    }
    pass["upstream_token"] = json!("pass");
    let wanted = json!({ "audience": "https://backend.example", "scope": "orders:read" });
    exchange["upstream_token"] = json!({ "exchange": wanted });
    let mut gate = world(&upstream).route(pass).route(exchange).start().await;
    let ada = user_token(&gate, "ada", PORTAL, "").await;
    let grace = user_token(&gate, "grace", PORTAL, "").await;

    with(gate.browser(), &ada).get("/pass").await.expect(200);
    assert_eq!(upstream.last().value("authorization"), Some(&*format!("Bearer {ada}")));

    // Twelve at once, and the provider is asked once.
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut client = with(gate.browser(), &ada);
        asking.spawn(async move { client.get("/exchange").await.expect(200) });
    }
    asking.join_all().await;
    let of_ada = passed_on(&upstream.last());
    assert_eq!(of_ada["aud"], "https://backend.example");
    assert_eq!((&of_ada["sub"], &of_ada["scope"]), (&json!("ada"), &json!("orders:read")));
    assert_eq!(of_ada["client_id"], "wicketgate");
    let exchanged: Vec<_> = upstream.requests().iter().skip(1).map(passed_on).collect();
    assert_eq!(exchanged.len(), 12);
    assert!(exchanged.iter().all(|claims| claims["jti"] == of_ada["jti"]));
    // Nobody gets another's.
    with(gate.browser(), &grace).get("/exchange").await.expect(200);
    assert_eq!(passed_on(&upstream.last())["sub"], "grace");

    // What the provider refuses, and what is no other token, goes nowhere.
    let before = upstream.requests().len();
    for user in ["sam", "nell"] {
        let token = user_token(&gate, user, PORTAL, "").await;
        let answer = with(gate.browser(), &token).get("/exchange").await.expect(502);
        assert_eq!(answer.json()["type"], "urn:wicketgate:token-exchange", "{user}");
        assert!(answer.header("x-wicketgate-decision").is_some());
        with(gate.browser(), &token).get("/orders").await.expect(200);
    }
    assert_eq!(upstream.requests().len(), before + 2);

    // A token that was got goes on while the provider is down; a new one can't be had.
    let otto = user_token(&gate, "otto", PORTAL, "").await;
    with(gate.browser(), &otto).get("/orders").await.expect(200);
    gate.provider.process.kill();
    with(gate.browser(), &ada).get("/exchange").await.expect(200);
    let before = upstream.requests().len();
    with(gate.browser(), &otto).get("/exchange").await.expect(503);
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn a_client_whose_users_sign_in_is_too_old_is_told_what_to_get_another_token_with() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream)
        .policy(
            "permit (principal is Wicketgate::User, action, resource)
             when { context has auth_age && context.auth_age < 600 };",
        )
        .start()
        .await;
    let token = user_token(&gate, "ada", PORTAL, "").await;
    // A browser that brings a token is not sent to sign in: the token would be judged again.
    let page = gate.browser().with_header("authorization", &format!("Bearer {token}"));
    for mut client in [with(gate.browser(), &token), page] {
        let answer = client.get("/orders").await.expect(401);
        let challenge = answer.header("www-authenticate").unwrap();
        let wanted = "Bearer error=\"insufficient_user_authentication\"";
        assert!(challenge.starts_with(wanted) && challenge.contains("max_age"), "{challenge}");
    }
    // A machine can't sign in at all.
    let machine = service_token(&gate, PORTAL).await;
    with(gate.browser(), &machine).get("/orders").await.expect(403);
}

#[tokio::test]
async fn what_is_open_under_a_token_ends_with_it() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut ws = route("ws", "/ws", &echo.url);
    ws["authentication"] = json!(["bearer"]);
    let mut gate = world(&upstream).route(ws).start().await;

    // It expires.
    let brief = service_token(&gate, BRIEF).await;
    let client = with(gate.browser(), &brief);
    let socket = websocket::opened(&client, &mut echo).await;
    websocket::closed(socket).await;
    assert_eq!(echo.next().await, Heard::Ended, "the upstream's side ends too");
    let words = ["connection-cut", "test/erp", "has expired"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    client.clone().get("/orders").await.expect(401);

    // The policies no longer allow it.
    let long = service_token(&gate, PORTAL).await;
    let client = with(gate.browser(), &long);
    let socket = websocket::opened(&client, &mut echo).await;
    gate.rewrite_policies("permit (principal is Wicketgate::User, action, resource);");
    websocket::closed(socket).await;
    let words = ["connection-cut", "test/erp", "no longer allow"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    gate.rewrite_policies(POLICY);
    let mut asking = client.clone();
    eventually("the policies to allow it again", async || {
        (asking.get("/orders").await.status == 200).then_some(())
    })
    .await;

    // Its issuer's tokens are no longer taken as they were.
    assert_eq!(echo.next().await, Heard::Ended);
    let socket = websocket::opened(&client, &mut echo).await;
    gate.rewrite(|config| {
        let audiences = json!({ "audiences": [OTHER] });
        config["identity_providers"][0]["bearer"] = audiences;
        config["routes"][1]["audience"] = json!(OTHER);
    });
    websocket::closed(socket).await;
    let words = ["connection-cut", "test/erp", "no longer trusted"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    client.clone().get("/orders").await.expect(401);
}

#[tokio::test]
async fn without_the_issuers_keys_nothing_is_said_about_a_token() {
    let upstream = Recorder::start().await;
    let mut gate = world(&upstream).start().await;
    let token = service_token(&gate, PORTAL).await;
    gate.provider.process.kill();
    let answer = with(gate.browser(), &token).get("/orders").await.expect(503);
    assert_eq!(answer.json()["type"], "urn:wicketgate:keys-unavailable");
    assert!(answer.header("x-wicketgate-decision").is_some());
    assert!(upstream.requests().is_empty());
    // What can be told without keys is.
    let wrong = forged(&token, 1, "iss", json!("https://evil.example"));
    with(gate.browser(), &wrong).get("/orders").await.expect(401);
}

#[tokio::test]
async fn a_kept_form_is_not_sent_empty_by_who_brings_a_token() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).start().await;
    let mut browser = forms::vera(&gate).await;
    let refused = forms::submit(&gate, &mut browser, forms::FORM).await;
    let page = forms::go_on(&mut browser, refused).await;
    forms::press(&mut browser, &page, "send").await.expect(307);
    let token = user_token(&gate, "vera", PORTAL, "").await;
    let before = upstream.requests().len();
    let mut bringing = browser.clone().with_header("authorization", &format!("Bearer {token}"));
    bringing.post("/orders?x=1", "").await.expect(410);
    assert_eq!(upstream.requests().len(), before);
    // It is still there for the session.
    browser.post("/orders?x=1", "").await.expect(200);
    assert_eq!(String::from_utf8_lossy(&upstream.last().body), forms::FORM);
}

#[tokio::test]
async fn what_is_open_under_a_bound_token_ends_when_its_certificate_is_revoked() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut ws = route("ws", "/ws", &echo.url);
    ws["authentication"] = json!(["bearer"]);
    let gate = world(&upstream).route(ws).revocable_client("erp").start().await;
    let own = gate.client("erp");
    let bound = format!("&x5t={}", own.thumbprint());
    let token = user_token(&gate, "ada", PORTAL, &bound).await;
    let free = user_token(&gate, "ada", PORTAL, "").await;
    let open = async |token: &str| {
        websocket::open(&with(gate.browser_on(&own), token), "/ws").await.unwrap().0
    };
    let mut other = open(&free).await;
    let socket = open(&token).await;
    assert_eq!((echo.next().await, echo.next().await), (Heard::Opened, Heard::Opened));

    gate.revoke(&own);
    websocket::closed(socket).await;
    gate.audited("the cut", |record| mentions(record, &["connection-cut", "test/ada"])).await;
    // A token that is bound to nothing doesn't mind what it came with.
    other.send(tokio_tungstenite::tungstenite::Message::text("still here")).await.unwrap();
    let back = within("the echo", other.next()).await.unwrap().unwrap();
    assert_eq!(back.to_text().unwrap(), "still here");
}
