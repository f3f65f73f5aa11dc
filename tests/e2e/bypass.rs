//! What is decided on is what is forwarded. Each case here opened some gateway once.

use crate::harness::gate::{HOST, SECOND_HOST, mentions, route};
use crate::harness::{Gate, Recorder};

/// Everybody may read below `/public`; nobody anything else.
const ONLY_PUBLIC: &str = r#"
@id("public")
permit (
  principal is Wicketgate::User,
  action in Wicketgate::Action::"view",
  resource == Wicketgate::Route::"public"
);
"#;

struct World {
    gate: Gate,
    public: Recorder,
    private: Recorder,
    cookie: String,
}

impl World {
    async fn start() -> Self {
        let (public, private) = (Recorder::start().await, Recorder::start().await);
        let gate = Gate::setup()
            .route(route("public", "/public", &public.url()))
            .route(route("private", "/", &private.url()))
            .policy(ONLY_PUBLIC)
            .start()
            .await;
        let mut browser = gate.browser();
        gate.sign_in(&mut browser, "vera", "/public").await.expect(200);
        let cookie = browser.cookies_for(&browser.url("/"));
        Self { gate, public, private, cookie }
    }

    /// Sends a head as it stands, with the session's cookie, and returns the status.
    async fn send(&self, line: &str, host: &str, more: &str) -> u16 {
        let mut raw = self.gate.raw().await;
        let cookie = &self.cookie;
        let head = format!("{line}\r\n{host}cookie: {cookie}\r\n{more}connection: close\r\n\r\n");
        raw.send(head.as_bytes()).await;
        raw.answer().await.map_or(400, |answer| answer.status)
    }

    fn host(&self) -> String {
        format!("host: {HOST}:{}\r\n", self.gate.port())
    }

    /// The world is as it was: nothing private was reached, and a normal request succeeds.
    async fn still_works(&self, after: &str) {
        assert_eq!(self.private.bytes(), b"", "{after} reached what was denied");
        let status = self.send("GET /public/x HTTP/1.1", &self.host(), "").await;
        assert_eq!(status, 200, "a normal request after {after}");
        let seen = self.public.last();
        assert_eq!(seen.line(), "GET /public/x HTTP/1.1", "after {after}");
    }
}

#[tokio::test]
async fn a_denied_route_is_not_reached_by_a_strange_path() {
    let world = World::start().await;
    world.send("GET /secret HTTP/1.1", &world.host(), "").await;
    world.still_works("the plain path").await;
    for path in [
        "/public/../secret",
        "/public/%2e%2e/secret",
        "/public/.%2E/secret",
        "/public/%252e%252e/secret",
        "/public/%25%32%65%25%32%65/secret",
        "/public/./../secret",
        "/public/..;/secret",
        "/public;/../secret",
        "/public%2f..%2fsecret",
        "/public%2F%2E%2E%2Fsecret",
        "/public\\..\\secret",
        "/public/%5c..%5csecret",
        "//secret",
        "/public//../secret",
        "/public/..",
        "/publicity",
        "/public%00/../secret",
        "/public%20/../secret",
        "/secret#/public",
        "/public#/../secret",
        "/secret?x=/public",
        "/secret%23/public",
        "/secret%3f/public",
        "/%70ublic/../secret",
        "/public/%c0%ae%c0%ae/secret",
        "/public/%",
        "/public/%2",
        "/public/%zz",
        "/public/\u{1}",
        "/public/é",
        "secret",
        "*",
        "",
    ] {
        let private = world.private.requests().len();
        let status = world.send(&format!("GET {path} HTTP/1.1"), &world.host(), "").await;
        assert_eq!(world.private.requests().len(), private, "{path}");
        if status == 200 {
            // Then it was a path below /public that no server reads in another way.
            let line = world.public.last().line().to_owned();
            assert!(line.starts_with("GET /public/"), "{path} became {line}");
            assert!(!line.contains("..") && !line.contains('#'), "{path} became {line}");
        } else {
            assert!((400..500).contains(&status), "{path}: {status}");
        }
        world.still_works(path).await;
    }
    world.gate.audited("a refusal", |record| mentions(record, &["refused", "bad-target"])).await;
}

#[tokio::test]
async fn the_path_that_reaches_the_upstream_is_the_one_that_was_decided_on() {
    let world = World::start().await;
    for (sent, forwarded) in [
        ("/public/a?b=%2F../secret", "/public/a?b=%2F../secret"),
        ("/public/a%20b", "/public/a%20b"),
        ("/public/", "/public/"),
        ("/public", "/public"),
    ] {
        let status = world.send(&format!("GET {sent} HTTP/1.1"), &world.host(), "").await;
        assert_eq!(status, 200, "{sent}");
        assert_eq!(world.public.last().line(), format!("GET {forwarded} HTTP/1.1"));
    }
}

