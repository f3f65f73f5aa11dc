//! From a configuration file to everything that it names: certificates, policies, devices,
//! upstreams. All findings of all parts at once, and nothing started.

use std::path::Path;
use std::sync::Arc;

use crate::config::finding::{Finding, has_errors};
use crate::config::model::{self, Config, ListenerRole};
use crate::config::watch::Fingerprint;
use crate::domain::clock::Clock;
use crate::domain::query::Resource;
use crate::identity::bearer::Bearers;
use crate::identity::login::LoginStates;
use crate::identity::oidc::{self, Provider};
use crate::identity::providers::Providers;
use crate::metrics::Metrics;
use crate::pem;
use crate::pipeline::counts::Counts;
use crate::pipeline::rate::Limits;
use crate::pipeline::route::{RouteEntry, RouteTable};
use crate::pipeline::snapshot::Snapshot;
use crate::policy::Engine;
use crate::posture::{Registry, Revoked};
use crate::tls::ServerTls;
use crate::upstream::Pool;

/// The parts of a snapshot, before they are one.
#[derive(Debug)]
pub struct Assembly {
    pub config: Config,
    /// The files as they were before they were read.
    pub seen: Fingerprint,
    pub warnings: Vec<Finding>,
    /// In the order of the TLS listeners.
    pub tls: Vec<(Arc<str>, ServerTls)>,
    pub policies: Arc<Engine>,
    pub devices: Arc<Registry>,
    pub routes: Vec<Arc<RouteEntry>>,
    pub limits: Arc<Limits>,
    pub counts: Arc<Counts>,
}

/// Reads and builds everything. Upstreams that `former` has in the same form are kept, with
/// their connections.
///
/// # Errors
/// All findings, warnings among them, when one is an error.
pub fn assemble(
    path: &Path,
    metrics: &Metrics,
    workers: usize,
    former: Option<&Snapshot>,
) -> Result<Assembly, Vec<Finding>> {
    // First look, then read: what changes in between is read again.
    let seen = Fingerprint::of_file(path);
    let (config, mut findings) = crate::config::load(path)?;
    let seen = seen.and_all_of(&config);
    let tls = listeners(&config, &mut findings);
    let policies = match policies(&config, former) {
        Ok(engine) => {
            findings.extend_from_slice(engine.warnings());
            Some(engine)
        }
        Err(found) => {
            findings.extend(found);
            None
        }
    };
    let mut revoked = Revoked::default();
    for (_, tls) in &tls {
        tls.revoked().iter().for_each(|list| revoked.add(list));
    }
    let devices = match config.devices.as_ref().map(|devices| Registry::load(&devices.registry)) {
        None => Some(Registry::empty()),
        Some(Ok(registry)) => Some(registry),
        Some(Err(found)) => {
            findings.extend(found);
            None
        }
    };
    for (index, provider) in config.identity_providers.iter().enumerate() {
        if let Some(Err(error)) = provider.ca.as_deref().map(pem::certificates) {
            findings.push(error.finding());
        }
        if let Err(error) = oidc::check_key(provider) {
            let path = format!("identity_providers[{index}].client_key");
            let hint =
                "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`";
            let finding = Finding::error(&config.source, error.to_string());
            findings.push(finding.at_path(path).hint(hint));
        }
    }
    let counts = Counts::after(former.map(|former| &*former.counts), &config.routes);
    let routes = routes(&config, metrics, workers, former, &counts, &mut findings);
    let former = former.map(|former| &*former.limits);
    let limits = Arc::new(Limits::of_gate(&config.rate_limits, former));
    match (policies, devices) {
        (Some(policies), Some(devices)) if !has_errors(&findings) => Ok(Assembly {
            limits,
            counts: Arc::new(counts),
            config,
            seen,
            warnings: findings,
            tls,
            policies,
            devices: Arc::new(devices.without(revoked)),
            routes,
        }),
        _ => Err(findings),
    }
}

/// The former set, where it is the same still, and knows what it has decided.
fn policies(config: &Config, former: Option<&Snapshot>) -> Result<Arc<Engine>, Vec<Finding>> {
    match former {
        Some(former) => Engine::reload(&config.policies, &former.policies),
        None => Engine::load(&config.policies).map(Arc::new),
    }
}

fn listeners(config: &Config, findings: &mut Vec<Finding>) -> Vec<(Arc<str>, ServerTls)> {
    let mut loaded = Vec::new();
    for listener in &config.listeners {
        let ListenerRole::Tls(tls) = &listener.role else {
            continue;
        };
        match ServerTls::load(tls, &Clock::System) {
            Ok(tls) => {
                findings.extend_from_slice(tls.warnings());
                uncovered(config, &listener.name, &tls, findings);
                loaded.push((Arc::clone(&listener.name), tls));
            }
            Err(found) => findings.extend(found),
        }
    }
    loaded
}

