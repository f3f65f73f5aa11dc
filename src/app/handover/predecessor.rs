//! The new process's side: taking the place of a gate that runs.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::{Link, Message, Named, PROTOCOL, RECORDS, STORE};
use crate::domain::id::SessionId;
use crate::pipeline::gate::Gate;
use crate::store::{Change, Request, Store};
use crate::tls::TicketState;

/// The process that this one replaces.
#[derive(Debug)]
pub struct Predecessor {
    link: Link,
    store: UnixStream,
    records: UnixStream,
    gone: CancellationToken,
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
        let gone = CancellationToken::new();
        let (store, records) = (store.into(), records.into());
        Ok((Self { link, store, records, gone }, listening, tickets))
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
        let calls = self.store.try_clone()?;
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
        let (records, keeper) = (self.records.try_clone()?, Arc::clone(gate));
        thread("predecessor-audit", move || {
            if let Err(error) = keeper.audit.take_in(&records) {
                tracing::error!(%error, "records of the former process may be missing");
            }
        })?;
        let (listening, gone) = (self.link.try_clone()?, self.gone.clone());
        thread("predecessor", move || {
            // It has nothing to say any more, but its end.
            while listening.receive().is_ok() {}
            tracing::info!("the former process has ended");
            gone.cancel();
        })?;
        if let Err(error) = self.link.send(&Message::Serving) {
            // One that gives up on this process kills it before it hangs up.
            tracing::error!(%error, "the former process is gone before its time");
        }
        Ok(())
    }

    /// Whether it has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Tells it. An error says that it is gone.
    pub fn tell(&self, message: &Message) {
        let _ = self.link.send(message);
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
