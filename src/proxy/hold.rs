//! What lasts is held to session and policies for as long as it lasts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use crate::pipeline::exchange::{Authorized, Exchange};
use crate::pipeline::live::{CutReason, Holding, Watch};

/// A body that lasts longer than this is watched until it ends.
pub const LIVE_AFTER: Duration = Duration::from_secs(1);

/// What a watch can begin from.
pub trait Watchable {
    /// Since the request's head arrived.
    fn age(&self) -> Duration;
    fn watch(&self) -> Watch;
}

impl Watchable for Holding {
    fn age(&self) -> Duration {
        Holding::age(self)
    }

    fn watch(&self) -> Watch {
        Holding::watch(self)
    }
}

impl Watchable for Box<Exchange<Authorized>> {
    fn age(&self) -> Duration {
        self.elapsed()
    }

    fn watch(&self) -> Watch {
        Exchange::watch(self)
    }
}

/// A short body needs no timer before the first wait, and no registration before it is old.
pub enum Hold<T> {
    Young { over: T, timer: Option<Pin<Box<Sleep>>> },
    Live { watch: Arc<Watch>, cut: Pin<Box<dyn Future<Output = CutReason> + Send>> },
    Ended,
}

impl<T> std::fmt::Debug for Hold<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").finish_non_exhaustive()
    }
}

impl<T: Watchable> Hold<T> {
    pub fn new(over: T) -> Self {
        Self::Young { over, timer: None }
    }

    /// To be asked before anything passes.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        match self {
            Self::Young { over, .. } if over.age() >= LIVE_AFTER => self.grow_up(cx),
            Self::Live { cut, .. } => cut.as_mut().poll(cx),
            Self::Young { .. } | Self::Ended => Poll::Pending,
        }
    }

    /// The client has sent a part of it. Before it is watched, its request's head was just that.
    pub fn client_sent(&self) {
        if let Self::Live { watch, .. } = self {
            watch.client_sent();
        }
    }

    /// To be asked when there is nothing to pass on: makes sure that silence is held as well.
    pub fn poll_age(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        let Self::Young { timer, .. } = self else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LIVE_AFTER)));
        ready!(timer.as_mut().poll(cx));
        self.grow_up(cx)
    }

    fn grow_up(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        if let Self::Young { over, .. } = self {
            let watch = Arc::new(over.watch());
            let watching = Arc::clone(&watch);
            *self = Self::Live { watch, cut: Box::pin(async move { watching.cut().await }) };
        }
        match self {
            Self::Live { cut, .. } => cut.as_mut().poll(cx),
            Self::Young { .. } | Self::Ended => Poll::Pending,
        }
    }
}
