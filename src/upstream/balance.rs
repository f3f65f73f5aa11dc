//! Which endpoint takes a request: the addresses behind the configured names, their weights and
//! their health, kept by `pingora-load-balancing`.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::HealthCheck;
use pingora_load_balancing::selection::{Random, RoundRobin};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::attempt::{Attempt, Caller};
use super::breaker::Breaker;
use super::error::UpstreamError;
use super::outlier::Failure;
use super::sticky;
use super::tls;
use super::vitals::{Admission, Payload, Vitals};
use crate::config::model::{Endpoint, Selection, Upstream};
use crate::domain::canonical::Host;

/// Weights only matter by their proportion, and the selector keeps a slot for each unit.
const MAX_WEIGHT: usize = 1000;
/// Connections to an address that are opened at once, for all workers: as many as servers commonly
/// let wait to be accepted. What comes beyond that is dropped by the server's kernel, and looks as
/// if the server were down. Without TLS a connection counts as open when that kernel has answered,
/// so a server that is slow to accept has more of them waiting, and its kernel makes the next wait.
pub(super) const MAX_OPENING: usize = 128;
/// How long an answer of the resolver is waited for.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One address of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// Position of the endpoint in the configuration.
    pub(super) endpoint: usize,
    /// What its certificate is verified with, when it speaks TLS.
    pub(super) server_name: Option<ServerName<'static>>,
    /// Kept for as long as the address is in use.
    pub(super) vitals: Arc<Vitals>,
    /// A place for each connection that may be being opened at once; kept with the vitals.
    pub(super) opening: Arc<Semaphore>,
    weight: u32,
    /// Its part in the choice for a session.
    seed: u64,
    backend: Backend,
}

type Targets = Arc<ArcSwap<Vec<Arc<Target>>>>;

/// The addresses, and the one to use next.
pub(super) struct Balance {
    balancer: Balancer,
    targets: Targets,
    breaker: Arc<Breaker>,
    sticky: bool,
    /// Whether there is a health check to heed.
    checked: bool,
    /// Updates of one view must not overlap.
    updating: tokio::sync::Mutex<()>,
}

/// The library's balancer is typed by its algorithm.
enum Balancer {
    RoundRobin(LoadBalancer<RoundRobin>),
    Random(LoadBalancer<Random>),
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("targets", &self.targets.load()).finish_non_exhaustive()
    }
}

impl Balance {
    /// Knows the endpoints that are addresses at once; names are resolved by [`Self::update`].
    /// `check` makes the health check, where there is one, from the table of targets.
    pub(super) fn new(
        upstream: &Upstream,
        workers: usize,
        breaker: Arc<Breaker>,
        check: impl FnOnce(Targets) -> Option<Box<dyn HealthCheck + Send + Sync>>,
    ) -> Self {
        let targets = Targets::default();
        let server_name = upstream.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let discovery = Discovery {
            endpoints: upstream.endpoints.clone(),
            server_name,
            workers,
            breaker: Arc::clone(&breaker),
            targets: Arc::clone(&targets),
        };
        let mut backends = Backends::new(Box::new(discovery));
        let check = check(Arc::clone(&targets));
        let checked = check.is_some();
        if let Some(check) = check {
            backends.set_health_check(check);
        }
        let balancer = match upstream.selection {
            Selection::RoundRobin | Selection::Sticky => {
                Balancer::RoundRobin(LoadBalancer::from_backends(backends))
            }
            Selection::Random => Balancer::Random(LoadBalancer::from_backends(backends)),
        };
        let balance = Self {
            balancer,
            targets,
            breaker,
            sticky: upstream.selection == Selection::Sticky,
            checked,
            updating: tokio::sync::Mutex::new(()),
        };
        if upstream.endpoints.iter().all(|endpoint| endpoint.host.is_ip()) {
            // Without a name to resolve, the update is ready at the first poll.
            let _ = futures_util::FutureExt::now_or_never(balance.update());
        }
        balance
    }

    /// Resolves the names again. A name that doesn't resolve keeps its earlier addresses.
    pub(super) async fn update(&self) {
        let _one = self.updating.lock().await;
        self.update_locked().await;
    }

    /// Whether an address is known.
    pub(super) fn is_resolved(&self) -> bool {
        !self.targets.load().is_empty()
    }

    /// Resolves the names if no address is known yet.
    pub(super) async fn ensure_resolved(&self) {
        if !self.targets.load().is_empty() {
            return;
        }
        let _one = self.updating.lock().await;
        if self.targets.load().is_empty() {
            self.update_locked().await;
        }
    }

