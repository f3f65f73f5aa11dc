//! Everything that a request reads, as one immutable value.
//!
//! INVARIANT: a request uses one snapshot from start to end. Building a snapshot may fail; putting
//! it in the place of the former one can't.

use std::sync::Arc;

use super::counts::Counts;
use super::rate::Limits;
use super::route::RouteTable;
use crate::identity::bearer::Bearers;
use crate::identity::providers::Providers;
use crate::policy::Engine;
use crate::posture::Registry;

#[derive(Debug)]
pub struct Snapshot {
    /// Counts the configurations loaded since the start, from 1.
    pub generation: u64,
    pub routes: RouteTable,
    pub policies: Arc<Engine>,
    pub devices: Arc<Registry>,
    pub providers: Arc<Providers>,
    /// Largest form that is kept for who has to sign in first, in bytes; none where it is zero.
    pub keep_forms: u64,
    /// Where a browser may go after signing out, besides the gate's own hosts.
    pub sign_out_urls: Arc<[Box<str>]>,
    /// Whose access tokens are taken.
    pub bearers: Bearers,
    /// Of the whole gate; routes have their own.
    pub limits: Arc<Limits>,
    /// What is under way, for the next snapshot to go on with; requests find theirs at the route.
    pub counts: Arc<Counts>,
}
