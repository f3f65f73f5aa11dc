//! The listening side: versions, names, client certificates, plain HTTP.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::gate::{HOST, SECOND_HOST, mentions};
use crate::harness::pki::{Authority, Identity};
use crate::harness::port::Port;
use crate::harness::raw::find;
use crate::harness::{Browser, Gate, Raw, Recorder};

/// `openssl s_client` against the gate; what it said.
fn s_client(gate: &Gate, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &gate.address().to_string(), "-servername", HOST])
        .args(["-CAfile", gate.folder().join("ca.pem").to_str().unwrap()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("openssl: run ./test once");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(&gate, &[version]);
        assert!(said.contains("Verify return code: 0 (ok)"), "{version}: {said}");
        assert!(!said.contains("Cipher is (NONE)"), "{version}: {said}");
    }
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&gate, &[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(said.contains("alert"), "the gate refuses {version} itself: {said}");
        assert!(said.contains("Cipher is (NONE)"), "{version}: {said}");
    }
    let strict = Gate::with_upstream(&Recorder::start().await)
        .configure(|config| config["listeners"][0]["tls"]["minimum_version"] = json!("1.3"))
        .start()
        .await;
    assert!(s_client(&strict, &["-tls1_2"]).contains("Cipher is (NONE)"));
}

#[tokio::test]
async fn each_name_gets_its_own_certificate() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    for name in [HOST, SECOND_HOST] {
        let said = s_client(&gate, &["-servername", name, "-verify_hostname", name]);
        assert!(said.contains("Verify return code: 0 (ok)"), "{name}: {said}");
    }
}

#[tokio::test]
async fn a_request_for_another_host_than_the_handshakes_is_misdirected() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut raw = gate.raw().await;
    let head = format!(
        "GET / HTTP/1.1\r\nhost: {SECOND_HOST}:{}\r\nconnection: close\r\n\r\n",
        gate.port()
    );
    raw.send(head.as_bytes()).await;
    assert_eq!(raw.answer().await.unwrap().status, 421);
    assert_eq!(upstream.bytes(), b"");
}

const MANAGED: &str = r#"
@id("everybody-may-look-at-the-door")
permit (principal is Wicketgate::User, action, resource)
when { context has posture && context.posture has disk_encrypted && context.posture.disk_encrypted };
"#;

#[tokio::test]
async fn a_device_is_known_by_its_certificate_and_its_posture_decides() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .policy(MANAGED)
        .devices(|authority, folder| {
            let good = authority.client("good");
            let bad = authority.client("bad");
            let text = format!("{}{}", device("good", &good, true), device("bad", &bad, false));
            good.write(folder, "good");
            bad.write(folder, "bad");
            format!("devices:\n{text}")
        })
        .start()
        .await;
    let read = |name: &str| Identity {
        certificate: std::fs::read_to_string(gate.folder().join(format!("{name}.pem"))).unwrap(),
        key: std::fs::read_to_string(gate.folder().join(format!("{name}.key"))).unwrap(),
    };
    let session = {
        let mut browser = gate.browser();
        gate.sign_in(&mut browser, "vera", "/.wicketgate/me").await;
        browser.session_cookie().unwrap()
    };
    let status = async |mut browser: Browser| {
        browser.set_session_cookie(&session);
        browser.as_program().get("/").await.status
    };
    assert_eq!(status(gate.browser()).await, 403, "no device");
    assert_eq!(status(gate.browser_on(&read("bad"))).await, 403, "not encrypted");
    assert_eq!(upstream.bytes(), b"");
    assert_eq!(status(gate.browser_on(&read("good"))).await, 200);
    let stranger = gate.device_authority.client("stranger");
    assert_eq!(status(gate.browser_on(&stranger)).await, 403, "not in the registry");
    assert_eq!(status(gate.browser_h2_on(&read("bad"))).await, 403);
    assert_eq!(status(gate.browser_h2_on(&read("good"))).await, 200, "h2 is no way around");
    gate.audited("the device", |record| mentions(record, &["permit", "good"])).await;
}

