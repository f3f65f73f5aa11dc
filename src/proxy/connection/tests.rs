//! Limits and deadlines of a connection, on a pipe and a clock of the test's own.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

pub(in crate::proxy) fn limits() -> ListenerLimits {
    ListenerLimits {
        handshake_timeout: Duration::from_secs(10),
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        max_header_bytes: 32 * 1024,
        max_headers: 100,
        max_connections: 10,
        max_connections_per_address: 10,
        max_handshakes: 10,
        min_data_rate: 240,
        data_rate_grace: Duration::from_secs(20),
    }
}

/// What was said on a connection.
#[derive(Debug)]
pub(super) struct Exchanges {
    pub(super) answer: String,
    pub(super) seen: Vec<http::request::Parts>,
    read: Vec<Bytes>,
    /// Whether reading a body failed.
    pub(super) broken: bool,
    pub(super) all_sent: bool,
}

impl Exchanges {
    pub(super) fn targets(&self) -> Vec<String> {
        self.seen.iter().map(|parts| parts.uri.to_string()).collect()
    }

    pub(super) fn bodies(&self) -> Vec<&[u8]> {
        self.read.iter().map(AsRef::as_ref).collect()
    }
}

#[derive(Debug, Default)]
struct Log {
    seen: Vec<http::request::Parts>,
    read: Vec<Bytes>,
    broken: bool,
}

/// Answers `ok` once it has read the body; at once on `/early`, never on `/hang`.
fn start(
    io: DuplexStream,
    limits: ListenerLimits,
    stop: CancellationToken,
    log: Arc<Mutex<Log>>,
) -> tokio::task::JoinHandle<End> {
    tokio::spawn(async move {
        let activity = Activity::new(true);
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request: Request<Incoming>| {
            let (log, in_flight) = (Arc::clone(&log), requests.begin());
            async move {
                let (mut parts, body) = request.into_parts();
                // It would hold the socket of an upgrade.
                parts.extensions.clear();
                let path = parts.uri.path().to_owned();
                log.lock().unwrap().seen.push(parts);
                if path == "/hang" {
                    std::future::pending::<()>().await;
                }
                if path != "/early" {
                    match body.collect().await {
                        Ok(read) => log.lock().unwrap().read.push(read.to_bytes()),
                        Err(_) => log.lock().unwrap().broken = true,
                    }
                }
                drop(in_flight);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
            }
        });
        serve(io, Protocol::Http1, &limits, &activity, &stop, service).await
    })
}

/// Sends all of `input`, then reads to the end.
pub(super) async fn converse(input: &[u8], limits: &ListenerLimits) -> Exchanges {
    let (mut client, server) = tokio::io::duplex(16 * 1024);
    let log = Arc::new(Mutex::new(Log::default()));
    let task = start(server, limits.clone(), CancellationToken::new(), Arc::clone(&log));
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let mut answer = Vec::new();
    // The writing side stays open: the idle timeout ends what nothing else does.
    let (all_sent, _) = tokio::join!(
        async { writer.write_all(input).await.is_ok() },
        reader.read_to_end(&mut answer)
    );
    drop(client);
    task.await.unwrap();
    let log = std::mem::take(&mut *log.lock().unwrap());
    Exchanges {
        answer: String::from_utf8(answer).unwrap(),
        seen: log.seen,
        read: log.read,
        broken: log.broken,
        all_sent,
    }
}

struct Client {
    io: DuplexStream,
    task: tokio::task::JoinHandle<End>,
    stop: CancellationToken,
    opened: Instant,
}

impl Client {
    fn new() -> Self {
        let (io, server) = tokio::io::duplex(1024);
        let stop = CancellationToken::new();
        let task = start(server, limits(), stop.clone(), Arc::default());
        Self { io, task, stop, opened: Instant::now() }
    }

