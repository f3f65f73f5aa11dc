//! A form that meets no session is kept, and sent by a click after sign-in.

use http::Method;

use crate::harness::client::{Answer, Browser};
use crate::harness::gate::{SECOND_HOST, mentions, route};
use crate::harness::{Gate, Recorder};

pub const FORM: &str = "item=N-3001&password=hunter2";

/// Signed in, on a page, and then signed out elsewhere without noticing.
pub async fn vera(gate: &Gate) -> Browser {
    let browser = gate.login("vera").await;
    browser.clone().sign_out().await;
    browser
}

pub async fn submit(gate: &Gate, browser: &mut Browser, form: &str) -> Answer {
    let (origin, page) = (gate.url(""), gate.url("/orders/new"));
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", origin.as_str()),
        ("referer", page.as_str()),
    ];
    browser.send(Method::POST, "/orders?x=1", &headers, form.to_owned().into()).await
}

/// Where the page that says that the form is kept leads.
pub async fn go_on(browser: &mut Browser, kept: Answer) -> Answer {
    let text = kept.expect(401).text();
    assert!(text.contains("kept for ten minutes"), "{text}");
    let link = text.split("href=\"").find(|rest| rest.starts_with("/.wicketgate/login")).unwrap();
    let link = link.split('"').next().unwrap().replace("&amp;", "&").replace("&#38;", "&");
    let answer = browser.get(&link).await;
    browser.follow(answer).await.expect(200)
}

/// What the page's button with this id does.
pub async fn press(browser: &mut Browser, page: &Answer, id: &str) -> Answer {
    let text = page.text();
    let before = text.split(&format!("id=\"{id}\"")).next().unwrap();
    let action = before.rsplit("action=\"").next().unwrap().split('"').next().unwrap();
    let action = action.replace("&amp;", "&").replace("&#38;", "&");
    browser.post(&action, "").await
}

