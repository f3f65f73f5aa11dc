//! The store that gates share: whether it can be had, and following what the others end.
//!
//! What other gates end is followed on a thread of its own: were it to wait behind anything else, no
//! session would be served for want of news that are there.

use std::sync::Arc;

use tokio::runtime::Builder;

use crate::config::finding::Finding;
use crate::config::model::{Config, Store as Configured};
use crate::identity::session::Sessions;
use crate::store::{RedisStore, Space, Store, StoreError};

/// Begins, where the store is one that gates share. Ends with the last who holds the sessions.
pub fn begin(sessions: &Arc<Sessions>) {
    if !sessions.is_shared() {
        return;
    }
    let following = Arc::clone(sessions).follow();
    let runtime = Builder::new_current_thread().enable_all().build();
    let spawned = runtime.and_then(|runtime| {
        std::thread::Builder::new()
            .name("following".to_owned())
            .spawn(move || runtime.block_on(following))
    });
    if let Err(error) = spawned {
        // Without it no session is confirmed, so none is served.
        tracing::error!(%error, "what other gates end can't be followed");
    }
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
