//! An upstream's answer on its way to the client, held to session and policies.
//!
//! INVARIANT: a response that outlives [`LIVE_AFTER`] is cut like a WebSocket when its session
//! ends or the policies no longer allow it.
//!
//! Over HTTP/1 the answer asks for itself whenever hyper asks for more of it: a short one costs
//! nothing, and a client that takes no bytes blocks its socket, which the connection's deadline
//! ends. Over HTTP/2 a client can leave one stream's window closed on a socket that flows, and
//! hyper then asks for nothing; so there a [guard](Guarded) of its own watches the answer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::activity::{InFlight, Untaken};
use super::body::ResponseError;
use super::hold::{Hold, LIVE_AFTER};
use super::pace::Pace;
use crate::pipeline::exchange::{Authorized, Exchange};
use crate::pipeline::slots::Held;
use crate::upstream::UpstreamBody;

/// Between two looks at an answer while the upstream is waited for, at least.
const MOMENT: Duration = Duration::from_secs(1);

type Polled = Poll<Option<Result<Frame<Bytes>, ResponseError>>>;

/// An answer over HTTP/1.
pub struct Streamed {
    body: UpstreamBody,
    hold: Hold<Box<Exchange<Authorized>>>,
    /// Nothing is in flight once the client has it all, and no place is taken.
    _in_flight: InFlight,
    _held: Option<Held>,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("body", &self.body).finish_non_exhaustive()
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}

