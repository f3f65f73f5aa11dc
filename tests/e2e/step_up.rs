//! A policy wants a stronger or more recent sign-in: what a browser and a program are told.

use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::json;

use crate::harness::client::{Answer, Browser};
use crate::harness::gate::mentions;
use crate::harness::{Gate, Recorder};

/// `/secure` needs a second factor, `/recent` a sign-in within ten minutes, changes both.
const POLICY: &str = r#"
    permit(principal, action in Wicketgate::Action::"view", resource) unless {
      context.segments has "1" && ["secure", "recent"].contains(context.segments["1"])
    };
    permit(principal, action in Wicketgate::Action::"view", resource) when {
      context.path == "/secure" && context has acr && context.acr == "mfa"
    };
    permit(principal, action in Wicketgate::Action::"view", resource) when {
      context.path == "/recent" && context has auth_age && context.auth_age <= 600
    };
    permit(principal, action in Wicketgate::Action::"operate", resource) when {
      context has acr && context.acr == "mfa" && context has auth_age && context.auth_age <= 600
    };
"#;

async fn gate(upstream: &Recorder) -> Gate {
    Gate::with_upstream(upstream)
        .policy(POLICY)
        .configure(|config| {
            config["identity_providers"][0]["step_up"] = json!([{ "acr": "mfa", "amr": ["otp"] }]);
        })
        .start()
        .await
}

fn an_hour_ago() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 3600
}

/// Goes where the answer leads, and signs in with this form where it leads to the provider.
async fn follow(gate: &Gate, browser: &mut Browser, answer: Answer, form: &str) -> Answer {
    let page = browser.follow(answer).await;
    if !page.url.as_str().starts_with(&gate.provider.issuer) {
        return page;
    }
    let answer = browser.post(page.url.as_str(), form).await;
    let page = browser.follow(answer).await;
    assert!(!page.url.as_str().starts_with(&gate.provider.issuer), "asked twice: {page:?}");
    page
}

/// Signed in an hour ago, with a password.
async fn vera(gate: &Gate) -> Browser {
    let mut browser = gate.browser();
    let answer = browser.get("/").await;
    let form = format!("user=vera&acr=pwd&ts={}", an_hour_ago());
    follow(gate, &mut browser, answer, &form).await.expect(200);
    browser
}

