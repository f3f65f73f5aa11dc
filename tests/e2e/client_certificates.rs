//! Services that are known by their client certificates, until these are taken back.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::harness::gate::{mentions, route};
use crate::harness::revocable::LIST;
use crate::harness::servers::{Echo, Heard};
use crate::harness::websocket::Socket;
use crate::harness::{Browser, Gate, Raw, Recorder, Setup, eventually, websocket, within};

const URI: &str = "spiffe://plant.example/historian";

const POLICY: &str = r#"
@id("signed-in")
permit (principal is Wicketgate::User, action, resource);
@id("machines")
permit (principal is Wicketgate::Service in Wicketgate::Group::"machines", action, resource);
"#;

/// `/` takes sessions and certificates, `/api` certificates alone. The list of what was revoked is
/// due again in this year.
fn world(upstream: &Recorder, due: i32) -> Setup {
    let (mut both, mut api) =
        (route("both", "/", &upstream.url()), route("api", "/api", &upstream.url()));
    both["authentication"] = json!(["session", "certificate"]);
    api["authentication"] = json!(["certificate"]);
    Gate::setup()
        .route(both)
        .route(api)
        .policy(POLICY)
        .devices(move |authority, folder| {
            authority.client_with_uri("x", URI).write(folder, "historian");
            authority.client("old").write(folder, "old");
            authority.client("stranger").write(folder, "stranger");
            fs::write(folder.join(LIST), authority.revoke(&[], due)).unwrap();
            format!(
                "devices: []\nservices:\n\
                 \x20 - {{id: historian, certificate: {{uri: '{URI}'}}, groups: [machines]}}\n\
                 \x20 - {{id: old, certificate: {{common_name: old}}, groups: [retired]}}\n"
            )
        })
        .heeds_revocations()
}

/// Whether the gate takes a new connection with this certificate.
async fn connects(browser: &Browser) -> bool {
    let mut raw = Raw::connect(browser).await;
    raw.send(b"GET / HTTP/1.1\r\nhost: app.localhost\r\n\r\n").await;
    raw.answer().await.is_some()
}

#[tokio::test]
async fn a_service_is_who_its_certificate_stands_for() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, 2099).start().await;
    let historian = gate.client("historian");
    for browser in [gate.browser_on(&historian), gate.browser_h2_on(&historian)] {
        let mut browser = browser.as_program();
        for path in ["/orders", "/api/orders"] {
            browser.get(path).await.expect(200);
            let seen = upstream.last();
            assert_eq!(seen.value("x-wicketgate-user"), Some("certificate/historian"));
            assert_eq!(seen.value("x-wicketgate-groups"), Some("machines"));
        }
    }
    let record = gate.audited("the service", |record| mentions(record, &["historian"])).await;
    assert_eq!(record["principal"]["kind"], "service");
    // Known, but not allowed.
    let mut old = gate.browser_on(&gate.client("old")).as_program();
    assert_eq!(old.get("/api").await.expect(403).json()["type"], "urn:wicketgate:denied");
    // Verified, but nobody; and no certificate at all.
    let before = upstream.requests().len();
    for browser in [gate.browser_on(&gate.client("stranger")), gate.browser()] {
        let answer = browser.clone().as_program().get("/api").await.expect(403);
        assert_eq!(answer.json()["type"], "urn:wicketgate:certificate-required");
        browser.clone().as_program().get("/").await.expect(401);
        assert_eq!(browser.clone().get("/").await.status, 303, "a person can sign in");
    }
    // A session is nothing where certificates alone are taken, and a certificate is no session.
    gate.login("ada").await.get("/api").await.expect(403);
    gate.browser_on(&historian).as_program().get("/.wicketgate/me").await.expect(401);
    // A cookie that is no good isn't made up for by a good certificate.
    let mut stale = gate.browser_on(&historian).as_program();
    stale.set_session_cookie(&"A".repeat(43));
    stale.get("/").await.expect(401);
    let seen = &upstream.requests()[before..];
    let by_certificate = |request: &&crate::harness::recorder::Recorded| {
        request.value("x-wicketgate-user") != Some("test/ada")
    };
    assert_eq!(seen.iter().filter(by_certificate).count(), 0, "{seen:?}");
}

#[tokio::test]
async fn a_certificate_that_is_taken_back_ends_what_is_open_and_opens_nothing() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut ws = route("ws", "/ws", &echo.url);
    ws["authentication"] = json!(["certificate"]);
    let gate = world(&upstream, 2099).route(ws).start().await;
    let (historian, old) = (gate.client("historian"), gate.client("old"));
    let browser = gate.browser_on(&historian);
    let mut socket = websocket::opened(&browser, &mut echo).await;
    let mut kept = Raw::connect(&browser).await;
    let host = gate.url("").replace("https://", "");
    let ask = format!("GET /api HTTP/1.1\r\nhost: {host}\r\n\r\n");
    kept.send(ask.as_bytes()).await;
    assert_eq!(kept.answer().await.unwrap().status, 200);

    gate.revoke(&historian);
    websocket::closed(&mut socket).await;
    assert_eq!(echo.next().await, Heard::Ended);
    let words = ["connection-cut", "certificate/historian", "was revoked"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    kept.send(ask.as_bytes()).await;
    assert_eq!(kept.answer().await.unwrap().status, 403, "a connection that was kept");
    eventually("new connections to be refused", async || (!connects(&browser).await).then_some(()))
        .await;
    assert!(connects(&gate.browser_on(&old)).await, "others are not touched");
}

/// How long a certificate lasts under which something is opened and then waited for: several times
/// what the opening takes.
const SECONDS: i64 = 8;

