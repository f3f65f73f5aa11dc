//! Host and path to a route: the longest path prefix of whole segments wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use fnv::FnvHashMap;

use crate::config::model;
use crate::domain::canonical::{CanonicalRequest, Host, path_segments};
use crate::domain::query::Resource;
use crate::metrics::{Metrics, RouteMetrics};
use crate::upstream::Pool;

use super::rate::Limits;
use super::refusal::Refusal;
use super::slots::Places;

/// Paths under this prefix are the gate's own on every protected host.
pub const RESERVED: &str = "/.wicketgate";

/// A route with all that serving it needs, resolved when the snapshot is built.
///
/// INVARIANT: its upstream pool is lent to nobody outside the pipeline; an authorised exchange is
/// the only way to it.
#[derive(Debug)]
pub struct RouteEntry {
    pub config: Arc<model::Route>,
    pub resource: Arc<Resource>,
    pub metrics: RouteMetrics,
    pub(super) limits: Limits,
    pub(super) places: Places,
    pool: Arc<Pool>,
}

impl RouteEntry {
    pub fn new(
        config: Arc<model::Route>,
        resource: impl Into<Arc<Resource>>,
        metrics: RouteMetrics,
        pool: Arc<Pool>,
    ) -> Self {
        let (limits, places) = (Limits::default(), Places::default());
        Self { config, resource: resource.into(), metrics, limits, places, pool }
    }

    /// Bounds what passes, going on with the counts of the entry before.
    #[must_use]
    pub fn bounded(self, places: Places, former: Option<&Self>) -> Self {
        let former = former.map(|entry| &entry.limits);
        let limits = Limits::of_route(&self.config.bounds.rate_limits, former);
        Self { limits, places, ..self }
    }

    /// The same upstream, with its connections, for a route that was read again.
    pub fn renewed(&self, config: Arc<model::Route>, resource: Arc<Resource>) -> Self {
        Self::new(config, resource, self.metrics.clone(), Arc::clone(&self.pool))
    }

    /// The background work of the upstream, to be run as long as the entry is in force.
    pub fn tend(&self, metrics: &Metrics) -> impl Future<Output = ()> + Send + 'static {
        self.pool.health(metrics)
    }

    /// Takes the place of an earlier entry, whose upstream had other endpoints.
    pub fn follow(&self, former: &Self) {
        self.pool.follow(&former.pool);
    }

    /// What the upstream's endpoints are called in the metrics.
    pub fn endpoints(&self) -> impl Iterator<Item = String> {
        self.pool.labels()
    }

    /// Tells upstreams apart: two entries that share one have the same key.
    pub fn upstream_key(&self) -> usize {
        Arc::as_ptr(&self.pool).addr()
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }
}

/// The keys come from the configuration, never from clients, so a hash that is merely fast does.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: FnvHashMap<Host, HostRoutes>,
    by_name: BTreeMap<Arc<str>, Arc<RouteEntry>>,
    sign_in_host: Option<Host>,
}

#[derive(Debug, Default)]
struct HostRoutes {
    exact: FnvHashMap<Arc<str>, Arc<RouteEntry>>,
    /// The same by prefix in lower case; `None` where two routes differ in case alone.
    folded: FnvHashMap<Arc<str>, Option<Arc<RouteEntry>>>,
    /// Segments of the longest prefix: a longer path is not looked at further, so that its length
    /// costs nothing.
    deepest: usize,
}

impl HostRoutes {
    fn insert(&mut self, prefix: Arc<str>, entry: Arc<RouteEntry>) {
        self.deepest = self.deepest.max(path_segments(&prefix).count());
        self.folded
            .entry(prefix.to_lowercase().into())
            .and_modify(|other| *other = None)
            .or_insert_with(|| Some(Arc::clone(&entry)));
        self.exact.insert(prefix, entry);
    }

    fn find(&self, path: &str) -> Option<&Arc<RouteEntry>> {
        longest(path, self.deepest, |prefix| self.exact.get(prefix))
    }

    /// Whether an upstream that takes upper and lower case for the same would be reached past the
    /// route that this path then belongs to.
    fn hides_another(&self, path: &str, found: Option<&Arc<RouteEntry>>) -> bool {
        if !path.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
            return false;
        }
        let folded = path.to_lowercase();
        match longest(&folded, self.deepest, |prefix| self.folded.get(prefix)) {
            Some(Some(other)) => found.is_none_or(|found| found.name() != other.name()),
            Some(None) | None => false,
        }
    }
}

