//! The gate where the kernel kills whoever takes too much: it turns clients away before that.
//!
//! Nothing of its memory is configured here: what it may take, it finds out by itself, and what
//! one client may take up are the defaults. And what connections keep of what is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::harness::caller::call;
use crate::harness::gate::{HOST, mentions, route};
use crate::harness::pki::client_config;
use crate::harness::raw::RawAnswer;
use crate::harness::{
    Browser, Gate, Held, MemoryGroup, Raw, Recorder, eventually, not_checked, within,
};

const MIB: u64 = 1 << 20;

/// A group with this limit; nothing where the machine has none to give.
fn limited(mebibytes: u64) -> Option<MemoryGroup> {
    MemoryGroup::limited(mebibytes * MIB)
        .map_err(|cause| not_checked(&format!("memory under a limit of the kernel's: {cause}")))
        .ok()
}

/// Where one can connect, and nobody answers: the queue of connections is full. So what a client
/// sends stays with the gate, and not in the kernel's buffers on the way to an upstream.
struct Stuck {
    url: String,
    _queue: (TcpListener, Vec<tokio::task::JoinHandle<std::io::Result<TcpStream>>>),
}

impl Stuck {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // The kernel takes one more than it was told.
        for _ in 0..2 {
            TcpStream::connect(address).await.unwrap();
        }
        let more = (0..2).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
        Self { url: format!("http://{address}"), _queue: (listener, more) }
    }
}

/// Somebody who is signed in, on as many connections from 127.0.0.0/8 as he likes.
#[derive(Clone)]
struct Attacker {
    address: std::net::SocketAddr,
    host: String,
    cookie: String,
    h1: Arc<rustls::ClientConfig>,
    h2: Arc<rustls::ClientConfig>,
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

impl Attacker {
    fn new(gate: &Gate, browser: &Browser) -> Self {
        Self {
            address: gate.address(),
            host: format!("{HOST}:{}", gate.port()),
            cookie: browser.cookies_for(&browser.url("/")),
            h1: client_config(&gate.authority, None, &["http/1.1"]),
            h2: client_config(&gate.authority, None, &["h2"]),
        }
    }

    /// A connection, unless the gate closes it.
    async fn connect(&self, last: u8, tls: &Arc<rustls::ClientConfig>) -> Option<Tls> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(std::net::SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        let stream = socket.connect(self.address).await.ok()?;
        let name = ServerName::try_from(HOST).unwrap();
        let tls = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        within("a handshake or its end", tls).await.ok()
    }

    /// Almost all of a header that the gate would take.
    async fn header(&self, last: u8) -> Option<Tls> {
        let padding = format!("x: {}\r\n", "x".repeat(1000)).repeat(29);
        self.send(last, &format!("GET / HTTP/1.1\r\nhost: {}\r\n{padding}", self.host)).await
    }

    /// The beginning of a large body.
    async fn body(&self, last: u8) -> Option<Tls> {
        let (host, cookie, body) = (&self.host, &self.cookie, "x".repeat(100_000));
        let lines = format!("host: {host}\r\ncookie: {cookie}\r\ncontent-length: 1000000\r\n");
        self.send(last, &format!("POST /stuck HTTP/1.1\r\n{lines}\r\n{body}")).await
    }

    /// Over HTTP/2.
    fn request(&self) -> Request<()> {
        let page = Request::get(format!("https://{}/", self.host));
        page.header("cookie", &self.cookie).body(()).unwrap()
    }

    async fn send(&self, last: u8, bytes: &str) -> Option<Tls> {
        let mut stream = self.connect(last, &self.h1).await?;
        let sent = async {
            stream.write_all(bytes.as_bytes()).await?;
            stream.flush().await
        };
        // Half a body may be all that the gate wants to read for now.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), sent).await;
        Some(stream)
    }

