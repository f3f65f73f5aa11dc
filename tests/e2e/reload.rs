//! Configuration that changes under a running gate.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt, StreamExt};
use http::Method;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::gate::{mentions, route};
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Gate, Raw, Recorder, eventually, websocket, within};

#[tokio::test]
async fn a_good_change_is_applied_and_connections_survive_it() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(route("ws", "/ws", &echo.url))
        .start()
        .await;
    let mut browser = gate.login("vera").await;
    let mut socket = websocket::opened(&browser, &mut echo).await;
    let mut open = Raw::connect(&browser).await;
    let request = format!(
        "GET /kept HTTP/1.1\r\nhost: app.localhost:{}\r\ncookie: {}\r\n\r\n",
        gate.port(),
        browser.cookies_for(&browser.url("/"))
    );
    open.send(request.as_bytes()).await;
    assert_eq!(open.answer().await.unwrap().status, 200);

    let fresh = Recorder::start().await;
    let added = route("fresh", "/fresh", &fresh.url());
    gate.rewrite(|config| config["routes"].as_array_mut().unwrap().push(added));
    gate.process.signal("HUP");
    eventually("the new route", async || {
        browser.clone().get("/fresh").await;
        fresh.requests().pop()
    })
    .await;

    open.send(request.as_bytes()).await;
    assert_eq!(open.answer().await.unwrap().status, 200, "an open connection goes on");
    socket.send(Message::text("still here")).await.unwrap();
    let back = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back.to_text().unwrap(), "still here");
    browser.get("/").await.expect(200);
}

#[tokio::test]
async fn no_request_fails_while_routes_and_policies_are_replaced_again_and_again() {
    const RELOADS: u32 = 8;
    let (page, other) = (Recorder::start().await, Recorder::start().await);
    let mut setup = Gate::setup().route(route("app", "/", &page.url()));
    for number in 0..60 {
        setup = setup.route(route(&format!("r-{number}"), &format!("/part-{number}"), &page.url()));
    }
    let mut gate = setup.start().await;
    let browser = gate.login("vera").await;
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..6)
        .map(|number| {
            let (mut browser, over) = (browser.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut asked = 0;
                // Each asks at least once after the last reload.
                loop {
                    let last = over.load(Ordering::Relaxed);
                    let target = format!("/part-{}/x", (asked * 7 + number) % 50);
                    let answer = browser.get(&target).await;
                    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
                    asked += 1;
                    if last {
                        return asked;
                    }
                }
            })
        })
        .collect();
    for round in 0..RELOADS {
        let policies: String = (0..200)
            .map(|number| {
                format!(
                    "@id(\"p-{number}\") permit (principal, action, resource) \
                 when {{ context.path like \"/part-*\" || context.path == \"/{round}\" }};\n"
                )
            })
            .collect();
        gate.rewrite_policies(&policies);
        // Every route moves to the other upstream and has another limit. One goes or comes, and one
        // has an upstream that is none; nobody asks for either.
        gate.rewrite(|config| {
            let routes = config["routes"].as_array_mut().unwrap();
            let url = if round % 2 == 0 { other.url() } else { page.url() };
            for route in routes.iter_mut() {
                route["upstreams"] = json!([url]);
                route["max_body"] = json!(format!("{}KiB", 64 + round));
            }
            match round % 2 {
                0 => drop(routes.pop()),
                _ => routes.push(route("r-59", "/part-59", &page.url())),
            }
            routes[56]["upstreams"] = json!([format!("http://127.0.0.1:{}", 1000 + round)]);
        });
        let before = generation(&gate).await;
        gate.process.signal("HUP");
        eventually("the reload", async || (generation(&gate).await > before).then_some(())).await;
        // Until the callers, too, have seen it.
        let moved = if round % 2 == 0 { &other } else { &page };
        let before = moved.requests().len();
        eventually("requests at the upstream of now", async || {
            (moved.requests().len() > before).then_some(())
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 1);
    }
    assert_eq!(gate.metric("wicketgate_reloads_total", "refused").await, 0.0);
    assert_eq!(gate.metric("wicketgate_requests_total", "outcome=\"error\"").await, 0.0);
}

