//! Whether the process is short of memory, as the control loop last found it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::refusal::Refusal;

/// How much of the budget is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Normal,
    /// Over the budget: requests are turned away.
    High,
    /// So far over it that connections are closed before their handshake, too, and nothing more is
    /// read for what is under way.
    Critical,
}

/// Read on each request, written a few times a second at most. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<AtomicU8>);

impl Pressure {
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    pub fn level(&self) -> Level {
        match self.0.load(Ordering::Relaxed) {
            0 => Level::Normal,
            1 => Level::High,
            _ => Level::Critical,
        }
    }

    /// # Errors
    /// `Overloaded` while memory is short.
    pub fn admit(&self) -> Result<(), Refusal> {
        if self.level() == Level::Normal { Ok(()) } else { Err(Refusal::Overloaded) }
    }
}