    async fn update_locked(&self) {
        let result = match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.update().await,
            Balancer::Random(balancer) => balancer.update().await,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the upstream's endpoints can't be updated");
        }
        self.breaker.changed(&self.targets.load());
    }

    pub(super) async fn check_health(&self) {
        self.backends().run_health_check(true).await;
    }

    pub(super) fn targets(&self) -> Arc<Vec<Arc<Target>>> {
        self.targets.load_full()
    }

    pub(super) fn is_ready(&self, target: &Target) -> bool {
        !self.checked || self.backends().ready(&target.backend)
    }

    /// How many addresses are left to be tried.
    pub(super) fn untried(&self, tried: &[SocketAddr]) -> usize {
        let left =
            |target: &&Arc<Target>| !target.vitals.is_out() && !tried.contains(&target.address);
        self.targets.load().iter().filter(left).count()
    }

    /// How many requests the addresses of now have answered well.
    pub(super) fn answered(&self) -> u64 {
        self.targets.load().iter().map(|target| target.vitals.answered()).sum()
    }

    /// The endpoint to use next, of those that are well and were not tried yet for this request.
    ///
    /// The library's `select` allocates a set and hashes each candidate twice (about 0.3 us), so
    /// a lone target, the common case, goes past it.
    pub(super) fn select<'a>(
        &'a self,
        tried: &[SocketAddr],
        caller: Caller<'a>,
        payload: Payload,
    ) -> Option<Attempt<'a>> {
        let targets = self.targets.load();
        let usable = |target: &Target| !tried.contains(&target.address) && self.is_ready(target);
        if let [only] = targets.as_slice() {
            if !usable(only) {
                return None;
            }
            let admission = only.vitals.admit_alone(self.breaker.pace(), payload)?;
            return Some(Attempt::new(self, caller, Arc::clone(only), admission));
        }
        let selected = if self.sticky {
            self.by_session(&targets, usable, caller.session_bits(), payload, true)
        } else {
            self.by_turns(&targets, tried, payload)
        };
        // Shares that still grow are of no matter where nothing else is left; and other workers
        // turn the same wheel, so the library's steps may miss one that is.
        let (target, admission) = selected
            .or_else(|| self.by_session(&targets, usable, caller.session_bits(), payload, false))
            .or_else(|| Some((last_resort(&targets, usable)?, Admission::Normal)))?;
        Some(Attempt::new(self, caller, target, admission))
    }

    fn by_turns(
        &self,
        targets: &[Arc<Target>],
        tried: &[SocketAddr],
        payload: Payload,
    ) -> Option<(Arc<Target>, Admission)> {
        let chosen = Cell::new(None);
        let accept = |backend: &Backend, ready: bool| {
            let Some(address) = backend.addr.as_inet().filter(|_| ready) else { return false };
            let target = targets.iter().find(|target| target.address == *address);
            let Some(target) = target.filter(|_| !tried.contains(address)) else { return false };
            let Some(admission) = target.vitals.admit(self.breaker.pace(), payload, None) else {
                return false;
            };
            chosen.set(Some((Arc::clone(target), admission)));
            true
        };
        let steps = targets.len().saturating_mul(4);
        match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.select_with(b"", steps, accept),
            Balancer::Random(balancer) => balancer.select_with(b"", steps, accept),
        };
        chosen.take()
    }

    /// In the order of how much the session belongs to each. `shares` says whether to heed those
    /// that still grow.
    fn by_session(
        &self,
        targets: &[Arc<Target>],
        usable: impl Fn(&Target) -> bool,
        session: u64,
        payload: Payload,
        shares: bool,
    ) -> Option<(Arc<Target>, Admission)> {
        let order = |one: &(f64, &Arc<Target>), other: &(f64, &Arc<Target>)| {
            one.0.total_cmp(&other.0).then(one.1.address.cmp(&other.1.address))
        };
        let mut last = None;
        loop {
            let next = targets
                .iter()
                .map(|target| (sticky::score(session, target.seed, target.weight), target))
                .filter(|of| last.as_ref().is_none_or(|last| order(of, last).is_lt()))
                .filter(|(_, target)| usable(target))
                .max_by(order)?;
            let target = next.1;
            let place = if shares { sticky::place(session, target.seed) } else { 0.0 };
            if let Some(admission) = target.vitals.admit(self.breaker.pace(), payload, Some(place))
            {
                return Some((Arc::clone(target), admission));
            }
            last = Some(next);
        }
    }

    /// Lets the shares of addresses grow that an earlier configuration did not have, if it had
    /// any of the others.
    pub(super) fn follow(&self, former: &Self) {
        let (targets, former) = (self.targets.load(), former.targets.load());
        let known = |target: &Target| former.iter().any(|other| other.address == target.address);
        if targets.iter().any(|target| known(target)) {
            for target in targets.iter().filter(|target| !known(target)) {
                target.vitals.bring_in(self.breaker.pace(), Instant::now());
            }
        }
    }

    /// Why nothing could be selected.
    pub(super) fn unavailable(&self) -> UpstreamError {
        let (targets, now) = (self.targets.load(), Instant::now());
        let out = targets.iter().filter(|target| target.vitals.is_out() && self.is_ready(target));
        match out.map(|target| target.vitals.wait(now)).min() {
            Some(retry_after) => UpstreamError::BreakerOpen { retry_after },
            None => UpstreamError::NoHealthyEndpoint,
        }
    }

    /// A request to the target went well, after others that hadn't.
    pub(super) fn went_well(&self, target: &Target, trial: bool) {
        self.breaker.went_well(&self.targets.load(), target, trial);
    }

    /// A request to the target failed; `witness` tells its user from others.
    pub(super) fn failed(&self, target: &Target, trial: bool, failure: Failure, witness: u64) {
        let ready = |target: &Target| self.is_ready(target);
        self.breaker.failed(&self.targets.load(), ready, target, trial, failure, witness);
    }

    fn backends(&self) -> &Backends {
        match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.backends(),
            Balancer::Random(balancer) => balancer.backends(),
        }
    }
}

