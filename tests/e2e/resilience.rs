//! Upstreams that fail, one or all of them, and what users see of it.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::harness::gate::{mentions, route};
use crate::harness::moody::{Mood, Moody};
use crate::harness::servers::silent;
use crate::harness::{Browser, Gate, Recorder, eventually, websocket};

/// Asserts that the gate's log says this once. Its lines arrive a little later than answers.
async fn said_once(gate: &Gate, text: &str) {
    let said = || gate.process.output().iter().filter(|line| line.contains(text)).count();
    let what = format!("the log to say {text:?}");
    eventually(&what, async || (said() > 0).then_some(())).await;
    assert_eq!(said(), 1, "{text:?}");
}

async fn post(browser: &mut Browser, path: &str) -> crate::harness::client::Answer {
    browser.send(Method::POST, path, &[], "a=b".into()).await
}

#[tokio::test]
async fn an_upstream_that_is_down_is_soon_a_503_at_once_that_says_when_to_come_back() {
    let (mut upstream, well) = (Moody::start().await, Recorder::start().await);
    let mut to = route("app", "/", &upstream.url());
    to["outlier_detection"] = json!({ "ejection_time": "10m", "max_ejection_time": "10m" });
    to["max_idle_connections"] = json!(0);
    let gate = Gate::setup().route(to).route(route("well", "/well", &well.url())).start().await;
    let mut browser = gate.login("vera").await.as_program();
    upstream.down().await;
    for number in 0..5 {
        let answer = post(&mut browser, &format!("/{number}")).await.expect(502);
        assert!(answer.header("x-wicketgate-decision").is_some(), "{answer:?}");
    }
    for number in 5..10 {
        let path = format!("/{number}");
        let answer = post(&mut browser, &path).await.expect(503);
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((500..=600).contains(&seconds), "{seconds}");
        let id = answer.header("x-wicketgate-decision").unwrap().to_owned();
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(!answer.text().contains(&upstream.address().to_string()));
        gate.audited("the decision", |one| mentions(one, &[&id, &path, "permit"])).await;
    }
    assert_eq!(websocket::open(&browser, "/ws").await.err(), Some(503));
    assert!((gate.metric("wicketgate_upstream_breaker_open", "app").await - 1.0).abs() < 0.5);
    let refused = gate.metric("wicketgate_upstream_errors_total", "breaker_open").await;
    assert!((refused - 6.0).abs() < 0.5, "{refused}");
    said_once(&gate, "every endpoint of the upstream is out").await;
    said_once(&gate, "is taken out").await;
    assert_eq!(upstream.lines("POST"), Vec::<String>::new());
    browser.get("/well").await.expect(200);
    // A change of the upstream begins anew, and it is up again.
    upstream.up();
    let mut gate = gate;
    gate.rewrite(|config| config["routes"][0]["outlier_detection"] = json!({ "enabled": false }));
    gate.process.signal("HUP");
    eventually("the upstream behind the new configuration", async || {
        (browser.get("/").await.status == 200).then_some(())
    })
    .await;
    assert!(gate.metric("wicketgate_upstream_breaker_open", "app").await < 0.5);
}

