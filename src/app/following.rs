//! The store that gates share: whether it can be had, and following what the others end.
//!
//! What other gates end is followed on a thread of its own: were it to wait behind anything else, no
//! session would be served for want of news that are there. So are the sessions that are refreshed:
//! that must not end with the worker or the request that it began for.

use std::sync::Arc;

use tokio::runtime::Builder;

use crate::config::finding::Finding;
use crate::config::model::{Config, Store as Configured};
use crate::identity::session::Sessions;
use crate::store::{RedisStore, Space, Store, StoreError};

/// Begins, where the store is one that gates share; and refreshes sessions. Ends with the last who
/// holds the sessions.
pub fn begin(sessions: &Arc<Sessions>) {
    if sessions.is_shared()
        && let Err(error) = on_a_thread("following", Arc::clone(sessions).follow())
    {
        // Without it no session is confirmed, so none is served.
        tracing::error!(%error, "what other gates end can't be followed");
    }
    if let Err(error) = on_a_thread("refreshing", Arc::clone(sessions).refresh()) {
        // Without it what is known of users gets too old, and is not used any more.
        tracing::error!(%error, "sessions can't be refreshed");
    }
}

fn on_a_thread(name: &str, work: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || runtime.block_on(work)).map(drop)
}

/// What is wrong with a store at servers, as far as a gate would notice at its start: reading, and
/// what writes to the stream need. Leaves nothing behind that a gate wouldn't.
pub fn try_store(config: &Config) -> Option<Finding> {
    let Configured::Redis(redis) = &config.store else { return None };
    let tried = || {
        let failed = |error: std::io::Error| StoreError::Failed(error.to_string());
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let store = RedisStore::open(redis)?;
        store.ready()?;
        runtime.block_on(async {
            store.get(Space::Keys, b"health").await?;
            match store.shared() {
                Some(shared) => shared.stream.end().await.map(drop),
                None => Ok(()),
            }
        })
    };
    let error = tried().err()?;
    let hint = "a gate would not start; see \"Several gates\" in docs/operating.md";
    Some(Finding::error(&config.source, error.to_string()).at_path("store.redis").hint(hint))
}