async fn generation(gate: &Gate) -> f64 {
    gate.metric("wicketgate_configuration_generation", "").await
}

#[tokio::test]
async fn a_session_of_a_provider_that_is_gone_is_no_session_and_its_websocket_is_cut() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut gate = Gate::setup()
        .route(route("app", "/", &page.url()))
        .route(route("ws", "/ws", &echo.url))
        .start()
        .await;
    let mut browser = gate.login("vera").await;
    let _socket = websocket::opened(&browser, &mut echo).await;
    gate.rewrite(|config| config["identity_providers"][0]["name"] = json!("other"));
    gate.process.signal("HUP");
    gate.audited("the cut", |one| mentions(one, &["connection-cut", "the session has ended"]))
        .await;
    assert_eq!(echo.next().await, Heard::Ended);
    let before = page.requests().len();
    let answer = browser.clone().as_program().get("/").await;
    assert_eq!(answer.status, 401);
    assert_eq!(page.requests().len(), before);
    // The provider itself still knows the browser, under its new name.
    let answer = browser.get("/.wicketgate/login?start&return_to=/").await;
    browser.follow(answer).await.expect(200);
}

#[tokio::test]
async fn a_bad_change_changes_nothing_and_is_told_everywhere() {
    let page = Recorder::start().await;
    let mut gate = Gate::with_upstream(&page).start().await;
    let mut browser = gate.login("vera").await;
    let (_, before) = gate.admin("/readyz").await.unwrap();
    assert!(!before.contains("upstreem"), "{before}");
    gate.rewrite(|config| {
        let route = config["routes"][0].as_object_mut().unwrap();
        let upstreams = route.remove("upstreams").unwrap();
        route.insert("upstreem".to_owned(), upstreams);
    });
    eventually("the refusal in a metric", async || {
        let refused = gate.metric("wicketgate_reloads_total", "refused").await;
        (refused > 0.0).then_some(())
    })
    .await;
    let (status, told) = gate.admin("/readyz").await.unwrap();
    assert_eq!(status, 200, "the old configuration serves on");
    assert!(told.contains("upstreem"), "{told}");
    gate.audited("the refusal", |record| mentions(record, &["configuration-refused"])).await;
    assert!(gate.process.output().join("\n").contains("upstreem"));
    browser.get("/").await.expect(200);

    let check = gate.command(&["check"]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned()
        + &String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(1), "{said}");
    assert!(said.contains("did you mean `upstreams`"), "{said}");
}

