//! One request's use of one endpoint, from its selection to what came of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::StatusCode;

use super::balance::{Balance, Target};
use super::error::UpstreamError;
use super::outlier::Failure;
use super::vitals::{Admission, Payload};
use crate::domain::id::SessionId;

/// Whose request it is, and which worker serves it.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The index of the worker whose runtime this is.
    pub worker: usize,
    pub session: SessionId,
    pub principal: &'a str,
}

impl Caller<'_> {
    /// What the session is known by where it is hashed.
    pub(super) fn session_bits(&self) -> u64 {
        self.session.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    fn witness(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.principal.hash(&mut hasher);
        hasher.finish()
    }
}

/// Has to be told what came of it. One that is not was no evidence: the client went away, or the
/// connection had died before.
#[derive(Debug)]
#[must_use]
pub(super) struct Attempt<'a> {
    balance: &'a Balance,
    caller: Caller<'a>,
    target: Arc<Target>,
    trial: Option<Payload>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        balance: &'a Balance,
        caller: Caller<'a>,
        target: Arc<Target>,
        admission: Admission,
    ) -> Self {
        let trial = match admission {
            Admission::Normal => None,
            Admission::Trial(payload) => Some(payload),
        };
        Self { balance, caller, target, trial }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn answered(mut self, status: StatusCode) {
        if let Some(failure) = Failure::in_status(status) {
            return self.wrong(failure);
        }
        let trial = self.trial.take().is_some();
        if self.target.vitals.went_well(self.caller.worker) || trial {
            self.balance.went_well(&self.target, trial);
        }
    }

    pub(super) fn failed(self, error: &UpstreamError) {
        if let Some(failure) = Failure::of(error) {
            self.wrong(failure);
        }
    }

    #[cold]
    fn wrong(mut self, failure: Failure) {
        let trial = self.trial.take().is_some();
        self.balance.failed(&self.target, trial, failure, self.caller.witness());
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(payload) = self.trial {
            self.target.vitals.undecided(payload);
        }
    }
}
