//! Host and path to a route: the longest path prefix of whole segments wins.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::model;
use crate::domain::canonical::{CanonicalRequest, Host};
use crate::domain::query::Resource;
use crate::metrics::RouteMetrics;
use crate::upstream::Pool;

use super::refusal::Refusal;

/// Paths under this prefix are the gate's own on every protected host.
pub const RESERVED: &str = "/.wicketgate";

/// A route with all that serving it needs, resolved when the snapshot is built.
#[derive(Debug)]
pub struct RouteEntry {
    pub config: Arc<model::Route>,
    pub resource: Arc<Resource>,
    pub pool: Arc<Pool>,
    pub metrics: RouteMetrics,
}

impl RouteEntry {
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }
}

#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<Host, HashMap<Arc<str>, Arc<RouteEntry>>>,
    by_name: BTreeMap<Arc<str>, Arc<RouteEntry>>,
}

/// Where a canonical request leads.
#[derive(Debug)]
pub enum Destination {
    /// The gate's own pages: the part of the path behind [`RESERVED`].
    Reserved(Arc<str>),
    Route(Arc<RouteEntry>),
}

impl RouteTable {
    pub fn new(entries: impl IntoIterator<Item = Arc<RouteEntry>>) -> Self {
        let mut table = Self::default();
        for entry in entries {
            table.by_name.insert(Arc::clone(entry.name()), Arc::clone(&entry));
            let key: Arc<str> = match entry.config.path.trim_end_matches('/') {
                "" => "/".into(),
                trimmed => trimmed.into(),
            };
            table.hosts.entry(entry.config.host.clone()).or_default().insert(key, entry);
        }
        table
    }

    pub fn entries(&self) -> impl Iterator<Item = &Arc<RouteEntry>> {
        self.by_name.values()
    }

    pub fn knows_host(&self, host: &Host) -> bool {
        self.hosts.contains_key(host)
    }

    /// The one place where a request meets a route. The cost is that of the path's depth, however
    /// many routes there are.
    ///
    /// # Errors
    /// `Misdirected` for a host without routes, `NoRoute` for a path without one, and
    /// `PathParameters` where the route does not allow them.
    pub fn find(&self, request: &CanonicalRequest) -> Result<Destination, Refusal> {
        let routes = self.hosts.get(&request.authority.host).ok_or(Refusal::Misdirected)?;
        let path: &str = request.path.decoded();
        if let Some(rest) = path.strip_prefix(RESERVED)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            if request.path.has_parameters() {
                return Err(Refusal::PathParameters);
            }
            return Ok(Destination::Reserved(rest.into()));
        }
        let mut prefix = path.trim_end_matches('/');
        let entry = loop {
            if prefix.is_empty() {
                break routes.get("/");
            }
            if let Some(entry) = routes.get(prefix) {
                break Some(entry);
            }
            prefix = match prefix.rsplit_once('/') {
                Some((parent, _)) => parent,
                None => "",
            };
        };
        let entry = entry.ok_or(Refusal::NoRoute)?;
        if request.path.has_parameters() && !entry.config.path_parameters {
            return Err(Refusal::PathParameters);
        }
        Ok(Destination::Route(Arc::clone(entry)))
    }
}