#[tokio::test]
async fn a_form_that_meets_an_ended_session_is_sent_by_a_click_and_once() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = vera(&gate).await;
    let before = upstream.requests().len();
    let refused = submit(&gate, &mut browser, FORM).await.expect(401);
    let decision = refused.header("x-wicketgate-decision").unwrap().to_owned();
    gate.audited("the refusal", |record| mentions(record, &[&decision, "unauthenticated"])).await;
    let page = go_on(&mut browser, refused).await;
    assert_eq!(page.url.path(), "/.wicketgate/resume");
    let text = page.text();
    for shown in ["/orders?x=1", "item", "password"] {
        assert!(text.contains(shown), "{text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("N-3001"), "{text}");
    assert_eq!(upstream.requests().len(), before, "nothing is sent without a click");
    let stored = std::fs::read(gate.folder().join("store.redb")).unwrap();
    assert!(!stored.windows(7).any(|part| part == b"hunter2"), "it is sealed");

    let sent = press(&mut browser, &page, "send").await.expect(307);
    assert_eq!(sent.location().as_str(), gate.url("/orders?x=1"));
    assert_eq!(upstream.requests().len(), before);
    browser.post("/orders?x=1", "").await.expect(200);
    let got = upstream.last();
    assert_eq!(got.line(), "POST /orders?x=1 HTTP/1.1");
    assert_eq!(String::from_utf8_lossy(&got.body), FORM);
    assert_eq!(got.value("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(got.value("referer"), Some(gate.url("/orders/new").as_str()));
    assert_eq!(got.value("x-wicketgate-user"), Some("test/vera"));
    assert_eq!(got.value("cookie"), None, "none of the gate's cookies goes on");
    gate.audited("the permit", |record| mentions(record, &["permit", "http:POST", "/orders"]))
        .await;

    // A reload, a second click, another try at the page.
    let before = upstream.requests().len();
    browser.post("/orders?x=1", "").await.expect(410);
    press(&mut browser, &page, "send").await.expect(410);
    browser.get(page.url.as_str()).await.expect(410);
    assert_eq!(upstream.requests().len(), before);
    // Other forms without fields are none of it.
    browser.post("/other", "").await.expect(200);
    assert_eq!(upstream.last().line(), "POST /other HTTP/1.1");
}

#[tokio::test]
async fn a_form_is_for_the_user_who_filled_it_in() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = vera(&gate).await;
    let before = upstream.requests().len();
    let refused = submit(&gate, &mut browser, FORM).await;
    browser.forget("127.0.0.1");
    let login = go_on(&mut browser, refused).await;
    let answer = browser.post(login.url.as_str(), "user=otto").await;
    let page = browser.follow(answer).await.expect(403);
    assert_eq!(page.url.path(), "/.wicketgate/resume");
    assert!(!page.text().contains("item"), "{page:?}");
    let address = page.url.to_string();
    browser.forget("127.0.0.1");
    gate.sign_in(&mut browser, "vera", "/").await.expect(200);
    browser.get(&address).await.expect(200);
    assert_eq!(upstream.requests().len(), before + 1, "the start page alone");
}

#[tokio::test]
async fn without_a_session_a_form_is_for_who_signs_in_with_the_same_browser() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = gate.browser();
    let boundary = "multipart/form-data; boundary=XyZ";
    let body = "--XyZ\r\nContent-Disposition: form-data; name=\"photo\"; filename=\"a.png\"\r\n\r\n\
         \u{1}\u{2}\r\n--XyZ--\r\n";
    let headers = [("content-type", boundary), ("sec-fetch-site", "same-origin")];
    let refused = browser.send(Method::POST, "/upload", &headers, body.into()).await;
    let login = go_on(&mut browser, refused).await;
    let answer = browser.post(login.url.as_str(), "user=vera").await;
    let page = browser.follow(answer).await.expect(200);
    assert!(page.text().contains("photo"), "{}", page.text());
    // Another browser of hers knows nothing of it.
    gate.login("vera").await.get(page.url.as_str()).await.expect(410);
    press(&mut browser, &page, "send").await.expect(307);
    browser.post("/upload", "").await.expect(200);
    let got = upstream.last();
    assert_eq!((got.value("content-type"), got.body.as_slice()), (Some(boundary), body.as_bytes()));
}

#[tokio::test]
async fn nobody_else_can_press_the_buttons() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut browser = vera(&gate).await;
    let refused = submit(&gate, &mut browser, FORM).await;
    let page = go_on(&mut browser, refused).await;
    let before = upstream.requests().len();
    let address = page.url.to_string();
    browser.post(&address, "").await.expect(403);
    browser.post(&format!("{address}&csrf=forged"), "").await.expect(403);
    browser.post(&format!("{address}&csrf=forged&discard"), "").await.expect(403);
    let action =
        page.text().split("action=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let action = action.replace("&amp;", "&").replace("&#38;", "&");
    let foreign = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    browser.send(Method::POST, &action, &foreign, "".into()).await.expect(403);
    // Nor is it sent by who can make the browser post to its address.
    browser.post("/orders?x=1", "").await.expect(200);
    assert_eq!(upstream.last().body, b"");
    assert_eq!(upstream.requests().len(), before + 1);

    let left = press(&mut browser, &page, "discard").await.expect(303);
    assert_eq!(left.location().as_str(), gate.url("/orders/new"));
    browser.get(&address).await.expect(410);
    press(&mut browser, &page, "send").await.expect(410);
}

#[tokio::test]
async fn what_is_no_form_of_the_site_itself_is_refused_as_ever() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .configure(|config| config["session"] = serde_json::json!({ "keep_forms": "1KiB" }))
        .start()
        .await;
    let own = gate.url("");
    let form = "application/x-www-form-urlencoded";
    let small = "a=1".to_owned();
    for (what, status, headers, body) in [
        ("too large", 401, vec![("content-type", form), ("origin", &own)], "a".repeat(1025)),
        ("empty", 401, vec![("content-type", form), ("origin", &own)], String::new()),
        ("of nowhere", 401, vec![("content-type", form)], small.clone()),
        ("text", 401, vec![("content-type", "text/plain"), ("origin", &own)], small.clone()),
        ("JSON", 401, vec![("content-type", "application/json"), ("origin", &own)], small.clone()),
        (
            "a frame's",
            401,
            vec![
                ("content-type", form),
                ("origin", &own),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "iframe"),
            ],
            small.clone(),
        ),
        (
            "a fetch",
            401,
            vec![("content-type", form), ("origin", &own), ("sec-fetch-mode", "cors")],
            small.clone(),
        ),
        (
            "another site's",
            403,
            vec![("content-type", form), ("origin", "https://evil.example")],
            small.clone(),
        ),
        ("a sandbox's", 403, vec![("content-type", form), ("origin", "null")], small.clone()),
    ] {
        let answer = gate.browser().send(Method::POST, "/x", &headers, body.into()).await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert_eq!(answer.header("set-cookie"), None, "{what}");
    }
    let headers = [("content-type", form), ("origin", own.as_str())];
    for number in 0..21 {
        let answer = gate.browser().send(Method::POST, "/x", &headers, small.clone().into()).await;
        let kept = answer.expect(401).header("set-cookie").is_some();
        assert_eq!(kept, number < 20, "one address has its share");
    }
    assert_eq!(upstream.bytes(), b"");
}

