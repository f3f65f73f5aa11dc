//! The new process's side: taking the place of a gate that runs.
//!
//! INVARIANT: the former process never holds this one up. What it is told waits in a bounded queue
//! for a thread of its own; when it takes nothing for a while (it is stopped, or hangs), it is hung
//! up on, and then denies everything, because it has neither sessions nor a log any more.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::{Link, Message, Named, PROTOCOL, RECORDS, STORE};
use crate::domain::id::SessionId;
use crate::pipeline::gate::Gate;
use crate::store::{Change, Request, Store};
use crate::tls::TicketState;

/// Messages that may wait for the former process.
const WAITING: usize = 4096;

/// How long it may take to read one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The process that this one replaces.
#[derive(Debug)]
pub struct Predecessor {
    link: Arc<Link>,
    streams: Arc<Streams>,
    told: SyncSender<Message>,
    gone: CancellationToken,
}

/// What goes on for it here.
#[derive(Debug)]
struct Streams {
    store: UnixStream,
    records: UnixStream,
}

impl Streams {
    /// It is given up: it learns of no end of a session any more, so it gets no session either.
    fn hang_up(&self, link: &Link) {
        tracing::error!("the former process doesn't listen and is given up");
        link.close();
        let _ = self.store.shutdown(Shutdown::Both);
        let _ = self.records.shutdown(Shutdown::Both);
    }
}

impl Predecessor {
    /// Greets the process on standard input, and takes its listening sockets and what its session
    /// tickets are sealed with. The configuration
    /// must be good by now.
    ///
    /// # Errors
    /// Nobody is there, or is no gate that hands over.
    pub fn meet() -> io::Result<(Self, Named, Option<TicketState>)> {
        let link = Link::from_stdin()?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        link.send(&Message::Hello { protocol: PROTOCOL, version })?;
        let (mut store, mut records, mut listening) = (None, None, Vec::new());
        let (named, tickets) = link.receive_descriptors()?;
        for (name, descriptor) in named {
            match name.as_str() {
                STORE => store = Some(descriptor),
                RECORDS => records = Some(descriptor),
                _ => listening.push((name, descriptor)),
            }
        }
        let (Some(store), Some(records)) = (store, records) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok((Self::new(link, store.into(), records.into(), PATIENCE)?, listening, tickets))
    }

