//! What holds for people's sessions holds for access tokens too: who issued them, who is suspended,
//! and what they are bound to, on connections that are open already.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::access_tokens::{PORTAL, service_token, user_token, with, world};
use crate::harness::gate::{mentions, route};
use crate::harness::servers::{Echo, Heard};
use crate::harness::{Gate, Raw, Recorder, eventually, websocket, within};

fn asks(gate: &Gate, arguments: &[&str]) {
    let output = gate.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[tokio::test]
async fn a_token_counts_only_on_routes_that_take_its_provider() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut second = route("second", "/second", &upstream.url());
    let mut ws = route("ws", "/ws", &echo.url);
    for one in [&mut second, &mut ws] {
        one["authentication"] = json!(["bearer"]);
    }
    second["identity_providers"] = json!(["second"]);
    let audiences = json!({ "bearer": { "audiences": [PORTAL] } });
    let setup = world(&upstream).route(second).route(ws);
    let mut gate = setup.provider_with("second", json!({}), audiences).start().await;
    let mut client = with(gate.browser(), &service_token(&gate, PORTAL).await);
    client.get("/api").await.expect(200);
    let before = upstream.requests().len();
    let answer = client.get("/second").await.expect(401);
    assert_eq!(answer.json()["type"], "urn:wicketgate:invalid-token");
    assert_eq!(upstream.requests().len(), before);
    // Nor any more, where it did.
    let _socket = websocket::opened(&client, &mut echo).await;
    gate.rewrite(|config| {
        let routes = config["routes"].as_array_mut().unwrap();
        let ws = routes.iter_mut().find(|route| route["name"] == "ws").unwrap();
        ws["identity_providers"] = json!(["second"]);
    });
    assert_eq!(echo.next().await, Heard::Ended);
    let words = ["connection-cut", "test/erp", "users of this identity provider"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
}

#[tokio::test]
async fn a_token_of_who_is_suspended_opens_nothing_and_what_it_had_opened_is_cut() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut ws = route("ws", "/ws", &echo.url);
    ws["authentication"] = json!(["bearer"]);
    let gate = world(&upstream).route(ws).start().await;
    let mut client = with(gate.browser(), &service_token(&gate, PORTAL).await);
    client.get("/api").await.expect(200);
    let _socket = websocket::opened(&client, &mut echo).await;
    asks(&gate, &["users", "suspend", "test/erp"]);
    assert_eq!(echo.next().await, Heard::Ended);
    let words = ["connection-cut", "test/erp", "the user is suspended"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    let before = upstream.requests().len();
    // The one that is known, and a new one.
    let fresh = with(gate.browser(), &service_token(&gate, PORTAL).await);
    for mut client in [client.clone(), fresh] {
        let answer = client.get("/api").await.expect(403);
        assert_eq!(answer.json()["type"], "urn:wicketgate:suspended");
    }
    assert_eq!(upstream.requests().len(), before);
    asks(&gate, &["users", "restore", "test/erp"]);
    client.get("/api").await.expect(200);
}

#[tokio::test]
async fn a_bound_token_counts_on_a_kept_connection_until_its_certificate_is_taken_back() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream).revocable_client("erp").start().await;
    let own = gate.client("erp");
    let bound = format!("&x5t={}", own.thumbprint());
    let bound = user_token(&gate, "ada", PORTAL, &bound).await;
    let free = user_token(&gate, "ada", PORTAL, "").await;
    let mut kept = Raw::connect(&gate.browser_on(&own)).await;
    let host = gate.url("").replace("https://", "");
    let mut status = async |token: &str| {
        let ask =
            format!("GET /api HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n");
        kept.send(ask.as_bytes()).await;
        kept.answer().await.unwrap().status
    };
    assert_eq!((status(&bound).await, status(&free).await), (200, 200));
    gate.revoke(&own);
    eventually("the token to count no more", async || (status(&bound).await == 401).then_some(()))
        .await;
    assert_eq!(status(&free).await, 200, "one that is bound to nothing does not mind");
}

#[tokio::test]
async fn what_a_route_takes_no_longer_after_a_reload_is_cut_and_the_rest_goes_on() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut ws = route("ws", "/ws", &echo.url);
    ws["authentication"] = json!(["session", "bearer"]);
    let mut gate = world(&upstream).route(ws).start().await;
    let client = with(gate.browser(), &service_token(&gate, PORTAL).await);
    let _by_token = websocket::opened(&client, &mut echo).await;
    let mut by_session = websocket::opened(&gate.login("vera").await, &mut echo).await;
    let mut take = |kinds: serde_json::Value| {
        gate.rewrite(|config| {
            let routes = config["routes"].as_array_mut().unwrap();
            let ws = routes.iter_mut().find(|route| route["name"] == "ws").unwrap();
            ws["authentication"] = kinds;
        });
    };
    take(json!(["session"]));
    assert_eq!(echo.next().await, Heard::Ended);
    by_session.send(Message::text("still here")).await.unwrap();
    assert_eq!(echo.next().await, Heard::Text("still here".to_owned()));
    let back = within("the echo", by_session.next()).await.unwrap().unwrap();
    assert_eq!(back.to_text().unwrap(), "still here");
    take(json!(["bearer"]));
    assert_eq!(echo.next().await, Heard::Ended);
    for who in ["test/erp", "test/vera"] {
        let words = ["connection-cut", who, "no longer takes what the client"];
        gate.audited("the cut", |record| mentions(record, &words)).await;
    }
}