#[tokio::test]
async fn a_form_goes_to_the_host_and_address_that_it_was_for() {
    let upstream = Recorder::start().await;
    let mut second = route("second", "/", &upstream.url());
    second["host"] = SECOND_HOST.into();
    let gate = Gate::with_upstream(&upstream).route(second).start().await;
    let mut browser = vera(&gate).await;
    let refused = submit(&gate, &mut browser, FORM).await;
    let page = go_on(&mut browser, refused).await;
    let of_the_form = |browser: &Browser| {
        let cookies = browser.cookies_for(&browser.url("/"));
        let own = |pair: &&str| !pair.starts_with("__Host-wicketgate=");
        cookies.split("; ").filter(own).collect::<Vec<_>>().join("; ")
    };
    let kept = of_the_form(&browser);
    press(&mut browser, &page, "send").await.expect(307);
    let sent = of_the_form(&browser);
    assert!(!kept.is_empty() && !sent.is_empty() && kept != sent, "{kept}, {sent}");

    // She is signed in at the other host, too, and what carries the form has got there.
    let base = format!("https://{SECOND_HOST}:{}/", gate.port());
    let mut there = Browser::new(&base, gate.client_tls());
    gate.sign_in(&mut there, "vera", "/").await.expect(200);
    let before = upstream.requests().len();
    let resume = format!("/.wicketgate/resume?{}", page.url.query().unwrap());
    there.send(Method::GET, &resume, &[("cookie", &kept)], "".into()).await.expect(410);
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("sec-fetch-site", "same-origin"),
        ("cookie", sent.as_str()),
    ];
    there.send(Method::POST, "/orders?x=1", &headers, "".into()).await.expect(410);
    assert_eq!(upstream.requests().len(), before);
    // It is still there where it belongs.
    browser.post("/orders?x=1", "").await.expect(200);
    assert_eq!(String::from_utf8_lossy(&upstream.last().body), FORM);
}

#[tokio::test]
async fn a_form_of_another_site_is_not_kept_even_where_it_may_be_sent() {
    let upstream = Recorder::start().await;
    let partner = "https://partner.example";
    let gate = Gate::with_upstream(&upstream)
        .configure(move |config| {
            config["routes"][0]["cross_site_origins"] = serde_json::json!([partner]);
        })
        .start()
        .await;
    for site in ["cross-site", "same-site"] {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", partner),
            ("sec-fetch-site", site),
        ];
        let mut browser = gate.browser();
        let answer = browser.send(Method::POST, "/orders?x=1", &headers, FORM.into()).await;
        assert_eq!(answer.header("set-cookie"), None, "{answer:?}");
        assert!(!answer.expect(401).text().contains("kept"));
    }
    assert_eq!(upstream.bytes(), b"");
}