#[tokio::test]
async fn the_host_is_one_host_or_the_request_is_refused() {
    let world = World::start().await;
    let port = world.gate.port();
    let line = "GET /public/x HTTP/1.1";
    for host in [
        String::new(),
        "host: \r\n".to_owned(),
        format!("host: {HOST}:{port}\r\nhost: {HOST}:{port}\r\n"),
        format!("host: {HOST}:{port}\r\nhost: evil.example\r\n"),
        format!("host: {HOST}:{port}, evil.example\r\n"),
        format!("host: evil.example@{HOST}:{port}\r\n"),
        format!("host: {HOST}:{port}/private\r\n"),
        format!("host: {HOST}:{port}#\r\n"),
        format!("host: {HOST}:99999\r\n"),
        format!("host: {HOST}:-1\r\n"),
        format!("host: {HOST}..:{port}\r\n"),
        format!("host: {HOST}%00:{port}\r\n"),
        "host: 127.0.0.1\r\n".to_owned(),
        "host: evil.example\r\n".to_owned(),
        format!("host: {SECOND_HOST}:{port}\r\n"),
    ] {
        let before = world.public.requests().len();
        let status = world.send(line, &host, "").await;
        assert!((400..500).contains(&status), "{host:?}: {status}");
        assert_eq!(world.public.requests().len(), before, "{host:?} reached the upstream");
        world.still_works(&host).await;
    }
    // The same host, written differently, is the same route.
    for host in [format!("host: APP.LocalHost:{port}\r\n"), format!("host: {HOST}.:{port}\r\n")] {
        let status = world.send("GET /secret HTTP/1.1", &host, "").await;
        assert!(matches!(status, 400 | 403), "{host:?}: {status}");
        world.still_works(&host).await;
    }
}

#[tokio::test]
async fn a_target_in_another_form_cannot_disagree_with_the_host() {
    let world = World::start().await;
    let port = world.gate.port();
    for line in [
        "GET https://evil.example/public/x HTTP/1.1".to_owned(),
        "GET http://evil.example/public/x HTTP/1.1".to_owned(),
        format!("GET https://{HOST}:{port}/secret HTTP/1.1"),
        format!("GET https://{SECOND_HOST}:{port}/public/x HTTP/1.1"),
        format!("GET ftp://{HOST}/public/x HTTP/1.1"),
        format!("CONNECT {HOST}:{port} HTTP/1.1"),
        "CONNECT /public/x HTTP/1.1".to_owned(),
        "CONNECT 127.0.0.1:22 HTTP/1.1".to_owned(),
        "TRACE /public/x HTTP/1.1".to_owned(),
        "OPTIONS * HTTP/1.1".to_owned(),
        "G\u{e9}T /public/x HTTP/1.1".to_owned(),
        "GET  /public/x HTTP/1.1".to_owned(),
        "GET /public/x HTTP/2.0".to_owned(),
        "GET /public/x".to_owned(),
    ] {
        let before = world.public.requests().len();
        let status = world.send(&line, &world.host(), "").await;
        assert!((400..=505).contains(&status), "{line}: {status}");
        assert_eq!(world.public.requests().len(), before, "{line} reached the upstream");
        world.still_works(&line).await;
    }
}

#[tokio::test]
async fn no_header_and_no_method_override_changes_what_is_decided() {
    let world = World::start().await;
    for more in [
        "x-forwarded-uri: /public/x\r\n",
        "x-original-url: /public/x\r\n",
        "x-rewrite-url: /public/x\r\n",
        "x-forwarded-host: other.localhost\r\n",
        "x-forwarded-method: GET\r\n",
        "user-agent: kube-probe/1.30\r\n",
        "user-agent: GoogleHC/1.0\r\n",
        "x-wicketgate-user: test/sam\r\n",
        "authorization: Bearer eyJhbGciOiJub25lIn0.e30.\r\n",
    ] {
        let status = world.send("GET /secret HTTP/1.1", &world.host(), more).await;
        assert!(matches!(status, 400 | 401 | 403), "{more}: {status}");
        world.still_works(more).await;
    }
    for more in ["x-http-method-override: GET\r\n", "x-method-override: GET\r\n"] {
        let more = format!("{more}content-length: 0\r\n");
        let status = world.send("POST /public/x HTTP/1.1", &world.host(), &more).await;
        assert_eq!(status, 403, "{more}");
    }
}

#[tokio::test]
async fn every_denial_has_its_id_and_its_record() {
    let world = World::start().await;
    let mut vera = world.gate.login_at("vera", "/public").await.as_program();
    let denied = vera.get("/secret").await.expect(403);
    assert_eq!(denied.header("content-type"), Some("application/problem+json"));
    let id = denied.header("x-wicketgate-decision").unwrap().to_owned();
    assert_eq!(id.len(), 26, "{id}");
    let record = world.gate.audited("the denial", |record| mentions(record, &[&id])).await;
    assert!(mentions(&record, &["deny", "test/vera", "http:GET", "/secret"]), "{record}");
    let explained = world.gate.command(&["policy", "explain", &id]);
    let said = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.status.success(), "{explained:?}");
    assert!(said.contains("deny: Wicketgate::User::\"test/vera\""), "{said}");
}
