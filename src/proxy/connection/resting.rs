//! Connections that rest between two requests, on a pipe and a clock of the test's own.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};

use super::tests::limits;
use super::*;

/// Long enough to rest.
const A_WHILE: Duration = Duration::from_secs(2);

/// The server's end of a pipe.
struct Pipe {
    io: DuplexStream,
    /// Room that the last read had.
    room: Arc<AtomicUsize>,
    /// Whether it can say goodbye.
    shuts: bool,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.room.store(buf.remaining(), Ordering::Relaxed);
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.shuts { Pin::new(&mut self.io).poll_shutdown(cx) } else { Poll::Pending }
    }
}

impl Bare for Pipe {
    type Socket = DuplexStream;

    fn bare(self) -> DuplexStream {
        self.io
    }
}

struct Client {
    io: DuplexStream,
    room: Arc<AtomicUsize>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<End>,
}

impl Client {
    fn new(shuts: bool) -> Self {
        let (io, server) = tokio::io::duplex(64 * 1024);
        let (room, stop) = (Arc::default(), CancellationToken::new());
        let pipe = Pipe { io: server, room: Arc::clone(&room), shuts };
        let stopping = stop.clone();
        let task = tokio::spawn(async move {
            let activity = Activity::new(true);
            let requests = Arc::clone(&activity);
            // Answers with the target and the body.
            let service = service_fn(move |request: Request<Incoming>| {
                let in_flight = requests.begin();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    drop(in_flight);
                    let answer = Bytes::from([path.as_bytes(), &body].concat());
                    Ok::<_, hyper::Error>(Response::new(Full::new(answer)))
                }
            });
            serve(pipe, Protocol::Http1, &limits(), &activity, &stopping, service).await
        });
        Self { io, room, stop, task }
    }

    async fn send(&mut self, bytes: &str) {
        self.io.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// What has come after a while; empty when nothing has.
    async fn answers(&mut self) -> String {
        tokio::time::sleep(A_WHILE).await;
        let mut answers = vec![0; 4096];
        let read = tokio::time::timeout(Duration::ZERO, self.io.read(&mut answers)).await;
        answers.truncate(read.map_or(0, Result::unwrap));
        String::from_utf8(answers).unwrap()
    }

    /// Whether only a byte is waited for.
    fn rests(&self) -> bool {
        self.room.load(Ordering::Relaxed) == 1
    }
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_connection_rests_before_its_first_request_and_between_two() {
    let mut client = Client::new(true);
    for _ in 0..3 {
        tokio::time::sleep(A_WHILE).await;
        assert!(client.rests());
        client.send(GET).await;
        let answer = client.answers().await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/a"), "{answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_does_not_rest() {
    let mut client = Client::new(true);
    for _ in 0..20 {
        client.send(GET).await;
        tokio::time::sleep(REST_AFTER / 2).await;
        assert!(!client.rests());
    }
    assert_eq!(client.answers().await.matches("200 OK").count(), 20);
    assert!(client.rests());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_in_two_parts_keeps_the_connection_awake() {
    let body = "POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    for at in 1..body.len() {
        let mut client = Client::new(true);
        tokio::time::sleep(A_WHILE).await;
        let (one, two) = body.split_at(at);
        // The first part is read together with a whole request.
        for before in ["", GET] {
            client.send(&format!("{before}{one}")).await;
            let answered = client.answers().await;
            assert_eq!(answered.matches("200 OK").count(), before.len().min(1), "{one:?}");
            assert!(!client.rests(), "{one:?}");
            client.send(two).await;
            let answer = client.answers().await;
            assert!(answer.ends_with("/bhello"), "{one:?}: {answer:?}");
            // It was found with something to do, so that it is left in peace for longer.
            tokio::time::sleep(LOOK_AGAIN).await;
            assert!(client.rests(), "{one:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_wake_it_together_are_all_answered_and_empty_lines_are_nothing() {
    let mut client = Client::new(true);
    for _ in 0..2 {
        client.send(&format!("{GET}{}\r\n", GET.replace("/a", "/b"))).await;
        let answers = client.answers().await;
        let (a, b) = (answers.find("/a").unwrap(), answers.find("/b").unwrap());
        assert!(a < b && answers.matches("200 OK").count() == 2, "{answers:?}");
        assert!(client.rests());
    }
}

#[tokio::test(start_paused = true)]
async fn a_resting_connection_ends_with_a_stop_with_its_client_and_when_its_time_is_over() {
    for (how, expires) in [("stop", false), ("client", false), ("time", true)] {
        let mut client = Client::new(true);
        client.send(GET).await;
        client.answers().await;
        assert!(client.rests());
        let since = Instant::now();
        match how {
            "stop" => client.stop.cancel(),
            "client" => client.io.shutdown().await.unwrap(),
            _ => {}
        }
        let mut rest = Vec::new();
        client.io.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{how}");
        let end = client.task.await.unwrap();
        assert_eq!(matches!(end, End::Expired), expires, "{how}: {end:?}");
        let seconds = since.elapsed().as_secs();
        assert_eq!(seconds, if expires { 73 } else { 0 }, "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_being_closed_serves_nothing_more() {
    let mut client = Client::new(false);
    client.send(&GET.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
    assert!(client.answers().await.contains("connection: close"));
    client.send(GET).await;
    assert_eq!(client.answers().await, "");
    assert!(!client.rests());
}
