//! A WebSocket between two pipes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::io::DuplexStream;
use tokio::sync::oneshot;

use super::*;

const IDLE: Duration = Duration::from_secs(300);
/// `hello` as text, from a client (masked with zeros) and from a server.
const ASKED: &[u8] = &[0x81, 0x85, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o'];
const TOLD: &[u8] = &[0x81, 5, b'h', b'e', b'l', b'l', b'o'];
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];

#[derive(Debug, Default)]
struct Test {
    may_send: AtomicBool,
    dropped: AtomicU64,
    active: AtomicU64,
}

impl Rights for Arc<Test> {
    fn may_send(&self) -> bool {
        self.may_send.load(Ordering::Relaxed)
    }

    fn frame_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn active(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }
}

struct Socket {
    client: DuplexStream,
    upstream: DuplexStream,
    rights: Arc<Test>,
    end: oneshot::Sender<Ending>,
    task: tokio::task::JoinHandle<Option<Ending>>,
}

impl Socket {
    fn open() -> Self {
        Self::limited(WebSocketLimits::default())
    }

    fn limited(limits: WebSocketLimits) -> Self {
        let (client, gate_client) = tokio::io::duplex(1024);
        let (upstream, gate_upstream) = tokio::io::duplex(1024);
        let rights = Arc::new(Test { may_send: true.into(), ..Test::default() });
        let (end, ended) = oneshot::channel();
        let own = Arc::clone(&rights);
        let task = tokio::spawn(async move {
            let end = async {
                match ended.await {
                    Ok(ending) => ending,
                    Err(_) => std::future::pending().await,
                }
            };
            relay(gate_client, gate_upstream, false, limits, IDLE, &own, end).await
        });
        Self { client, upstream, rights, end, task }
    }
}

