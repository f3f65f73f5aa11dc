//! A newer process takes the place of a running one, and nobody notices.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use http::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::bounds::{self, sampled};
use crate::harness::gate::{HOST, mentions, route};
use crate::harness::servers::Echo;
use crate::harness::websocket::Socket;
use crate::harness::{
    Browser, Gate, Held, Notifications, Raw, Recorder, Setup, binary, eventually, websocket, within,
};

fn durable(name: &str, path: &str, upstream: &str) -> Value {
    let mut route = route(name, path, upstream);
    route["audit"] = json!("durable");
    route
}

/// `seconds`: what the replaced process gives its clients.
fn world(page: &Recorder, seconds: u32) -> Setup {
    Gate::setup()
        .route(durable("app", "/", &page.url()))
        .route(route("soft", "/soft", &page.url()))
        .launch(move |launch| {
            launch.arguments = vec!["--replaced-timeout".to_owned(), seconds.to_string()];
        })
}

fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(status.success());
}

fn is_alive(process: u32) -> bool {
    // An orphan may stay a zombie for as long as nobody collects it.
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

fn successors(gate: &Gate) -> Vec<u32> {
    let lines = gate.process.output();
    let told = lines.iter().filter(|line| line.contains("a newer process serves"));
    told.map(|line| line.rsplit_once("process=").unwrap().1.trim().parse().unwrap()).collect()
}

/// Has `process` give its place away, and waits until the next one serves.
async fn upgrade(gate: &Gate, process: u32) -> u32 {
    let before = successors(gate).len();
    signal(process, "USR2");
    eventually("the newer process", async || successors(gate).get(before).copied()).await
}

async fn refused(gate: &mut Gate, why: &str) {
    gate.process.signal("USR2");
    let process = &mut gate.process;
    process
        .line("the refusal", |line| {
            (line.contains("upgrade refused") && line.contains(why)).then_some(())
        })
        .await;
}

/// What clients do all the time, and what went wrong.
#[derive(Clone, Default)]
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    reconnects: Arc<AtomicUsize>,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// One connection for as long as the gate keeps it.
    async fn keep_alive(self, browser: Browser, path: String) {
        let cookies = browser.cookies_for(&browser.url("/"));
        let port = browser.url("/").port().unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {HOST}:{port}\r\ncookie: {cookies}\r\n\r\n");
        while self.goes_on() {
            let mut connection = Raw::connect(&browser).await;
            self.reconnects.fetch_add(1, Ordering::Relaxed);
            while self.goes_on() {
                connection.send(request.as_bytes()).await;
                let answer = connection.answer().await.expect("an answer on a kept connection");
                assert_eq!(answer.status, 200, "{}", answer.head);
                self.answered();
                if answer.value("connection") == Some("close") {
                    break;
                }
            }
        }
    }

    /// A connection and a handshake for each request.
    async fn fresh(self, mut browser: Browser, path: String) {
        while self.goes_on() {
            browser.get(&path).await.expect(200);
            self.answered();
        }
    }

    /// Streams on one connection until it says goodbye.
    async fn http2(self, browser: Browser, cookies: String, path: String) {
        let target = browser.url(&path);
        while self.goes_on() {
            let (wire, is_h2) = browser.connect(&target).await;
            assert!(is_h2);
            let (client, connection) = h2::client::handshake(wire).await.unwrap();
            let connection = tokio::spawn(connection);
            while self.goes_on() {
                let Ok(mut ready) = client.clone().ready().await else { break };
                let request = http::Request::get(target.as_str())
                    .header("cookie", &cookies)
                    .body(())
                    .unwrap();
                let Ok((answer, _)) = ready.send_request(request, true) else { break };
                let mut answer = within("an answer", answer).await.expect("a stream that ends");
                assert_eq!(answer.status(), 200);
                while let Some(chunk) = answer.body_mut().data().await {
                    chunk.unwrap();
                }
                self.answered();
            }
            drop(client);
            within("the end of the connection", connection).await.unwrap().unwrap();
        }
    }
}

