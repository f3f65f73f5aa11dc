//! Changes that come at once share a commit.
//!
//! A commit waits for the disk. Whoever changes something leaves the change in a queue, and then
//! commits what is there: changes that came while the commit before was under way are all there by
//! then. So it costs the disk as much to end a thousand sessions as to end a few.
//!
//! INVARIANT: a change is answered after the commit that it is part of, or its failure. When a
//! commit fails, all of its changes have.

use parking_lot::Mutex;
use redb::{Database, WriteTransaction};
use tokio::sync::oneshot;

use crate::store::StoreError;

/// What waits for the next commit.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Vec<Box<dyn Pending>>>,
    /// Held by who commits.
    committing: Mutex<()>,
}

trait Pending: Send {
    fn apply(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error>;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A change, what came of it, and who waits for that.
struct Change<F, T> {
    change: Option<F>,
    value: Option<T>,
    waits: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Pending for Change<F, T>
where
    F: FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send,
    T: Send,
{
    fn apply(&mut self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        if let Some(change) = self.change.take() {
            self.value = Some(change(transaction)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { value, waits, .. } = *self;
        if let Some(answer) = committed.map(|()| value).transpose() {
            // Whoever has given up waiting needs none.
            let _ = waits.send(answer);
        }
    }
}

impl Queue {
    /// To be followed by [`Queue::commit`], by whose end there is an answer.
    pub(super) fn add<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, StoreError>> {
        let (waits, answer) = oneshot::channel();
        let change = Change { change: Some(change), value: None, waits };
        self.waiting.lock().push(Box::new(change));
        answer
    }

    /// Commits what waits, unless others have done so already. `with` lends the database. Blocks.
    pub(super) fn commit(
        &self,
        with: impl FnOnce(
            &mut dyn FnMut(&Database) -> Result<(), redb::Error>,
        ) -> Result<(), StoreError>,
    ) {
        let _turn = self.committing.lock();
        let mut changes = std::mem::take(&mut *self.waiting.lock());
        if changes.is_empty() {
            return;
        }
        let committed = with(&mut |database| {
            super::write(database, |transaction| {
                changes.iter_mut().try_for_each(|change| change.apply(transaction))
            })
        });
        changes.into_iter().for_each(|change| change.answer(committed.clone()));
    }
}

#[cfg(test)]
impl Queue {
    /// Holds commits up; how many changes wait then.
    pub(super) fn held(&self) -> (parking_lot::MutexGuard<'_, ()>, impl Fn() -> usize) {
        (self.committing.lock(), || self.waiting.lock().len())
    }
}
