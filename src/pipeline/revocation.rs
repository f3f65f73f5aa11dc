//! Tokens of sessions that are over are given back to the provider, in the background: see
//! [`given_back`](crate::identity::session) for which, and why.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::identity::revocation::Revocation;
use crate::identity::session::LeftToken;

use super::gate::Gate;

/// Runs for as long as the process. What is under way at once is bounded by what may wait.
pub async fn follow(gate: Arc<Gate>) {
    let Some(mut left) = gate.sessions.left_tokens() else { return };
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            next = left.recv() => match next {
                Some(token) => drop(under_way.spawn(revoke(Arc::clone(&gate), token))),
                None => return,
            },
            Some(_) = under_way.join_next() => {}
        }
    }
}

async fn revoke(gate: Arc<Gate>, left: LeftToken) {
    let snapshot = gate.snapshot.load_full();
    // Another client's token would be none of the gate's any more.
    let Some(provider) = snapshot.providers.vouching(&left.provider, left.vouched_by) else {
        return;
    };
    match provider.revoke(left.kind, &left.token).await {
        Ok(Revocation::Revoked) => gate.metrics.token_revocations("revoked"),
        Ok(Revocation::NotOffered) => {}
        Err(error) => {
            gate.metrics.token_revocations("failed");
            let (session, provider) = (left.session.short(), &left.provider);
            tracing::warn!(
                %session, %provider, %error,
                "the token of a session that is over was not revoked at its provider"
            );
        }
    }
}
