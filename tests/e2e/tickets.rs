//! TLS sessions that resume, and those that must not.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::gate::{HOST, mentions};
use crate::harness::pki::write_secret;
use crate::harness::port;
use crate::harness::{Gate, Recorder, Setup, eventually};

const ONE: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n";
const TWO: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=\n";

/// A client that keeps its sessions in a file (`openssl s_client`).
struct Client {
    sessions: tempfile::TempDir,
    options: Vec<String>,
}

impl Client {
    fn new(options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self { sessions: tempfile::tempdir().unwrap(), options }
    }

    fn session(&self) -> PathBuf {
        self.sessions.path().join("session.pem")
    }

    /// Asks for a page; whether the session was resumed. The ticket that comes is kept.
    fn ask(&self, address: &str) -> bool {
        let session = self.session();
        let session = session.to_str().unwrap();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", address, "-servername", HOST, "-ign_eof"]);
        if self.session().exists() {
            command.args(["-sess_in", session]);
        }
        command.args(["-sess_out", session]).args(&self.options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("openssl: run ./test once");
        let port = address.rsplit_once(':').unwrap().1;
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}:{port}\r\nconnection: close\r\n\r\n");
        process.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("HTTP/1.1 401"), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let tickets = usize::from(said.contains(", TLSv1.3, "));
        assert_eq!(said.matches("New Session Ticket arrived").count(), tickets, "{said}");
        assert_ne!(said.contains("\nReused, "), said.contains("\nNew, "), "{said}");
        said.contains("\nReused, ")
    }
}

/// A gate whose public listener has these secrets.
fn sharing(upstream: &Recorder, secrets: &'static str, folder: &Path) -> (Setup, PathBuf) {
    let path = folder.join("ticket.keys");
    write_secret(&path, secrets);
    let file = path.clone();
    let setup = Gate::with_upstream(upstream)
        .configure(move |config| config["listeners"][0]["tls"]["ticket_keys"] = json!(file));
    (setup, path)
}

#[tokio::test]
async fn a_session_resumes_after_a_restart_and_at_another_gate_with_the_same_secret() {
    let page = Recorder::start().await;
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut one = sharing(&page, ONE, folder.path()).0.start().await;
    let two = sharing(&page, ONE, elsewhere.path()).0.start().await;
    let stranger = Gate::with_upstream(&page).start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let client = Client::new(&[version]);
        let [first, second, third] = [&one, &two, &stranger].map(|gate| gate.address().to_string());
        assert!(!client.ask(&first), "{version}: the first time");
        assert!(client.ask(&first) && client.ask(&second) && client.ask(&first), "{version}");
        one.process.kill();
        one.restart().await;
        assert!(client.ask(&first), "{version}: after a restart");
        assert!(!client.ask(&third), "{version}: a gate with a secret of its own");
    }
    assert!(two.metric("wicketgate_tls_handshakes_total", "resumed").await >= 2.0);
    assert_eq!(stranger.metric("wicketgate_tls_handshakes_total", "resumed").await, 0.0);

    // Another TLS library's client than the harness' and OpenSSL's command, in one process.
    let program = "import socket, ssl, sys\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n\
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n\
        session = None\n\
        for port in sys.argv[2:]:\n\
        \x20   with socket.create_connection(('127.0.0.1', int(port))) as plain:\n\
        \x20       with context.wrap_socket(plain, server_hostname=sys.argv[1], session=session) as tls:\n\
        \x20           tls.sendall(b'GET / HTTP/1.1\\r\\nhost: %s:%s\\r\\nconnection: close\\r\\n\\r\\n' % (sys.argv[1].encode(), port.encode()))\n\
        \x20           while tls.recv(65536): pass\n\
        \x20           print('resumed' if tls.session_reused else 'full', end=' ')\n\
        \x20           session = tls.session\n";
    let ports = [&one, &two, &stranger].map(|gate| gate.port().to_string());
    let output = Command::new("python3").args(["-c", program, HOST]).args(ports).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "full resumed full ",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn a_session_is_never_found_by_its_id() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let client = Client::new(&["-tls1_2", "-no_ticket"]);
    for _ in 0..3 {
        assert!(!client.ask(&gate.address().to_string()), "the gate kept a session");
    }
}

