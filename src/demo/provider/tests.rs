use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::*;
use crate::demo::authority::Authority;
use crate::demo::client::{Answer, Browser};

const CALLBACK: &str = "https://portal.localhost:9/.wicketgate/callback";
const VERIFIER: &str = "a-verifier-that-is-long-enough-for-rfc-7636-0123";

struct World {
    issuer: String,
    browser: Browser,
    stop: tokio_util::sync::DropGuard,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), Clock::System.now()).unwrap();
        let (listener, at) = serve::bind().await.unwrap();
        let issuer = format!("https://login.localhost:{}", at.port());
        let client = Client {
            id: "gate".to_owned(),
            secret: "s3cret+/ %".to_owned(),
            redirect_uris: vec![CALLBACK.to_owned()],
            post_logout_redirect_uris: vec!["https://portal.localhost:9/out".to_owned()],
        };
        let provider = Provider::new(issuer.clone(), client, Clock::System).unwrap();
        let stop = CancellationToken::new();
        let tls = authority.server_config().unwrap();
        tokio::spawn(provider.run(listener, tls, stop.clone()));
        let browser = Browser::new(authority.client_config().unwrap());
        Self { issuer, browser, stop: stop.drop_guard() }
    }

    async fn get(&mut self, path: &str) -> Answer {
        let address = format!("{}{path}", self.issuer);
        self.browser.fetch(Method::GET, &address, &[], "").await.unwrap()
    }

    async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> Answer {
        let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
        all.extend_from_slice(headers);
        let address = format!("{}{path}", self.issuer);
        self.browser.fetch(Method::POST, &address, &all, &form(fields)).await.unwrap()
    }

    /// Signs `user` in with a click and yields the code.
    async fn code(&mut self, user: &str) -> String {
        let answer =
            self.post("/authorize", &[], &[("request", &asked(&[])), ("user", user)]).await;
        returned(&answer)["code"].clone()
    }

    async fn exchange(&mut self, code: &str, verifier: &str, secret: &str) -> Answer {
        let secret: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let basic = format!("Basic {}", STANDARD.encode(format!("gate:{secret}")));
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", verifier),
        ];
        self.post("/token", &[("authorization", &basic)], &fields).await
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// A good request, with some of its parameters replaced (or, by an empty value, left out).
fn asked(changes: &[(&str, &str)]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes());
    let challenge = URL_SAFE_NO_PAD.encode(digest);
    let mut fields = vec![
        ("client_id", "gate"),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid profile"),
        ("state", "st"),
        ("nonce", "no"),
        ("code_challenge", &*challenge),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in changes {
        fields.retain(|(field, _)| field != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
    }
    form(&fields)
}

/// The parameters that an answer takes back to the client.
fn returned(answer: &Answer) -> HashMap<String, String> {
    let location = answer.header("location").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(location.starts_with(CALLBACK), "{location}");
    url::Url::parse(location).unwrap().query_pairs().into_owned().collect()
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test]
async fn a_click_ends_in_tokens_that_say_who_it_was() {
    let mut world = World::start().await;
    let page = world.get(&format!("/authorize?{}", asked(&[]))).await;
    assert!(page.body.contains("Otto Brandt"), "{}", page.body);

    let answer = world.post("/authorize", &[], &[("request", &asked(&[])), ("user", "ada")]).await;
    let back = returned(&answer);
    assert_eq!(back["state"], "st");
    assert_eq!(back["iss"], world.issuer);

    let tokens = json(&world.exchange(&back["code"], VERIFIER, "s3cret+/ %").await);
    let claims = claims(tokens["id_token"].as_str().unwrap());
    assert_eq!(claims["iss"], world.issuer);
    assert_eq!(claims["aud"], "gate");
    assert_eq!(claims["nonce"], "no");
    assert_eq!(claims["sub"], "ada");
    assert_eq!(claims["groups"], serde_json::json!(["customers"]));
    assert_eq!(claims["tenant"], "acme");
    assert_eq!(claims["email_verified"], true);
    assert!(claims["sid"].as_str().unwrap().len() > 20);

    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let address = format!("{}/userinfo", world.issuer);
    let answer =
        world.browser.fetch(Method::GET, &address, &[("authorization", &bearer)], "").await;
    assert_eq!(json(&answer.unwrap())["email"], "ada@acme.example");
    drop(world.stop);
}

#[tokio::test]
async fn a_code_works_once_and_its_second_use_takes_back_the_first() {
    let mut world = World::start().await;
    let code = world.code("otto").await;
    let tokens = json(&world.exchange(&code, VERIFIER, "s3cret+/ %").await);
    let again = world.exchange(&code, VERIFIER, "s3cret+/ %").await;
    assert_eq!(json(&again)["error"], "invalid_grant");
    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    let address = format!("{}/userinfo", world.issuer);
    let answer =
        world.browser.fetch(Method::GET, &address, &[("authorization", &bearer)], "").await;
    assert_eq!(answer.unwrap().status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_code_is_worth_nothing_without_its_verifier_and_the_clients_secret() {
    let mut world = World::start().await;
    let code = world.code("otto").await;
    let stranger = world.exchange(&code, VERIFIER, "wrong").await;
    assert_eq!(stranger.status, StatusCode::UNAUTHORIZED);
    let other = "another-verifier-that-is-long-enough-for-rfc-7636";
    let thief = world.exchange(&code, other, "s3cret+/ %").await;
    assert_eq!(json(&thief)["error"], "invalid_grant");
}

#[tokio::test]
async fn nobody_is_redirected_to_an_address_that_is_not_registered() {
    let mut world = World::start().await;
    for wrong in [
        asked(&[("redirect_uri", "https://evil.localhost/")]),
        asked(&[("redirect_uri", "https://portal.localhost:9/.wicketgate/callback?x=1")]),
        asked(&[("client_id", "other")]),
        asked(&[]) + "&state=twice",
    ] {
        let answer = world.get(&format!("/authorize?{wrong}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert_eq!(answer.header("location"), None);
    }
}

#[tokio::test]
async fn a_request_without_its_protections_is_sent_back() {
    let mut world = World::start().await;
    for (change, error) in [
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("state", ""), "invalid_request"),
        (("scope", "profile"), "invalid_scope"),
        (("response_type", "token"), "unsupported_response_type"),
        (("prompt", "none"), "login_required"),
    ] {
        let answer = world.get(&format!("/authorize?{}", asked(&[change]))).await;
        assert_eq!(returned(&answer)["error"], error, "{change:?}");
    }
}

#[tokio::test]
async fn one_sign_in_serves_every_host_until_somebody_signs_out() {
    let mut world = World::start().await;
    let code = world.code("grace").await;
    let tokens = json(&world.exchange(&code, VERIFIER, "s3cret+/ %").await);
    let hint = tokens["id_token"].as_str().unwrap().to_owned();

    let again = world.get(&format!("/authorize?{}", asked(&[("state", "two")]))).await;
    assert_eq!(returned(&again)["state"], "two");

    let out = form(&[
        ("id_token_hint", &hint),
        ("post_logout_redirect_uri", "https://portal.localhost:9/out"),
        ("state", "bye"),
    ]);
    let left = world.get(&format!("/end-session?{out}")).await;
    assert_eq!(left.header("location"), Some("https://portal.localhost:9/out?state=bye"));
    let asks = world.get(&format!("/authorize?{}", asked(&[]))).await;
    assert!(asks.body.contains("Who are you today?"), "{asks:?}");
}

#[tokio::test]
async fn who_asks_for_a_second_factor_or_a_fresh_sign_in_gets_it_or_no_answer() {
    let mut world = World::start().await;
    let code = world.code("otto").await;
    let first = json(&world.exchange(&code, VERIFIER, "s3cret+/ %").await);
    let first = claims(first["id_token"].as_str().unwrap());
    assert_eq!((&first["acr"], &first["amr"]), (&PASSWORD.into(), &serde_json::json!(["pwd"])));

    let strong = asked(&[("acr_values", SECOND_FACTOR)]);
    let page = world.get(&format!("/authorize?{strong}")).await;
    assert!(page.body.contains("One-time code"), "{}", page.body);
    assert!(page.body.contains("Otto Brandt") && !page.body.contains("Ada"), "{}", page.body);
    let silent = asked(&[("acr_values", SECOND_FACTOR), ("prompt", "none")]);
    let silent = world.get(&format!("/authorize?{silent}")).await;
    assert_eq!(returned(&silent)["error"], "login_required");

    let answer = world.post("/authorize", &[], &[("request", &strong), ("user", "otto")]).await;
    let tokens = json(&world.exchange(&returned(&answer)["code"], VERIFIER, "s3cret+/ %").await);
    let second = claims(tokens["id_token"].as_str().unwrap());
    assert_eq!(second["acr"], SECOND_FACTOR);
    assert_eq!(second["sid"], first["sid"], "it is the same sign-in");
    // It is remembered.
    let again = world.get(&format!("/authorize?{strong}&max_age=60")).await;
    returned(&again);
    let never = world.get(&format!("/authorize?{}", asked(&[("max_age", "soon")]))).await;
    assert_eq!(returned(&never)["error"], "invalid_request");
    let fresh = world.get(&format!("/authorize?{}", asked(&[("prompt", "login")]))).await;
    assert!(fresh.body.contains("Is it still you?"), "{}", fresh.body);
}

#[tokio::test]
async fn a_logout_link_without_a_token_of_ours_leads_nowhere() {
    let mut world = World::start().await;
    let forged = form(&[
        ("id_token_hint", "eyJhbGciOiJub25lIn0.e30."),
        ("post_logout_redirect_uri", "https://portal.localhost:9/out"),
    ]);
    let answer = world.get(&format!("/end-session?{forged}")).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::OK, None));
}

#[tokio::test]
async fn a_form_on_another_site_signs_nobody_in() {
    let mut world = World::start().await;
    for header in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.localhost")] {
        let fields = [("request", &*asked(&[])), ("user", "sam")];
        let answer = world.post("/authorize", &[header], &fields).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{header:?}");
    }
}