async fn echoes(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text.to_owned())).await.unwrap();
    let back = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back.to_text().unwrap(), text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_request_fails_and_every_one_is_on_record() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let mut gate = world(&page, 3).route(route("ws", "/ws", &echo.url)).start().await;
    let vera = gate.login("vera").await;
    let mut socket = websocket::opened(&vera, &mut echo).await;
    let load = Load::default();
    let mut clients = Vec::new();
    for (number, path) in ["/kept", "/soft/kept", "/kept", "/soft/kept"].into_iter().enumerate() {
        let kept = load.clone().keep_alive(vera.clone(), format!("{path}/{number}"));
        clients.push(tokio::spawn(kept));
    }
    for path in ["/fresh", "/soft/fresh"] {
        clients.push(tokio::spawn(load.clone().fresh(vera.clone(), path.to_owned())));
    }
    let cookies = vera.cookies_for(&vera.url("/"));
    clients.push(tokio::spawn(load.clone().http2(gate.browser_h2(), cookies, "/h2".to_owned())));
    let answers = async |more: usize| {
        let goal = load.answers.load(Ordering::Relaxed) + more;
        eventually("answers", async || {
            (load.answers.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    };
    answers(50).await;
    echoes(&mut socket, "before").await;

    let first = gate.process.id();
    let second = upgrade(&gate, first).await;
    echoes(&mut socket, "while the old process drains").await;
    // A login and a logout across the two.
    gate.login("otto").await.get("/").await.expect(200);
    answers(50).await;
    let Some(Ok(Message::Close(Some(frame)))) = within("the close frame", socket.next()).await
    else {
        panic!("no close frame");
    };
    assert_eq!(frame.code, CloseCode::Restart, "{frame}");
    let status = eventually("the end of the old process", async || gate.process.exited()).await;
    assert!(status.success(), "{status}");
    answers(50).await;

    // And once more, from a process that has taken over itself.
    let third = upgrade(&gate, second).await;
    answers(50).await;
    eventually("the end of the second", async || (!is_alive(second)).then_some(())).await;
    answers(50).await;
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client without a failed request");
    }
    assert!(load.reconnects.load(Ordering::Relaxed) >= 3 * 4, "clients were sent over twice");
    signal(third, "TERM");
    eventually("the end of the third", async || (!is_alive(third)).then_some(())).await;

    gate.assert_audit_verifies();
    let records = gate.audit();
    for of in ["kept", "fresh", "h2"] {
        let permits = records.iter().filter(|one| mentions(one, &["\"permit\"", of])).count();
        let reached = page.requests().iter().filter(|one| one.line().contains(of)).count();
        assert_eq!(permits, reached, "records of {of}, and what reached the upstream");
    }
    let count = |event: &str| {
        records.iter().filter(|one| mentions(one, &[&format!("\"{event}\"")])).count()
    };
    assert_eq!((count("started"), count("replaced"), count("stopped")), (3, 2, 1));
    let reached = page.requests().len();
    assert!(reached >= load.answers.load(Ordering::Relaxed), "{reached}");
}

#[tokio::test]
async fn sessions_end_in_both_processes_wherever_they_are_ended() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let gate = world(&page, 600).route(route("ws", "/ws", &echo.url)).start().await;
    let mut vera = gate.login("vera").await;
    let mut otto = gate.login("otto").await;
    let mut socket = websocket::opened(&vera, &mut echo).await;
    let form = otto.get("/.wicketgate/logout").await.expect(200).text();
    let action = form.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
    let action = otto.url(&action.replace("&amp;", "&"));
    // Connections that stay with the old process.
    let (mut ottos, mut veras) = (Raw::connect(&otto).await, Raw::connect(&vera).await);
    let get = |browser: &Browser| {
        let cookies = browser.cookies_for(&browser.url("/"));
        format!("GET / HTTP/1.1\r\nhost: {HOST}:{}\r\ncookie: {cookies}\r\n\r\n", gate.port())
    };
    for (connection, browser) in [(&mut ottos, &otto), (&mut veras, &vera)] {
        connection.send(get(browser).as_bytes()).await;
        assert_eq!(connection.answer().await.unwrap().status, 200);
    }
    upgrade(&gate, gate.process.id()).await;
    otto.get("/").await.expect(200);

    // In the old process: over in the new one by the time the answer is there.
    let target = &action[url::Position::BeforePath..];
    let origin = action.origin().ascii_serialization();
    let cookies = otto.cookies_for(&action);
    let post = format!(
        "POST {target} HTTP/1.1\r\nhost: {HOST}:{}\r\norigin: {origin}\r\ncookie: {cookies}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: 0\r\n\r\n",
        gate.port()
    );
    ottos.send(post.as_bytes()).await;
    let answer = ottos.answer().await.unwrap();
    assert!(answer.status < 400, "{}", answer.head);
    assert_eq!(answer.value("connection"), Some("close"), "{}", answer.head);
    assert_eq!(otto.as_program().get("/").await.status, 401);

    // In the new one: what is open in the old one is cut, and its requests are refused.
    vera.sign_out().await;
    let Some(Ok(Message::Close(Some(frame)))) = within("the close frame", socket.next()).await
    else {
        panic!("no close frame");
    };
    assert_eq!(frame.code, CloseCode::Policy, "{frame}");
    let before = page.requests().len();
    veras.send(get(&vera).as_bytes()).await;
    let answer = veras.answer().await.unwrap();
    assert_ne!(answer.status, 200, "{}", answer.head);
    assert_eq!(page.requests().len(), before);
    gate.audited("the cut", |record| mentions(record, &["connection-cut", "test/vera"])).await;
    let ends = |user: &str| {
        let records = gate.audit();
        records.iter().filter(|one| mentions(one, &["session-ended", user])).count()
    };
    eventually("both ends", async || (ends("vera") + ends("otto") >= 2).then_some(())).await;
    assert_eq!((ends("vera"), ends("otto")), (1, 1), "each is recorded once");
}