#[tokio::test]
async fn a_client_certificate_that_does_not_verify_ends_the_handshake() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream)
        .devices(|authority, folder| {
            let expired = authority.expired_client("expired");
            expired.write(folder, "expired");
            // In the registry, so that nothing but its date keeps it out.
            format!("devices:\n{}", device("expired", &expired, true))
        })
        .start()
        .await;
    let read = |file: &str| gate.folder().join(file).display().to_string();
    let foreign = Authority::new("Test device CA").client("laptop");
    let expired = Identity {
        certificate: std::fs::read_to_string(read("expired.pem")).unwrap(),
        key: std::fs::read_to_string(read("expired.key")).unwrap(),
    };
    foreign.write(gate.folder(), "foreign");
    for (name, identity) in [("foreign", foreign), ("expired", expired)] {
        // With TLS 1.2 the handshake fails; with 1.3 the client hears of it a moment later.
        let (certificate, key) = (read(&format!("{name}.pem")), read(&format!("{name}.key")));
        let said = s_client(&gate, &["-tls1_2", "-cert", &certificate, "-key", &key]);
        assert!(said.contains("SSL alert number"), "{name}: {said}");
        let mut raw = Raw::connect(&gate.browser_on(&identity)).await;
        raw.send(b"GET / HTTP/1.1\r\nhost: app.localhost\r\n\r\n").await;
        assert!(raw.answer().await.is_none(), "{name}: no answer to whoever isn't verified");
    }
    let known = gate.device_authority.client("known");
    gate.browser_on(&known).as_program().get("/").await.expect(401);
    gate.browser().as_program().get("/").await.expect(401);
    let refused = gate.metric("wicketgate_tls_handshakes_total", "client_certificate").await;
    assert!(refused >= 4.0, "{refused} handshakes were counted as refused");
    assert_eq!(upstream.bytes(), b"");
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_and_decided_alike() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).policy(NOTHING_SECRET).start().await;
    let session = gate.login("vera").await.session_cookie().unwrap();
    for mut browser in [gate.browser(), gate.browser_h2()] {
        let mut nobody = browser.clone().as_program();
        nobody.get("/open").await.expect(401);
        browser.set_session_cookie(&session);
        browser.get("/open").await.expect(200);
        assert_eq!(upstream.last().line(), "GET /open HTTP/1.1");
        assert_eq!(
            upstream.last().value("host"),
            Some(crate::harness::client::authority(&browser.url("/")).as_str())
        );
        let before = upstream.requests().len();
        browser.get("/secret").await.expect(403);
        assert_eq!(upstream.requests().len(), before);
    }
}

const NOTHING_SECRET: &str = r#"
@id("all-but-the-secret")
permit (principal is Wicketgate::User, action, resource)
when { context.path != "/secret" };
"#;

fn device(id: &str, identity: &Identity, encrypted: bool) -> String {
    let fingerprint = identity.fingerprint();
    format!(
        "  - id: {id}\n    owner: test/vera\n    certificate:\n      sha256: [{fingerprint}]\n    \
         posture:\n      observed_at: 2026-01-01T00:00:00Z\n      disk_encrypted: {encrypted}\n"
    )
}

#[tokio::test]
async fn plain_http_is_answered_with_a_redirect_and_nothing_else() {
    let upstream = Recorder::start().await;
    let plain = Port::reserve();
    let address = plain.address();
    let gate = Gate::with_upstream(&upstream)
        .configure(move |config| {
            let listener = json!({
                "name": "plain",
                "address": address.to_string(),
                "redirect_to_https": true,
            });
            config["listeners"].as_array_mut().unwrap().push(listener);
        })
        .start()
        .await;
    let mut browser =
        Browser::new(&format!("http://{HOST}:{}/", plain.number()), gate.client_tls());
    let answer = browser.get("/orders?page=2").await.expect(308);
    assert_eq!(answer.location().as_str(), format!("https://{HOST}/orders?page=2"));
    browser.post("/orders", "a=b").await.expect(308);
    for path in ["/.wicketgate/login", "/metrics", "/readyz"] {
        browser.get(path).await.expect(308);
    }
    for (head, status, reason) in [
        ("GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n".to_owned(), 421, "unknown-host"),
        (format!("GET /a/../b HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), 400, "bad-target"),
        (format!("GET /a#b HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), 400, "malformed-request"),
    ] {
        let mut raw = Raw::connect(&browser).await;
        raw.send(head.as_bytes()).await;
        let answer = raw.answer().await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.value("location"), None, "no redirect to elsewhere: {answer:?}");
        assert_eq!(answer.value("strict-transport-security"), None, "RFC 6797, section 7.2");
        let id = answer.value("x-wicketgate-decision").unwrap().to_owned();
        gate.audited(reason, |record| mentions(record, &["refused", reason, &id])).await;
        assert_eq!(raw.rest().await, "");
    }
    assert_eq!(upstream.bytes(), b"");
}

#[tokio::test]
async fn nothing_of_the_admin_listener_is_on_the_public_one() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        gate.browser().as_program().get(path).await.expect(401);
        assert_eq!(gate.admin(path).await.unwrap().0, 200, "{path}");
    }
    let (_, page) = gate.admin("/metrics").await.unwrap();
    assert!(find(page.as_bytes(), b"wicketgate_").is_some());
}
