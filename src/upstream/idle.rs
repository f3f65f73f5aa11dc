//! Connections that wait for their next request, apart for each worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::body::RequestBody;
use super::connect::Heard;

/// A connection whose last request is this long ago is closed: shorter than what servers commonly allow, so that
/// mostly it is the gate that hangs up first.
const MAX_AGE: Duration = Duration::from_secs(55);

/// An open HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) address: SocketAddr,
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) heard: Arc<Heard>,
    /// The timer of its answers, kept with it: moving one on costs less than making one.
    pub(super) patience: Option<Pin<Box<Sleep>>>,
}

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
    connection: Http1,
    /// When its last request was sent.
    since: Instant,
}

impl Waiting {
    fn is_spent(&self, now: Instant) -> bool {
        self.connection.sender.is_closed() || now.saturating_duration_since(self.since) > MAX_AGE
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
    pub(super) fn take(&self, worker: usize, address: SocketAddr, now: Instant) -> Option<Http1> {
        let mut waiting = self.worker(worker)?.http1.lock();
        let mut at = waiting.len();
        while at > 0 {
            at -= 1;
            let candidate = waiting.get(at)?;
            if candidate.connection.address != address {
                continue;
            }
            if candidate.is_spent(now) {
                waiting.remove(at);
            } else if candidate.connection.sender.is_ready() {
                return Some(waiting.remove(at).connection);
            }
        }
        None
    }

    fn give(&self, worker: usize, connection: Http1, since: Instant) {
        if connection.sender.is_closed() || self.max_idle == 0 {
            return;
        }
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
            worker.http1.lock().retain(|waiting| {
                !waiting.is_spent(now) && current.contains(&waiting.connection.address)
            });
            worker.http2.lock().retain(|address, _| current.contains(address));
        }
    }

    #[cfg(test)]
    pub(super) fn all_closed(&self) -> bool {
        let closed = |waiting: &Waiting| waiting.connection.sender.is_closed();
        self.workers.iter().all(|worker| worker.http1.lock().iter().all(closed))
    }

    #[cfg(test)]
    pub(super) fn all_ready(&self) -> bool {
        let ready = |waiting: &Waiting| waiting.connection.sender.is_ready();
        self.workers.iter().all(|worker| worker.http1.lock().iter().all(ready))
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
    pub(super) connection: Http1,
    /// When the request was sent.
    pub(super) since: Instant,
}

impl Lease {
    pub(super) fn give_back(self) {
        self.idle.give(self.worker, self.connection, self.since);
    }
}
