//! HTTP/2 frame by frame: a client that makes work is cut off, and its neighbours don't notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use tokio::sync::watch;

use crate::harness::client::Wire;
use crate::harness::frames::{
    END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame,
};
use crate::harness::{Browser, Gate, Recorder, eventually, within};

const ENHANCE_YOUR_CALM: u32 = 0xb;

/// GET or POST of `/`: indexed fields and the authority (RFC 7541, appendix A).
fn block(method: u8, authority: &str) -> Vec<u8> {
    let mut block = vec![method, 0x87, 0x84, 0x41, u8::try_from(authority.len()).unwrap()];
    block.extend_from_slice(authority.as_bytes());
    block
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

fn reset(stream: u32) -> Vec<u8> {
    frame(0x3, 0, stream, &8_u32.to_be_bytes())
}

struct Peer {
    writer: WriteHalf<Box<dyn Wire>>,
    authority: String,
    stream: u32,
    ended: Arc<AtomicBool>,
    /// Pings sent that are to be waited for, and those that were answered.
    pings: u64,
    pongs: watch::Receiver<u64>,
    /// The error code of the last GOAWAY, when the connection is over.
    end: tokio::task::JoinHandle<Option<u32>>,
}

impl Peer {
    async fn connect(browser: &Browser) -> Self {
        let url = browser.url("/");
        let (wire, http2) = browser.connect(&url).await;
        assert!(http2);
        let (reader, mut writer) = tokio::io::split(wire);
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let (pong, pongs) = watch::channel(0);
        let end = tokio::spawn(async move {
            let end = last_words(reader, pong).await;
            told.store(true, Ordering::Relaxed);
            end
        });
        writer.write_all(PREFACE).await.unwrap();
        writer.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let authority = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        Self { writer, authority, stream: 1, ended, pings: 0, pongs, end }
    }

    /// The beginning of another request.
    fn request(&mut self, method: u8, flags: u8) -> (u32, Vec<u8>) {
        let stream = self.stream;
        self.stream += 2;
        (stream, frame(HEADERS, flags, stream, &block(method, &self.authority)))
    }

    fn ping(&mut self) -> Vec<u8> {
        self.pings += 1;
        frame(PING, 0, 0, &[1; 8])
    }

    /// Sends what `next` makes until the gate has had enough.
    async fn flood(mut self, mut next: impl FnMut(&mut Self) -> Vec<u8>) -> Option<u32> {
        within("the end of the flood", async {
            for _ in 0..100_000 {
                let bytes = next(&mut self);
                let sent = self.writer.write_all(&bytes).await;
                if sent.is_err() || self.ended.load(Ordering::Relaxed) {
                    return self.end.await.unwrap();
                }
                // An error says that the connection is over.
                let pings = self.pings;
                let _ = self.pongs.wait_for(|pongs| *pongs >= pings).await;
                // The reader and the neighbours share this thread.
                tokio::task::yield_now().await;
            }
            panic!("the flood was never ended");
        })
        .await
    }
}

/// Reads to the end; the code of the last GOAWAY.
async fn last_words(mut reader: ReadHalf<Box<dyn Wire>>, pong: watch::Sender<u64>) -> Option<u32> {
    let mut code = None;
    let mut header = [0; 9];
    while reader.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        if reader.read_exact(&mut payload).await.is_err() {
            break;
        }
        if header[3] == PING && header[4] == 1 {
            pong.send_modify(|pongs| *pongs += 1);
        }
        if header[3] == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    code
}

/// Floods while neighbours are served; afterwards the gate is the same as before.
async fn flood(next: impl FnMut(&mut Peer) -> Vec<u8>) -> (Gate, Option<u32>) {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let mut neighbour = gate.login("vera").await;
    let mut modern = gate.browser_h2();
    modern.set_session_cookie(&neighbour.session_cookie().unwrap());
    let peer = Peer::connect(&gate.browser_h2()).await;
    let ended = Arc::clone(&peer.ended);
    let served = async {
        loop {
            neighbour.get("/").await.expect(200);
            modern.get("/").await.expect(200);
            if ended.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    let (end, ()) = tokio::join!(peer.flood(next), served);
    neighbour.get("/").await.expect(200);
    (gate, end)
}

/// A flood that the gate itself ends, and counts.
async fn counted(next: impl FnMut(&mut Peer) -> Vec<u8>) {
    let (gate, _) = flood(next).await;
    eventually("the flood to be counted", async || {
        (gate.metric("wicketgate_http2_floods_total", "").await == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_in_goaway() {
    let (_, end) = flood(|peer| {
        let mut bytes = Vec::new();
        for _ in 0..50 {
            let (stream, request) = peer.request(GET, END_STREAM | END_HEADERS);
            bytes.extend(request);
            bytes.extend(reset(stream));
        }
        bytes
    })
    .await;
    assert_eq!(end, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn requests_that_are_taken_back_a_moment_later_end_as_well() {
    let mut open: Vec<u32> = Vec::new();
    counted(move |peer| {
        let mut bytes: Vec<u8> = open.drain(..).flat_map(reset).collect();
        for _ in 0..18 {
            let (stream, request) = peer.request(GET, END_STREAM | END_HEADERS);
            open.push(stream);
            bytes.extend(request);
        }
        // When it is answered, the gate has begun with the requests.
        bytes.extend(peer.ping());
        bytes
    })
    .await;
}

#[tokio::test]
async fn a_header_block_without_end_ends_in_goaway() {
    let mut begun = false;
    let (_, end) = flood(move |peer| {
        if std::mem::replace(&mut begun, true) {
            // One more field without a name worth keeping, for ever.
            return frame(0x9, 0, 1, &[0x0, 1, b'x', 1, b'y']);
        }
        peer.request(GET, 0).1
    })
    .await;
    assert_eq!(end, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn empty_data_without_end_ends_in_goaway() {
    let mut begun = false;
    let (_, end) = flood(move |peer| {
        let empty = frame(0x0, 0, 1, &[]);
        if std::mem::replace(&mut begun, true) {
            return empty;
        }
        [peer.request(POST, END_HEADERS).1, empty].concat()
    })
    .await;
    assert_eq!(end, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn floods_of_settings_pings_priorities_and_unknown_frames_end() {
    counted(|_| frame(SETTINGS, 0, 0, &[]).repeat(20)).await;
    counted(|_| frame(PING, 0, 0, &[7; 8]).repeat(20)).await;
    counted(|_| frame(0x2, 0, 1, &[0, 0, 0, 3, 9]).repeat(20)).await;
    counted(|_| frame(0xbe, 0, 0, &[]).repeat(20)).await;
}

#[tokio::test]
async fn a_client_is_told_how_many_streams_it_may_open() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    let browser = gate.browser_h2();
    let (mut wire, _) = browser.connect(&browser.url("/")).await;
    wire.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut header = [0; 9];
    within("the settings", wire.read_exact(&mut header)).await.unwrap();
    assert_eq!(header[3], SETTINGS);
    let mut settings = vec![0; usize::from(header[2])];
    within("the settings", wire.read_exact(&mut settings)).await.unwrap();
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a limit");
    assert_eq!(streams[2..], 100_u32.to_be_bytes());
}
