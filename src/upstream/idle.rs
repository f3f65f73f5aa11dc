//! Connections that wait for their next request, apart for each worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::body::RequestBody;
use super::wire::Http1;

/// A connection whose last request is this long ago is closed: shorter than what servers commonly
/// allow, so that
/// mostly it is the gate that hangs up first.
const MAX_AGE: Duration = Duration::from_secs(55);

/// Several requests share an HTTP/2 connection; whoever finds none, or a closed one, opens it
/// while the others wait for the lock.
pub(super) type Http2Slot = Arc<tokio::sync::Mutex<Option<http2::SendRequest<RequestBody>>>>;

#[derive(Debug)]
pub(super) struct Idle {
    workers: Vec<Worker>,
    /// For each worker and address.
    max_idle: usize,
}

/// The locks are taken by the worker itself and now and then by the sweep, so they are free.
#[derive(Debug, Default)]
struct Worker {
    http1: Mutex<Vec<Waiting>>,
    http2: Mutex<HashMap<SocketAddr, Http2Slot>>,
}

#[derive(Debug)]
struct Waiting {
    connection: Box<Http1>,
    /// When its last request was sent.
    since: Instant,
}

impl Waiting {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > MAX_AGE
    }
}

impl Idle {
    pub(super) fn new(workers: usize, max_idle: usize) -> Self {
        let workers = (0..workers.max(1)).map(|_| Worker::default()).collect();
        Self { workers, max_idle }
    }

    fn worker(&self, index: usize) -> Option<&Worker> {
        self.workers.get(index % self.workers.len().max(1))
    }

    /// The connection used last, if one is alive and done with its earlier exchange.
    pub(super) fn take(
        &self,
        worker: usize,
        address: SocketAddr,
        now: Instant,
    ) -> Option<Box<Http1>> {
        let mut waiting = self.worker(worker)?.http1.lock();
        let mut at = waiting.len();
        while at > 0 {
            at -= 1;
            let candidate = waiting.get_mut(at)?;
            if candidate.connection.address != address {
                continue;
            }
            let usable = !candidate.is_old(now) && candidate.connection.is_ready();
            let candidate = waiting.remove(at);
            if usable {
                return Some(candidate.connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless it is not done: an upstream that answers
    /// before it has the whole request gets no more of it, and the connection ends.
    fn give(&self, worker: usize, mut connection: Box<Http1>, since: Instant) {
        if self.max_idle == 0 || !connection.is_ready() {
            return;
        }
        connection.rest();
        let Some(worker) = self.worker(worker) else { return };
        let address = connection.address;
        let mut waiting = worker.http1.lock();
        let same = |waiting: &Waiting| waiting.connection.address == address;
        if waiting.iter().filter(|waiting| same(waiting)).count() >= self.max_idle
            && let Some(oldest) = waiting.iter().position(same)
        {
            waiting.remove(oldest);
        }
        waiting.push(Waiting { connection, since });
    }

    pub(super) fn http2(&self, worker: usize, address: SocketAddr) -> Http2Slot {
        match self.worker(worker) {
            Some(worker) => Arc::clone(worker.http2.lock().entry(address).or_default()),
            None => Http2Slot::default(),
        }
    }

    /// Closes what has waited too long, and forgets addresses that are no longer in use.
    pub(super) fn sweep(&self, current: &[SocketAddr]) {
        let now = Instant::now();
        for worker in &self.workers {
            worker.http1.lock().retain_mut(|waiting| {
                !waiting.is_old(now)
                    && current.contains(&waiting.connection.address)
                    && !waiting.connection.is_closed()
            });
            worker.http2.lock().retain(|address, _| current.contains(address));
        }
    }

    #[cfg(test)]
    pub(super) fn all_closed(&self) -> bool {
        let closed = |waiting: &mut Waiting| waiting.connection.is_closed();
        self.workers.iter().all(|worker| worker.http1.lock().iter_mut().all(closed))
    }

    #[cfg(test)]
    pub(super) fn all_ready(&self) -> bool {
        let ready = |waiting: &mut Waiting| waiting.connection.is_ready();
        self.workers.iter().all(|worker| worker.http1.lock().iter_mut().all(ready))
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.workers.iter().map(|worker| worker.http1.lock().len()).sum()
    }
}

/// A connection that is in use for a response.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) idle: Arc<Idle>,
    pub(super) worker: usize,
    pub(super) connection: Box<Http1>,
    /// Whether another request may follow on it.
    pub(super) keep: bool,
    /// When the request was sent.
    pub(super) since: Instant,
}

impl Lease {
    pub(super) fn give_back(self) {
        if self.keep {
            self.idle.give(self.worker, self.connection, self.since);
        }
    }
}