#[tokio::test]
async fn a_broken_policy_is_refused_and_the_old_set_decides() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    gate.rewrite_policies("permit (principal, action, resource) when { context.nonsense > 1 };");
    gate.audited("the refusal", |record| mentions(record, &["configuration-refused", "nonsense"]))
        .await;
    browser.get("/").await.expect(200);
    gate.rewrite_policies("@id(\"nobody\") forbid (principal, action, resource);");
    eventually("the new set", async || {
        let status = browser.clone().as_program().get("/").await.status;
        (status == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_no_reload_can_change_is_refused_with_what_can() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    gate.rewrite(|config| config["audit"]["queue"] = json!(1000));
    let refused = ["configuration-refused", "audit", "restart the gate, or take the change back"];
    gate.audited("the refusal", |record| mentions(record, &refused)).await;
    gate.rewrite(|config| config["listeners"][0]["limits"] = json!({ "max_headers": 50 }));
    let refused = ["configuration-refused", "listeners", "upgrade in place (SIGUSR2"];
    gate.audited("the refusal", |record| mentions(record, &refused)).await;
}

#[tokio::test]
async fn a_set_of_policies_is_kept_with_the_audit_log_before_it_decides() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    let sets = |folder: &Path| fs::read_dir(folder.join("policy-sets")).map_or(0, Iterator::count);
    let (kept_in, another) = (gate.folder().join("audit"), gate.folder().join("another"));
    assert_eq!(sets(&kept_in), 1);
    gate.rewrite_policies("@id(\"nobody\") forbid (principal, action, resource);");
    eventually("the new set", async || {
        (browser.get("/").await.status == 403).then(|| assert_eq!(sets(&kept_in), 2))
    })
    .await;
    // Of a configuration that is refused, none is.
    let others = gate.folder().join("other-policies");
    fs::create_dir(&others).unwrap();
    fs::write(others.join("a.cedar"), "permit (principal, action, resource);").unwrap();
    gate.rewrite(|config| {
        config["audit"]["directory"] = json!(another);
        config["policies"]["directory"] = json!(others);
    });
    let refused = ["configuration-refused", "audit", "restart the gate"];
    gate.audited("the refusal", |record| mentions(record, &refused)).await;
    assert_eq!(sets(&kept_in), 2);
    assert!(!another.exists());
}

#[tokio::test]
async fn a_limit_of_a_route_follows_the_file() {
    let page = Recorder::start().await;
    let mut gate = Gate::with_upstream(&page).start().await;
    let mut browser = gate.login("vera").await;
    browser.send(Method::POST, "/", &[], vec![0; 2048].into()).await.expect(200);
    gate.rewrite(|config| config["routes"][0]["max_body"] = json!("1KiB"));
    eventually("the smaller limit", async || {
        let answer = browser.clone().send(Method::POST, "/", &[], vec![0; 2048].into()).await;
        (answer.status == 413).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gate_that_cannot_load_does_not_start() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    gate.process.kill();
    for break_it in BREAKAGES {
        let file = gate.config_file();
        let good = fs::read_to_string(&file).unwrap();
        gate.rewrite(break_it);
        let output = gate.command(&["run"]);
        assert!(!output.status.success(), "{}", fs::read_to_string(&file).unwrap());
        assert_ne!(output.status.code(), Some(101), "it panicked: {output:?}");
        let back = serde_json::from_str(&good).unwrap();
        gate.rewrite(|config| *config = back);
    }
    gate.restart().await;
}

const BREAKAGES: &[fn(&mut serde_json::Value)] = &[
    |config| config["policies"]["directory"] = json!("/nowhere"),
    |config| config["policies"]["schema"] = json!("/nowhere"),
    |config| config["listeners"][0]["tls"]["certificates"][0]["key"] = json!("/nowhere"),
    |config| config["listeners"][0]["tls"]["client_ca"] = json!("/nowhere"),
    |config| config["identity_providers"][0]["client_secret"] = json!("file:/nowhere"),
    |config| config["identity_providers"][0]["client_secret"] = json!("env:NOT_SET_ANYWHERE"),
    |config| {
        let second = config["listeners"][0]["tls"]["certificates"][1]["key"].clone();
        config["listeners"][0]["tls"]["certificates"][0]["key"] = second;
    },
    |config| config["routes"][0]["host"] = json!("not-covered.example"),
];

#[tokio::test]
async fn a_session_of_another_issuer_or_client_under_the_same_name_is_none() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let setup = Gate::setup().route(route("app", "/", &page.url()));
    let mut gate = setup.route(route("ws", "/ws", &echo.url)).start().await;
    let mut browser = gate.login("vera").await.as_program();
    let issuer = gate.provider.issuer.clone();
    for (key, other, own) in [
        ("issuer", "https://elsewhere.example", issuer.as_str()),
        ("client_id", "other", "wicketgate"),
    ] {
        let mut socket = websocket::opened(&browser, &mut echo).await;
        for (value, status) in [(other, 401), (own, 200)] {
            gate.rewrite(|config| config["identity_providers"][0][key] = json!(value));
            eventually(&format!("{status} with {key} {value}"), async || {
                (browser.get("/").await.status == status).then_some(())
            })
            .await;
            if value == other {
                websocket::closed(&mut socket).await;
                assert_eq!(echo.next().await, Heard::Ended);
            }
        }
    }
}