#[tokio::test]
async fn what_cannot_serve_leaves_the_old_process_serving() {
    let page = Recorder::start().await;
    let mut gate = world(&page, 60)
        .launch(|launch| launch.program = Some("wicketgate-here".to_owned()))
        .start()
        .await;
    let mut browser = gate.login("vera").await;

    // A configuration with a mistake.
    let good = std::fs::read_to_string(gate.config_file()).unwrap();
    gate.rewrite(|config| config["routes"][0]["upstreem"] = json!("a"));
    refused(&mut gate, "it can't serve (exit status: 1)").await;
    browser.get("/").await.expect(200);

    // One that it finds out about only when the store is its own already.
    let good: Value = serde_json::from_str(&good).unwrap();
    gate.rewrite(|config| {
        *config = good.clone();
        config["store"]["path"] = json!("/proc/nonexistent/store");
    });
    refused(&mut gate, "it could not open the store or the audit log").await;
    browser.get("/").await.expect(200);
    // The store is back: a session is written and read.
    gate.rewrite(|config| *config = good);
    gate.login("otto").await.get("/").await.expect(200);

    // Another program; a version that does it in another way; and none.
    let program = gate.folder().join("wicketgate-here");
    let real = std::fs::read_link(&program).unwrap();
    let put = |script: &str| {
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, executable).unwrap();
    };
    put("exit 3");
    refused(&mut gate, "exit status: 3").await;
    let hello = r#"{"Hello":{"protocol":99,"version":"9.9.9"}}"#;
    let length = hello.len();
    // A frame, to what is both its standard input and the way back.
    put(&format!("printf '\\000\\000\\000\\{length:03o}%s' '{hello}' >&0; exec sleep 600"));
    refused(&mut gate, "version 9.9.9 hands over otherwise: restart the gate").await;
    std::fs::remove_file(&program).unwrap();
    refused(&mut gate, "can't be started").await;
    browser.get("/").await.expect(200);
    assert!(gate.process.exited().is_none());

    // And then it works.
    std::os::unix::fs::symlink(real, &program).unwrap();
    upgrade(&gate, gate.process.id()).await;
    browser.get("/").await.expect(200);
    gate.assert_audit_verifies();
}

