//! The two answers, as values.

use std::sync::Arc;

use crate::domain::decision::Decision;
use crate::domain::id::DecisionId;
use crate::domain::query::AccessQuery;

/// Proof that the policies allowed exactly this query.
///
/// INVARIANT: made by [`super::Engine::decide`] alone, of a decision whose verdict is permit, and
/// never copied: one permit, one use.
#[derive(Debug)]
#[must_use = "a permit that nobody carries forward allows nothing"]
pub struct Permit {
    id: DecisionId,
    query: AccessQuery,
    decision: Arc<Decision>,
}

/// The policies said no, or could not say anything without an error.
#[derive(Debug)]
pub struct Denial {
    id: DecisionId,
    query: AccessQuery,
    decision: Arc<Decision>,
}

impl Permit {
    pub(super) fn new(id: DecisionId, query: AccessQuery, decision: Arc<Decision>) -> Self {
        Self { id, query, decision }
    }

    pub fn id(&self) -> DecisionId {
        self.id
    }

    pub fn query(&self) -> &AccessQuery {
        &self.query
    }

    pub fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }
}

impl Denial {
    pub(super) fn new(id: DecisionId, query: AccessQuery, decision: Arc<Decision>) -> Self {
        Self { id, query, decision }
    }

    pub fn id(&self) -> DecisionId {
        self.id
    }

    pub fn query(&self) -> &AccessQuery {
        &self.query
    }

    pub fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }
}