#[tokio::test]
async fn an_upstream_that_is_up_again_is_found_by_a_request() {
    let mut upstream = Moody::start().await;
    let mut to = route("app", "/", &upstream.url());
    to["outlier_detection"] = json!({
        "consecutive_failures": 1, "ejection_time": "1s", "max_ejection_time": "1s"
    });
    to["max_idle_connections"] = json!(0);
    let gate = Gate::setup().route(to).start().await;
    let mut browser = gate.login("vera").await.as_program();
    upstream.down().await;
    post(&mut browser, "/").await.expect(502);
    said_once(&gate, "every endpoint of the upstream is out").await;
    upstream.up();
    eventually("the upstream to be used again", async || {
        let answer = post(&mut browser, "/").await;
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    assert!(gate.metric("wicketgate_upstream_breaker_open", "app").await < 0.5);
    said_once(&gate, "the upstream can be used again").await;
    post(&mut browser, "/").await.expect(200);
}

#[tokio::test]
async fn an_endpoint_that_answers_503_is_left_out_while_another_serves() {
    let (sick, well) = (Moody::start().await, Moody::start().await);
    let mut to = route("app", "/", &sick.url());
    to["upstreams"] = json!([sick.url(), well.url()]);
    to["outlier_detection"] = json!({ "ejection_time": "10m", "max_ejection_time": "10m" });
    let gate = Gate::setup().route(to).start().await;
    let mut browser = gate.login("vera").await.as_program();
    sick.set(Mood::Status(503));
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(browser.get("/first").await.status == 503);
    }
    assert_eq!(failed, 5, "as many as it takes, and no more");
    assert_eq!(sick.lines("/first").len(), 5, "answers are passed on, and nothing is repeated");
    let name = "wicketgate_upstream_ejected";
    assert!((gate.metric(name, &sick.address().to_string()).await - 1.0).abs() < 0.5);
    assert!(gate.metric(name, &well.address().to_string()).await < 0.5);
    said_once(&gate, "is taken out").await;
    // The last one is never taken away for answering so.
    well.set(Mood::Status(503));
    for _ in 0..10 {
        let answer = browser.get("/second").await.expect(503);
        assert_eq!(answer.header("content-type"), None, "the upstream's own answer: {answer:?}");
    }
    assert_eq!((sick.lines("/second").len(), well.lines("/second").len()), (0, 10));
    assert!(gate.metric("wicketgate_upstream_breaker_open", "app").await < 0.5);
}

#[tokio::test]
async fn an_endpoint_that_answers_503_itself_after_it_was_down_serves_other_paths() {
    let mut upstream = Moody::start().await;
    let mut to = route("app", "/", &upstream.url());
    to["outlier_detection"] = json!({
        "consecutive_failures": 1, "ejection_time": "1s", "max_ejection_time": "10m"
    });
    to["max_idle_connections"] = json!(0);
    let gate = Gate::setup().route(to).start().await;
    let mut browser = gate.login("vera").await.as_program();
    upstream.down().await;
    browser.get("/").await.expect(502);
    browser.get("/").await.expect(503);
    upstream.set(Mood::Status(503));
    upstream.up();
    eventually("a trial", async || {
        browser.get("/sick").await.expect(503);
        (!upstream.lines("/sick").is_empty()).then_some(())
    })
    .await;
    // From one path it says so. Another is well, at once and for bodies, too.
    upstream.set(Mood::Well);
    browser.get("/other").await.expect(200);
    post(&mut browser, "/other").await.expect(200);
    upstream.set(Mood::Status(503));
    for _ in 0..5 {
        let answer = browser.get("/sick").await.expect(503);
        assert_eq!(answer.header("content-type"), None, "the upstream's own answer: {answer:?}");
    }
    upstream.set(Mood::Well);
    gate.login("otto").await.get("/other").await.expect(200);
    assert!(gate.metric("wicketgate_upstream_breaker_open", "app").await < 0.5);
}

#[tokio::test]
async fn a_health_check_brings_an_endpoint_back_after_as_many_successes_as_configured() {
    let (sick, well) = (Moody::start().await, Moody::start().await);
    let mut to = route("app", "/", &sick.url());
    to["upstreams"] = json!([sick.url(), well.url()]);
    to["health_check"] = json!({
        "http": { "path": "/health" }, "interval": "50ms", "unhealthy_after": 2, "healthy_after": 3
    });
    let gate = Gate::setup().route(to).start().await;
    let mut browser = gate.login("vera").await.as_program();
    sick.set(Mood::Status(500));
    let healthy = async |expected: f64| {
        eventually("the gauge to follow", async || {
            let name = "wicketgate_upstream_healthy";
            let value = gate.metric(name, &sick.address().to_string()).await;
            ((value - expected).abs() < 0.5).then_some(())
        })
        .await;
    };
    healthy(0.0).await;
    for _ in 0..10 {
        browser.get("/out").await.expect(200);
    }
    assert_eq!(sick.lines("/out").len(), 0);
    let before = sick.lines("/health").len();
    sick.set(Mood::Well);
    healthy(1.0).await;
    assert!(sick.lines("/health").len() >= before + 3);
    for _ in 0..10 {
        browser.get("/back").await.expect(200);
    }
    assert_eq!(sick.lines("/back").len(), 5);
    said_once(&gate, "an upstream endpoint is unhealthy").await;
    said_once(&gate, "an upstream endpoint is healthy again").await;
}

#[tokio::test]
async fn a_session_keeps_its_endpoint_and_nothing_it_sends_changes_that() {
    let mut upstreams = [Moody::start().await, Moody::start().await, Moody::start().await];
    let mut to = route("app", "/", &upstreams[0].url());
    to["upstreams"] = json!(upstreams.iter().map(Moody::url).collect::<Vec<_>>());
    to["selection"] = json!("sticky");
    to["outlier_detection"] = json!({ "enabled": false });
    let gate = Gate::setup().route(to).start().await;
    let homes = |upstreams: &[Moody; 3], path: &str| -> Vec<usize> {
        let seen = |index: &usize| !upstreams[*index].lines(path).is_empty();
        (0..3).filter(seen).collect()
    };
    let mut browser = gate.login("vera").await;
    let sent: [(&str, &str); 6] = [
        ("/home?a", "x-a"),
        ("/home?b", "x-forwarded-for"),
        ("/home?c", "forwarded"),
        ("/home?d", "user-agent"),
        ("/home?e", "x-session"),
        ("/home?f", "referer"),
    ];
    for (path, name) in sent {
        browser.send(Method::GET, path, &[(name, path)], Bytes::new()).await.expect(200);
        let mut h2 = gate.browser_h2();
        h2.set_session_cookie(&browser.session_cookie().unwrap());
        h2.send(Method::POST, path, &[("cookie", "JSESSIONID=x.node2")], "a".into()).await;
    }
    let home = homes(&upstreams, "/home");
    assert_eq!(home.len(), 1, "one for all of a session's requests: {home:?}");
    let [home] = home[..] else { panic!() };
    assert_eq!(upstreams[home].lines("/home").len(), 12);

    upstreams[home].down().await;
    for _ in 0..6 {
        browser.get("/away").await.expect(200);
    }
    let away = homes(&upstreams, "/away");
    assert!(away.len() == 1 && away != [home], "one for all again: {away:?}");
    upstreams[home].up();
    for _ in 0..6 {
        browser.get("/again").await.expect(200);
    }
    assert_eq!(homes(&upstreams, "/again"), [home]);

    // Sessions are spread: in twenty logins some other endpoint comes up.
    let mut spread = false;
    for number in 0..20 {
        let path = format!("/login-{number}");
        gate.login("vera").await.get(&path).await.expect(200);
        spread |= homes(&upstreams, &path) != [home];
        if spread {
            break;
        }
    }
    assert!(spread);
}

#[tokio::test]
async fn an_endpoint_that_a_reload_adds_begins_with_a_small_share() {
    let (known, new) = (Moody::start().await, Moody::start().await);
    let mut to = route("app", "/", &known.url());
    to["slow_start"] = json!("24h");
    let mut gate = Gate::setup().route(to).start().await;
    let mut browser = gate.login("vera").await;
    gate.rewrite(|config| config["routes"][0]["upstreams"] = json!([known.url(), new.url()]));
    gate.process.signal("HUP");
    eventually("a request at the new one", async || {
        browser.get("/first").await.expect(200);
        (!new.lines("/first").is_empty()).then_some(())
    })
    .await;
    for _ in 0..100 {
        browser.get("/then").await.expect(200);
    }
    // Half of a hundred is its turn, and it takes a tenth of its turns.
    let (old, new) = (known.lines("/then").len(), new.lines("/then").len());
    assert_eq!(old + new, 100);
    assert!((1..=10).contains(&new), "{new}");
}

#[tokio::test]
async fn whatever_an_upstream_does_a_post_reaches_it_once_and_the_answer_is_clear() {
    let upstream = Moody::start().await;
    // Only what is never answered is timed: anything else may take its time on a busy machine.
    let mut timed = route("timed", "/timed", &upstream.url());
    timed["timeouts"] = json!({ "response": "300ms" });
    let gate = Gate::setup().route(route("app", "/", &upstream.url())).route(timed).start().await;
    let mut browser = gate.login("vera").await.as_program();
    for (name, mood, status) in [
        ("hangs-up", Mood::EndsAfter(""), 502),
        ("half-a-line", Mood::EndsAfter("HTTP/1.1 2"), 502),
        ("half-a-head", Mood::EndsAfter("HTTP/1.1 200 OK\r\nx-a: b\r\n"), 502),
        ("garbage", Mood::Says("this is no HTTP\r\n\r\n"), 502),
        ("two-lengths", Mood::Says("HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\nok"), 502),
        ("silence", Mood::Says(""), 504),
        ("silence-in-a-head", Mood::Says("HTTP/1.1 200 OK\r\n"), 504),
    ] {
        for body in ["a=b", ""] {
            // On a connection that was kept, where another request would be sent again.
            let folder = if status == 504 { "/timed" } else { "" };
            let well = format!("{folder}/well");
            upstream.set(Mood::Well);
            eventually("an answer", async || {
                (browser.get(&well).await.status == 200).then_some(())
            })
            .await;
            upstream.set(mood);
            let path = format!("{folder}/{name}?{body}");
            let answer = browser.send(Method::POST, &path, &[], body.into()).await.expect(status);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{name}");
            let id = answer.header("x-wicketgate-decision").unwrap().to_owned();
            gate.audited(name, |record| mentions(record, &[&id, name])).await;
            upstream.set(Mood::Well);
            eventually("an answer", async || {
                (browser.get(&well).await.status == 200).then_some(())
            })
            .await;
            let path = format!("{path} ");
            assert_eq!(upstream.lines(&path).len(), 1, "{name}, {body:?}");
        }
    }
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn an_http2_upstream_that_misbehaves_is_a_clear_answer_too() {
    let (garbage, mut down) = (Moody::start().await, Moody::start().await);
    garbage.set(Mood::EndsAfter("HTTP/1.1 400 Bad Request\r\n\r\n"));
    down.down().await;
    let http2 = |name: &str, url: &str| {
        let mut to = route(name, &format!("/{name}"), url);
        to["protocol"] = json!("http2");
        to
    };
    let well = Recorder::start().await;
    let mut never = http2("silent", &format!("http://{}", silent().await));
    never["timeouts"] = json!({ "response": "300ms" });
    let gate = Gate::setup()
        .route(route("app", "/", &well.url()))
        .route(http2("garbage", &garbage.url()))
        .route(http2("down", &down.url()))
        .route(never)
        .start()
        .await;
    let mut browser = gate.login("vera").await.as_program();
    for (path, status) in [("/garbage", 502), ("/down", 502), ("/silent", 504)] {
        let answer = post(&mut browser, path).await.expect(status);
        assert!(answer.header("x-wicketgate-decision").is_some(), "{path}");
    }
    browser.get("/").await.expect(200);
}

#[tokio::test]
async fn endpoints_and_routes_that_a_reload_takes_away_leave_the_metrics() {
    let (first, second) = (Recorder::start().await, Recorder::start().await);
    let mut to = route("app", "/", &first.url());
    to["upstreams"] = json!([first.url(), second.url()]);
    let mut gate = Gate::setup()
        .route(to)
        .route(route("kept", "/kept", &second.url()))
        .route(route("gone", "/gone", &second.url()))
        .start()
        .await;
    let series = async |gate: &Gate| -> Vec<String> {
        let (_, page) = gate.admin("/metrics").await.unwrap();
        let of = |line: &&str| {
            ["healthy", "ejected", "ejections_total", "breaker_open"]
                .iter()
                .any(|name| line.starts_with(&format!("wicketgate_upstream_{name}{{")))
        };
        page.lines().filter(of).map(str::to_owned).collect()
    };
    let before = series(&gate).await;
    assert_eq!(before.len(), 4 * 3 + 3, "{before:?}");
    gate.rewrite(|config| {
        config["routes"][0]["upstreams"].as_array_mut().unwrap().pop();
        config["routes"].as_array_mut().unwrap().pop();
    });
    gate.process.signal("HUP");
    let after = eventually("the reload in the metrics", async || {
        let after = series(&gate).await;
        (after.len() < before.len()).then_some(after)
    })
    .await;
    assert_eq!(after.len(), 2 * 3 + 2, "{after:?}");
    assert!(!after.iter().any(|line| line.contains(r#"route="gone""#)), "{after:?}");
    let second = second.address.to_string();
    assert!(!after.iter().any(|line| line.contains(r#"route="app""#) && line.contains(&second)));
}
