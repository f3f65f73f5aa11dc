//! Users are asked about again while their sessions go on: the real provider gives refresh tokens that
//! work once, and ends the sign-in when one comes a second time.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::client::Answer;
use crate::harness::gate::{mentions, route};
use crate::harness::redis::Redis;
use crate::harness::rogue::Bend;
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Browser, Gate, Recorder, Rogue, Setup, eventually, websocket, within};

const VENDORS: &str = r#"
@id("vendors")
permit (principal in Wicketgate::Group::"vendors", action, resource);
"#;

fn world(page: &Recorder, echo: &Echo) -> Setup {
    Gate::setup().route(route("app", "/", &page.url())).route(route("ws", "/ws", &echo.url))
}

/// Asks until the answer has this status; all before it have the other.
async fn turns(browser: &mut Browser, from: u16, to: u16) -> Answer {
    eventually(&format!("{to} after {from}"), async || {
        let answer = browser.get("/").await;
        assert!(answer.status == from || answer.status == to, "{answer:?} {}", answer.text());
        (answer.status == to).then_some(answer)
    })
    .await
}

async fn tell_provider(gate: &Gate, what: &str) {
    let address = format!("{}/test/{what}", gate.provider.issuer);
    gate.browser().post(&address, "").await.expect(200);
}

/// How often the provider has given new tokens for old ones. It never says no for a token that came
/// twice.
#[track_caller]
fn refreshes(gate: &Gate) -> usize {
    let output = gate.provider.process.output();
    let said: Vec<Value> =
        output.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(!said.iter().any(|said| mentions(said, &["already used"])), "{output:?}");
    said.iter().filter(|said| said["refresh"] == "success").count()
}

async fn refreshed(gate: &Gate, result: &str) -> f64 {
    gate.metric("wicketgate_refreshes_total", result).await
}

#[tokio::test]
async fn a_group_that_was_taken_away_is_gone_from_the_session_and_closes_what_is_open() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = world(&page, &echo).policy(VENDORS).refresh("1s", "1h").start().await;
    let browser = gate.login("vera").await;
    let mut program = browser.clone().as_program();
    program.get("/").await.expect(200);
    assert_eq!(page.last().value("x-wicketgate-groups"), Some("vendors"));
    let mut socket = websocket::opened(&browser, &mut echo).await;

    tell_provider(&gate, "groups?user=vera&group=customers").await;
    // Idle, and refreshed all the same.
    assert_eq!(websocket::closed(&mut socket).await, "the policies no longer allow it");
    assert_eq!(echo.next().await, Heard::Ended);
    turns(&mut program, 200, 403).await;
    tell_provider(&gate, "groups?user=vera&group=customers&group=vendors").await;
    turns(&mut program, 403, 200).await;
    assert_eq!(page.last().value("x-wicketgate-groups"), Some("customers,vendors"));
    let me = program.get("/.wicketgate/me").await.expect(200).text();
    assert!(me.contains("customers"), "{me}");
    assert!(refreshes(&gate) >= 2);
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_grant_that_the_provider_takes_back_ends_the_session_and_what_is_open_under_it() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = world(&page, &echo).refresh("1s", "1h").start().await;
    let browser = gate.login("vera").await;
    let mut other = gate.login("otto").await.as_program();
    let mut socket = websocket::opened(&browser, &mut echo).await;
    tell_provider(&gate, "revoke?user=vera").await;
    assert_eq!(websocket::closed(&mut socket).await, "the session has ended");
    browser.clone().as_program().get("/").await.expect(401);
    let ended =
        |record: &Value| mentions(record, &["session-ended", "test/vera", "refresh-refused"]);
    gate.audited("the end", ended).await;
    assert!((refreshed(&gate, "refused").await - 1.0).abs() < 0.1);
    other.get("/").await.expect(200);
    // A browser signs in anew.
    let again = gate.login("vera").await;
    again.as_program().get("/").await.expect(200);
}

