//! Bodies on their way through the gate: streamed, never collected, trailers included.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::activity::InFlight;
use crate::pipeline::exchange::{Authorized, Exchange};
use crate::pipeline::live::CutReason;
use crate::upstream::{UpstreamBody, UpstreamError};

/// A response that lasts longer than this is held to session and policies until it ends.
const LIVE_AFTER: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("the request body is larger than the route allows")]
struct TooLarge;

/// Remembers what became of a request's body after hyper's client has taken it away.
#[derive(Clone, Debug, Default)]
pub struct Overrun(Arc<AtomicBool>);

impl Overrun {
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's body that fails once it exceeds its limit: the upstream then sees a broken request,
/// never a shortened one.
#[derive(Debug)]
pub struct Limited<B> {
    inner: B,
    left: u64,
    overrun: Overrun,
}

impl<B> Limited<B> {
    /// `limit` in bytes.
    pub fn new(inner: B, limit: u64, overrun: Overrun) -> Self {
        Self { inner, left: limit, overrun }
    }
}

impl<B> Body for Limited<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        if let Some(data) = frame.data_ref() {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let Some(left) = self.left.checked_sub(length) else {
                self.overrun.0.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(Box::new(TooLarge))));
            };
            self.left = left;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("cut: {0}")]
    Cut(CutReason),
}

/// What a client is answered with. It keeps its request in flight until it ends.
pub struct ResponseBody {
    source: Source,
    in_flight: Option<InFlight>,
}

enum Source {
    /// The gate's own words.
    Own(Option<Bytes>),
    Upstream(Box<Streamed>),
}

struct Streamed {
    body: UpstreamBody,
    hold: Hold,
}

/// INVARIANT: a response that outlives [`LIVE_AFTER`] is cut like a WebSocket when its session
/// ends or the policies no longer allow it. A short one costs nothing: no timer before the first
/// wait, no registration before it is old.
enum Hold {
    Young { exchange: Box<Exchange<Authorized>>, timer: Option<Pin<Box<Sleep>>> },
    Live(Pin<Box<dyn Future<Output = CutReason> + Send>>),
    Ended,
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl ResponseBody {
    pub fn own(text: Bytes, in_flight: InFlight) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self { source: Source::Own(text), in_flight: Some(in_flight) }
    }

    pub fn upstream(
        body: UpstreamBody,
        exchange: Box<Exchange<Authorized>>,
        in_flight: InFlight,
    ) -> Self {
        let hold = Hold::Young { exchange, timer: None };
        let source = Source::Upstream(Box::new(Streamed { body, hold }));
        Self { source, in_flight: Some(in_flight) }
    }
}

impl Streamed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
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
}

impl Hold {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        match self {
            Self::Young { exchange, .. } if exchange.elapsed() >= LIVE_AFTER => self.grow_up(cx),
            Self::Live(cut) => cut.as_mut().poll(cx),
            Self::Young { .. } | Self::Ended => Poll::Pending,
        }
    }

    /// Only called when there is nothing to send: makes sure that a silent stream is held as well.
    fn poll_age(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        let Self::Young { timer, .. } = self else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LIVE_AFTER)));
        ready!(timer.as_mut().poll(cx));
        self.grow_up(cx)
    }

    fn grow_up(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        if let Self::Young { exchange, .. } = self {
            let watch = exchange.watch();
            *self = Self::Live(Box::pin(async move { watch.cut().await }));
        }
        match self {
            Self::Live(cut) => cut.as_mut().poll(cx),
            Self::Young { .. } | Self::Ended => Poll::Pending,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let frame = match &mut self.source {
            Source::Own(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Upstream(streamed) => ready!(streamed.poll_frame(cx)),
        };
        if !matches!(frame, Some(Ok(_))) {
            // Nothing more comes: the upstream's connection and the watch end here, whenever
            // hyper lets go of the body.
            self.source = Source::Own(None);
            self.in_flight = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(text) => text.is_none(),
            Source::Upstream(streamed) => {
                !matches!(streamed.hold, Hold::Ended) && streamed.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(text) => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Source::Upstream(streamed) => streamed.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    #[tokio::test]
    async fn a_body_over_its_limit_fails_and_is_remembered() {
        let overrun = Overrun::default();
        let body = Full::new(Bytes::from_static(b"12345"));
        let whole = Limited::new(body.clone(), 5, overrun.clone()).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "12345");
        assert!(!overrun.happened());
        assert!(Limited::new(body, 4, overrun.clone()).collect().await.is_err());
        assert!(overrun.happened());
    }
}
