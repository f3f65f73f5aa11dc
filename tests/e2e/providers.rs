//! Several identity providers: two instances of the certified one.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use rcgen::KeyPair;
use serde_json::json;

use crate::harness::gate::{SECOND_HOST, mentions, route};
use crate::harness::pki::write_secret;
use crate::harness::rogue::parameter;
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Browser, Gate, Recorder, caller, eventually, websocket};

/// What is said of the half of a login that is brought to the address of the other.
const OTHER_HALF: &str = "another host has to end";

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
    let _socket = websocket::opened(&second, &mut echo).await;
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
            // What the store can't write in time is told to come again, and may.
            let answer = eventually("the end of a login", async || {
                let answer = browser.get(&callback).await;
                (answer.status != 503).then_some(answer)
            })
            .await
            .expect(303);
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

#[tokio::test]
async fn keys_that_the_provider_changes_are_followed_but_not_more_often_than_is_good() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    gate.login("vera").await;
    let rotate = async || {
        let address = format!("{}/test/rotate", gate.provider.issuer);
        gate.browser().post(&address, "").await.expect(200);
    };
    rotate().await;
    gate.login("otto").await.get("/").await.expect(200);
    // Again within half a minute: nobody is let in with a key that the gate can't know.
    rotate().await;
    let mut browser = gate.browser();
    let callback = gate.until_callback(&mut browser, "ada", "/").await;
    browser.get(&callback).await.expect(400);
    assert_eq!(browser.session_cookie(), None);
    gate.audited("the refusal", |one| mentions(one, &["login-failed", "no key"])).await;
}

#[tokio::test]
async fn the_gate_is_a_client_by_secret_by_key_and_by_neither() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let file = folder.path().join("client.key");
    write_secret(&file, &key.serialize_pem());
    // Uncompressed: a byte that says so, then both coordinates.
    let point = key.public_key_raw();
    let part = |from: usize| BASE64_URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "gate-1",
        "x": part(1), "y": part(33) });
    let by = |method: &str| json!({ "token_endpoint_auth_method": method });
    let gate = Gate::with_upstream(&Recorder::start().await)
        .provider_with(
            "post",
            by("client_secret_post"),
            json!({
                "client_authentication": "client_secret_post",
                "authorization_parameters": { "ui_locales": "de" },
                "callback": "shared",
            }),
        )
        .provider_with("public", by("none"), json!({ "client_secret": null }))
        .provider_with(
            "key",
            json!({
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": "ES256",
                "jwks": { "keys": [jwk] },
            }),
            json!({
                "client_secret": null,
                "client_key": format!("file:{}", file.display()),
                "client_key_id": "gate-1",
            }),
        )
        .start()
        .await;
    for provider in ["test", "post", "public", "key"] {
        let mut browser = gate.browser();
        sign_in(&gate, &mut browser, provider, "vera", "/").await;
        let id = format!("{provider}/vera");
        gate.audited("the session", |one| mentions(one, &["session-started", &id])).await;
    }
    let answer = gate.browser().get("/.wicketgate/login?start&provider=post").await.expect(303);
    assert!(answer.location().query().unwrap().contains("ui_locales=de"));
}

