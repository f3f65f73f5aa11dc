//! Who is suspended is out at once and stays out; and what operators ask the running gate.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::gate::{mentions, route};
use crate::harness::pki::Identity;
use crate::harness::servers::Echo;
use crate::harness::{Gate, Recorder, not_checked, websocket};

const PROMISE: Duration = Duration::from_secs(2);

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn asks(gate: &Gate, arguments: &[&str]) -> String {
    let output = gate.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

#[track_caller]
fn asks_json(gate: &Gate, arguments: &[&str]) -> Value {
    let output = gate.command(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn status(browser: &crate::harness::Browser) -> u16 {
    browser.clone().as_program().get("/").await.status
}

#[tokio::test]
async fn a_suspended_user_is_out_at_once_and_over_a_restart_until_restored() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let setup = Gate::setup().route(route("app", "/", &page.url()));
    let mut gate = setup.route(route("ws", "/ws", &echo.url)).start().await;
    let vera = gate.login("vera").await;
    let otto = gate.login("otto").await;
    let mut socket = websocket::opened(&vera, &mut echo).await;

    let start = Instant::now();
    let answer = asks(&gate, &["users", "suspend", "test/vera", "--reason", "lost laptop"]);
    assert!(answer.contains("`test/vera` is suspended; 1 session ended"), "{answer}");
    websocket::closed(&mut socket).await;
    assert!(start.elapsed() < PROMISE, "{:?}", start.elapsed());
    let cut = |record: &Value| mentions(record, &["connection-cut", "the user is suspended"]);
    gate.audited("the cut", cut).await;
    gate.audited("the end of the session", |record| {
        record["event"] == "session-ended" && record["reason"] == "suspended"
    })
    .await;
    gate.audited("the suspension", |record| {
        record["event"] == "administered"
            && record["action"] == "suspend-user"
            && record["target"] == "test/vera"
            && record["reason"] == "lost laptop"
            && record["by"].as_str().is_some_and(|by| by.starts_with("uid:"))
    })
    .await;
    assert_eq!((status(&vera).await, status(&otto).await), (401, 200));

    for restarted in [false, true] {
        if restarted {
            gate.process.kill();
            gate.restart().await;
        }
        let mut browser = gate.browser();
        let refused = gate.sign_in(&mut browser, "vera", "/").await.expect(403);
        assert_eq!(browser.session_cookie(), None);
        let id = refused.header("x-wicketgate-decision").unwrap().to_owned();
        let text = refused.text();
        assert!(text.contains(&id) && text.contains("suspended"), "{text}");
        let record = gate.audited("the refusal", |record| record["id"] == id.as_str()).await;
        assert_eq!(
            (&record["reason"], &record["principal"]),
            (&json!("suspended"), &json!("test/vera"))
        );
        assert_eq!(status(&otto).await, 200);
    }
    let listed = asks(&gate, &["users", "list"]);
    assert!(listed.contains("test/vera") && listed.contains("lost laptop"), "{listed}");

    assert!(asks(&gate, &["users", "restore", "test/vera"]).contains("may come in again"));
    assert!(asks(&gate, &["users", "restore", "test/vera"]).contains("was not suspended"));
    assert!(asks(&gate, &["users", "list"]).contains("none"));
    assert_eq!(status(&vera).await, 401, "the session that ended stays so");
    assert_eq!(status(&gate.login("vera").await).await, 200);
}

#[tokio::test]
async fn a_suspended_tenant_is_out_with_all_its_users_and_nobody_else() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let (ada, grace) = (gate.login("ada").await, gate.login("grace").await);
    asks(&gate, &["tenants", "suspend", "acme"]);
    assert_eq!((status(&ada).await, status(&grace).await), (401, 200));
    let mut browser = gate.browser();
    let refused = gate.sign_in(&mut browser, "ada", "/").await.expect(403);
    assert!(refused.text().contains("tenant is suspended"), "{refused:?}");
    asks(&gate, &["tenants", "restore", "acme"]);
    assert_eq!(status(&ada).await, 401, "the session that ended stays so");
    gate.login("ada").await;
}

#[tokio::test]
async fn from_a_suspended_device_nothing_is_served_and_from_others_all_is() {
    let (page, mut echo) = (Recorder::start().await, Echo::start().await);
    let setup = Gate::setup().route(route("app", "/", &page.url()));
    let gate = setup
        .route(route("ws", "/ws", &echo.url))
        .devices(|authority, folder| {
            let one = |name: &str| {
                authority.client(name).write(folder, name);
                format!("  - id: {name}\n    certificate: {{ common_name: {name} }}\n")
            };
            format!("devices:\n{}{}", one("laptop"), one("tablet"))
        })
        .start()
        .await;
    let read = |name: &str| Identity {
        certificate: std::fs::read_to_string(gate.folder().join(format!("{name}.pem"))).unwrap(),
        key: std::fs::read_to_string(gate.folder().join(format!("{name}.key"))).unwrap(),
    };
    let session = gate.login("vera").await.session_cookie().unwrap();
    let [mut laptop, mut tablet] = ["laptop", "tablet"].map(|name| gate.browser_on(&read(name)));
    laptop.set_session_cookie(&session);
    tablet.set_session_cookie(&session);
    let mut socket = websocket::opened(&laptop, &mut echo).await;

    asks(&gate, &["devices", "suspend", "laptop"]);
    websocket::closed(&mut socket).await;
    let cut = |record: &Value| mentions(record, &["connection-cut", "the device is suspended"]);
    gate.audited("the cut", cut).await;
    assert_eq!((status(&laptop).await, status(&tablet).await), (403, 200));
    asks(&gate, &["devices", "restore", "laptop"]);
    assert_eq!((status(&laptop).await, status(&tablet).await), (200, 200));
}

#[tokio::test]
async fn operators_list_show_and_revoke_sessions_and_that_is_on_record() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let (ada, first, second) =
        (gate.login("ada").await, gate.login("vera").await, gate.login("vera").await);
    let all = asks_json(&gate, &["sessions", "list"]);
    assert_eq!(all["sessions"].as_array().unwrap().len(), 3, "{all}");
    let listed = asks_json(&gate, &["sessions", "list", "--user", "test/ada"]);
    let session = &listed["sessions"][0];
    assert_eq!(session["user"], "test/ada");
    assert_eq!(session["tenant"], "acme");
    let text = asks(&gate, &["sessions", "list", "--limit", "2"]);
    assert!(text.contains("SESSION") && text.contains("There are more"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("test/")).count(), 2, "{text}");
    for browser in [&ada, &first, &second] {
        let secret = browser.session_cookie().unwrap();
        assert!(!all.to_string().contains(&secret) && !all.to_string().contains("eyJ"));
    }

    let id = session["session"].as_str().unwrap();
    let shown = asks(&gate, &["sessions", "show", id]);
    for part in ["test/ada", "Ada Acme", "acme", "customers", "app.localhost"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // A mistyped one is told before the other is ended.
    let wrong = gate.command(&["sessions", "revoke", id, "0123456789abcdef"]);
    assert!(!wrong.status.success());
    assert!(said(&wrong).contains("there is no session `0123456789abcdef`"), "{}", said(&wrong));
    assert_eq!(status(&ada).await, 200);

    assert!(asks(&gate, &["sessions", "revoke", id]).contains("1 session ended"));
    assert_eq!((status(&ada).await, status(&first).await), (401, 200));
    let gone = gate.command(&["sessions", "show", id]);
    assert!(
        said(&gone).contains("`wicketgate sessions list` shows those there are"),
        "{}",
        said(&gone)
    );
    assert!(
        asks(&gate, &["sessions", "revoke", "--user", "test/vera"]).contains("2 sessions ended")
    );
    assert_eq!((status(&first).await, status(&second).await), (401, 401));
    for action in ["list-sessions", "show-session", "revoke-sessions", "revoke-sessions-of-user"] {
        gate.audited(action, |record| record["action"] == action).await;
    }
    let revoked = gate.audit().into_iter().filter(|record| record["reason"] == "revoked").count();
    assert_eq!(revoked, 3);
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_mistyped_name_is_refused_because_nobody_would_be_shut_out() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    for (ask, answer) in [
        (["users", "suspend", "vera"], "`vera` is no user's id; write PROVIDER/SUBJECT"),
        (["users", "suspend", "tset/vera"], "is no user's id"),
        (["devices", "suspend", "latpop"], "there is no device `latpop` in the device registry"),
    ] {
        let output = gate.command(&ask);
        assert!(!output.status.success(), "{ask:?}");
        assert!(said(&output).contains(answer), "{}", said(&output));
    }
    asks(&gate, &["users", "suspend", "certificate/historian"]);
    // Who is not there any more can be let in again.
    asks(&gate, &["users", "restore", "vera"]);
}

#[tokio::test]
async fn without_a_gate_the_commands_say_so() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    gate.process.kill();
    let output = gate.command(&["sessions", "list"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("no gate answers at"), "{}", said(&output));
    assert!(said(&output).contains("is it running"), "{}", said(&output));
}

#[tokio::test]
async fn another_user_of_the_machine_is_refused_even_where_the_socket_lets_him_in() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let socket = gate.folder().join("audit/admin.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for (path, mode) in
        [(gate.folder(), 0o711), (&gate.folder().join("audit"), 0o711), (&socket, 0o666)]
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // Perl is part of every Debian, and where every user may run it.
    let program = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!;\
        print $s qq({\"ask\":\"list-sessions\",\"user\":null,\"limit\":9}\\n); print <$s>;";
    let ask = |user: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--clear-groups", "/usr/bin/perl", "-e", program]);
        command.arg(&socket).output().unwrap()
    };
    let allowed = ask("0");
    if !allowed.status.success() {
        not_checked("the admin socket's answer to another user: only root can ask as one");
        return;
    }
    assert!(said(&allowed).contains("\"answer\":\"sessions\""), "{}", said(&allowed));
    let refused = said(&ask("65534"));
    assert!(refused.contains("only root and the user that the gate runs as"), "{refused}");
    assert!(!refused.contains("sessions\":"), "{refused}");
}

#[tokio::test]
async fn the_admin_socket_answers_again_once_there_are_descriptors() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    // What is open stays; nothing more can be opened.
    gate.process.limit_descriptors(1);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| asks(&gate, &["users", "list"]));
        let started = Instant::now();
        let says = |words: &str| gate.process.output().iter().any(|line| line.contains(words));
        while !says("the admin socket can't take a connection") {
            assert!(started.elapsed() < Duration::from_secs(30), "it was taken");
            std::thread::yield_now();
        }
        gate.process.limit_descriptors(1024);
        assert!(asked.join().unwrap().contains("none"));
    });
}