#[tokio::test]
async fn a_session_resumes_after_an_upgrade_without_a_shared_secret() {
    let gate = Gate::with_upstream(&Recorder::start().await)
        .launch(|launch| {
            launch.arguments = vec!["--replaced-timeout".to_owned(), "1".to_owned()];
        })
        .start()
        .await;
    let (client, address) = (Client::new(&[]), gate.address().to_string());
    assert!(!client.ask(&address));
    gate.process.signal("USR2");
    eventually("the newer process", async || {
        gate.process
            .output()
            .iter()
            .any(|line| line.contains("a newer process serves"))
            .then_some(())
    })
    .await;
    assert!(client.ask(&address), "by the process that took over");
    // Its metrics are its own: it was no other.
    assert_eq!(gate.metric("wicketgate_tls_handshakes_total", "full").await, 0.0);
}

#[tokio::test]
async fn a_ticket_is_no_good_at_another_listener_or_under_another_device_ca() {
    let page = Recorder::start().await;
    let folder = tempfile::tempdir().unwrap();
    let other = port::free().to_string();
    let (setup, _) = sharing(&page, ONE, folder.path());
    let second = other.clone();
    let mut gate = setup
        .devices(|authority, folder| {
            authority.client("laptop").write(folder, "laptop");
            "devices: []\n".to_owned()
        })
        .configure(move |config| {
            let mut listener = config["listeners"][0].clone();
            listener["name"] = json!("plant");
            listener["address"] = json!(second);
            config["listeners"].as_array_mut().unwrap().push(listener);
        })
        .start()
        .await;
    let file = |name: &str| gate.folder().join(name).display().to_string();
    let own = ["-cert", &file("laptop.pem"), "-key", &file("laptop.key")];
    let (client, address) = (Client::new(&own), gate.address().to_string());
    assert!(!client.ask(&address) && client.ask(&address));
    let kept = fs::read(client.session()).unwrap();
    assert!(!client.ask(&other), "the other listener has the same secret and the same CA");

    let applied = gate.metric("wicketgate_reloads_total", "applied").await;
    let none = gate.folder().join("ca.pem");
    gate.rewrite(|config| config["listeners"][0]["tls"]["client_ca"] = json!(none));
    eventually("the reload", async || {
        (gate.metric("wicketgate_reloads_total", "applied").await > applied).then_some(())
    })
    .await;
    // Without a certificate now: nothing but the ticket would say that it is the laptop.
    let client = Client::new(&[]);
    fs::write(client.session(), kept).unwrap();
    assert!(!client.ask(&address), "under another CA");
}

#[tokio::test]
async fn secrets_are_exchanged_while_the_gate_runs_and_a_bad_file_changes_nothing() {
    let page = Recorder::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (setup, file) = sharing(&page, ONE, folder.path());
    let gate = setup.start().await;
    let (client, address) = (Client::new(&[]), gate.address().to_string());
    let applied = async |at_least: f64| {
        eventually("the reload", async || {
            let applied = gate.metric("wicketgate_reloads_total", "applied").await;
            (applied >= at_least).then_some(())
        })
        .await;
    };
    assert!(!client.ask(&address));
    let both: &str = &format!("{TWO}{ONE}");
    write_secret(&file, both);
    applied(1.0).await;
    assert!(client.ask(&address), "the old secret still opens");

    write_secret(&file, "c2hvcnQ=\n");
    gate.audited("the refusal", |record| {
        mentions(record, &["configuration-refused", "ticket.keys:1", "too short"])
    })
    .await;
    assert!(client.ask(&address), "the good ones stay");

    let old = Client::new(&[]);
    write_secret(&file, ONE);
    applied(2.0).await;
    assert!(!old.ask(&address) && old.ask(&address));
    write_secret(&file, TWO);
    applied(3.0).await;
    assert!(!old.ask(&address), "what is gone from the file opens nothing");
}