#[tokio::test]
async fn one_redirect_uri_serves_every_host_and_its_code_only_the_host_and_browser_that_began() {
    let upstream = Recorder::start().await;
    let second = |path: &str, port: u16| format!("https://{SECOND_HOST}:{port}{path}");
    let gate = Gate::setup()
        .route(route("app", "/", &upstream.url()))
        .route(route("other", "/", &upstream.url()))
        .configure(|config| {
            config["routes"][1]["host"] = json!("other.localhost");
            config["session"] = json!({ "sign_in_host": SECOND_HOST });
        })
        .start()
        .await;
    let other = |path: &str| format!("https://other.localhost:{}{path}", gate.port());
    let mut browser = gate.browser();
    let answer = browser.get("/orders?page=2").await.expect(303);
    let sign_in = answer.location();
    assert!(sign_in.as_str().starts_with(&second("/.wicketgate/login?for=", gate.port())));
    let answer = browser.get(sign_in.as_str()).await.expect(303);
    let redirect = answer
        .location()
        .query_pairs()
        .find(|(key, _)| key == "redirect_uri")
        .unwrap()
        .1
        .into_owned();
    assert_eq!(redirect, second("/.wicketgate/callback", gate.port()));
    let form = browser.follow(answer).await.expect(200);
    let mut answer = browser.post(form.url.as_str(), "user=vera").await;
    while answer.location().path() != "/.wicketgate/handover" {
        answer = browser.get(answer.location().as_str()).await.expect(303);
    }
    assert_eq!(browser.session_cookie(), None, "the sign-in host has no session");
    let handover = answer.location();
    assert!(handover.as_str().starts_with(&gate.url("/.wicketgate/handover?code=")), "{handover}");

    // Another browser; one with a login of its own; another host; the callback's address.
    let before = browser.clone();
    gate.browser().get(handover.as_str()).await.expect(400);
    let mut theirs = gate.browser();
    let begun = theirs.get("/").await.expect(303);
    theirs.get(begun.location().as_str()).await.expect(303);
    theirs.get(handover.as_str()).await.expect(400);
    assert_eq!(theirs.session_cookie(), None, "no login is forced on a browser");
    let mut elsewhere = browser.clone();
    let query = handover.query().unwrap();
    elsewhere.get(&other(&format!("/.wicketgate/handover?{query}"))).await.expect(400);
    elsewhere.get(&gate.url(&format!("/.wicketgate/callback?{query}"))).await.expect(400);
    gate.audited("the refusal", |one| mentions(one, &["login-failed", OTHER_HALF])).await;

    let answer = browser.get(handover.as_str()).await.expect(303);
    assert_eq!(answer.location().as_str(), gate.url("/orders?page=2"));
    browser.get("/orders?page=2").await.expect(200);
    gate.audited("the session", |one| {
        mentions(one, &["session-started", "test/vera", "app.localhost"])
    })
    .await;
    // A second time, as it was and as it is.
    for mut again in [before, browser.clone()] {
        let refused = again.get(handover.as_str()).await.expect(400);
        assert!(refused.text().contains("Sign-in failed"), "{}", refused.text());
    }
    gate.audited("the replay", |one| mentions(one, &["login-failed", "used before"])).await;

    // The other host: the provider knows the browser, and nobody has to do a thing.
    let answer = browser.get(&other("/plans")).await;
    let answer = browser.follow(answer).await.expect(200);
    assert_eq!(answer.url.as_str(), other("/plans"));
    // Nobody asks the sign-in host for a host that isn't served, or with what the gate didn't make.
    let forged = second("/.wicketgate/login?for=AAAA", gate.port());
    gate.browser().get(&forged).await.expect(400);
    for path in ["/", "/.wicketgate/login"] {
        gate.browser().get(&second(path, gate.port())).await.expect(404);
    }
}

#[tokio::test]
async fn a_hand_over_under_way_ends_with_the_user_and_exists_with_a_sign_in_host_only() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| config["session"] = json!({ "sign_in_host": SECOND_HOST }))
        .start()
        .await;
    let mut browser = gate.browser();
    let form = browser.get("/orders").await;
    let form = browser.follow(form).await.expect(200);
    let mut answer = browser.post(form.url.as_str(), "user=vera").await;
    while answer.location().path() != "/.wicketgate/handover" {
        answer = browser.get(answer.location().as_str()).await.expect(303);
    }
    let output = gate.command(&["sessions", "revoke", "--user", "test/vera"]);
    assert!(output.status.success(), "{output:?}");
    let refused = browser.get(answer.location().as_str()).await.expect(403);
    assert!(refused.text().contains("signed out while"), "{}", refused.text());
    assert_eq!(browser.session_cookie(), None);
    // She begins again.
    let answer = browser.get("/orders").await;
    browser.follow(answer).await.expect(200);
    assert!(browser.session_cookie().is_some());

    let without = Gate::with_upstream(&upstream).start().await;
    without.browser().get("/.wicketgate/handover?code=a&state=b").await.expect(404);
}

