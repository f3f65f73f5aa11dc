//! Asking a part of the gate whether it still comes round to answering.
//!
//! A worker is one thread with one runtime: when something in it blocks or spins, it answers
//! nothing, and this neither. Nobody asks, nothing is spent.

use tokio::sync::{mpsc, oneshot};

/// Whoever asks.
#[derive(Clone, Debug)]
pub struct Pulse(mpsc::UnboundedSender<oneshot::Sender<()>>);

/// Whoever is asked.
#[derive(Debug)]
pub struct Heart(mpsc::UnboundedReceiver<oneshot::Sender<()>>);

pub fn pulse() -> (Pulse, Heart) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Pulse(sender), Heart(receiver))
}

impl Pulse {
    /// Resolves when it has answered; never when it is stuck or gone.
    pub async fn beat(&self) {
        let (answer, answered) = oneshot::channel();
        if self.0.send(answer).is_err() || answered.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Heart {
    /// Answers the next question. Safe to drop and call again.
    pub async fn answer(&mut self) {
        match self.0.recv().await {
            Some(asked) => {
                // An error says that nobody waits any more.
                let _ = asked.send(());
            }
            None => std::future::pending().await,
        }
    }
}