/// A host that no certificate covers would be served to nobody.
fn uncovered(config: &Config, listener: &str, tls: &ServerTls, findings: &mut Vec<Finding>) {
    let routes = config.routes.iter().enumerate();
    let hosts = routes.map(|(index, route)| (&route.host, format!("routes[{index}].host")));
    let sign_in = config.session.sign_in_host.iter();
    let sign_in = sign_in.map(|host| (host, "session.sign_in_host".to_owned()));
    for (host, path) in hosts.chain(sign_in) {
        if !tls.covers(host) {
            let names: Vec<&str> = tls.names().collect();
            findings.push(
                Finding::error(
                    &config.source,
                    format!("no certificate of listener `{listener}` covers the host `{host}`"),
                )
                .at_path(path)
                .hint(format!("the certificates are for {}", names.join(", "))),
            );
        }
    }
}

fn routes(
    config: &Config,
    metrics: &Metrics,
    workers: usize,
    former: Option<&Snapshot>,
    counts: &Counts,
    findings: &mut Vec<Finding>,
) -> Vec<Arc<RouteEntry>> {
    let mut entries = Vec::new();
    for (index, route) in config.routes.iter().enumerate() {
        let former = former.and_then(|former| former.routes.named(&route.name));
        let resource = resource(route, former);
        let bounded = |entry: RouteEntry| {
            Arc::new(entry.bounded(counts.of(&route.name), former.map(Arc::as_ref)))
        };
        let kept = former.and_then(|entry| {
            // With TLS, files that the configuration only names may have changed.
            let same = entry.config.upstream == route.upstream
                && entry.config.host == route.host
                && route.upstream.tls.is_none();
            same.then(|| entry.renewed(Arc::clone(route), Arc::clone(&resource)))
        });
        if let Some(entry) = kept {
            entries.push(bounded(entry));
            continue;
        }
        match Pool::new(route, workers, metrics) {
            Ok(pool) => {
                let (config, handles) = (Arc::clone(route), metrics.route(&route.name));
                let entry = RouteEntry::new(config, resource, handles, pool);
                if let Some(former) = former {
                    entry.follow(former);
                }
                entries.push(bounded(entry));
            }
            Err(found) => findings.extend(found.into_iter().map(|mut finding| {
                if finding.file.as_os_str().is_empty() {
                    finding.file.clone_from(&config.source);
                }
                finding.at_path(format!("routes[{index}]"))
            })),
        }
    }
    entries
}

/// The former one, where it is equal: the policy engine finds what it remembers by its address.
fn resource(route: &model::Route, former: Option<&Arc<RouteEntry>>) -> Arc<Resource> {
    let resource = Resource {
        route: Arc::clone(&route.name),
        application: Arc::clone(&route.application.name),
        zone: route.application.zone.clone(),
        tenant: route.tenant.clone().or_else(|| route.application.tenant.clone()),
    };
    match former {
        Some(former) if *former.resource == resource => Arc::clone(&former.resource),
        _ => Arc::new(resource),
    }
}

impl Assembly {
    /// Builds the clients of the identity providers. Those that `former` has in the same form are
    /// kept, with what they learnt of their provider.
    ///
    /// # Errors
    /// A certificate bundle that can't be used.
    pub fn providers(
        &self,
        logins: &Arc<LoginStates>,
        clock: &Clock,
        former: Option<&Providers>,
    ) -> Result<Arc<Providers>, Vec<Finding>> {
        let (mut list, mut findings) = (Vec::new(), Vec::new());
        for (index, config) in self.config.identity_providers.iter().enumerate() {
            let known = former.and_then(|former| former.named(&config.name));
            // A bundle that the configuration only names may have changed.
            if let Some(known) = known.filter(|known| known.config() == config)
                && config.ca.is_none()
            {
                list.push(Arc::clone(known));
                continue;
            }
            match Provider::new(Arc::clone(config), Arc::clone(logins), clock.clone()) {
                Ok(provider) => list.push(Arc::new(provider)),
                Err(error) => findings.push(
                    Finding::error(&self.config.source, error.to_string())
                        .at_path(format!("identity_providers[{index}]")),
                ),
            }
        }
        let providers = Providers::new(list, Arc::clone(logins));
        if findings.is_empty() { Ok(Arc::new(providers)) } else { Err(findings) }
    }

    pub fn snapshot(&self, generation: u64, providers: Arc<Providers>) -> Snapshot {
        Snapshot {
            generation,
            routes: RouteTable::new(self.routes.iter().cloned())
                .signing_in_at(self.config.session.sign_in_host.clone()),
            policies: Arc::clone(&self.policies),
            devices: Arc::clone(&self.devices),
            bearers: Bearers::new(providers.iter()),
            providers,
            keep_forms: self.config.session.keep_forms,
            sign_out_urls: Arc::clone(&self.config.sign_out_urls),
            limits: Arc::clone(&self.limits),
            counts: Arc::clone(&self.counts),
        }
    }
}
