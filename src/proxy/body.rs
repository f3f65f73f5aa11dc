//! Bodies on their way through the gate: streamed, never collected, trailers included.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::activity::{InFlight, Untaken};
use super::hold::Hold;
use super::pace::Pace;
use super::streamed::{Guarded, Streamed};
use crate::pipeline::exchange::{Authorized, Exchange};
use crate::pipeline::headers;
use crate::pipeline::live::{CutReason, Holding};
use crate::upstream::{UpstreamBody, UpstreamError, compact};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request's body was not let through to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the request body is larger than the route allows")]
    TooLarge,
    #[error("the request body stopped coming")]
    Stalled,
    #[error("the request body came too slowly")]
    Slow,
    #[error("cut: {0}")]
    Cut(CutReason),
}

/// Remembers what became of a request's body after hyper's client has taken it away.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<OnceLock<Fault>>);

impl Fate {
    pub fn fault(&self) -> Option<Fault> {
        self.0.get().copied()
    }
}

/// A request's body that fails once it exceeds its limit, stops coming, or is no longer allowed:
/// the upstream then sees a broken request, never a shortened one. Its trailers are those that
/// may be trailers.
///
/// INVARIANT: no byte passes more than a second after session or policies stopped allowing it.
#[derive(Debug)]
pub struct Limited<B> {
    inner: B,
    left: u64,
    patience: Patience,
    fate: Fate,
    hold: Option<Hold<Holding>>,
}

impl<B> Limited<B> {
    /// `limit` in bytes; `idle` is how long may pass without one.
    pub fn new(inner: B, limit: u64, idle: Duration, fate: Fate) -> Self {
        Self { inner, left: limit, patience: Patience::new(idle), fate, hold: None }
    }

    /// Holds whoever sends it to a pace.
    pub fn paced(mut self, pace: Pace) -> Self {
        self.patience.pace = pace;
        self
    }

    /// Holds the body to what permitted it.
    pub fn held(self, holding: Holding) -> Self {
        Self { hold: Some(Hold::new(holding)), ..self }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        self.hold.as_mut().map_or(Poll::Pending, |hold| hold.poll_cut(cx))
    }