/// As a package manager does it: another file by that name, and what runs has none any more.
#[tokio::test]
async fn the_file_in_the_place_of_the_running_one_takes_over() {
    let page = Recorder::start().await;
    let gate = world(&page, 60)
        .launch(|launch| launch.program = Some("wicketgate-here".to_owned()))
        .start()
        .await;
    let mut browser = gate.login("vera").await;
    let program = gate.folder().join("wicketgate-here");
    let mut process = gate.process.id();
    for version in ["the second build", "the third build"] {
        let unpacked = gate.folder().join("wicketgate-here.new");
        std::fs::copy(binary(), &unpacked).unwrap();
        let mut file = std::fs::File::options().append(true).open(&unpacked).unwrap();
        file.write_all(version.as_bytes()).unwrap();
        drop(file);
        std::fs::rename(&unpacked, &program).unwrap();
        process = upgrade(&gate, process).await;
        let runs = std::fs::read(format!("/proc/{process}/exe")).unwrap();
        assert!(runs.ends_with(version.as_bytes()), "not {version}");
        browser.get("/").await.expect(200);
    }
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_stop_in_the_middle_of_an_upgrade_ends_both_processes_with_a_whole_log() {
    let page = Recorder::start().await;
    let mut held = Held::start().await;
    let manager = Notifications::listen();
    let path = manager.path.clone();
    let mut gate = world(&page, 600)
        .route(durable("held", "/held", &held.url))
        .launch(move |launch| launch.environment.push(("NOTIFY_SOCKET".to_owned(), path)))
        .start()
        .await;
    let mut vera = gate.login("vera").await;
    let mut running = vera.clone();
    let running =
        tokio::spawn(async move { running.send(Method::GET, "/held", &[], "".into()).await });
    held.arrived().await;
    let second = upgrade(&gate, gate.process.id()).await;
    manager.heard(0, &[&format!("MAINPID={second}")]).await;
    vera.get("/").await.expect(200);
    gate.process.signal("USR2");
    signal(second, "USR2");
    let process = &mut gate.process;
    process
        .line("a refusal", |line| line.contains("the former process still serves").then_some(()))
        .await;
    assert_eq!(successors(&gate), [second]);

    signal(second, "TERM");
    held.release();
    running.await.unwrap().expect(200);
    let status = eventually("the end of the old process", async || gate.process.exited()).await;
    assert!(status.success(), "{status}");
    eventually("the end of the new one", async || (!is_alive(second)).then_some(())).await;
    gate.assert_audit_verifies();
    let records = gate.audit();
    let events: Vec<_> = records.iter().rev().take(2).map(|one| one["event"].clone()).collect();
    assert_eq!(events, ["stopped", "replaced"], "the one with the log is the last");
}

#[tokio::test]
async fn old_and_new_process_share_one_memory_budget() {
    let budget = 160 << 20;
    let (page, mut held) = (Recorder::start().await, Held::start().await);
    let mut gate = world(&page, 600)
        .route(durable("held", "/held", &held.url))
        .configure(|config| {
            config["limits"] = json!({ "memory": "160MiB" });
            config["listeners"][0]["limits"] =
                json!({ "max_header_bytes": "1MiB", "header_timeout": "60s" });
        })
        .start()
        .await;
    let mut running = gate.login("vera").await;
    let running =
        tokio::spawn(async move { running.send(Method::GET, "/held", &[], "".into()).await });
    held.arrived().await;
    let former = gate.process.id();
    upgrade(&gate, former).await;
    let (mut ballast, mut resident) = (Vec::new(), 0.0);
    while !sampled(&gate, &mut resident).await {
        for _ in 0..5 {
            ballast.push(bounds::ballast(&gate).await.expect("a connection"));
        }
    }
    // Each alone would have had room for more.
    let told = |line: &str| line.contains("memory is short").then(|| line.to_owned());
    let line = gate.process.line("who has too much", told).await;
    let of = |name: &str| -> u64 {
        let (_, rest) = line.split_once(&format!(" {name}=")).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let (resident, beside) = (of("resident"), of("beside"));
    assert!(resident < budget && resident + beside >= budget, "{line}");
    held.release();
    running.await.unwrap().expect(200);
}

#[tokio::test]
async fn when_the_newer_process_dies_the_old_one_lets_nobody_in() {
    let page = Recorder::start().await;
    let mut gate = world(&page, 600).start().await;
    let vera = gate.login("vera").await;
    let cookies = vera.cookies_for(&vera.url("/"));
    let request = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: {HOST}:{}\r\ncookie: {cookies}\r\n\r\n", gate.port())
    };
    let mut kept = Raw::connect(&vera).await;
    kept.send(request("/before").as_bytes()).await;
    assert_eq!(kept.answer().await.unwrap().status, 200);
    let late = request("/after");
    let second = upgrade(&gate, gate.process.id()).await;
    signal(second, "KILL");
    eventually("its end", async || (!is_alive(second)).then_some(())).await;
    kept.send(late.as_bytes()).await;
    if let Some(answer) = kept.answer().await {
        assert_eq!(answer.status, 503, "{}", answer.head);
    }
    assert!(!page.requests().iter().any(|one| one.line().contains("/after")));
    eventually("the end of the old process", async || gate.process.exited()).await;
    gate.restart().await;
    gate.login("vera").await.get("/").await.expect(200);
    gate.assert_audit_verifies();
}

#[test]
fn only_a_gate_can_ask_for_its_place_to_be_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.yaml");
    let output =
        Command::new(binary()).args(["run", "--take-over", "--config"]).arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
