//! No browser is sent round in circles, and tabs that sign in at once don't disturb each other.

use serde_json::json;

use crate::harness::gate::mentions;
use crate::harness::rogue::{now, parameter};
use crate::harness::{Gate, Recorder, Rogue};

const SESSION: &str = "__Host-wicketgate";

#[tokio::test]
async fn a_browser_that_loses_its_session_each_time_ends_on_a_page() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    gate.until_callback(&mut browser, "vera", "/").await;
    // The provider knows her now and asks no more: redirects alone, as a browser follows them.
    let mut logins = 0;
    let mut answer = browser.get("/page").await;
    while matches!(answer.status, 302 | 303) {
        let location = answer.location();
        answer = browser.get(location.as_str()).await;
        if location.path() == "/.wicketgate/callback" {
            logins += 1;
            browser.lose(SESSION);
        }
        assert!(logins < 5, "round in circles");
    }
    assert_eq!(logins, 2, "the second failure is a page");
    let page = answer.expect(401);
    assert!(page.text().contains("did not come back"), "{}", page.text());
    let decision = page.header("x-wicketgate-decision").unwrap().to_owned();
    gate.audited("it", |record| mentions(record, &[&decision, "no-session-kept"])).await;
    // A click begins anew, and what is well again stays well.
    let begun = browser.get("/.wicketgate/login?start&return_to=/page").await;
    browser.follow(begun).await.expect(200);
    browser.lose(SESSION);
    let again = browser.get("/page").await;
    browser.follow(again).await.expect(200);
}

#[tokio::test]
async fn what_a_browser_says_of_itself_makes_no_circle_and_hides_none() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let forged = "__Host-wicketgate-recent=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let mut browser = gate.browser().with_header("cookie", forged);
    browser.get("/").await.expect(303);
}

#[tokio::test]
async fn tabs_that_sign_in_at_once_share_the_session_of_the_first() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    gate.until_callback(&mut browser, "vera", "/").await;
    // Both were sent to the provider, which answers both at once.
    let first = browser.get("/a").await.expect(303);
    let second = browser.get("/b").await.expect(303);
    assert_eq!(browser.follow(first).await.expect(200).url.path(), "/a");
    let session = browser.session_cookie().unwrap();
    let mut in_flight = browser.clone().as_program();
    assert_eq!(browser.follow(second).await.expect(200).url.path(), "/b");
    assert_eq!(browser.session_cookie().unwrap(), session);
    in_flight.get("/a").await.expect(200);
}

#[tokio::test]
async fn a_tab_in_which_somebody_else_signs_in_ends_the_session_of_the_other() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.browser();
    let first = browser.get("/a").await.expect(303);
    let second = browser.get("/b").await.expect(303);
    for (answer, user) in [(first, "vera"), (second, "otto")] {
        // The provider knows nobody in this tab.
        browser.forget("127.0.0.1");
        let former = browser.clone();
        let form = browser.follow(answer).await.expect(200);
        let answer = browser.post(form.url.as_str(), &format!("user={user}")).await;
        browser.follow(answer).await.expect(200);
        former.as_program().get("/a").await.expect(401);
        browser.clone().as_program().get("/a").await.expect(200);
    }
}

#[tokio::test]
async fn a_browser_that_is_asked_for_one_sign_in_after_another_ends_on_a_page() {
    let rogue = Rogue::start().await;
    let gate = rogue
        .provides(Gate::with_upstream(&Recorder::start().await))
        .policy(
            r#"permit(principal, action, resource) when { context.path == "/" };
               permit(principal, action, resource)
               when { context.path == "/a" && context has acr && context.acr == "a" };
               permit(principal, action, resource)
               when { context.path == "/b" && context has acr && context.acr == "b" };"#,
        )
        .configure(|config| {
            config["identity_providers"][0]["step_up"] = json!([{ "acr": "a" }, { "acr": "b" }]);
        })
        .start()
        .await;
    let mut browser = rogue.signed_in(&gate, "vera", Some("s1")).await;
    for turn in 0.. {
        let (page, acr) = if turn % 2 == 0 { ("/a", "a") } else { ("/b", "b") };
        let answer = browser.get(page).await;
        if answer.status == 403 {
            assert!(turn >= 2, "each of the two may be asked for");
            break;
        }
        assert!(turn < 6, "round in circles");
        let began = answer.expect(303).location();
        assert_eq!(parameter(&began, "acr_values"), acr);
        rogue.bend(|bend| {
            bend.claim("nonce", parameter(&began, "nonce").into());
            bend.claim("acr", acr.into());
        });
        browser.get(&rogue.callback(&began)).await.expect(303);
        browser.clone().as_program().get(page).await.expect(200);
    }
}

#[tokio::test]
async fn a_login_gets_a_session_of_its_own_unless_a_tab_beside_it_has_just_made_the_same() {
    let upstream = Recorder::start().await;
    let rogue = Rogue::start().await;
    let gate = rogue.provides(Gate::with_upstream(&upstream)).start().await;
    let at = now();
    rogue.bend(|bend| bend.claim("auth_time", at.into()));
    // One that began after the session that there is.
    let mut browser = rogue.signed_in(&gate, "vera", Some("s1")).await;
    let former = browser.clone();
    rogue.sign_in(&mut browser, "vera", Some("s1")).await;
    assert_ne!(former.session_cookie(), browser.session_cookie());
    former.as_program().get("/").await.expect(401);

    // Somebody else's, whatever the provider calls it.
    let late = rogue.begin(&mut browser).await.unwrap();
    rogue.sign_in(&mut browser, "vera", Some("s1")).await;
    let former = browser.clone();
    rogue.world().user = "otto".to_owned();
    rogue.bend(|bend| bend.claim("nonce", parameter(&late, "nonce").into()));
    browser.get(&rogue.callback(&late)).await.expect(303);
    browser.as_program().get("/").await.expect(200);
    assert_eq!(upstream.last().value("x-wicketgate-user"), Some("test/otto"));
    former.as_program().get("/").await.expect(401);
}