#[tokio::test]
async fn callbacks_that_bring_no_sign_in_have_a_limit_and_others_have_their_own() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let request = |cookie: &str| {
        let port = gate.port();
        format!(
            "GET /.wicketgate/callback?code=a&state=b HTTP/1.1\r\nhost: app.localhost:{port}\r\n{cookie}\r\n"
        )
    };
    let mut raw = caller::call_with(&gate, 9, b"").await.unwrap();
    // Any page can have a browser send these: they are no tries to sign in.
    for _ in 0..400 {
        raw.send(request("").as_bytes()).await;
        assert_eq!(raw.answer().await.unwrap().status, 400);
    }
    let mut status = 400;
    for _ in 0..5000 {
        raw.send(request("cookie: __Host-wicketgate-login-aaaaaaaa=a\r\n").as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        status = answer.status;
        if status != 400 {
            assert!(answer.value("retry-after").is_some(), "{answer:?}");
            break;
        }
    }
    assert_eq!(status, 429);
    gate.login("vera").await.get("/").await.expect(200);
}

#[tokio::test]
async fn a_person_in_a_real_browser_chooses_a_provider_without_a_script() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .provider("second")
        .configure(|config| {
            config["identity_providers"][0]["display_name"] = json!("Plant staff");
            config["identity_providers"][1]["display_name"] = json!("Acme Corporation");
        })
        .start()
        .await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("choice");
    let (script, address) = (root.join("tests/browser/choice.mjs"), gate.url("/orders?page=2"));
    let run = move || Command::new("node").arg(script).arg(address).arg(pictures).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    gate.audited("the session", |one| mentions(one, &["session-started", "second/vera"])).await;
}

#[tokio::test]
async fn what_a_host_asked_for_is_held_against_what_is_served_now() {
    let upstream = Recorder::start().await;
    let mut gate = Gate::setup()
        .route(route("app", "/", &upstream.url()))
        .route(route("other", "/", &upstream.url()))
        .provider("second")
        .configure(|config| {
            config["routes"][1]["host"] = json!("other.localhost");
            config["session"] = json!({ "sign_in_host": SECOND_HOST });
        })
        .start()
        .await;
    let other = format!("https://other.localhost:{}", gate.port());
    let mut browser = gate.browser();
    let start = format!("{other}/.wicketgate/login?start&provider=test&return_to=/orders");
    let asked = browser.get(&start).await.expect(303).location();
    let began = browser.get(asked.as_str()).await.expect(303);
    let state = parameter(&began.location(), "state");
    let wrong = format!("/.wicketgate/handover?code=x&state={state}");
    let wrong = format!("https://{SECOND_HOST}:{}{wrong}", gate.port());
    browser.clone().get(&wrong).await.expect(400);
    gate.audited("the refusal", |one| mentions(one, &["login-failed", OTHER_HALF])).await;
    let form = browser.follow(began).await.expect(200);

    gate.rewrite(|config| config["routes"][1]["identity_providers"] = json!(["second"]));
    eventually("the page to take other users", async || {
        (browser.clone().get(asked.as_str()).await.status == 400).then_some(())
    })
    .await;
    gate.rewrite(|config| config["routes"].as_array_mut().unwrap().truncate(1));
    eventually("the host to be gone", async || {
        (browser.clone().get(&format!("{other}/")).await.status != 303).then_some(())
    })
    .await;
    let mut answer = browser.post(form.url.as_str(), "user=vera").await;
    while answer.status == 303 {
        let next = answer.location();
        assert_ne!(next.host_str(), Some("other.localhost"), "{next}");
        answer = browser.get(next.as_str()).await;
    }
    answer.expect(400);
}
