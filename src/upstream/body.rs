//! Bodies on their way through: never held, only watched.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use super::error::UpstreamError;
use super::idle::Lease;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body on its way to the upstream.
pub(super) enum RequestBody {
    Empty,
    Stream { inner: UnsyncBoxBody<Bytes, BoxError>, progress: Arc<Progress> },
}

impl RequestBody {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let inner = body.map_err(Into::into).boxed_unsync();
        Self::Stream { inner, progress: Arc::new(Progress::begin()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Stream { progress, .. } => Some(Arc::clone(progress)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream { inner, progress } => {
                let frame = Pin::new(inner).poll_frame(cx);
                progress.moved(frame.is_pending());
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { inner, .. } => inner.size_hint(),
        }
    }
}

impl Drop for RequestBody {
    /// hyper lets go of a body as soon as it has sent it.
    fn drop(&mut self) {
        if let Self::Stream { progress, .. } = self {
            progress.finish();
        }
    }
}

/// How far the sending of a request is, for its deadline.
#[derive(Debug)]
pub(super) struct Progress {
    state: Mutex<Moved>,
    finished: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Moved {
    last: Instant,
    /// For the client: the upstream would take more. How long that may be is the body's own
    /// affair; it fails when it is too long.
    waiting: bool,
    finished: bool,
}

impl Progress {
    fn begin() -> Self {
        let state = Mutex::new(Moved { last: Instant::now(), waiting: false, finished: false });
        Self { state, finished: Notify::new() }
    }

    fn moved(&self, waiting: bool) {
        let mut state = self.state.lock();
        if !(waiting && state.waiting) {
            state.last = Instant::now();
        }
        state.waiting = waiting;
    }

    fn finish(&self) {
        *self.state.lock() = Moved { last: Instant::now(), waiting: false, finished: true };
        self.finished.notify_one();
    }

    fn deadline(&self, response: Duration, idle: Duration) -> (Instant, bool) {
        let moved = *self.state.lock();
        let last = if moved.waiting { Instant::now() } else { moved.last };
        (last + if moved.finished { response } else { idle }, moved.finished)
    }
}

/// Waits for the header of the response to a request without a body, until `deadline`. `timer` is
/// used again where there is one; it is armed only if the answer is not there at once.
pub(super) async fn soon<F: Future>(
    sending: F,
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
) -> Result<F::Output, UpstreamError> {
    let mut sending = pin!(sending);
    let mut armed = false;
    poll_fn(|cx| {
        if let Poll::Ready(output) = sending.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let timer = timer.get_or_insert_with(|| {
            armed = true;
            Box::pin(tokio::time::sleep_until(deadline))
        });
        if !armed {
            armed = true;
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(UpstreamError::Timeout { what: "answer" }))
    })
    .await
}

/// Waits for the response's header: `response` from the end of the request, and before that
/// `idle` from its last frame, not counting the time in which the client sends none.
pub(super) async fn within<F: Future>(
    sending: F,
    progress: Arc<Progress>,
    response: Duration,
    idle: Duration,
) -> Result<F::Output, UpstreamError> {
    tokio::pin!(sending);
    loop {
        let (deadline, finished) = progress.deadline(response, idle);
        tokio::select! {
            biased;
            output = &mut sending => return Ok(output),
            () = progress.finished.notified(), if !finished => {}
            () = tokio::time::sleep_until(deadline) => {
                let (deadline, finished) = progress.deadline(response, idle);
                if deadline <= Instant::now() {
                    let what = if finished { "answer" } else { "take the request" };
                    return Err(UpstreamError::Timeout { what });
                }
            }
        }
    }
}

/// A response's body as it streams in from the upstream, trailers included.
///
/// It fails when no byte came for the route's idle timeout while one was waited for. The timer
/// starts with the wait, so that a slow client is not taken for a silent upstream; and it is
/// moved only when it fires, not for every frame.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Option<Incoming>,
    /// Moves the connection on, and gives it back at the end. Dropped before that, it closes it.
    /// HTTP/2 has none.
    lease: Option<Lease>,
    idle: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Taken from the upstream and not yet passed on.
    ahead: Option<Box<Result<Frame<Bytes>, UpstreamError>>>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Option<Lease>, idle: Duration) -> Self {
        let mut body = Self {
            incoming: Some(incoming),
            lease,
            idle,
            waiting_since: None,
            timer: None,
            ahead: None,
        };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The whole body, if that is at most `most` bytes and has arrived. The upstream's connection
    /// is then free.
    pub fn whole(&mut self, most: u64, cx: &mut Context<'_>) -> Option<Bytes> {
        if self.is_end_stream() {
            return Some(Bytes::new());
        }
        if self.size_hint().exact().is_none_or(|length| length > most) {
            return None;
        }
        let Poll::Ready(Some(frame)) = Pin::new(&mut *self).poll_frame(cx) else { return None };
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if self.is_end_stream() => return Some(data),
            Ok(Ok(data)) => self.ahead = Some(Box::new(Ok(Frame::data(data)))),
            Ok(Err(other)) => self.ahead = Some(Box::new(Ok(other))),
            Err(error) => self.ahead = Some(Box::new(Err(error))),
        }
        None
    }

    fn finish(&mut self) {
        self.incoming = None;
        self.timer = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn fail(&mut self, error: UpstreamError) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        self.incoming = None;
        self.lease = None;
        Poll::Ready(Some(Err(error)))
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if deadline <= timer.deadline() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let this = self.get_mut();
        if let Some(ahead) = this.ahead.take() {
            return Poll::Ready(Some(*ahead));
        }
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let mut incoming = Pin::new(incoming);
        let frame = match &mut this.lease {
            Some(lease) => lease.connection.poll(cx, |cx| incoming.as_mut().poll_frame(cx)),
            None => incoming.poll_frame(cx),
        };
        match frame {
            Poll::Pending => {
                ready!(this.poll_idle(cx));
                this.fail(UpstreamError::Timeout { what: "send its answer's body" })
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting_since = None;
                if this.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => this.fail(UpstreamError::from_hyper(&error)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.ahead.is_some() {
            return SizeHint::default();
        }
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
