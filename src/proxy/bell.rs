//! Waits for what happens once in a connection's life, at the price of a flag.
//!
//! A connection's future is polled several times a request, and each time a token that is asked
//! whether the worker stops takes two locks to say no. A [`Bell`] asks it once and then only when
//! it rings.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

pub(super) struct Bell<F> {
    awaited: F,
    cord: Option<Arc<Cord>>,
}

struct Cord {
    pulled: AtomicBool,
    task: Waker,
}

impl Wake for Cord {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.pulled.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future + Unpin> Bell<F> {
    pub(super) fn new(awaited: F) -> Self {
        Self { awaited, cord: None }
    }

    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<F::Output> {
        if let Some(cord) = &self.cord
            && cord.task.will_wake(cx.waker())
            && !cord.pulled.load(Ordering::Acquire)
        {
            return Poll::Pending;
        }
        let cord = Arc::new(Cord { pulled: AtomicBool::new(false), task: cx.waker().clone() });
        self.cord = Some(Arc::clone(&cord));
        Pin::new(&mut self.awaited).poll(&mut Context::from_waker(&Waker::from(cord)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_and_told() {
        let token = CancellationToken::new();
        let mut bell = Bell::new(Box::pin(token.cancelled()));
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        let cx = Context::from_waker(&waker);
        assert!(bell.poll(&cx).is_pending());
        assert!(bell.poll(&cx).is_pending());
        token.cancel();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(bell.poll(&cx).is_ready());
    }

    #[test]
    fn the_awaited_is_asked_again_only_when_it_rang_or_the_task_is_another() {
        let asked = Cell::new(0);
        let kept = Cell::new(None);
        let mut bell = Bell::new(std::future::poll_fn(|cx: &mut Context<'_>| {
            asked.set(asked.get() + 1);
            kept.set(Some(cx.waker().clone()));
            Poll::<()>::Pending
        }));
        let tasks = [Arc::new(Task::default()), Arc::new(Task::default())];
        let wakers = tasks.clone().map(Waker::from);
        let [first, second] = &wakers;
        for _ in 0..3 {
            assert!(bell.poll(&Context::from_waker(first)).is_pending());
        }
        assert_eq!(asked.get(), 1);
        kept.take().unwrap().wake();
        assert!(bell.poll(&Context::from_waker(first)).is_pending());
        assert_eq!(asked.get(), 2);
        assert!(bell.poll(&Context::from_waker(second)).is_pending());
        assert_eq!(asked.get(), 3);
        kept.take().unwrap().wake();
        assert_eq!(tasks.map(|task| task.0.load(Ordering::Relaxed)), [1, 1]);
    }
}
