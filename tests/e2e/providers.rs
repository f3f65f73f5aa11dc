//! Several identity providers: two instances of the certified one.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::gate::{mentions, route};
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Browser, Gate, Recorder, eventually, websocket};

/// Signs in with the provider of this name, and returns where the browser ended up.
async fn sign_in(gate: &Gate, browser: &mut Browser, provider: &str, user: &str, page: &str) {
    let callback = gate.until_callback_at(browser, provider, user, page).await;
    let answer = browser.get(&callback).await;
    browser.follow(answer).await.expect(200);
}

#[tokio::test]
async fn a_person_chooses_a_provider_and_comes_back_from_it_to_the_page_asked_for() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).provider("second").start().await;
    for (provider, user) in [("test", "vera"), ("second", "ada")] {
        let mut browser = gate.browser();
        let answer = browser.get("/orders?page=2").await.expect(303);
        assert_eq!(answer.location().path(), "/.wicketgate/login", "{answer:?}");
        let page = browser.follow(answer).await.expect(200);
        let text = page.text();
        assert!(text.contains("Choose how to sign in"), "{text}");
        assert!(!text.contains("<script"), "{text}");
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let button = text
            .split("href=\"")
            .filter_map(|rest| rest.split('"').next())
            .find(|address| address.contains(&format!("provider={provider}&")))
            .unwrap_or_else(|| panic!("no button for {provider}: {text}"))
            .replace("&#38;", "&")
            .replace("&amp;", "&");
        let answer = browser.get(&button).await;
        let form = browser.follow(answer).await.expect(200);
        let answer = browser.post(form.url.as_str(), &format!("user={user}")).await;
        let answer = browser.follow(answer).await.expect(200);
        assert_eq!(answer.url.as_str(), gate.url("/orders?page=2"));
        let id = format!("{provider}/{user}");
        assert_eq!(upstream.last().value("x-wicketgate-user"), Some(id.as_str()));
        gate.audited("the session", |one| mentions(one, &["session-started", &id])).await;
    }
}

#[tokio::test]
async fn an_answer_of_one_provider_never_ends_a_login_that_began_with_the_other() {
    let gate = Gate::with_upstream(&Recorder::start().await).provider("second").start().await;
    let parameter = |address: &str, name: &str| {
        let url = url::Url::parse(address).unwrap();
        url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned()
    };
    let mut browser = gate.browser();
    let first = gate.until_callback_at(&mut browser, "test", "vera", "/").await;
    let second = gate.until_callback_at(&mut browser, "second", "vera", "/").await;
    let (first_issuer, second_issuer) = (&gate.provider.issuer, &gate.others["second"].issuer);
    assert_eq!(&parameter(&first, "iss"), first_issuer, "the provider names itself");
    assert_eq!(&parameter(&second, "iss"), second_issuer);
    let (code, state) = (parameter(&first, "code"), parameter(&second, "state"));
    let encoded =
        |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    for (said, reason) in [
        // The code of the first in the login of the second, said to be from either or nobody.
        (format!("&iss={}", encoded(first_issuer)), "another issuer"),
        (format!("&iss={}", encoded(second_issuer)), "did not redeem the code"),
        (String::new(), "does not name its issuer"),
    ] {
        let mut copy = browser.clone();
        let target = format!("/.wicketgate/callback?code={code}&state={state}{said}");
        copy.get(&target).await.expect(400);
        assert_eq!(copy.session_cookie(), None, "{target}");
        gate.audited("the refusal", |one| mentions(one, &["login-failed", reason])).await;
    }
    // The first login was not harmed by it.
    let answer = browser.get(&first).await;
    browser.follow(answer).await.expect(200);
    assert!(browser.session_cookie().is_some());
}