/// One that is out, but not so badly that no endpoint at all would be better.
#[cold]
fn last_resort(targets: &[Arc<Target>], usable: impl Fn(&Target) -> bool) -> Option<Arc<Target>> {
    targets.iter().find(|target| target.vitals.is_weakly_out() && usable(target)).cloned()
}

/// Turns endpoints into addresses.
struct Discovery {
    endpoints: Vec<Endpoint>,
    server_name: Option<Host>,
    workers: usize,
    breaker: Arc<Breaker>,
    targets: Targets,
}

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora_core::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let known = self.targets.load_full();
        let mut found: Vec<Arc<Target>> = Vec::new();
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            let addresses = match resolve(endpoint).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    tracing::warn!(host = %endpoint.host, %error, "an upstream's name can't be resolved");
                    let earlier = known.iter().filter(|target| target.endpoint == position);
                    earlier.map(|target| target.address).collect()
                }
            };
            for address in addresses {
                // Two names of one address are one target: the first of them.
                if found.iter().any(|target| target.address == address) {
                    continue;
                }
                let weight = endpoint.weight.clamp(1, MAX_WEIGHT);
                let earlier = known.iter().find(|target| target.address == address);
                let vitals = earlier.map_or_else(
                    || {
                        let vitals = Vitals::new(self.workers);
                        // Beside others that carry the load, a new one begins slowly.
                        if !known.is_empty() {
                            vitals.bring_in(self.breaker.pace(), Instant::now());
                        }
                        Arc::new(vitals)
                    },
                    |target| Arc::clone(&target.vitals),
                );
                let opening = earlier.map_or_else(
                    || Arc::new(Semaphore::new(MAX_OPENING)),
                    |target| Arc::clone(&target.opening),
                );
                found.push(Arc::new(Target {
                    address,
                    endpoint: position,
                    server_name: tls::server_name(
                        self.server_name.as_ref().unwrap_or(&endpoint.host),
                    ),
                    vitals,
                    opening,
                    weight: u32::try_from(weight).unwrap_or(1),
                    seed: sticky::seed(address),
                    backend: Backend::new_with_weight(&address.to_string(), weight)?,
                }));
            }
        }
        let backends = found.iter().map(|target| target.backend.clone()).collect();
        self.targets.store(Arc::new(found));
        Ok((backends, HashMap::new()))
    }
}

async fn resolve(endpoint: &Endpoint) -> std::io::Result<Vec<SocketAddr>> {
    let host = endpoint.host.as_str();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return Ok(vec![SocketAddr::new(address, endpoint.port)]);
    }
    let lookup = tokio::net::lookup_host((bare, endpoint.port));
    match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
        Ok(addresses) => Ok(addresses?.collect()),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
