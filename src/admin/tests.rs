//! The admin listener over real sockets.

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn ready() -> Readiness {
    Readiness {
        listeners: vec![ListenerState {
            name: "public".into(),
            address: "127.0.0.1:443".parse().unwrap(),
        }],
        configuration_generation: 3,
        last_reload: Some(Reload {
            at: Timestamp::from_seconds(1_700_000_000),
            error: Some("unknown key `upstreem`".into()),
        }),
        refused_certificates: Vec::new(),
        audit_healthy: true,
        store_healthy: true,
        stopping: false,
        identity_providers_reachable: [("main".into(), Some(false))].into(),
        memory_short: false,
    }
}

struct Running {
    address: SocketAddr,
    readiness: Arc<Mutex<Readiness>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let readiness = Arc::new(Mutex::new(ready()));
        let shown = Arc::clone(&readiness);
        let admin =
            Admin { metrics: Metrics::new(), readiness: Arc::new(move || shown.lock().clone()) };
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(admin.serve(listener, stop.clone()));
        Self { address, readiness, stop, task }
    }

    async fn ask(&self, request_line: &str, hosts: &[&str]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let hosts: String = hosts.iter().map(|host| format!("host: {host}\r\n")).collect();
        let request = format!("{request_line} HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn metrics_and_liveness_are_there_for_get_and_head() {
    let admin = Running::start().await;
    let metrics = admin.ask("GET /metrics", &["127.0.0.1:9000"]).await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("wicketgate_"), "{metrics}");
    let health = admin.ask("GET /healthz", &["[::1]"]).await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("alive\n"), "{health}");
    let head = admin.ask("HEAD /healthz", &["localhost"]).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn readiness_names_what_is_wrong_and_a_refused_reload_is_not_it() {
    let admin = Running::start().await;
    let answer = admin.ask("GET /readyz", &["127.0.0.1"]).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("unknown key `upstreem`"), "{answer}");
    for (what, break_it) in [
        ("audit", (|state| state.audit_healthy = false) as fn(&mut Readiness)),
        ("store", |state| state.store_healthy = false),
        ("memory", |state| state.memory_short = true),
        ("stop", |state| state.stopping = true),
        ("listeners", |state| state.listeners.clear()),
        ("configuration", |state| state.configuration_generation = 0),
    ] {
        let mut state = ready();
        break_it(&mut state);
        *admin.readiness.lock() = state;
        let answer = admin.ask("GET /readyz", &["127.0.0.1"]).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{what}: {answer}");
        assert!(answer.contains("\"ready\": false"), "{what}: {answer}");
    }
}

#[tokio::test]
async fn a_name_that_may_have_been_rebound_gets_nothing() {
    let admin = Running::start().await;
    for hosts in [&["evil.example"][..], &["gate.localhost"], &[], &["127.0.0.1", "127.0.0.1"]] {
        let answer = admin.ask("GET /metrics", hosts).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{hosts:?}: {answer}");
    }
    let answer = admin.ask("GET http://evil.example/metrics", &["127.0.0.1"]).await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}

#[tokio::test]
async fn nothing_can_be_changed_and_nothing_else_is_there() {
    let admin = Running::start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = admin.ask(&format!("{method} /readyz"), &["127.0.0.1"]).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    assert!(admin.ask("GET /", &["127.0.0.1"]).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_stop_ends_connections_at_rest() {
    let admin = Running::start().await;
    let mut stream = TcpStream::connect(admin.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    admin.stop.cancel();
    admin.task.await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}
