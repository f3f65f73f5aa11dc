//! Bounded waits on events.

use std::future::Future;
use std::time::Duration;

/// How long anything may take before a test fails: far more than it ever needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The future's value, or a failure that names what was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Asks again until there is an answer.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Some(value) = probe().await {
                return value;
            }
        }
    })
    .await
}
