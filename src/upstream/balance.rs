//! Which endpoint takes a request: the addresses behind the configured names, their weights and
//! their health, kept by `pingora-load-balancing`.

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

use super::tls;
use crate::config::model::{Endpoint, Selection, Upstream};
use crate::domain::canonical::Host;

/// Weights only matter by their proportion, and the selector keeps a slot for each unit.
const MAX_WEIGHT: usize = 1000;
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
    backend: Backend,
}

type Targets = Arc<ArcSwap<Vec<Arc<Target>>>>;

/// The addresses, and the one to use next.
pub(super) struct Balance {
    balancer: Balancer,
    targets: Targets,
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
        check: impl FnOnce(Targets) -> Option<Box<dyn HealthCheck + Send + Sync>>,
    ) -> Self {
        let targets = Targets::default();
        let server_name = upstream.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let discovery = Discovery {
            endpoints: upstream.endpoints.clone(),
            server_name,
            targets: Arc::clone(&targets),
        };
        let mut backends = Backends::new(Box::new(discovery));
        if let Some(check) = check(Arc::clone(&targets)) {
            backends.set_health_check(check);
        }
        let balancer = match upstream.selection {
            Selection::RoundRobin => Balancer::RoundRobin(LoadBalancer::from_backends(backends)),
            Selection::Random => Balancer::Random(LoadBalancer::from_backends(backends)),
        };
        let balance = Self { balancer, targets, updating: tokio::sync::Mutex::new(()) };
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
    }

    pub(super) async fn check_health(&self) {
        self.backends().run_health_check(true).await;
    }

    pub(super) fn targets(&self) -> Arc<Vec<Arc<Target>>> {
        self.targets.load_full()
    }

    pub(super) fn is_ready(&self, target: &Target) -> bool {
        self.backends().ready(&target.backend)
    }

    /// How many addresses have not been tried yet.
    pub(super) fn untried(&self, tried: &[SocketAddr]) -> usize {
        self.targets.load().len().saturating_sub(tried.len())
    }

    /// The next healthy target that was not tried yet for this request.
    ///
    /// The library's `select` allocates a set and hashes each candidate twice (about 0.3 us), so
    /// a lone target, the common case, goes past it.
    pub(super) fn select(&self, tried: &[SocketAddr]) -> Option<Arc<Target>> {
        let targets = self.targets.load();
        let usable = |target: &Target| {
            !tried.contains(&target.address) && self.backends().ready(&target.backend)
        };
        if let [only] = targets.as_slice() {
            return usable(only).then(|| Arc::clone(only));
        }
        let accept = |backend: &Backend, ready: bool| {
            ready && backend.addr.as_inet().is_some_and(|address| !tried.contains(address))
        };
        let steps = targets.len().saturating_mul(4);
        let selected = match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.select_with(b"", steps, accept),
            Balancer::Random(balancer) => balancer.select_with(b"", steps, accept),
        };
        let address = selected.as_ref().and_then(|backend| backend.addr.as_inet());
        // Other workers turn the same wheel, so the library's steps may miss one that is left.
        targets
            .iter()
            .find(|target| address == Some(&target.address))
            .or_else(|| targets.iter().find(|target| usable(target)))
            .cloned()
    }

    fn backends(&self) -> &Backends {
        match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.backends(),
            Balancer::Random(balancer) => balancer.backends(),
        }
    }
}

/// Turns endpoints into addresses.
struct Discovery {
    endpoints: Vec<Endpoint>,
    server_name: Option<Host>,
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
                found.push(Arc::new(Target {
                    address,
                    endpoint: position,
                    server_name: tls::server_name(
                        self.server_name.as_ref().unwrap_or(&endpoint.host),
                    ),
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
