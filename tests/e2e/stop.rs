//! SIGTERM: what runs may end, and everybody is told.

use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::harness::gate::{HOST, mentions, route};
use crate::harness::servers::{Echo, Events, Heard};
use crate::harness::{Gate, Held, Raw, Recorder, eventually, websocket, within};

fn request(gate: &Gate, cookies: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}:{}\r\ncookie: {cookies}\r\n\r\n", gate.port())
}

async fn ended(gate: &mut Gate) {
    let status = eventually("the end of the gate", async || gate.process.exited()).await;
    assert!(status.success(), "{status}");
    gate.assert_audit_verifies();
    let last = gate.audit().pop().unwrap();
    assert!(mentions(&last, &["\"stopped\""]), "{last}");
}

#[tokio::test]
async fn a_running_request_ends_well_while_the_gate_says_that_it_goes() {
    let mut held = Held::start().await;
    let mut gate = Gate::setup()
        .route(route("app", "/", &Recorder::start().await.url()))
        .route(route("held", "/held", &held.url))
        .start()
        .await;
    let browser = gate.login("vera").await;
    let cookies = browser.cookies_for(&browser.url("/"));
    let mut running = Raw::connect(&browser).await;
    running.send(request(&gate, &cookies, "/held").as_bytes()).await;
    held.arrived().await;
    let mut resting = Raw::connect(&browser).await;
    resting.send(request(&gate, &cookies, "/").as_bytes()).await;
    let answer = resting.answer().await.unwrap();
    assert_eq!((answer.status, answer.value("connection")), (200, None));

    gate.process.signal("TERM");
    let refusal = eventually("/readyz to turn", async || {
        let (status, page) = gate.admin("/readyz").await?;
        (status == 503).then_some(page)
    })
    .await;
    assert!(refusal.contains("\"stopping\": true"), "{refusal}");
    assert_eq!(resting.rest().await, "", "a resting connection is closed");
    eventually("no more connections", async || {
        TcpStream::connect(gate.address()).await.is_err().then_some(())
    })
    .await;
    assert!(gate.process.exited().is_none(), "a request is running");
    held.release();
    let answer = running.answer().await.unwrap();
    assert_eq!((answer.status, answer.value("connection")), (200, Some("close")));
    assert_eq!(running.rest().await, "");
    ended(&mut gate).await;
}

#[tokio::test]
async fn http_2_gets_goaway_and_its_running_streams_end() {
    let mut held = Held::start().await;
    let mut gate = Gate::setup()
        .route(route("app", "/", &Recorder::start().await.url()))
        .route(route("held", "/held", &held.url))
        .start()
        .await;
    let browser = gate.login("vera").await;
    let cookies = browser.cookies_for(&browser.url("/"));
    let (wire, is_h2) = gate.browser_h2().connect(&browser.url("/")).await;
    assert!(is_h2);
    let (mut client, connection) = h2::client::handshake(wire).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        let target = browser.url(path);
        http::Request::get(target.as_str()).header("cookie", &cookies).body(()).unwrap()
    };
    let (running, _) = client.send_request(request("/held"), true).unwrap();
    held.arrived().await;
    gate.process.signal("TERM");
    // GOAWAY says that nothing new will be served, and with which stream it ended.
    let error = eventually("GOAWAY", async || client.clone().ready().await.err()).await;
    assert!(error.is_go_away() && error.is_remote(), "{error}");
    assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR));
    held.release();
    let mut answer = within("the answer", running).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = Vec::new();
    while let Some(chunk) = answer.body_mut().data().await {
        body.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(body, b"ok");
    drop(client);
    within("the end of the connection", connection).await.unwrap().unwrap();
    ended(&mut gate).await;
}

#[tokio::test]
async fn a_websocket_is_closed_with_1001_on_both_sides_and_its_client_is_told_why() {
    let mut echo = Echo::start().await;
    let mut gate = Gate::setup()
        .route(route("app", "/", &Recorder::start().await.url()))
        .route(route("ws", "/ws", &echo.url))
        .start()
        .await;
    let browser = gate.login("vera").await;
    let mut socket = websocket::opened(&browser, &mut echo).await;
    gate.process.signal("TERM");
    let Some(Ok(Message::Close(Some(frame)))) = within("the close frame", socket.next()).await
    else {
        panic!("no close frame");
    };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Away, "the gate is stopping"));
    assert_eq!(echo.next().await, Heard::Ended);
    // An upstream is told that its client is gone, and never why.
    assert_eq!(echo.told(), Some((1001, String::new())));
    ended(&mut gate).await;
}

#[tokio::test]
async fn what_does_not_end_by_itself_is_dropped_at_the_deadline() {
    let events = Events::start().await;
    let mut gate = Gate::setup()
        .route(route("app", "/", &Recorder::start().await.url()))
        .route(route("events", "/events", &events.url))
        .launch(|launch| launch.arguments = vec!["--drain-timeout".into(), "1".into()])
        .start()
        .await;
    let mut browser = gate.login("vera").await;
    let mut stream = browser.open(Method::GET, "/events", &[], Bytes::new()).await;
    within("the first event", stream.body_mut().frame()).await.unwrap().unwrap();
    gate.process.signal("TERM");
    let end = within("the end of the stream", stream.body_mut().collect()).await;
    assert!(end.is_err(), "it was cut, and says so");
    ended(&mut gate).await;
    eventually("the log's word of it", async || {
        let said = gate.process.output().join("\n");
        said.contains("still open at the end of the grace period").then_some(())
    })
    .await;
}
