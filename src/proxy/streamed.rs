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

use super::activity::InFlight;
use super::body::ResponseError;
use super::hold::{Hold, LIVE_AFTER};
use super::pace::Pace;
use crate::pipeline::exchange::{Authorized, Exchange};
use crate::upstream::UpstreamBody;

/// Between two looks at an answer while the upstream is waited for, at least.
const MOMENT: Duration = Duration::from_secs(1);

type Polled = Poll<Option<Result<Frame<Bytes>, ResponseError>>>;

/// An answer over HTTP/1.
pub struct Streamed {
    body: UpstreamBody,
    hold: Hold<Box<Exchange<Authorized>>>,
    /// Nothing is in flight once the client has it all.
    _in_flight: InFlight,
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
        exchange: Box<Exchange<Authorized>>,
        in_flight: InFlight,
    ) -> Self {
        Self { body, hold: Hold::new(exchange), _in_flight: in_flight }
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

enum Flow {
    Open {
        body: UpstreamBody,
        /// Lets go of the client's connection together with the body.
        _in_flight: InFlight,
    },
    /// What hyper is told when it next asks.
    Ended(Option<ResponseError>),
}

impl Guarded {
    /// `idle` is how long the client may take nothing, `pace` how slowly it may take all of it.
    pub fn new(
        body: UpstreamBody,
        exchange: Box<Exchange<Authorized>>,
        in_flight: InFlight,
        idle: Duration,
        pace: Pace,
    ) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            flow: Flow::Open { body, _in_flight: in_flight },
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
        if let Some(offered) = shared.offered {
            shared.waited += now.saturating_duration_since(offered);
        }
        let frame = match &mut shared.flow {
            Flow::Open { body, .. } => Pin::new(body).poll_frame(cx).map_err(ResponseError::from),
            Flow::Ended(error) => return Poll::Ready(error.take().map(Err)),
        };
        if frame.is_pending() {
            shared.offered = None;
            shared.waker = Some(cx.waker().clone());
        } else {
            if let Poll::Ready(Some(Ok(frame))) = &frame {
                let length = frame.data_ref().map_or(0, Bytes::len);
                shared.bytes += u64::try_from(length).unwrap_or_default();
            }
            shared.offered = Some(now);
        }
        frame
    }

    pub fn is_end_stream(&self) -> bool {
        match &self.shared.lock().flow {
            Flow::Open { body, .. } => body.is_end_stream(),
            Flow::Ended(error) => error.is_none(),
        }
    }

    pub fn size_hint(&self) -> SizeHint {
        match &self.shared.lock().flow {
            Flow::Open { body, .. } => body.size_hint(),
            Flow::Ended(_) => SizeHint::default(),
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
        shared.flow = Flow::Ended(Some(error));
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