/// What belongs to the longest prefix of whole segments, of at most `deepest` of them.
fn longest<'a, T>(
    path: &str,
    deepest: usize,
    get: impl Fn(&str) -> Option<&'a T>,
) -> Option<&'a T> {
    let cut = path.match_indices('/').nth(deepest).map_or(path.len(), |(at, _)| at);
    let mut prefix = path.get(..cut).unwrap_or(path).trim_end_matches('/');
    while !prefix.is_empty() {
        if let Some(found) = get(prefix) {
            return Some(found);
        }
        prefix = prefix.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    get("/")
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

    /// Signs users of all hosts in at this one, which may have no routes.
    #[must_use]
    pub fn signing_in_at(mut self, host: Option<Host>) -> Self {
        if let Some(host) = &host {
            self.hosts.entry(host.clone()).or_default();
        }
        self.sign_in_host = host;
        self
    }

    pub fn sign_in_host(&self) -> Option<&Host> {
        self.sign_in_host.as_ref()
    }

    pub fn entries(&self) -> impl Iterator<Item = &Arc<RouteEntry>> {
        self.by_name.values()
    }

    pub fn named(&self, name: &str) -> Option<&Arc<RouteEntry>> {
        self.by_name.get(name)
    }

    pub fn knows_host(&self, host: &Host) -> bool {
        self.hosts.contains_key(host)
    }

    /// The one place where a request meets a route. The cost is that of the deepest route's depth,
    /// however many routes there are and however long the path is.
    ///
    /// # Errors
    /// `Misdirected` for a host without routes, `NoRoute` for a path without one, `AmbiguousCase`
    /// for one that is another route's but for upper and lower case, and `PathParameters` where
    /// the route does not allow them.
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
        let entry = routes.find(path);
        if routes.hides_another(path, entry) {
            return Err(Refusal::AmbiguousCase);
        }
        let entry = entry.ok_or(Refusal::NoRoute)?;
        if request.path.has_parameters() && !entry.config.path_parameters {
            return Err(Refusal::PathParameters);
        }
        Ok(Destination::Route(Arc::clone(entry)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::{
        Application, AuditDurability, Endpoint, OutlierDetection, ResponseRewrite, RetryBudget,
        Route, RouteBounds, Selection, Upstream, UpstreamCredential, UpstreamHost,
        UpstreamProtocol,
    };
    use crate::config::secret::Secret;
    use crate::domain::canonical::Authority;
    use crate::metrics::Metrics;

    fn entry(name: &str, host: &str, path: &str, path_parameters: bool) -> Arc<RouteEntry> {
        let route = Route { path_parameters, ..config(name, host, path) };
        entry_of(route, &Metrics::new())
    }

    pub fn entry_of(route: Route, metrics: &Metrics) -> Arc<RouteEntry> {
        let name = Arc::clone(&route.name);
        let application = Arc::clone(&route.application.name);
        let resource = Resource { route: Arc::clone(&name), application, zone: None, tenant: None };
        let route = Arc::new(route);
        let pool = Pool::new(&route, 1, metrics).unwrap();
        Arc::new(RouteEntry::new(route, resource, metrics.route(&name), pool))
    }

    /// Of an upstream that nobody asks.
    pub fn config(name: &str, host: &str, path: &str) -> Route {
        let application = Arc::new(Application {
            name: "app".into(),
            display_name: "App".into(),
            zone: None,
            tenant: None,
            identity_providers: None,
            session: None,
        });
        let endpoint = Endpoint { host: Host::parse("127.0.0.1").unwrap(), port: 8080, weight: 1 };
        Route {
            name: name.into(),
            host: Host::parse(host).unwrap(),
            path: path.into(),
            application,
            accepted: crate::config::model::Accepted::default(),
            allow_from: None,
            tenant: None,
            identity_providers: None,
            upstream: Upstream {
                endpoints: vec![endpoint],
                selection: Selection::RoundRobin,
                protocol: UpstreamProtocol::Http1,
                tls: None,
                credential: None,
                host: UpstreamHost::Preserve,
                health: None,
                outliers: Some(OutlierDetection::default()),
                slow_start: None,
                retries: RetryBudget::default(),
                connect_timeout: Duration::from_secs(1),
                response_timeout: Duration::from_secs(1),
                idle_timeout: Duration::from_secs(1),
                max_idle: 1,
            },
            max_body_bytes: 1,
            websocket: true,
            path_parameters: false,
            audit: AuditDurability::Buffered,
            refuse_cross_site: true,
            cross_site_origins: Vec::new(),
            response: ResponseRewrite { location: true, cookie_domain: true },
            bounds: RouteBounds::default(),
        }
    }

    fn found(table: &RouteTable, host: &str, target: &str) -> String {
        let authority = Authority::parse(host).unwrap();
        let request = CanonicalRequest::parse("GET".into(), authority, target).unwrap();
        match table.find(&request) {
            Ok(Destination::Route(entry)) => entry.name().to_string(),
            Ok(Destination::Reserved(rest)) => format!("reserved {rest}"),
            Err(refusal) => refusal.reason().to_owned(),
        }
    }

    #[test]
    fn what_is_open_stays_where_its_server_is_still_there_and_spoken_to_in_the_same_way() {
        let former = config("a", "a.example", "/").upstream;
        let with = |change: fn(&mut Upstream)| {
            let mut upstream = former.clone();
            change(&mut upstream);
            upstream.continues(&former)
        };
        assert!(with(|_| ()));
        assert!(with(|upstream| upstream.connect_timeout *= 2));
        assert!(with(|upstream| upstream.selection = Selection::Sticky));
        assert!(with(|upstream| {
            let more = Endpoint { host: Host::parse("127.0.0.2").unwrap(), port: 80, weight: 3 };
            upstream.endpoints.insert(0, more);
        }));
        assert!(!with(|upstream| upstream.endpoints[0].port = 8081));
        assert!(!with(|upstream| upstream.endpoints[0].host = Host::parse("127.0.0.2").unwrap()));
        assert!(!with(|upstream| upstream.protocol = UpstreamProtocol::Http2));
        assert!(!with(|upstream| {
            upstream.host = UpstreamHost::Fixed(Authority::parse("b.example").unwrap());
        }));
        assert!(!with(|upstream| {
            let (name, value) = ("x-key".to_owned(), Secret::new("other"));
            upstream.credential = Some(UpstreamCredential::Header { name, value });
        }));
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let table = RouteTable::new([
            entry("root", "a.example", "/", false),
            entry("acme", "a.example", "/acme", false),
            entry("secret", "a.example", "/acme/secret/", false),
            entry("only", "b.example", "/only", false),
        ]);
        for (host, target, expected) in [
            ("a.example", "/", "root"),
            ("a.example", "/acmex", "root"),
            ("a.example", "/ACME", "ambiguous-case"),
            ("a.example", "/Acme/secret", "ambiguous-case"),
            ("a.example", "/acme/Secret/x", "ambiguous-case"),
            ("a.example", "/Other/Path", "root"),
            ("a.example", "/acme/Orders", "acme"),
            ("a.example", "/acme", "acme"),
            ("a.example", "/acme/", "acme"),
            ("a.example", "/%61cme/x", "acme"),
            ("a.example", "/acme?x=/acme/secret", "acme"),
            ("a.example", "/acme/secret", "secret"),
            ("a.example", "/acme/secret/x/y", "secret"),
            ("a.example", "/acme/secrets", "acme"),
            ("A.EXAMPLE.:8443", "/acme", "acme"),
            ("b.example", "/only/x", "only"),
            ("b.example", "/", "no-route"),
            ("c.example", "/", "unknown-host"),
        ] {
            assert_eq!(found(&table, host, target), expected, "{host}{target}");
        }
    }

    #[test]
    fn a_long_path_costs_no_more_look_ups_than_the_deepest_route_has_segments() {
        let looked_up = std::cell::Cell::new(0);
        let path = "/a".repeat(4000);
        let found: Option<&()> = longest(&path, 2, |_| {
            looked_up.set(looked_up.get() + 1);
            None
        });
        assert!(found.is_none());
        assert_eq!(looked_up.get(), 3);
    }

    #[test]
    fn routes_that_differ_in_case_alone_are_both_reached() {
        let table = RouteTable::new([
            entry("small", "a.example", "/x", false),
            entry("large", "a.example", "/X", false),
        ]);
        assert_eq!(found(&table, "a.example", "/x/1"), "small");
        assert_eq!(found(&table, "a.example", "/X/1"), "large");
    }

    #[test]
    fn the_gates_own_paths_are_no_routes() {
        let table = RouteTable::new([entry("root", "a.example", "/", true)]);
        assert_eq!(found(&table, "a.example", "/.wicketgate"), "reserved ");
        assert_eq!(found(&table, "a.example", "/.wicketgate/me"), "reserved /me");
        assert_eq!(found(&table, "a.example", "/%2Ewicketgate/me"), "reserved /me");
        assert_eq!(found(&table, "a.example", "/.wicketgates"), "root");
        assert_eq!(found(&table, "a.example", "/.wicketgate;x/me"), "path-parameters");
    }

    #[test]
    fn path_parameters_need_the_routes_consent() {
        let table = RouteTable::new([
            entry("strict", "a.example", "/", false),
            entry("old", "a.example", "/old", true),
        ]);
        assert_eq!(found(&table, "a.example", "/x;y=1"), "path-parameters");
        assert_eq!(found(&table, "a.example", "/old/page;jsessionid=1"), "old");
        assert_eq!(found(&table, "a.example", "/old;x/page"), "old");
    }
}