#[tokio::test]
async fn while_the_provider_is_away_sessions_go_on_for_as_long_as_is_configured_and_then_wait_for_it()
 {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    // So long that no test waits for it.
    let mut gate = world(&page, &echo).refresh("1s", "1h").start().await;
    let browser = gate.login("vera").await;
    let mut program = browser.clone().as_program();
    program.get("/").await.expect(200);
    let mut socket = websocket::opened(&browser, &mut echo).await;

    gate.provider.process.signal("USR2");
    let count = |gate: &Gate, words: &str| {
        gate.process.output().iter().filter(|line| line.contains(words)).count()
    };
    // With the second the first is more than the interval ago.
    eventually("two refreshes that fail", async || {
        program.get("/").await.expect(200);
        let told = count(&gate, "sessions can't be refreshed");
        (told > 0 && refreshed(&gate, "unavailable").await > 1.5).then_some(())
    })
    .await;
    assert_eq!(count(&gate, "sessions can't be refreshed"), 1, "one outage, one warning");
    gate.rewrite(|config| config["identity_providers"][0]["refresh"]["max_age"] = "2s".into());
    let refused = turns(&mut program, 200, 503).await;
    assert_eq!(refused.json()["type"], "urn:wicketgate:identity-unconfirmed");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let decision = refused.header("x-wicketgate-decision").unwrap().to_owned();
    let record = gate.audited("it", |record| record["id"] == decision.as_str()).await;
    assert!(mentions(&record, &["identity-unconfirmed", "test/vera"]), "{record}");
    let words = "the identity provider can't be asked about the user, and was not for too long";
    assert_eq!(websocket::closed(&mut socket).await, words);
    assert_eq!(echo.next().await, Heard::Ended);
    assert!(websocket::open(&browser, "/ws").await.is_err());
    // The gate's own pages, and with them signing out, don't depend on it.
    program.get("/.wicketgate/me").await.expect(200);
    browser.clone().get("/.wicketgate/logout").await.expect(200);

    // Once more for the provider as it was read again.
    eventually("the next try", async || {
        program.get("/").await.expect(503);
        (count(&gate, "sessions can't be refreshed") == 2).then_some(())
    })
    .await;
    gate.provider.process.signal("USR2");
    turns(&mut program, 503, 200).await;
    websocket::opened(&browser, &mut echo).await;
    eventually("word of it", async || {
        (count(&gate, "sessions are refreshed again") == 1).then_some(())
    })
    .await;
    assert_eq!(count(&gate, "sessions can't be refreshed"), 2, "{:?}", gate.process.output());
    assert!(!gate.audit().iter().any(|record| mentions(record, &["session-ended"])));
}

#[tokio::test]
async fn fifty_requests_at_once_use_each_refresh_token_once() {
    let page = Recorder::start().await;
    let gate = Gate::with_upstream(&page).refresh("1s", "1h").start().await;
    let program = gate.login("vera").await.as_program();
    eventually("four refreshes", async || {
        let mut all: Vec<Browser> = (0..50).map(|_| program.clone()).collect();
        for answer in join_all(all.iter_mut().map(|browser| browser.get("/"))).await {
            answer.expect(200);
        }
        (refreshes(&gate) >= 4).then_some(())
    })
    .await;
    assert!(refreshed(&gate, "refused").await < 0.5);
    assert!(refreshed(&gate, "unavailable").await < 0.5);
}

/// With one provider and one store.
async fn two_gates(page: &Recorder, echo: &Echo, store: &Redis) -> (Gate, Gate) {
    let setup = || {
        let url = format!("redis://{}", store.address());
        world(page, echo).policy(VENDORS).refresh("1s", "1h").configure(move |config| {
            config["store"] = json!({ "redis": { "url": url } });
        })
    };
    let one = setup().start().await;
    let issuer = one.provider.issuer.clone();
    let other = setup()
        .configure(move |config| config["identity_providers"][0]["issuer"] = issuer.into())
        .start()
        .await;
    (one, other)
}