async fn read(io: &mut DuplexStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    io.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn rest(io: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn frames_pass_both_ways_unchanged() {
    let mut socket = Socket::open();
    socket.client.write_all(ASKED).await.unwrap();
    assert_eq!(read(&mut socket.upstream, ASKED.len()).await, ASKED);
    socket.upstream.write_all(TOLD).await.unwrap();
    assert_eq!(read(&mut socket.client, TOLD.len()).await, TOLD);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_may_not_send_still_hears_and_its_pings_pass() {
    let mut socket = Socket::open();
    socket.rights.may_send.store(false, Ordering::Relaxed);
    socket.client.write_all(&[ASKED, PING].concat()).await.unwrap();
    assert_eq!(read(&mut socket.upstream, PING.len()).await, PING);
    assert_eq!(socket.rights.dropped.load(Ordering::Relaxed), 1);
    socket.upstream.write_all(TOLD).await.unwrap();
    assert_eq!(read(&mut socket.client, TOLD.len()).await, TOLD);
}

#[tokio::test(start_paused = true)]
async fn only_data_that_passes_counts_as_activity() {
    let mut socket = Socket::open();
    let pong: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];
    for control in [PING, pong] {
        socket.client.write_all(control).await.unwrap();
        assert_eq!(read(&mut socket.upstream, control.len()).await, control);
    }
    socket.rights.may_send.store(false, Ordering::Relaxed);
    socket.client.write_all(&[ASKED, PING].concat()).await.unwrap();
    assert_eq!(read(&mut socket.upstream, PING.len()).await, PING);
    assert_eq!(socket.rights.active.load(Ordering::Relaxed), 0);
    socket.rights.may_send.store(true, Ordering::Relaxed);
    socket.client.write_all(ASKED).await.unwrap();
    assert_eq!(read(&mut socket.upstream, ASKED.len()).await, ASKED);
    assert_eq!(socket.rights.active.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cut_closes_both_sides_of_an_idle_socket_and_tells_the_client_why() {
    let mut socket = Socket::open();
    let asked = Instant::now();
    socket.end.send(Ending::new(1008, "the session has ended")).unwrap();
    assert_eq!(rest(&mut socket.client).await, server_close(1008, "the session has ended"));
    assert_eq!(rest(&mut socket.upstream).await, client_close(1001, ""));
    assert_eq!(socket.task.await.unwrap().unwrap().code, 1008);
    assert!(asked.elapsed() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_cut_does_not_wait_for_a_client_that_reads_nothing() {
    let mut socket = Socket::open();
    let flood = vec![0; 64 * 1024];
    // A frame of 4 GiB, of which more is on its way than the pipes hold.
    let header = [0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0];
    socket.upstream.write_all(&header).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.upstream.write_all(&flood)).await;
    let asked = Instant::now();
    socket.end.send(Ending::new(1008, "")).unwrap();
    socket.task.await.unwrap().unwrap();
    assert!(asked.elapsed() <= Duration::from_secs(1));
    // The client stood inside a frame, so no close frame could be told from its payload.
    let got = rest(&mut socket.client).await;
    assert!(got.get(header.len()..).unwrap().iter().all(|byte| *byte == 0));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_frame_is_answered_1002_and_never_forwarded() {
    let mut socket = Socket::open();
    socket.client.write_all(TOLD).await.unwrap();
    let told = rest(&mut socket.client).await;
    assert_eq!(told.get(2..4).unwrap(), 1002_u16.to_be_bytes());
    assert_eq!(rest(&mut socket.upstream).await, client_close(1001, ""));
}

#[tokio::test(start_paused = true)]
async fn a_socket_on_which_nothing_moves_is_closed() {
    let mut socket = Socket::open();
    tokio::time::sleep(IDLE / 2).await;
    socket.client.write_all(PING).await.unwrap();
    let begun = Instant::now();
    let told = rest(&mut socket.client).await;
    assert_eq!(told.get(2..4).unwrap(), 1001_u16.to_be_bytes());
    assert_eq!(begun.elapsed().as_secs(), IDLE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn what_the_back_end_says_last_arrives_after_the_client_closed_its_side() {
    let mut socket = Socket::open();
    let (mut reader, mut writer) = tokio::io::split(socket.client);
    writer.shutdown().await.unwrap();
    assert!(rest(&mut socket.upstream).await.is_empty());
    socket.upstream.write_all(TOLD).await.unwrap();
    drop(socket.upstream);
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, TOLD);
    assert_eq!(socket.task.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_back_end_slows_the_client_instead_of_filling_memory() {
    let mut socket = Socket::open();
    let frames = ASKED.repeat(100_000);
    let written =
        tokio::time::timeout(Duration::from_secs(5), socket.client.write_all(&frames)).await;
    assert!(written.is_err(), "all was taken in although nobody read it");
}

/// Small enough to be reached by hand.
const TIGHT: WebSocketLimits =
    WebSocketLimits { max_frame: 5, max_message: 7, frames_per_second: 4 };

#[tokio::test(start_paused = true)]
async fn as_many_frames_as_a_second_may_bring_pass_and_the_next_ends_the_socket() {
    let mut socket = Socket::limited(TIGHT);
    for _ in 0..3 {
        socket.client.write_all(&PING.repeat(4)).await.unwrap();
        assert_eq!(read(&mut socket.upstream, PING.len() * 4).await, PING.repeat(4));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    socket.client.write_all(&PING.repeat(4)).await.unwrap();
    assert_eq!(read(&mut socket.upstream, PING.len() * 4).await, PING.repeat(4));
    tokio::time::sleep(Duration::from_millis(250)).await;
    socket.client.write_all(PING).await.unwrap();
    assert_eq!(read(&mut socket.upstream, PING.len()).await, PING, "a quarter brings one more");
    socket.client.write_all(ASKED).await.unwrap();
    let told = rest(&mut socket.client).await;
    assert_eq!(told.get(2..4).unwrap(), 1008_u16.to_be_bytes());
    assert!(rest(&mut socket.upstream).await.is_empty(), "it never saw the frame");
}

#[tokio::test(start_paused = true)]
async fn a_message_over_the_limit_is_closed_with_1009() {
    let mut socket = Socket::limited(TIGHT);
    // Five bytes, then three that would continue them.
    let begun = [&[0x01], ASKED.get(1..).unwrap()].concat();
    socket.client.write_all(&begun).await.unwrap();
    assert_eq!(read(&mut socket.upstream, begun.len()).await, begun);
    socket.client.write_all(&[0x80, 0x83, 0, 0, 0, 0, 1, 2, 3]).await.unwrap();
    let told = rest(&mut socket.client).await;
    assert_eq!(told.get(2..4).unwrap(), 1009_u16.to_be_bytes());
    assert_eq!(rest(&mut socket.upstream).await, client_close(1001, ""));
}