#[tokio::test]
async fn a_session_counts_only_on_routes_that_take_its_provider() {
    let (staff, vendors) = (Recorder::start().await, Recorder::start().await);
    let gate = Gate::setup()
        .route(route("staff", "/", &staff.url()))
        .route(route("vendors", "/vendors", &vendors.url()))
        .provider("second")
        .configure(|config| {
            config["routes"][0]["identity_providers"] = json!(["test"]);
            config["routes"][1]["identity_providers"] = json!(["second"]);
        })
        .start()
        .await;
    let mut browser = gate.browser();
    sign_in(&gate, &mut browser, "test", "vera", "/").await;
    let session = browser.session_cookie();
    let mut program = browser.clone().as_program();
    program.get("/").await.expect(200);
    program.get("/vendors").await.expect(401);
    assert_eq!(program.session_cookie(), session, "the session goes on elsewhere");
    program.get("/").await.expect(200);
    assert!(vendors.requests().is_empty());
    // A browser is sent to the provider that is taken, with no choice to be made.
    let answer = browser.get("/vendors").await.expect(303);
    assert!(answer.location().as_str().starts_with(&gate.others["second"].issuer), "{answer:?}");
    let page = browser.get("/.wicketgate/login?start&provider=test&return_to=/vendors").await;
    let text = page.expect(200).text();
    assert!(text.contains("second") && !text.contains("with test"), "not offered: {text}");
    sign_in(&gate, &mut browser, "second", "vera", "/vendors").await;
    assert_eq!(vendors.last().value("x-wicketgate-user"), Some("second/vera"));
    browser.as_program().get("/").await.expect(401);
}

#[tokio::test]
async fn a_provider_that_is_taken_out_takes_its_sessions_with_it_and_no_others() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(route("ws", "/ws", &echo.url))
        .provider("second")
        .start()
        .await;
    let (mut first, mut second) = (gate.browser(), gate.browser());
    sign_in(&gate, &mut first, "test", "vera", "/").await;
    sign_in(&gate, &mut second, "second", "vera", "/").await;
    let (_socket, _) = websocket::open(&second, "/ws").await.unwrap();
    assert_eq!(echo.next().await, Heard::Opened);
    gate.admin("/readyz").await.filter(|(_, told)| told.contains("\"second\"")).unwrap();

    // Not from this route any more: only that is over.
    gate.rewrite(|config| config["routes"][1]["identity_providers"] = json!(["test"]));
    gate.process.signal("HUP");
    let why = "no longer takes users of this identity provider";
    gate.audited("the cut", |one| mentions(one, &["connection-cut", why])).await;
    assert_eq!(echo.next().await, Heard::Ended);
    second.clone().as_program().get("/").await.expect(200);

    let mut begun = gate.browser();
    let callback = gate.until_callback_at(&mut begun, "second", "ada", "/").await;
    gate.rewrite(|config| drop(config["identity_providers"].as_array_mut().unwrap().pop()));
    gate.process.signal("HUP");
    let mut program = second.clone().as_program();
    eventually("the end of its sessions", async || {
        (program.get("/").await.status == 401).then_some(())
    })
    .await;
    first.as_program().get("/").await.expect(200);
    // A login that was under way ends nowhere.
    begun.get(&callback).await.expect(400);
    assert_eq!(begun.session_cookie(), None);
    gate.audited("the refusal", |one| mentions(one, &["login-failed", "no longer configured"]))
        .await;
    // And with one provider left there is nothing to choose.
    let answer = second.get("/").await.expect(303);
    assert!(answer.location().as_str().starts_with(&gate.provider.issuer), "{answer:?}");
}

#[tokio::test]
async fn two_hundred_logins_of_two_users_at_once_never_cross() {
    const LOGINS: usize = 200;
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).provider("second").start().await;
    let logins = (0..LOGINS).map(|number| {
        let (gate, upstream) = (&gate, &upstream);
        let user = ["vera", "ada"][number % 2];
        let provider = ["test", "second"][number / 2 % 2];
        async move {
            let mut browser = gate.browser();
            let page = format!("/login-{number}");
            let callback = gate.until_callback_at(&mut browser, provider, user, &page).await;
            let answer = browser.get(&callback).await.expect(303);
            assert_eq!(answer.location().path(), page);
            browser.get(&page).await.expect(200);
            let seen = upstream.requests();
            let line = format!("GET {page} HTTP/1.1");
            let request = seen.iter().find(|request| request.line() == line).unwrap();
            let id = format!("{provider}/{user}");
            assert_eq!(request.value("x-wicketgate-user"), Some(id.as_str()));
            browser.session_cookie().unwrap()
        }
    });
    let mut sessions = join_all(logins).await;
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), LOGINS, "each has a session of its own");
}