/// Who signs the user out can't know the token that another gate gets meanwhile.
#[tokio::test]
async fn a_token_that_a_gate_gets_after_a_sign_out_at_another_is_given_back() {
    let (page, echo, store) = (Recorder::start().await, Echo::start().await, Redis::start().await);
    let (one, other) = two_gates(&page, &echo, &store).await;
    let mut here = one.login("vera").await;
    let mut there = other.browser().as_program();
    there.set_session_cookie(&here.session_cookie().unwrap());
    tell_provider(&one, "hold").await;
    let asking = tokio::spawn(async move { while there.get("/").await.status == 200 {} });
    eventually("a refresh whose answer waits", async || {
        one.provider.process.output().iter().any(|line| line.contains("held")).then_some(())
    })
    .await;
    here.sign_out().await.expect(303);
    let revoked =
        async |gate: &Gate| gate.metric("wicketgate_token_revocations_total", "revoked").await;
    eventually("the former token's revocation", async || (revoked(&one).await > 0.5).then_some(()))
        .await;
    tell_provider(&one, "release").await;
    eventually("the new token's revocation", async || (revoked(&other).await > 0.5).then_some(()))
        .await;
    within("the end of the session", asking).await.unwrap();
    assert!(revoked(&one).await < 1.5, "each gives back what it has");
}

#[tokio::test]
async fn two_gates_on_one_store_use_each_refresh_token_once_and_know_the_same() {
    let (page, echo, store) = (Recorder::start().await, Echo::start().await, Redis::start().await);
    let (one, other) = two_gates(&page, &echo, &store).await;
    let here = one.login("vera").await.as_program();
    let mut there = other.browser().as_program();
    there.set_session_cookie(&here.session_cookie().unwrap());
    let ask = async || {
        let mut all: Vec<Browser> = (0..20).flat_map(|_| [here.clone(), there.clone()]).collect();
        join_all(all.iter_mut().map(|browser| browser.get("/"))).await
    };
    eventually("four refreshes", async || {
        ask().await.into_iter().for_each(|answer| drop(answer.expect(200)));
        (refreshes(&one) >= 4).then_some(())
    })
    .await;
    tell_provider(&one, "groups?user=vera&group=customers").await;
    for browser in [&here, &there] {
        turns(&mut browser.clone(), 200, 403).await;
    }
    for gate in [&one, &other] {
        assert!(refreshed(gate, "refused").await < 0.5);
    }
    let both = refreshed(&one, "refreshed").await + refreshed(&other, "refreshed").await;
    assert!(both <= refreshes(&one) as f64, "{both}");
}

/// What is wrong with the answer, and what is said about it where the session ends.
type Case = (&'static str, fn(&mut Bend), Option<&'static str>);