/// The code that the gate closes a WebSocket with.
async fn close_code(socket: &mut Socket) -> Option<CloseCode> {
    within("the end of the WebSocket", async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.code);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn a_services_certificate_that_runs_out_ends_what_is_open_and_opens_nothing() {
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut ws = route("ws", "/ws", &echo.url);
    ws["authentication"] = json!(["certificate"]);
    let gate = world(&upstream, 2099).route(ws).start().await;
    let browser = gate.browser_on(&gate.device_authority.client_with_uri_for(SECONDS, "x", URI));
    let mut socket = websocket::opened(&browser, &mut echo).await;
    let mut kept = Raw::connect(&browser).await;
    let host = gate.url("").replace("https://", "");
    let ask = format!("GET /api HTTP/1.1\r\nhost: {host}\r\n\r\n");
    kept.send(ask.as_bytes()).await;
    assert_eq!(kept.answer().await.unwrap().status, 200);
    let before = upstream.requests().len();

    assert_eq!(close_code(&mut socket).await, Some(CloseCode::Policy));
    assert_eq!(echo.next().await, Heard::Ended);
    let words = ["connection-cut", "certificate/historian", "has expired"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    kept.send(ask.as_bytes()).await;
    let answer = kept.answer().await.unwrap();
    assert_eq!(answer.status, 403, "a connection that was kept");
    assert!(!connects(&browser).await, "a new one");
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn a_devices_certificate_that_runs_out_takes_its_posture_from_what_is_open() {
    const DEVICE: &str = "spiffe://plant.example/laptop";
    let (upstream, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = Gate::with_upstream(&upstream)
        .route(route("ws", "/ws", &echo.url))
        .policy(
            "@id(\"encrypted\") permit (principal is Wicketgate::User, action, resource)\n\
             when { context has posture && context.posture has disk_encrypted\n\
             && context.posture.disk_encrypted };",
        )
        .devices(|_, _| {
            format!(
                "devices:\n  - id: laptop\n    owner: test/vera\n    \
                 certificate: {{uri: '{DEVICE}'}}\n    \
                 posture: {{observed_at: 2026-01-01T00:00:00Z, disk_encrypted: true}}\n"
            )
        })
        .start()
        .await;
    let session = gate.login_at("vera", "/.wicketgate/me").await.session_cookie().unwrap();
    let device = gate.device_authority.client_with_uri_for(SECONDS, "laptop", DEVICE);
    let mut browser = gate.browser_on(&device).as_program();
    browser.set_session_cookie(&session);
    let mut socket = websocket::opened(&browser, &mut echo).await;
    let mut kept = Raw::connect(&browser).await;
    let host = gate.url("").replace("https://", "");
    let cookies = browser.cookies_for(&browser.url("/"));
    let ask = format!("GET / HTTP/1.1\r\nhost: {host}\r\ncookie: {cookies}\r\n\r\n");
    kept.send(ask.as_bytes()).await;
    assert_eq!(kept.answer().await.unwrap().status, 200);
    let before = upstream.requests().len();

    assert_eq!(close_code(&mut socket).await, Some(CloseCode::Policy));
    assert_eq!(echo.next().await, Heard::Ended);
    let words = ["connection-cut", "test/vera", "the policies no longer allow it"];
    gate.audited("the cut", |record| mentions(record, &words)).await;
    kept.send(ask.as_bytes()).await;
    assert_eq!(kept.answer().await.unwrap().status, 403, "a connection that was kept");
    assert_eq!(upstream.requests().len(), before);
    // The session itself goes on.
    let mut elsewhere = gate.browser().as_program();
    elsewhere.set_session_cookie(&session);
    elsewhere.get("/.wicketgate/me").await.expect(200);
}

#[tokio::test]
async fn a_list_that_is_past_its_time_lets_no_certificate_in() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, 2022).start().await;
    assert!(!connects(&gate.browser_on(&gate.client("historian"))).await);
    assert!(connects(&gate.browser()).await, "without a certificate nothing depends on it");
    let output = gate.command(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("the revocation list of `CN=Test device CA") && said.contains("2022"),
        "{said}"
    );
}

/// The assertion's subject.
fn asserted(seen: &crate::harness::recorder::Recorded) -> String {
    let assertion = seen.value("x-wicketgate-assertion").unwrap();
    let claims = URL_SAFE_NO_PAD.decode(assertion.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn whom_a_certificate_stands_for_after_a_reload_is_whom_upstreams_are_told() {
    let upstream = Recorder::start().await;
    let gate = world(&upstream, 2099).start().await;
    let mut kept = Raw::connect(&gate.browser_on(&gate.client("historian"))).await;
    let host = gate.url("").replace("https://", "");
    let ask = format!("GET /api HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let mut told = async || {
        kept.send(ask.as_bytes()).await;
        assert_eq!(kept.answer().await.unwrap().status, 200);
        let seen = upstream.last();
        let user = seen.value("x-wicketgate-user").unwrap().to_owned();
        assert_eq!(user, asserted(&seen));
        user
    };
    assert_eq!(told().await, "certificate/historian");
    let fresh = gate.folder().join("devices.new");
    let services = format!(
        "devices: []\nservices:\n\
         \x20 - {{id: archivist, certificate: {{uri: '{URI}'}}, groups: [machines]}}\n"
    );
    fs::write(&fresh, services).unwrap();
    fs::rename(&fresh, gate.folder().join("devices.yaml")).unwrap();
    eventually("the new name", async || (told().await == "certificate/archivist").then_some(()))
        .await;
}