    fn poll_age(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        self.hold.as_mut().map_or(Poll::Pending, |hold| hold.poll_age(cx))
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let _ = self.fate.0.set(fault);
        Poll::Ready(Some(Err(Box::new(fault))))
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
        if let Poll::Ready(reason) = self.poll_cut(cx) {
            return self.fail(Fault::Cut(reason));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            if let Poll::Ready(reason) = self.poll_age(cx) {
                return self.fail(Fault::Cut(reason));
            }
            let fault = ready!(self.patience.poll_spent(cx));
            return self.fail(fault);
        };
        self.patience.renew();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(Into::into)?;
        if let Some(data) = frame.data_ref() {
            if let Some(hold) = &self.hold {
                hold.client_sent();
            }
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            self.patience.bytes = self.patience.bytes.saturating_add(length);
            let Some(left) = self.left.checked_sub(length) else {
                return self.fail(Fault::TooLarge);
            };
            self.left = left;
        }
        Poll::Ready(Some(Ok(without_foreign_trailers(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn without_foreign_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::strip_trailers(&mut trailers);
            compact(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

/// How long may be waited at a stretch. The timer is set with the first wait, and moved only when
/// it fires, not for every frame.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    pace: Pace,
    bytes: u64,
    /// In all, before the wait that began at `since`.
    waited: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        let (pace, waited) = (Pace::ANY, Duration::ZERO);
        Self { limit, pace, bytes: 0, waited, since: None, timer: None }
    }

    fn renew(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let left = self.pace.left(self.bytes, self.waited);
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.limit.min(left);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if deadline <= timer.deadline() {
                let fault = if left < self.limit { Fault::Slow } else { Fault::Stalled };
                return Poll::Ready(fault);
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("cut: {0}")]
    Cut(CutReason),
    #[error("the client takes no more of it")]
    NotTaken,
}

/// What a client is answered with. It keeps its request in flight until it ends.
pub struct ResponseBody(Source);

enum Source {
    /// All of it is there.
    Own {
        text: Option<Bytes>,
        _left: Left,
    },
    Http1(Box<Streamed>),
    Http2(Guarded),
}

/// What an answer that is all there leaves with its connection until it is gone.
enum Left {
    InFlight(#[expect(dead_code, reason = "it is held, not read")] InFlight),
    Untaken(#[expect(dead_code, reason = "it is held, not read")] Untaken),
    Nothing,
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl ResponseBody {
    /// What is there at once: the gate's own words, and short answers. Over HTTP/2 it keeps no
    /// connection from idling out, and ends one that never takes it: anybody gets it.
    pub fn own(text: Bytes, in_flight: InFlight) -> Self {
        let text = (!text.is_empty()).then_some(text);
        let left = match &text {
            _ if !in_flight.is_multiplexed() => Left::InFlight(in_flight),
            Some(_) => Left::Untaken(in_flight.untaken()),
            None => Left::Nothing,
        };
        Self(Source::Own { text, _left: left })
    }

    pub fn http1(
        body: UpstreamBody,
        exchange: Box<Exchange<Authorized>>,
        in_flight: InFlight,
    ) -> Self {
        Self(Source::Http1(Box::new(Streamed::new(body, exchange, in_flight))))
    }

    /// `idle` is how long the client may take nothing of it, `pace` how slowly it may take it.
    pub fn http2(
        body: UpstreamBody,
        exchange: Box<Exchange<Authorized>>,
        in_flight: InFlight,
        idle: Duration,
        pace: Pace,
    ) -> Self {
        Self(Source::Http2(Guarded::new(body, exchange, in_flight, idle, pace)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let frame = match &mut self.0 {
            Source::Own { text, .. } => text.take().map(|text| Ok(Frame::data(text))),
            Source::Http1(streamed) => ready!(streamed.poll_frame(cx)),
            Source::Http2(guarded) => ready!(guarded.poll_frame(cx)),
        };
        if !matches!(frame, Some(Ok(_))) {
            // Nothing more comes: the upstream's connection and the watch end here, whenever
            // hyper lets go of the body.
            self.0 = Source::Own { text: None, _left: Left::Nothing };
        }
        Poll::Ready(frame.map(|frame| frame.map(without_foreign_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Own { text, .. } => text.is_none(),
            Source::Http1(streamed) => streamed.is_end_stream(),
            Source::Http2(guarded) => guarded.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Own { text, .. } => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Source::Http1(streamed) => streamed.size_hint(),
            Source::Http2(guarded) => guarded.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::ListenerLimits;
    use crate::proxy::activity::Activity;
    use http_body_util::{BodyExt, Full};

    const IDLE: Duration = Duration::from_secs(75);

    #[test]
    fn a_page_that_an_http2_client_never_takes_keeps_no_connection() {
        let limits = ListenerLimits {
            handshake_timeout: IDLE,
            header_timeout: IDLE,
            idle_timeout: IDLE,
            max_header_bytes: 8192,
            max_headers: 100,
            max_connections: 1,
            max_connections_per_address: 10,
            max_handshakes: 10,
            min_data_rate: 240,
            data_rate_grace: Duration::from_secs(20),
        };
        for (is_http1, keeps) in [(true, true), (false, false)] {
            let activity = Activity::new(is_http1);
            let page = ResponseBody::own(Bytes::from_static(b"page"), activity.begin());
            assert_eq!(activity.deadline(&limits).is_none(), keeps, "http1: {is_http1}");
            drop(page);
            assert!(activity.deadline(&limits).is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_never_taken_ends_its_connection_whatever_else_goes_on() {
        let limits =
            ListenerLimits { idle_timeout: IDLE, ..crate::proxy::connection::tests::limits() };
        let activity = Activity::new(false);
        let page = || ResponseBody::own(Bytes::from_static(b"page"), activity.begin());
        let first = page();
        let mut overdue = Vec::new();
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(10)).await;
            // Others come and are taken, and one is always under way.
            drop(page());
            let _under_way = activity.begin();
            overdue.push(activity.deadline(&limits).is_some_and(|at| at <= Instant::now()));
        }
        assert_eq!(overdue.iter().position(|overdue| *overdue), Some(7), "{overdue:?}");
        drop(first);
        let _under_way = activity.begin();
        assert!(activity.deadline(&limits).is_none());
    }

    #[tokio::test]
    async fn a_body_over_its_limit_fails_and_is_remembered() {
        let fate = Fate::default();
        let body = Full::new(Bytes::from_static(b"12345"));
        let whole = Limited::new(body.clone(), 5, IDLE, fate.clone()).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "12345");
        assert_eq!(fate.fault(), None);
        assert!(Limited::new(body, 4, IDLE, fate.clone()).collect().await.is_err());
        assert_eq!(fate.fault(), Some(Fault::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_fails_and_one_that_trickles_does_not() {
        let (sender, frames) = tokio::sync::mpsc::channel::<Bytes>(1);
        let stream = futures_util::stream::unfold(frames, |mut frames| async {
            let data = frames.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(data)), frames))
        });
        let fate = Fate::default();
        let body = http_body_util::StreamBody::new(Box::pin(stream));
        let mut body = Limited::new(body, 100, IDLE, fate.clone());
        for _ in 0..5 {
            let later = async {
                tokio::time::sleep(Duration::from_secs(70)).await;
                sender.send(Bytes::from_static(b"x")).await.unwrap();
            };
            let (frame, ()) = tokio::join!(body.frame(), later);
            assert!(frame.unwrap().is_ok());
        }
        let begun = Instant::now();
        assert!(body.frame().await.unwrap().is_err());
        assert_eq!(begun.elapsed().as_secs(), 75);
        assert_eq!(fate.fault(), Some(Fault::Stalled));
    }

    /// What becomes of a body of which so many bytes come every second, and after how many.
    async fn fate_of(rate: usize, seconds: u64) -> (Option<Fault>, u64) {
        let drip = futures_util::stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (sent < seconds)
                .then(|| (Ok::<_, BoxError>(Frame::data(vec![0; rate].into())), sent + 1))
        });
        let (fate, begun) = (Fate::default(), Instant::now());
        let pace = Pace { rate: 240, grace: Duration::from_secs(20) };
        let body = http_body_util::StreamBody::new(Box::pin(drip));
        let body = Limited::new(body, 1 << 20, IDLE, fate.clone()).paced(pace);
        let _ = body.collect().await;
        (fate.fault(), begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_only_drips_fails_when_its_grace_is_used_up() {
        assert_eq!(fate_of(1, 1000).await, (Some(Fault::Slow), 20));
        assert_eq!(fate_of(120, 1000).await, (Some(Fault::Slow), 39));
        assert_eq!(fate_of(240, 1000).await, (None, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_upstream_takes_its_time_over_is_not_the_clients_fault() {
        let pace = Pace { rate: 240, grace: Duration::from_secs(20) };
        let fate = Fate::default();
        let body = Full::new(Bytes::from_static(b"x"));
        let mut body = Limited::new(body, 100, IDLE, fate.clone()).paced(pace);
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.is_none());
        assert_eq!(fate.fault(), None);
    }

    #[tokio::test]
    async fn only_what_may_be_a_trailer_passes() {
        let trailers: http::HeaderMap = [
            (http::HeaderName::from_static("x-wicketgate-user"), "sam"),
            (http::HeaderName::from_static("content-length"), "7"),
            (http::HeaderName::from_static("x-sum"), "1"),
        ]
        .map(|(name, value)| (name, http::HeaderValue::from_static(value)))
        .into_iter()
        .collect();
        let body = Full::new(Bytes::from_static(b"x"))
            .with_trailers(std::future::ready(Some(Ok(trailers))));
        let limited = Limited::new(Box::pin(body), 5, IDLE, Fate::default());
        let whole = limited.collect().await.unwrap();
        let left: Vec<_> = whole.trailers().unwrap().keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["x-sum"]);
    }
}
