//! What comes after the last answer, on a pipe and a clock of the test's own.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::tests::{http2_request, http2_with_a_request, limits};
use super::*;
use crate::proxy::h2_frames::written;
use crate::proxy::linger::BYTES;

const PIPE: usize = 16 * 1024;

struct Client {
    io: DuplexStream,
    task: tokio::task::JoinHandle<End>,
    /// The service has the other one.
    place: Arc<()>,
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        let (io, server) = tokio::io::duplex(PIPE);
        let place = Arc::new(());
        let kept = Arc::clone(&place);
        let task = tokio::spawn(async move {
            let activity = Activity::new(protocol == Protocol::Http1);
            let requests = Arc::clone(&activity);
            let service = service_fn(move |_: Request<Incoming>| {
                let (in_flight, _) = (requests.begin(), &kept);
                // HTTP/1 says so itself.
                requests.leave();
                drop(in_flight);
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))))
            });
            let stop = CancellationToken::new();
            serve(server, protocol, &limits(), &activity, &stop, service).await
        });
        Self { io, task, place }
    }

    /// One that has had its last answer, and the gate's end of the connection.
    async fn answered(protocol: Protocol) -> Self {
        let mut client = Self::new(protocol);
        match protocol {
            Protocol::Http1 => {
                let asks = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                client.io.write_all(asks).await.unwrap();
            }
            Protocol::Http2 => {
                let preface = http2_with_a_request();
                let asks = [&preface[..24 + 9], &http2_request(1, b"/last")].concat();
                client.io.write_all(&asks).await.unwrap();
                client.answers_the_ping().await;
            }
        }
        client.hears_the_end().await;
        client
    }

    /// It comes with the goodbye, and `h2` waits for the answer (RFC 9113, section 6.8).
    async fn answers_the_ping(&mut self) {
        const TOKEN: [u8; 8] = *b"\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54";
        let mut heard = Vec::new();
        while !heard.ends_with(&TOKEN) {
            heard.push(self.io.read_u8().await.unwrap());
        }
        let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &TOKEN].concat();
        self.io.write_all(&pong).await.unwrap();
    }

    async fn hears_the_end(&mut self) {
        tokio::io::copy(&mut self.io, &mut tokio::io::sink()).await.unwrap();
    }

    fn has_its_place(&self) -> bool {
        Arc::strong_count(&self.place) > 1
    }
}

const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

#[tokio::test(start_paused = true)]
async fn after_the_last_answer_a_client_is_heard_out_until_it_closes() {
    for protocol in BOTH {
        let mut client = Client::answered(protocol).await;
        let since = Instant::now();
        // More than the pipe holds: it is taken.
        client.io.write_all(&[0; 4 * PIPE]).await.unwrap();
        assert!(client.has_its_place(), "{protocol:?}");
        drop(client.io);
        assert!(matches!(client.task.await.unwrap(), End::Closed));
        assert_eq!(since.elapsed(), Duration::ZERO, "{protocol:?}");
        assert_eq!(Arc::strong_count(&client.place), 1, "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_closes_is_left_and_keeps_its_place_until_then() {
    for protocol in BOTH {
        let client = Client::answered(protocol).await;
        let since = Instant::now();
        tokio::time::sleep(CLOSING - Duration::from_millis(1)).await;
        assert!(client.has_its_place() && !client.task.is_finished(), "{protocol:?}");
        client.task.await.unwrap();
        assert_eq!(since.elapsed(), CLOSING, "{protocol:?}");
        assert_eq!(Arc::strong_count(&client.place), 1, "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_stops_sending_is_left_after_so_many_bytes() {
    for protocol in BOTH {
        let mut client = Client::answered(protocol).await;
        let since = Instant::now();
        let mut sent = 0;
        while sent <= 2 * BYTES && client.io.write_all(&[0; PIPE]).await.is_ok() {
            sent += PIPE;
        }
        client.task.await.unwrap();
        assert!((BYTES..=BYTES + 4 * PIPE).contains(&sent), "{protocol:?}: {sent}");
        assert_eq!(since.elapsed(), Duration::ZERO, "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_floods_or_breaks_the_protocol_is_not_heard_out() {
    // Of a kind that nobody knows.
    let frames_for_nothing = written(0xbe, 0, &[]).repeat(10_000);
    let data_of_no_request = written(0x0, 0, b"x");
    // Begun and taken back before they were looked at (CVE-2023-44487).
    let resets = (0..100_u8).flat_map(|at| {
        let stream = 2 * at + 1;
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, stream, 0, 0, 0, 8];
        [&http2_request(stream, b"/last")[..], &reset].concat()
    });
    let mut ended = Vec::new();
    for frames in [frames_for_nothing, data_of_no_request, resets.collect()] {
        let client = Client::new(Protocol::Http2);
        let since = Instant::now();
        let preface = http2_with_a_request();
        let (mut reader, mut writer) = tokio::io::split(client.io);
        let sending = async {
            // It may end in the middle.
            let _ = writer.write_all(&[&preface[..24 + 9], &frames].concat()).await;
        };
        let mut sink = tokio::io::sink();
        tokio::join!(sending, tokio::io::copy(&mut reader, &mut sink)).1.unwrap();
        let end = client.task.await.unwrap();
        ended.push((end, since.elapsed()));
    }
    let at_once = |(end, after): &(End, Duration)| matches!(end, End::Failed(_)) && after.is_zero();
    assert!(ended.iter().all(at_once), "{ended:?}");
}
