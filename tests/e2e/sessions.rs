//! What is kept of sessions, and what their users can do about them.

use http::Method;
use serde_json::json;

use crate::harness::client::{Answer, Browser};
use crate::harness::gate::route;
use crate::harness::pki::write_secret;
use crate::harness::{Gate, Recorder};

/// Where the forms of a page lead, as a browser would read them.
pub fn forms(page: &Answer) -> Vec<String> {
    let page = page.text();
    let actions = page.split("action=\"").skip(1).filter_map(|rest| rest.split('"').next());
    actions.map(|action| action.replace("&amp;", "&").replace("&#38;", "&")).collect()
}

fn of<'a>(forms: &'a [String], address: &str) -> Vec<&'a str> {
    let whole = format!("{address}?");
    forms.iter().map(String::as_str).filter(|form| form.starts_with(&whole)).collect()
}

async fn me(browser: &mut Browser) -> Answer {
    browser.get("/.wicketgate/me").await.expect(200)
}

async fn is_signed_in(browser: &Browser) -> bool {
    browser.clone().as_program().get("/").await.status == 200
}

#[tokio::test]
async fn the_stores_file_holds_no_name_and_no_token() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let browser = gate.login("ada").await;
    let file = std::fs::read(gate.folder().join("store.redb")).unwrap();
    let holds = |text: &[u8]| file.windows(text.len()).any(|part| part == text);
    for text in ["test/ada", "Ada Acme", "ada@acme.example", "customers", "eyJ", "openid"] {
        assert!(!holds(text.as_bytes()), "{text}");
    }
    assert!(!holds(browser.session_cookie().unwrap().as_bytes()));
}

#[tokio::test]
async fn sessions_survive_a_restart_with_a_key_and_an_exchange_of_it_but_not_without() {
    let upstream = Recorder::start().await;
    let setup = Gate::with_upstream(&upstream).configure(|config| {
        config["session"] = json!({ "key": "file:session-key" });
        let audit = config["audit"]["directory"].as_str().unwrap().to_owned();
        let folder = std::path::Path::new(&audit).parent().unwrap().to_owned();
        write_secret(&folder.join("session-key"), &"a".repeat(44));
    });
    let mut gate = setup.start().await;
    let browser = gate.login("vera").await;
    let key = gate.folder().join("session-key");

    gate.process.kill();
    write_secret(&key, &format!("{}\n{}\n", "b".repeat(44), "a".repeat(44)));
    gate.restart().await;
    assert!(is_signed_in(&browser).await);

    gate.process.kill();
    write_secret(&key, &"c".repeat(44));
    let refused = gate.run_to_the_end(|_| {});
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(said.contains("sealed with another `session.key`"), "{said}");
    assert!(!said.contains("ccc"), "{said}");

    write_secret(&key, &"b".repeat(44));
    gate.restart().await;
    assert!(is_signed_in(&browser).await);
}

#[tokio::test]
async fn the_oldest_session_ends_when_there_are_too_many() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| config["session"] = json!({ "max_per_user": 2 }))
        .start()
        .await;
    let other = gate.login("otto").await;
    let first = gate.login("vera").await;
    let second = gate.login("vera").await;
    assert!(is_signed_in(&first).await);
    let third = gate.login("vera").await;
    assert!(!is_signed_in(&first).await);
    for browser in [&second, &third, &other] {
        assert!(is_signed_in(browser).await);
    }
    gate.audited("the end", |record| {
        record["event"] == "session-ended" && record["reason"] == "limit"
    })
    .await;
}

#[tokio::test]
async fn users_see_their_other_sessions_and_end_one() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut here = gate.login("vera").await;
    let alone = me(&mut here).await;
    assert!(of(&forms(&alone), "/.wicketgate/me/end").is_empty(), "{alone:?}");
    let there = gate.login("vera").await;
    let foreign = gate.login("otto").await;

    let page = me(&mut here).await;
    let ends = forms(&page);
    let ends = of(&ends, "/.wicketgate/me/end");
    assert_eq!(ends.len(), 1, "{page:?}");
    let text = page.text();
    assert!(text.contains("app.localhost"), "{text}");
    for browser in [&here, &there] {
        assert!(!text.contains(&browser.session_cookie().unwrap()));
    }
    assert!(!text.contains("eyJ"), "{text}");

    let answer = here.post(ends[0], "").await;
    here.follow(answer).await.expect(200);
    assert!(!is_signed_in(&there).await);
    assert!(is_signed_in(&here).await && is_signed_in(&foreign).await);
    gate.audited("the end", |record| {
        record["event"] == "session-ended" && record["reason"] == "logout"
    })
    .await;
}

#[tokio::test]
async fn nobody_ends_sessions_by_a_link_from_elsewhere_or_with_anothers_form() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut vera = gate.login("vera").await;
    let second = gate.login("vera").await;
    let mut otto = gate.login("otto").await;
    let otto_second = gate.login("otto").await;
    let page = me(&mut vera).await;
    let all = forms(&page);
    let end = of(&all, "/.wicketgate/me/end")[0].to_owned();
    let end_all = of(&all, "/.wicketgate/me/end-all")[0].to_owned();
    let own = me(&mut otto).await;
    let own = of(&forms(&own), "/.wicketgate/me/end")[0].to_owned();
    let part = |url: &str, name: &str| {
        let url = url::Url::parse(&format!("https://x{url}")).unwrap();
        url.query_pairs().find(|(found, _)| found == name).unwrap().1.into_owned()
    };

    assert_eq!(vera.get(&end).await.status, 405);
    assert_eq!(vera.get(&end_all).await.status, 405);
    let cross = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
    for target in [&end, &end_all] {
        let answer = vera.send(Method::POST, target, &cross, "".into()).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        // Of vera's form, with otto's session; and without a token.
        assert_eq!(otto.post(target, "").await.status, 403);
        let bare = target.split("csrf=").next().unwrap();
        assert_eq!(vera.post(bare, "").await.status, 403);
        let stranger = gate.browser().as_program().post(target, "").await;
        assert_eq!(stranger.status, 401);
    }
    // Vera's own token, with the name of otto's session.
    let named = format!(
        "/.wicketgate/me/end?session={}&csrf={}",
        part(&own, "session"),
        part(&end, "csrf")
    );
    vera.post(&named, "").await;
    for browser in [&vera, &second, &otto, &otto_second] {
        assert!(is_signed_in(browser).await);
    }
}

#[tokio::test]
async fn signing_out_everywhere_ends_all_sessions_of_the_user_and_what_is_open_under_them() {
    let upstream = Recorder::start().await;
    let gate = Gate::setup().route(route("app", "/", &upstream.url())).start().await;
    let mut here = gate.login("vera").await;
    let there = gate.login("vera").await;
    let other = gate.login("otto").await;
    let page = me(&mut here).await;
    let all = forms(&page);
    let answer = here.post(of(&all, "/.wicketgate/me/end-all")[0], "").await;
    assert!(matches!(answer.status, 303), "{answer:?}");
    assert_eq!(here.session_cookie(), None);
    assert!(!is_signed_in(&there).await);
    assert!(is_signed_in(&other).await);
}