    fn new(
        link: Link,
        store: UnixStream,
        records: UnixStream,
        patience: Duration,
    ) -> io::Result<Self> {
        link.give_up_sending_after(patience)?;
        let (link, streams) = (Arc::new(link), Arc::new(Streams { store, records }));
        let (told, waiting) = sync_channel::<Message>(WAITING);
        let (to, hanging_up) = (Arc::clone(&link), Arc::clone(&streams));
        thread("predecessor-told", move || {
            while let Ok(message) = waiting.recv() {
                match to.send(&message) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return hanging_up.hang_up(&to);
                    }
                    // It is gone.
                    Err(_) => return,
                }
            }
        })?;
        Ok(Self { link, streams, told, gone: CancellationToken::new() })
    }

    /// Asks for the store and the log, and waits until both can be opened. Blocks.
    ///
    /// # Errors
    /// The process is gone, or has changed its mind.
    pub fn claim(&self) -> io::Result<()> {
        self.link.send(&Message::Claim)?;
        match self.link.receive()? {
            Message::Released => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Tells it that clients are served here, and from then on does for it what it can't do any
    /// more: keep its records and its sessions. Before the first client is accepted, so that no
    /// session ends here without it. When it is gone by then, only this process is left to serve.
    ///
    /// # Errors
    /// A thread or a descriptor is missing. It has not been told, and serves on.
    pub fn succeed(&self, gate: &Arc<Gate>, store: &Arc<dyn Store>) -> io::Result<()> {
        gate.sessions.has_peer(true);
        let calls = self.streams.store.try_clone()?;
        let (sessions, store) = (Arc::clone(gate), Arc::clone(store));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread("predecessor-store", move || {
            while let Ok(request) = Request::read(&calls) {
                let answered = runtime.block_on(answer(&sessions, store.as_ref(), request, &calls));
                if answered.is_err() {
                    break;
                }
            }
            sessions.sessions.has_peer(false);
        })?;
        let (records, keeper) = (self.streams.records.try_clone()?, Arc::clone(gate));
        thread("predecessor-audit", move || {
            if let Err(error) = keeper.audit.take_in(&records) {
                tracing::error!(%error, "records of the former process may be missing");
            }
        })?;
        self.listen()?;
        if let Err(error) = self.link.send(&Message::Serving) {
            // One that gives up on this process kills it before it hangs up.
            tracing::error!(%error, "the former process is gone before its time");
        }
        Ok(())
    }

    /// It has nothing to say any more, but its end.
    fn listen(&self) -> io::Result<()> {
        let (listening, gone) = (self.link.try_clone()?, self.gone.clone());
        thread("predecessor", move || {
            while listening.receive().is_ok() {}
            tracing::info!("the former process has ended");
            gone.cancel();
        })
    }

    /// As long as it lives.
    pub fn process(&self) -> Option<u32> {
        self.link.maker().filter(|_| !self.is_gone())
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Tells it, in its own time: never blocks. Who doesn't listen is given up.
    pub fn tell(&self, message: Message) {
        if let Err(TrySendError::Full(_)) = self.told.try_send(message) {
            self.streams.hang_up(&self.link);
        }
    }

    /// Resolves when it has ended.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// What it does to a session is known here before it is done.
async fn answer(
    gate: &Gate,
    store: &dyn Store,
    request: Request,
    stream: &UnixStream,
) -> io::Result<()> {
    let change = request
        .session()
        .and_then(|(change, key)| Some((change, SessionId(<[u8; 32]>::try_from(key).ok()?))));
    match change {
        None => request.serve(store, stream).await,
        Some((Change::Remove, id)) => {
            let removed = gate.sessions.end_for_peer(id).await;
            request.answer(removed.map_err(|error| error.to_string()), stream)
        }
        Some((Change::Write, id)) => match gate.sessions.write_for_peer(id).await {
            Some(_turn) => request.serve(store, stream).await,
            None => request.answer(Ok(false), stream),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EndReason;

    struct Former {
        link: Link,
        _store: UnixStream,
        _records: UnixStream,
    }

    fn pair(patience: Duration) -> (Predecessor, Former) {
        let streams = || UnixStream::pair().unwrap();
        let ((here, there), (store, _store), (records, _records)) =
            (streams(), streams(), streams());
        let former = Former { link: Link::new(there), _store, _records };
        let predecessor = Predecessor::new(Link::new(here), store, records, patience).unwrap();
        predecessor.listen().unwrap();
        (predecessor, former)
    }

    fn ended(number: u8) -> Message {
        Message::ended(SessionId([number; 32]), EndReason::Logout)
    }

    #[tokio::test]
    async fn a_former_process_that_never_listens_holds_nobody_up_and_is_given_up() {
        let (predecessor, former) = pair(Duration::from_secs(3600));
        for number in 0..=u8::MAX {
            for _ in 0..100 {
                predecessor.tell(ended(number));
            }
        }
        predecessor.gone().await;
        // When it goes on, what it reads ends: it knows that it was left behind.
        while former.link.receive().is_ok() {}
    }

    #[tokio::test]
    async fn one_that_takes_too_long_for_a_message_is_given_up() {
        let (predecessor, _former) = pair(Duration::from_millis(1));
        // More than the socket takes, less than may wait.
        for _ in 0..WAITING {
            predecessor.tell(ended(1));
        }
        predecessor.gone().await;
    }

    #[test]
    fn one_that_listens_is_told_everything_in_its_order() {
        let (predecessor, former) = pair(PATIENCE);
        for number in 0..=u8::MAX {
            predecessor.tell(ended(number));
        }
        for number in 0..=u8::MAX {
            assert_eq!(former.link.receive().unwrap(), ended(number));
        }
        drop(former);
    }
}