impl Streamed {
    pub fn new(
        body: UpstreamBody,
        mut exchange: Box<Exchange<Authorized>>,
        in_flight: InFlight,
    ) -> Self {
        let held = exchange.take_held();
        Self { body, hold: Hold::new(exchange), _in_flight: in_flight, _held: held }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Poll::Ready(reason) = self.hold.poll_cut(cx) {
            self.hold = Hold::Ended;
            return Poll::Ready(Some(Err(ResponseError::Cut(reason))));
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending()
            && let Poll::Ready(reason) = self.hold.poll_age(cx)
        {
            self.hold = Hold::Ended;
            return Poll::Ready(Some(Err(ResponseError::Cut(reason))));
        }
        frame.map_err(ResponseError::from)
    }

    pub fn is_end_stream(&self) -> bool {
        !matches!(self.hold, Hold::Ended) && self.body.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer over HTTP/2. Its guard cuts it, or gives it up when the client takes nothing for the
/// idle timeout; either way the upstream's connection is free at once, whatever hyper waits for.
pub struct Guarded {
    shared: Arc<Mutex<Shared>>,
    _guard: AbortOnDropHandle<()>,
}

struct Shared {
    flow: Flow,
    /// Since when it is the client's turn; `None` while the upstream is waited for.
    offered: Option<Instant>,
    /// For how long it was before that, and of how many bytes.
    waited: Duration,
    bytes: u64,
    waker: Option<Waker>,
}

impl Shared {
    /// The client, or a buffer on its way there, has taken what it was offered.
    fn asked(&mut self, now: Instant) {
        if let Some(offered) = self.offered {
            self.waited += now.saturating_duration_since(offered);
        }
    }

    fn offered(&mut self, now: Instant, bytes: usize) {
        self.bytes += u64::try_from(bytes).unwrap_or_default();
        self.offered = Some(now);
    }
}

enum Flow {
    Open {
        body: UpstreamBody,
        /// Lets go of the client's connection, and of the request's places, together with the body.
        in_flight: InFlight,
        _held: Option<Held>,
    },
    /// What hyper is told when it next asks, and that it may have to wait for the client before.
    Ended(
        Option<ResponseError>,
        #[expect(dead_code, reason = "it is held, not read")] Option<Untaken>,
    ),
}

impl Guarded {
    /// `idle` is how long the client may take nothing, `pace` how slowly it may take all of it.
    pub fn new(
        body: UpstreamBody,
        mut exchange: Box<Exchange<Authorized>>,
        in_flight: InFlight,
        idle: Duration,
        pace: Pace,
    ) -> Self {
        let held = exchange.take_held();
        let shared = Arc::new(Mutex::new(Shared {
            flow: Flow::Open { body, in_flight, _held: held },
            offered: Some(Instant::now()),
            waited: Duration::ZERO,
            bytes: 0,
            waker: None,
        }));
        let guard = tokio::spawn(guard(Arc::clone(&shared), exchange, idle, pace));
        Self { shared, _guard: AbortOnDropHandle::new(guard) }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut shared = self.shared.lock();
        let now = Instant::now();
        shared.asked(now);
        let frame = match &mut shared.flow {
            Flow::Open { body, .. } => Pin::new(body).poll_frame(cx).map_err(ResponseError::from),
            Flow::Ended(error, _) => return Poll::Ready(error.take().map(Err)),
        };
        if frame.is_pending() {
            shared.offered = None;
            shared.waker = Some(cx.waker().clone());
        } else {
            let data = match &frame {
                Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
                _ => 0,
            };
            shared.offered(now, data);
        }
        frame
    }

    pub fn is_end_stream(&self) -> bool {
        match &self.shared.lock().flow {
            Flow::Open { body, .. } => body.is_end_stream(),
            Flow::Ended(error, _) => error.is_none(),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match &self.shared.lock().flow {
            Flow::Open { body, .. } => body.size_hint(),
            Flow::Ended(..) => SizeHint::default(),
        }
    }
}

async fn guard(
    shared: Arc<Mutex<Shared>>,
    exchange: Box<Exchange<Authorized>>,
    idle: Duration,
    pace: Pace,
) {
    tokio::time::sleep(LIVE_AFTER).await;
    let watch = exchange.watch();
    drop(exchange);
    let error = tokio::select! {
        reason = watch.cut() => ResponseError::Cut(reason),
        () = not_taken(&shared, idle, pace) => ResponseError::NotTaken,
    };
    let waker = {
        let mut shared = shared.lock();
        let untaken = match &shared.flow {
            Flow::Open { in_flight, .. } => Some(in_flight.untaken()),
            Flow::Ended(..) => None,
        };
        shared.flow = Flow::Ended(Some(error), untaken);
        shared.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

async fn not_taken(shared: &Mutex<Shared>, idle: Duration, pace: Pace) {
    loop {
        let deadline = {
            let shared = shared.lock();
            let patience = idle.min(pace.left(shared.bytes, shared.waited));
            match shared.offered {
                Some(offered) => offered + patience,
                // It is the upstream's turn; once it is the client's, that much is left at least.
                None => Instant::now() + patience.max(MOMENT),
            }
        };
        if deadline <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds an answer is given up of which so many bytes are taken each second;
    /// none where nobody ever asks for the first. `None`: not within a quarter of an hour.
    async fn given_up_after(step: Option<usize>, upstream: Duration) -> Option<u64> {
        let begun = Instant::now();
        let shared = Mutex::new(Shared {
            flow: Flow::Ended(None, None),
            offered: Some(begun),
            waited: Duration::ZERO,
            bytes: 0,
            waker: None,
        });
        let taking = async {
            let Some(step) = step else { return std::future::pending().await };
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                shared.lock().asked(Instant::now());
                if upstream > Duration::ZERO {
                    shared.lock().offered = None;
                    tokio::time::sleep(upstream).await;
                }
                shared.lock().offered(Instant::now(), step);
            }
        };
        let pace = Pace { rate: 240, grace: Duration::from_secs(20) };
        let given_up = not_taken(&shared, Duration::from_secs(75), pace);
        // In this order where two of them are due at the same moment.
        tokio::select! {
            biased;
            () = given_up => Some(begun.elapsed().as_secs()),
            () = taking => None,
            () = tokio::time::sleep(Duration::from_secs(900)) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_in_drips_or_not_at_all_is_given_up() {
        let now = Duration::ZERO;
        assert_eq!(given_up_after(None, now).await, Some(20));
        assert_eq!(given_up_after(Some(120), now).await, Some(39));
        assert_eq!(given_up_after(Some(240), now).await, None);
        // Ten seconds of each eleven it is the upstream's turn.
        let slow = given_up_after(Some(12), Duration::from_secs(10)).await;
        assert!(slow.is_some_and(|seconds| (210..=235).contains(&seconds)), "{slow:?}");
    }
}
