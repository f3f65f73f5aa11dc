//! How an upstream connection wakes the request that moves it on.
//!
//! Connection, answer and body live in one task and wake one another: a request that is handed to
//! the connection wakes it, a head that arrived wakes who waits for it, a body that is asked for
//! wakes the connection again. The task is running each time, and would be run once more for
//! nothing. A [`Signal`] stands between: what wakes it while it is being polled only has the poll
//! look again, and what wakes it while the connection waits in the pool wakes nobody.
//!
//! INVARIANT: no wake is lost. One from another thread either finds the poll at an end, and wakes
//! the task, or is found by the poll: both use one total order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// How often one poll looks again. A future that has used up its turn (tokio's cooperative budget)
/// wakes itself each time, and gets its next turn only from the runtime.
const ROUNDS: usize = 3;

/// One connection's waker, made once.
#[derive(Debug)]
pub(super) struct Signal {
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Bell {
    /// Who uses the connection.
    task: Mutex<Option<Waker>>,
    polling: AtomicBool,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst)
            && let Some(task) = &*self.task.lock()
        {
            task.wake_by_ref();
        }
    }
}

impl Default for Signal {
    fn default() -> Self {
        let bell = Arc::new(Bell::default());
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl Signal {
    /// Polls on behalf of a task, and again while that woke itself.
    pub(super) fn poll<T>(
        &self,
        cx: &Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let task = &self.bell.task;
        if !task.lock().as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task.lock() = Some(cx.waker().clone());
        }
        let mut own = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS {
            self.bell.rung.store(false, Ordering::Relaxed);
            self.bell.polling.store(true, Ordering::SeqCst);
            let polled = poll(&mut own);
            self.bell.polling.store(false, Ordering::SeqCst);
            if polled.is_ready() || !self.bell.rung.load(Ordering::SeqCst) {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nobody uses the connection: nobody is woken.
    pub(super) fn rest(&self) {
        *self.bell.task.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn task() -> (Arc<Task>, Waker) {
        let task = Arc::new(Task::default());
        (Arc::clone(&task), Waker::from(task))
    }

    #[test]
    fn what_wakes_itself_is_polled_again_and_its_task_is_not_woken() {
        let (task, waker) = task();
        let signal = Signal::default();
        let polls = Cell::new(0);
        let polled = signal.poll(&Context::from_waker(&waker), |cx| {
            polls.set(polls.get() + 1);
            if polls.get() == 1 {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        assert_eq!((polls.get(), task.woken()), (2, 0));
    }

    #[test]
    fn what_always_wakes_itself_leaves_the_turn_to_others() {
        let (task, waker) = task();
        let polls = Cell::new(0);
        let polled = Signal::default().poll(&Context::from_waker(&waker), |cx| {
            polls.set(polls.get() + 1);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        assert_eq!((polls.get(), task.woken()), (ROUNDS, 1));
    }

    #[test]
    fn the_task_that_polled_last_is_woken_until_the_connection_rests() {
        let [(first, one), (second, two)] = [task(), task()];
        let signal = Signal::default();
        let kept = Cell::new(None);
        for waker in [&one, &two] {
            let polled = signal.poll(&Context::from_waker(waker), |cx| {
                kept.set(Some(cx.waker().clone()));
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
        }
        let kept = kept.take().unwrap();
        kept.wake_by_ref();
        assert_eq!((first.woken(), second.woken()), (0, 1));
        signal.rest();
        kept.wake_by_ref();
        assert_eq!((first.woken(), second.woken()), (0, 1));
    }
}
