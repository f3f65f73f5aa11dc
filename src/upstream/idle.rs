//! Connections that wait for their next request, apart for each worker.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::body::RequestBody;
use super::wire::Http1;

/// A connection whose last request is this long ago is closed: shorter than what servers commonly
/// allow, so that mostly it is the gate that hangs up first.
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
    http1: Mutex<Vec<Stack>>,
    http2: Mutex<HashMap<SocketAddr, Http2Slot>>,
}

/// The connections to one address, that used last at the end. Its length is known without a look at
/// any of them: they are many, and seldom in the processor's cache.
#[derive(Debug)]
struct Stack {
    address: SocketAddr,
    waiting: VecDeque<Waiting>,
    /// Requests that there was none for, in the order that they came; some have gone since.
    wanted: VecDeque<oneshot::Sender<Box<Http1>>>,
}

#[derive(Debug)]
struct Waiting {
    connection: Box<Http1>,
    /// When its last request was sent.
    since: Instant,
}

impl Stack {
    fn new(address: SocketAddr) -> Self {
        Self { address, waiting: VecDeque::new(), wanted: VecDeque::new() }
    }
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
        let mut stacks = self.worker(worker)?.http1.lock();
        let waiting = &mut to(&mut stacks, address)?.waiting;
        while let Some(mut last) = waiting.pop_back() {
            if !last.is_old(now) && last.connection.is_ready() {
                return Some(last.connection);
            }
        }
        None
    }

    /// The next connection to the address that a request of this worker is done with.
    pub(super) fn next(&self, worker: usize, address: SocketAddr) -> oneshot::Receiver<Box<Http1>> {
        let (wanted, given) = oneshot::channel();
        if let Some(worker) = self.worker(worker) {
            let mut stacks = worker.http1.lock();
            if let Some(stack) = to(&mut stacks, address) {
                while stack.wanted.pop_front_if(|first| first.is_closed()).is_some() {}
                stack.wanted.push_back(wanted);
            } else {
                stacks.push(Stack { wanted: VecDeque::from([wanted]), ..Stack::new(address) });
            }
        }
        given
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
        let mut stacks = worker.http1.lock();
        let Some(stack) = to(&mut stacks, address) else {
            let waiting = VecDeque::from([Waiting { connection, since }]);
            return stacks.push(Stack { waiting, ..Stack::new(address) });
        };
        while let Some(wanted) = stack.wanted.pop_front() {
            match wanted.send(connection) {
                Ok(()) => return,
                Err(gone) => connection = gone,
            }
        }
        if stack.waiting.len() >= self.max_idle {
            stack.waiting.pop_front();
        }
        stack.waiting.push_back(Waiting { connection, since });
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
            worker.http1.lock().retain_mut(|Stack { address, waiting, wanted }| {
                waiting.retain_mut(|one| !one.is_old(now) && !one.connection.is_closed());
                wanted.retain(|one| !one.is_closed());
                current.contains(address) && !(waiting.is_empty() && wanted.is_empty())
            });
            worker.http2.lock().retain(|address, _| current.contains(address));
        }
    }

    #[cfg(test)]
    pub(super) fn all_closed(&self) -> bool {
        self.all(Http1::is_closed)
    }

    #[cfg(test)]
    pub(super) fn all_ready(&self) -> bool {
        self.all(Http1::is_ready)
    }

    #[cfg(test)]
    fn all(&self, mut wanted: impl FnMut(&mut Http1) -> bool) -> bool {
        self.workers.iter().all(|worker| {
            let mut stacks = worker.http1.lock();
            stacks.iter_mut().flat_map(|to| &mut to.waiting).all(|one| wanted(&mut one.connection))
        })
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let waiting = |worker: &Worker| -> usize {
            worker.http1.lock().iter().map(|to| to.waiting.len()).sum()
        };
        self.workers.iter().map(waiting).sum()
    }
}

fn to(stacks: &mut [Stack], address: SocketAddr) -> Option<&mut Stack> {
    stacks.iter_mut().find(|to| to.address == address)
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