    async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        self.io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let count = self.io.read(&mut answer).await.unwrap();
        answer.truncate(count);
        String::from_utf8(answer).unwrap()
    }

    /// How the connection ended, and after how many seconds of the test's clock.
    async fn end(self) -> (End, u64) {
        let end = self.task.await.unwrap();
        (end, self.opened.elapsed().as_secs())
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_ends_after_the_idle_timeout() {
    let (end, seconds) = Client::new().end().await;
    assert!(matches!(end, End::Expired), "{end:?}");
    assert_eq!(seconds, 75);
}

#[tokio::test(start_paused = true)]
async fn a_slow_header_ends_the_connection_however_the_bytes_trickle() {
    let mut client = Client::new();
    assert!(client.get("/").await.starts_with("HTTP/1.1 200"));
    tokio::time::advance(Duration::from_secs(20)).await;
    let mut sent = 0;
    let head = "GET / HTTP/1.1\r\nhost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for byte in head.bytes() {
        if client.io.write_all(&[byte]).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (end, _) = client.end().await;
    assert!(matches!(end, End::Expired), "{end:?}");
    assert!((9..=12).contains(&sent), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn every_answer_starts_the_idle_timeout_anew() {
    let mut client = Client::new();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(client.get("/").await.starts_with("HTTP/1.1 200"));
    }
    let (end, seconds) = client.end().await;
    assert!(matches!(end, End::Expired), "{end:?}");
    assert_eq!(seconds, 180 + 75);
}

#[tokio::test(start_paused = true)]
async fn a_running_request_is_not_idle() {
    let mut client = Client::new();
    client.io.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!client.task.is_finished());
    drop(client.io);
    client.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_answer_is_dropped() {
    let mut client = Client::new();
    // The pipe holds 1 KiB; the answers to these are more.
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(200);
    let _ =
        tokio::time::timeout(Duration::from_secs(1), client.io.write_all(request.as_bytes())).await;
    let task = client.task;
    let end = tokio::time::timeout(Duration::from_secs(200), task).await.unwrap().unwrap();
    assert!(matches!(end, End::Expired), "{end:?}");
}

/// Reads so many bytes of far too many answers every five seconds, until the connection ends or a
/// quarter of an hour is over. How it ended, and after how many seconds.
async fn takes_answers_slowly(step: usize) -> Option<(End, u64)> {
    let client = Client::new();
    let (mut reader, mut writer) = tokio::io::split(client.io);
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100_000);
    let asking = tokio::spawn(async move {
        let _ = writer.write_all(request.as_bytes()).await;
    });
    let taking = tokio::spawn(async move {
        let mut bytes = vec![0; step];
        while reader.read_exact(&mut bytes).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let end = tokio::time::timeout(Duration::from_secs(900), client.task).await;
    asking.abort();
    taking.abort();
    end.ok().map(|end| (end.unwrap(), client.opened.elapsed().as_secs()))
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_answers_in_drips_is_dropped_and_a_slow_one_is_not() {
    let (end, seconds) = takes_answers_slowly(64).await.unwrap();
    assert!(matches!(end, End::Expired), "{end:?}");
    // 20 s of grace, and what the 1 KiB in the pipe pays for.
    assert!((20..=30).contains(&seconds), "{seconds}");
    assert!(takes_answers_slowly(1300).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_an_idle_connection_at_once() {
    let mut client = Client::new();
    assert!(client.get("/").await.starts_with("HTTP/1.1 200"));
    client.stop.cancel();
    let mut rest = Vec::new();
    client.io.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    drop(client.io);
    assert!(matches!(client.task.await.unwrap(), End::Closed));
}

/// HTTP/2 over a pipe. Answers at once; on `/later` after 5 s, on `/hang` never. With the answer to
/// `/last` the client is to leave.
fn start_http2(io: DuplexStream, stop: CancellationToken) -> tokio::task::JoinHandle<End> {
    tokio::spawn(async move {
        let activity = Activity::new(false);
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request: Request<Incoming>| {
            let (in_flight, leaves) = (requests.begin(), Arc::clone(&requests));
            async move {
                if request.uri().path() == "/hang" {
                    std::future::pending::<()>().await;
                }
                if request.uri().path() == "/later" {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
                if request.uri().path() == "/last" {
                    leaves.leave();
                }
                drop(in_flight);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
            }
        });
        serve(io, Protocol::Http2, &limits(), &activity, &stop, service).await
    })
}

async fn connect_http2(
    io: DuplexStream,
) -> (::h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), ::h2::Error>>) {
    let (client, connection) = ::h2::client::handshake(io).await.unwrap();
    (client, tokio::spawn(connection))
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("https://a{path}")).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_at_rest_is_told_goodbye_after_the_idle_timeout() {
    let (client, server) = tokio::io::duplex(16 * 1024);
    let task = start_http2(server, CancellationToken::new());
    let (mut client, connection) = connect_http2(client).await;
    let opened = Instant::now();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (answer, _) = client.send_request(get("/"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    let end = task.await.unwrap();
    assert!(matches!(end, End::Expired), "{end:?}");
    assert_eq!(opened.elapsed().as_secs(), 60 + 75);
    // A goodbye without an error, not a lost connection.
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_running_http2_request_keeps_its_connection() {
    let (client, server) = tokio::io::duplex(16 * 1024);
    let task = start_http2(server, CancellationToken::new());
    let (mut client, _connection) = connect_http2(client).await;
    let (_answer, _) = client.send_request(get("/hang"), true).unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!task.is_finished());
}

/// A client's preface, and a request for `/hang` that its connection is kept for.
pub(super) fn http2_with_a_request() -> Vec<u8> {
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], settings, &http2_request(1, b"/hang")].concat()
}

pub(super) fn http2_request(stream: u8, path: &[u8; 5]) -> Vec<u8> {
    // Indexed fields for GET and https, literals for path and authority (RFC 7541, appendix A).
    let headers = [0, 0, 12, 1, 5, 0, 0, 0, stream, 0x82, 0x87, 4, 5];
    [&headers[..], path, b"\x41\x01a"].concat()
}

#[tokio::test(start_paused = true)]
async fn a_slow_http2_header_ends_the_connection_whatever_else_runs_on_it() {
    for (frames, is_header) in [
        // HEADERS whose CONTINUATION does not come.
        (&b"\0\0\x01\x01\x01\0\0\0\x03\x82"[..], true),
        // HEADERS of which only a part comes.
        (b"\0\0\x10\x01\x05\0\0\0\x03\x82\x87", true),
        // A ping of which only a part comes.
        (b"\0\0\x08\x06\0\0\0\0\0abc", false),
    ] {
        let (mut client, server) = tokio::io::duplex(16 * 1024);
        let mut task = start_http2(server, CancellationToken::new());
        let opened = Instant::now();
        client.write_all(&http2_with_a_request()).await.unwrap();
        // It answers no pings, so that this may not last.
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!task.is_finished(), "the running request keeps it");
        client.write_all(frames).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(15), &mut task).await;
        assert_eq!(end.is_ok(), is_header, "{frames:?}");
        if let Ok(end) = end {
            assert!(matches!(end.unwrap(), End::Expired));
            // The deadline, and two seconds for the goodbye.
            assert_eq!(opened.elapsed().as_secs(), 20 + 10 + 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_resets_ends_the_connection() {
    let (client, server) = tokio::io::duplex(16 * 1024);
    let task = start_http2(server, CancellationToken::new());
    let (client, _connection) = connect_http2(client).await;
    // CVE-2023-44487: a stream costs the server more than its reset costs the client.
    for _ in 0..10_000 {
        let Ok(mut ready) = client.clone().ready().await else { break };
        let Ok((_, mut stream)) = ready.send_request(get("/hang"), true) else { break };
        stream.send_reset(::h2::Reason::CANCEL);
        if task.is_finished() {
            break;
        }
    }
    let end = tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
    assert!(matches!(end, End::Failed(_)), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_a_running_http2_request_end() {
    let (client, server) = tokio::io::duplex(16 * 1024);
    let stop = CancellationToken::new();
    let task = start_http2(server, stop.clone());
    let (mut client, connection) = connect_http2(client).await;
    let (answer, _) = client.send_request(get("/later"), true).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.cancel();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert!(matches!(task.await.unwrap(), End::Closed));
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_to_leave_is_told_so_and_gets_what_it_has_asked_for() {
    let (client, server) = tokio::io::duplex(16 * 1024);
    let task = start_http2(server, CancellationToken::new());
    let (mut client, connection) = connect_http2(client).await;
    let (later, _) = client.send_request(get("/later"), true).unwrap();
    let (last, _) = client.send_request(get("/last"), true).unwrap();
    assert_eq!(last.await.unwrap().status(), 200);
    assert_eq!(later.await.unwrap().status(), 200);
    assert!(matches!(task.await.unwrap(), End::Closed));
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_to_leave_and_has_nothing_to_say_to_that_is_left() {
    // HEADERS of which only a part comes have a longer deadline of their own.
    for rest in [&b""[..], b"\0\0\x10\x01\x05\0\0\0\x03\x82\x87"] {
        let (client, server) = tokio::io::duplex(16 * 1024);
        let task = start_http2(server, CancellationToken::new());
        let (mut reader, mut writer) = tokio::io::split(client);
        let opened = Instant::now();
        let preface = &http2_with_a_request()[..24 + 9];
        writer.write_all(&[preface, &http2_request(1, b"/last"), rest].concat()).await.unwrap();
        // It hears no ping, so that it is never known that all its requests came before the goodbye.
        tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.unwrap();
        assert!(matches!(task.await.unwrap(), End::Expired));
        // To see that it ends, and for the goodbye.
        assert_eq!(opened.elapsed().as_secs(), 2 * CLOSING.as_secs());
    }
}
