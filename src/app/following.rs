//! What other gates end is followed on a thread of its own: were it to wait behind anything else, no
//! session would be served for want of news that are there.

use std::sync::Arc;

use crate::identity::session::Sessions;

/// Begins, where the store is one that gates share. Ends with the last who holds the sessions.
pub fn begin(sessions: &Arc<Sessions>) {
    if !sessions.is_shared() {
        return;
    }
    let following = Arc::clone(sessions).follow();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
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