fn parameter(answer: &Answer, name: &str) -> Option<String> {
    let location = answer.location();
    location.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[tokio::test]
async fn a_browser_signs_in_more_strongly_and_comes_back_to_where_it_was() {
    let upstream = Recorder::start().await;
    let gate = gate(&upstream).await;
    let mut browser = vera(&gate).await;
    let old = browser.session_cookie().unwrap();
    let before = upstream.requests().len();

    let refused = browser.get("/secure?page=2").await.expect(303);
    assert_eq!(parameter(&refused, "acr_values").as_deref(), Some("mfa"));
    assert_eq!((parameter(&refused, "max_age"), parameter(&refused, "prompt")), (None, None));
    assert_eq!(upstream.requests().len(), before, "nothing passes before the sign-in");
    let decision = refused.header("x-wicketgate-decision").unwrap().to_owned();
    gate.audited("the denial", |record| mentions(record, &[&decision, "deny", "pwd"])).await;

    let answer = follow(&gate, &mut browser, refused, "user=vera").await.expect(200);
    assert_eq!(answer.url.as_str(), gate.url("/secure?page=2"));
    assert_ne!(browser.session_cookie().unwrap(), old, "a new id at every step-up");
    let mut stale = gate.browser().as_program();
    stale.set_session_cookie(&old);
    stale.get("/").await.expect(401);
    browser.get("/secure").await.expect(200);
}

#[tokio::test]
async fn where_only_the_age_is_wrong_a_browser_signs_in_anew() {
    let gate = gate(&Recorder::start().await).await;
    let mut browser = vera(&gate).await;
    let refused = browser.get("/recent").await.expect(303);
    assert_eq!(parameter(&refused, "acr_values"), None);
    assert_eq!(parameter(&refused, "max_age").as_deref(), Some("600"));
    assert_eq!(parameter(&refused, "prompt").as_deref(), Some("login"));
    let answer = follow(&gate, &mut browser, refused, "user=vera").await.expect(200);
    assert_eq!(answer.url.as_str(), gate.url("/recent"));
}

#[tokio::test]
async fn a_program_is_told_what_to_ask_the_provider_for() {
    let upstream = Recorder::start().await;
    let gate = gate(&upstream).await;
    let mut program = vera(&gate).await.as_program();
    let before = upstream.requests().len();
    for (method, path, acr, max_age) in [
        (Method::GET, "/secure", Some("mfa"), None),
        (Method::GET, "/recent", None, Some(600)),
        (Method::POST, "/orders", Some("mfa"), Some(600)),
    ] {
        let answer = program.send(method, path, &[], "".into()).await.expect(401);
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer error=\"insufficient_user_authentication\""));
        assert_eq!(challenge.contains("acr_values=\"mfa\""), acr.is_some(), "{challenge}");
        assert_eq!(challenge.contains("max_age=\"600\""), max_age.is_some(), "{challenge}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("location"), None);
        let told = answer.json();
        assert_eq!(told["type"], "urn:wicketgate:step-up-required");
        assert_eq!((&told["acr_values"], &told["max_age"]), (&json!(acr), &json!(max_age)));
        let decision = answer.header("x-wicketgate-decision").unwrap().to_owned();
        assert_eq!(told["decision"], decision.as_str());
        gate.audited("the denial", |record| mentions(record, &[&decision, "deny"])).await;
    }
    assert_eq!(upstream.requests().len(), before);
    // What no sign-in changes is an ordinary denial.
    gate.rewrite_policies(
        "permit(principal, action, resource) when { context has acr && context.path == \"/\" };",
    );
    crate::harness::wait::eventually("the new policies", async || {
        (program.get("/secure").await.status == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_does_not_bring_what_was_asked_for_ends_on_a_page() {
    let gate = gate(&Recorder::start().await).await;
    let old = format!("user=vera&ts={}", an_hour_ago());
    for (path, form, told) in [
        ("/secure", "user=vera&acr=pwd", "answered with `pwd`"),
        ("/secure", "user=vera&acr=", "did not say what kind"),
        ("/recent", old.as_str(), "within the last 600 seconds"),
    ] {
        let mut browser = vera(&gate).await;
        let cookie = browser.session_cookie();
        let refused = browser.get(path).await.expect(303);
        let page = follow(&gate, &mut browser, refused, form).await.expect(403);
        let text = page.text().replace("&#96;", "`");
        assert!(text.contains(told), "{text}");
        assert!(page.url.path().ends_with("/callback"), "no further redirect: {page:?}");
        assert_eq!(browser.session_cookie(), cookie, "the session there was stays");
        browser.get("/").await.expect(200);
    }
    gate.audited("the failure", |record| mentions(record, &["login-failed", "was asked for"]))
        .await;
}

#[tokio::test]
async fn a_form_that_needs_more_leads_to_a_page_from_which_one_signs_in() {
    let upstream = Recorder::start().await;
    let gate = gate(&upstream).await;
    let mut browser = vera(&gate).await;
    let before = upstream.requests().len();
    let page_of_form = gate.url("/orders?new");
    let headers = [("referer", page_of_form.as_str()), ("content-type", "text/plain")];
    let refused = browser.send(Method::POST, "/orders", &headers, "a=b".into()).await.expect(401);
    assert_eq!(upstream.requests().len(), before);
    let text = refused.text();
    let link = text.split("href=\"").find(|rest| rest.starts_with("/.wicketgate/login")).unwrap();
    let link = link.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
    let answer = browser.get(&link).await.expect(303);
    assert_eq!(parameter(&answer, "acr_values").as_deref(), Some("mfa"));
    assert_eq!(parameter(&answer, "max_age").as_deref(), Some("600"));
    let answer = follow(&gate, &mut browser, answer, "user=vera").await.expect(200);
    assert_eq!(answer.url.as_str(), page_of_form);
    browser.post("/orders", "a=b").await.expect(200);
}

#[tokio::test]
async fn a_form_is_kept_while_its_sender_signs_in_more_strongly() {
    let upstream = Recorder::start().await;
    let gate = gate(&upstream).await;
    let mut browser = vera(&gate).await;
    let before = upstream.requests().len();
    let refused = browser.post("/orders", "item=1").await.expect(401);
    let text = refused.text();
    let link = text.split("href=\"").find(|rest| rest.starts_with("/.wicketgate/login")).unwrap();
    let link = link.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
    let answer = browser.get(&link).await.expect(303);
    assert_eq!(parameter(&answer, "acr_values").as_deref(), Some("mfa"));
    let page = follow(&gate, &mut browser, answer, "user=vera").await.expect(200);
    let text = page.text();
    let action = text.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
    let action = action.replace("&#38;", "&").replace("&amp;", "&");
    assert_eq!(upstream.requests().len(), before);
    browser.post(&action, "").await.expect(307);
    browser.post("/orders", "").await.expect(200);
    assert_eq!(upstream.last().body, b"item=1");
}