const ANSWERS: &[Case] = &[
    ("another sub", |b| b.claim("sub", json!("eve")), Some("another subject")),
    ("another aud", |b| b.claim("aud", json!("other")), Some("another client")),
    ("another iss", |b| b.claim("iss", json!("https://evil.example")), Some("another issuer")),
    ("another nonce", |b| b.claim("nonce", json!("other")), Some("nonce")),
    ("another sid", |b| b.claim("sid", json!("s2")), Some("another session")),
    ("another sign-in", |b| b.claim("auth_time", json!(9)), Some("another sign-in")),
    ("garbage", |b| b.answer("/token", 200, "<html>"), None),
    ("10 MB", |b| b.answer("/token", 200, vec![b' '; 10 << 20]), None),
    ("500", |b| b.answer("/token", 500, "{}"), None),
    ("the client is unknown", |b| b.answer("/token", 401, r#"{"error":"invalid_client"}"#), None),
];

const TOKEN: &str = "a-refresh-token-that-nobody-may-ever-see";

#[tokio::test]
async fn a_provider_that_answers_a_refresh_wrongly_changes_nobody() {
    let good = |bend: &mut Bend| {
        bend.claim("auth_time", json!(7));
        bend.tokens.push(Box::new(|tokens| tokens["refresh_token"] = TOKEN.into()));
    };
    for (name, bend, over) in ANSWERS {
        let (rogue, page) = (Rogue::start().await, Recorder::start().await);
        let gate = Gate::with_upstream(&page).refresh("1s", "1h");
        let gate = rogue.provides(gate).start().await;
        rogue.bend(good);
        let browser = rogue.signed_in(&gate, "vera", Some("s1")).await;
        let mut program = browser.as_program();
        rogue.bend(bend);
        match over {
            Some(_) => drop(turns(&mut program, 200, 401).await),
            None => {
                eventually(name, async || {
                    program.get("/").await.expect(200);
                    (refreshed(&gate, "unavailable").await > 0.5).then_some(())
                })
                .await;
                rogue.behave();
                rogue.bend(good);
                eventually("the next one", async || {
                    program.get("/").await.expect(200);
                    (refreshed(&gate, "refreshed").await > 0.5).then_some(())
                })
                .await;
            }
        }
        let users: Vec<_> = page.requests();
        assert!(
            users.iter().all(|request| request.value("x-wicketgate-user") == Some("test/vera")),
            "{name}"
        );
        let said = gate.process.output().join("\n");
        assert!(over.is_none_or(|words| said.contains(words)), "{name}: {said}");
        let log: String = gate.audit().iter().map(Value::to_string).collect();
        for text in [&said, &log] {
            assert!(!text.contains(TOKEN) && !text.contains("eyJ"), "{name}: {text}");
        }
        let (head, body) = rogue.last("/token");
        assert!(body.contains("grant_type=refresh_token"), "{name}: {body}");
        assert!(head.to_lowercase().contains("authorization: basic"), "{name}: as for the code");
    }
}

/// One redirect URI for all hosts: the token goes with the user to where the session begins.
#[tokio::test]
async fn a_session_that_was_handed_over_is_refreshed_too() {
    let page = Recorder::start().await;
    let gate = Gate::with_upstream(&page)
        .refresh("1s", "1h")
        .configure(|config| config["session"] = json!({ "sign_in_host": "second.localhost" }))
        .start()
        .await;
    let mut browser = gate.browser();
    let answer = browser.get("/").await;
    let form = browser.follow(answer).await.expect(200);
    let mut answer = browser.post(form.url.as_str(), "user=vera").await;
    while answer.status == 303 || answer.status == 302 {
        let next = answer.location();
        answer = browser.get(next.as_str()).await;
    }
    answer.expect(200);
    let mut program = browser.as_program();
    eventually("a refresh", async || {
        program.get("/").await.expect(200);
        (refreshes(&gate) >= 1).then_some(())
    })
    .await;
}

/// The former process keeps what is open, and has no store of its own any more.
#[tokio::test]
async fn during_an_upgrade_two_processes_use_each_refresh_token_once() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = world(&page, &echo)
        .policy(VENDORS)
        .refresh("1s", "1h")
        .launch(|launch| {
            launch.arguments = vec!["--replaced-timeout".to_owned(), "60".to_owned()];
        })
        .start()
        .await;
    let browser = gate.login("vera").await;
    let mut socket = websocket::opened(&browser, &mut echo).await;
    gate.process.signal("USR2");
    eventually("the newer process", async || {
        let output = gate.process.output();
        output.iter().any(|line| line.contains("a newer process serves")).then_some(())
    })
    .await;
    let (before, mut program) = (refreshes(&gate), browser.as_program());
    eventually("four refreshes", async || {
        program.get("/").await.expect(200);
        (refreshes(&gate) >= before + 4).then_some(())
    })
    .await;
    tell_provider(&gate, "groups?user=vera&group=customers").await;
    assert_eq!(websocket::closed(&mut socket).await, "the policies no longer allow it");
    turns(&mut program, 200, 403).await;
    refreshes(&gate);
    gate.assert_audit_verifies();
}