    /// A connection over HTTP/2 with this many requests, each with a body of so many bytes that
    /// doesn't end.
    async fn streams(&self, last: u8, path: &str, count: usize, body: usize) -> Option<Streams> {
        let stream = self.connect(last, &self.h2).await?;
        let (client, connection) = h2::client::handshake(stream).await.ok()?;
        let mut streams = Streams { connection: tokio::spawn(connection), sending: Vec::new() };
        for _ in 0..count {
            let mut client = client.clone().ready().await.ok()?;
            let request = Request::post(format!("https://{}{path}", self.host))
                .header("cookie", &self.cookie)
                .body(())
                .unwrap();
            let (answer, mut sender) = client.send_request(request, false).ok()?;
            // As much of it goes out as the windows take.
            let _ = sender.send_data(Bytes::from(vec![b'x'; body]), false);
            streams.sending.push((answer, sender));
        }
        Some(streams)
    }
}

/// Held open as long as this lives.
struct Streams {
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
    sending: Vec<(h2::client::ResponseFuture, h2::SendStream<Bytes>)>,
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[derive(Default)]
struct Taken {
    plain: Vec<Tls>,
    streams: Vec<Streams>,
}

impl Taken {
    /// Thirty connections at once: headers, bodies and windows. Whether all were let in.
    async fn more(&mut self, attacker: &Attacker, wave: u8) -> bool {
        let (mut plain, mut streams) = (JoinSet::new(), JoinSet::new());
        for at in 0..10 {
            let (last, one) = (2 + (wave * 10 + at) % 200, attacker.clone());
            let (two, three) = (one.clone(), one.clone());
            plain.spawn(async move { one.header(last).await });
            plain.spawn(async move { two.body(last).await });
            streams.spawn(async move { three.streams(last, "/stuck", 4, 256 * 1024).await });
        }
        let (plain, streams) = (plain.join_all().await, streams.join_all().await);
        let all = plain.iter().all(Option::is_some) && streams.iter().all(Option::is_some);
        self.plain.extend(plain.into_iter().flatten());
        self.streams.extend(streams.into_iter().flatten());
        all
    }
}

/// A gate in the group, before the page and before what never connects.
async fn before(page: &Recorder, stuck: &Stuck, group: &MemoryGroup) -> Gate {
    let mut to_stuck = route("stuck", "/stuck", &stuck.url);
    to_stuck["timeouts"] = json!({ "connect": "2m" });
    let joining = group.joining();
    Gate::with_upstream(page)
        .route(to_stuck)
        .launch(|launch| launch.parent = Some(joining))
        .start()
        .await
}

#[tokio::test]
async fn a_gate_with_little_memory_sheds_before_the_kernel_kills_it_and_recovers() {
    let Some(group) = limited(256) else { return };
    let (page, stuck) = (Recorder::start().await, Stuck::start().await);
    let mut gate = before(&page, &stuck, &group).await;
    assert_eq!(budget(&gate).await, 192 * MIB, "three quarters of what the kernel grants");
    let mut vera = gate.login("vera").await.as_program();
    vera.get("/").await.expect(200);
    let attacker = Attacker::new(&gate, &vera);
    let mut neighbour = Raw::connect(&vera).await;
    let mut taken = Taken::default();
    let mut waves = 0;
    while gate.admin("/readyz").await.unwrap().0 == 200 {
        assert!(waves < 100, "nothing was ever refused");
        taken.more(&attacker, waves).await;
        waves += 1;
    }
    is_turned_away(&gate, &vera, &mut neighbour).await;
    // Whoever pushes on finds the door closed, and the gate goes on living.
    for wave in 0..10 {
        taken.more(&attacker, waves + wave).await;
    }
    assert!(gate.process.exited().is_none(), "the gate has ended");
    assert_eq!(group.kills(), 0);
    let resident = gate.metric("wicketgate_memory_resident_bytes", "").await;
    eprintln!("{waves} waves until it shed, {:.0} MiB resident", resident / 1048576.0);
    assert!(waves >= 2, "it shed at once: the limit says nothing");

    drop(taken);
    eventually("the gate to recover", async || {
        (gate.admin("/readyz").await?.0 == 200).then_some(())
    })
    .await;
    vera.get("/").await.expect(200);
    gate.audited("the refusal", |record| mentions(record, &["overloaded"])).await;
    assert_eq!(group.kills(), 0);
    gate.assert_audit_verifies();
}

/// In bytes, once the gate has looked.
async fn budget(gate: &Gate) -> u64 {
    eventually("the budget", async || {
        let budget = gate.metric("wicketgate_memory_budget_bytes", "").await;
        (budget > 0.0).then_some(budget as u64)
    })
    .await
}

/// On a connection from before; there may be no new ones.
async fn ask(gate: &Gate, browser: &Browser, neighbour: &mut Raw) -> Option<RawAnswer> {
    let cookie = browser.cookies_for(&browser.url("/"));
    let host = format!("{HOST}:{}", gate.port());
    neighbour
        .send(format!("GET / HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n\r\n").as_bytes())
        .await;
    neighbour.answer().await
}

async fn is_turned_away(gate: &Gate, browser: &Browser, neighbour: &mut Raw) {
    let refused = ask(gate, browser, neighbour).await.expect("an answer");
    assert_eq!((refused.status, refused.value("retry-after")), (503, Some("5")), "{refused:?}");
}

/// Turning away is not enough here: these were let in while there was room.
#[tokio::test]
async fn what_was_let_in_before_can_t_fill_more_than_there_is() {
    let Some(group) = limited(256) else { return };
    let (page, stuck) = (Recorder::start().await, Stuck::start().await);
    let mut gate = before(&page, &stuck, &group).await;
    let mut vera = gate.login("vera").await.as_program();
    vera.get("/").await.expect(200);
    let attacker = Attacker::new(&gate, &vera);
    let mut neighbour = Raw::connect(&vera).await;
    let stream = attacker.connect(1, &attacker.h2).await.unwrap();
    let (other, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let mut open = Vec::new();
    for at in 0..350_usize {
        let last = 2 + u8::try_from(at % 200).unwrap();
        open.push(attacker.streams(last, "/stuck", 4, 1).await.expect("a connection"));
    }
    assert_eq!(gate.admin("/readyz").await.unwrap().0, 200, "there was room for them");
    for (_, sender) in open.iter_mut().flat_map(|streams| &mut streams.sending) {
        // With what is there already, a mebibyte for each connection: more than the group has.
        let _ = sender.send_data(Bytes::from(vec![b'x'; 256 * 1024 - 1]), false);
    }
    eventually("memory to be short", async || {
        (gate.admin("/readyz").await.expect("a gate that lives").0 == 503).then_some(())
    })
    .await;
    is_turned_away(&gate, &vera, &mut neighbour).await;
    // Over HTTP/2 not even that is read, and what the tables of the connection hold is freed.
    let mut client = other.ready().await.unwrap();
    let (refused, _) = client.send_request(attacker.request(), true).unwrap();
    within("the connection to end", refused).await.unwrap_err();
    let _ = within("the connection to end", ended).await.unwrap();
    // What is sent on is not read on: it doesn't change any more.
    let mut before = 0.0;
    eventually("memory to stay as it is", async || {
        let resident = gate.metric("wicketgate_memory_resident_bytes", "").await;
        let stays = (resident - before).abs() < 65536.0;
        before = resident;
        stays.then_some(())
    })
    .await;
    eprintln!("{:.0} MiB resident", before / 1048576.0);
    assert!(gate.process.exited().is_none(), "the gate has ended");
    assert_eq!(group.kills(), 0);

    // They stay, and have more to send: some of them have to go before even a refusal gets through.
    let asks = async || {
        let mut neighbour = Raw::try_connect(&vera).await?;
        Some(ask(&gate, &vera, &mut neighbour).await?.status)
    };
    let shed = eventually("a connection to be let go of", async || {
        let shed = gate.metric("wicketgate_connections_shed_total", "").await;
        (shed > 0.0).then_some(())?;
        asks().await?;
        Some(shed)
    })
    .await;
    eprintln!("{shed} connections of {} were let go of", open.len());
    assert!(shed < 350.0, "all of them went");

    drop(open);
    // That all of them have gone it learns by and by, as it reads what they had sent.
    eventually("the gate to recover", async || (asks().await? == 200).then_some(())).await;
    assert_eq!(group.kills(), 0);
    gate.assert_audit_verifies();
}

/// A default of the listener that this test goes up to and past.
const HANDSHAKES: usize = 1000;
const STREAMS: usize = 100;
/// What one user may have under way on a route: three quarters of `max_in_flight`.
const IN_FLIGHT: usize = 4096 / 4 * 3;

#[tokio::test]
async fn the_defaults_hold_in_half_a_gibibyte_and_a_neighbour_is_served() {
    let Some(group) = limited(512) else { return };
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= 16_384);
    if !enough(descriptors.maximum) {
        return not_checked("the default bounds: that takes 16,384 file descriptors");
    }
    let all = rustix::process::Rlimit { current: descriptors.maximum, ..descriptors };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();

    let (page, held) = (Recorder::start().await, Held::start().await);
    let mut gate = Gate::with_upstream(&page)
        .route(route("held", "/held", &held.url))
        .launch(|launch| launch.parent = Some(group.joining()))
        .start()
        .await;
    let mut vera = gate.login("vera").await.as_program();
    let mut otto = gate.login("otto").await.as_program();
    let attacker = Attacker::new(&gate, &vera);
    vera.get("/").await.expect(200);

    // Half-open: the oldest are given up for the newest.
    let mut half_open = Vec::new();
    for at in 0..HANDSHAKES * 2 {
        let mut stream = call(&gate, 2 + u8::try_from(at % 200).unwrap()).await;
        let _ = stream.write_all(b"\x16\x03\x01\x02\x00\x01").await;
        half_open.push(stream);
    }
    otto.get("/").await.expect(200);

    let mut slow = Vec::new();
    for wave in 0..10_u8 {
        let mut headers = JoinSet::new();
        for at in 0..20 {
            let attacker = attacker.clone();
            headers.spawn(async move { attacker.header(2 + wave * 20 + at).await });
        }
        slow.extend(headers.join_all().await);
    }
    assert!(slow.iter().all(Option::is_some));
    otto.get("/").await.expect(200);

    let mut streams = Vec::new();
    for at in 0..IN_FLIGHT / STREAMS + 2 {
        let last = 2 + u8::try_from(at).unwrap();
        streams.push(attacker.streams(last, "/held", STREAMS, 2000).await.expect("a connection"));
        otto.get("/").await.expect(200);
    }
    // As many as one user may have, and not one more.
    let refused = vera.get("/held").await.expect(503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");

    let resident = gate.metric("wicketgate_memory_resident_bytes", "").await;
    eprintln!("{:.0} MiB resident", resident / 1048576.0);
    assert_eq!(budget(&gate).await, 384 * MIB);
    assert!(resident < 384.0 * 1048576.0, "{resident}");
    assert_eq!(gate.admin("/readyz").await.unwrap().0, 200);
    otto.get("/").await.expect(200);
    assert!(gate.process.exited().is_none(), "the gate has ended");
    assert_eq!(group.kills(), 0);
    drop((half_open, slow, streams, held));
    vera.get("/").await.expect(200);
    gate.assert_audit_verifies();
}

/// Answers each request with a field that no other answer has, and a body that is dropped at once.
async fn counting() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let number = Arc::new(AtomicUsize::new(0));
    let answer = move |_| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let answer = hyper::Response::builder().header("x-number", number.to_string());
        // h2 is taken to keep none of these.
        let answer = answer.header("etag", format!("{number:04000}")).header("location", number);
        let answer = answer.header("set-cookie", format!("number={number}"));
        std::future::ready(answer.body(Full::new(Bytes::from_static(&[b'x'; 7000]))))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(answer.clone());
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    format!("http://{address}")
}

const CONNECTIONS: u8 = 60;
/// So many fields of that length fit into the table of an HTTP/2 connection (RFC 9113, section 6.5.2;
/// RFC 7541, section 4.1).
const FIELDS: usize = 80;

#[tokio::test]
async fn http_2_remembers_the_fields_of_answers_and_nothing_besides() {
    let gate = Gate::setup().route(route("app", "/", &counting().await)).start().await;
    let vera = gate.login("vera").await;
    let attacker = Attacker::new(&gate, &vera);
    let mut clients = Vec::new();
    for last in 1..=CONNECTIONS {
        let stream = attacker.connect(last, &attacker.h2).await.expect("a connection");
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    let round = async |clients: Vec<h2::client::SendRequest<Bytes>>| {
        let mut answered = Vec::new();
        for client in clients {
            let mut client = client.ready().await.unwrap();
            let (answer, _) = client.send_request(attacker.request(), true).unwrap();
            let answer = within("an answer", answer).await.unwrap();
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data.unwrap().len()).unwrap();
            }
            answered.push(client);
        }
        answered
    };
    clients = round(clients).await;
    let before = gate.process.resident();
    for _ in 0..FIELDS {
        clients = round(clients).await;
    }
    let more = gate.process.resident().saturating_sub(before) / u64::from(CONNECTIONS);
    eprintln!("{more} bytes more for each connection");
    // The fields themselves, and not the 8 KiB that each of them arrived in.
    assert!(more < 160 * 1024, "{more} bytes for each connection");
}
