//! How many requests pass: by client address, session, tenant and route.
//!
//! The order is that of cost and blame. By address before anything is parsed or looked up, so that
//! no spelling of host, path or header has a say in it; by session and tenant once these are known;
//! by route only after the policies, so that nobody uses up what others are entitled to without
//! being entitled himself. A limit's counts are shared by the workers and outlive a reload that
//! leaves it as it is.
//!
//! INVARIANT: time is the request's own arrival, on the monotonic clock. Nothing here reads a
//! clock, and setting the system's back or forth changes nothing.

mod table;
mod window;

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use self::table::Table;
use self::window::SLICES;
use super::receive::Arrival;
use super::record;
use super::refusal::Refusal;
use super::route::RouteEntry;
use crate::config::model::{LimitPer, RateLimit};
use crate::domain::network::Subscriber;
use crate::identity::credential::Credential;

/// draft-ietf-httpapi-ratelimit-headers-11, section 3.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Section 4 there.
pub const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// One limit with its counts.
#[derive(Debug)]
struct Limit {
    rule: RateLimit,
    /// As in the header fields: `address-10s`.
    name: Arc<str>,
    /// Its member of `RateLimit-Policy`.
    policy: String,
    slice: Duration,
    begun: Instant,
    table: Table,
}

impl Limit {
    fn new(rule: &RateLimit, scope: &str) -> Self {
        let name = format!("{scope}{}-{}s", rule.per.name(), rule.window.as_secs());
        let policy = format!("\"{name}\";q={};w={}", rule.requests, rule.window.as_secs());
        let slice = rule.window / u32::try_from(SLICES).unwrap_or(1);
        let (rule, name) = (rule.clone(), name.into());
        Self { rule, name, policy, slice, begun: Instant::now(), table: Table::new() }
    }

    fn take(&self, caller: u128, at: Instant, quota: &mut Quota) -> Result<(), Refusal> {
        let age = at.saturating_duration_since(self.begun).as_nanos();
        let slice = self.slice.as_nanos().max(1);
        let now = u64::try_from(age / slice).unwrap_or(u64::MAX / 2);
        let taken = self.table.take(caller, now, self.rule.requests);
        let free = u128::from(taken.more_in).saturating_mul(slice);
        // Whole seconds, and never too early.
        let wait = u64::try_from(free.saturating_sub(age).div_ceil(1_000_000_000)).unwrap_or(1);
        quota.note(self, taken.remaining, wait);
        if taken.passed {
            return Ok(());
        }
        Err(Refusal::RateLimited { per: self.rule.per, policy: Arc::clone(&self.name), wait })
    }
}

/// The limits of the gate, or of a route.
#[derive(Debug, Default)]
pub struct Limits {
    address: Box<[Arc<Limit>]>,
    /// By session and tenant.
    caller: Box<[Arc<Limit>]>,
    route: Box<[Arc<Limit>]>,
}

impl Limits {
    /// The limits of the whole gate. Those that `former` has, too, are kept with their counts.
    pub fn of_gate(rules: &[RateLimit], former: Option<&Self>) -> Self {
        Self::new(rules, "all-", former)
    }

    /// The limits of one route.
    pub fn of_route(rules: &[RateLimit], former: Option<&Self>) -> Self {
        Self::new(rules, "", former)
    }

    fn new(rules: &[RateLimit], scope: &str, former: Option<&Self>) -> Self {
        let limits = |wanted: &[LimitPer]| {
            let rules = rules.iter().filter(|rule| wanted.contains(&rule.per));
            let kept = |rule: &RateLimit| {
                let mut known = former.into_iter().flat_map(Self::all);
                known.find(|limit| limit.rule == *rule).map(Arc::clone)
            };
            rules
                .map(|rule| kept(rule).unwrap_or_else(|| Arc::new(Limit::new(rule, scope))))
                .collect()
        };
        Self {
            address: limits(&[LimitPer::Address]),
            caller: limits(&[LimitPer::Session, LimitPer::Tenant]),
            route: limits(&[LimitPer::Route]),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.address.iter().chain(&self.caller).chain(&self.route)
    }
}

/// Where a request stands with the limits that it met, as its answer tells.
///
/// A request that meets none carries a null pointer, and one that does an allocation.
#[derive(Debug, Default)]
pub struct Quota(Option<Box<Fields>>);

/// The values of the two header fields, so far.
#[derive(Debug, Default)]
struct Fields {
    policy: String,
    state: String,
}

impl Quota {
    fn note(&mut self, limit: &Limit, remaining: u32, wait: u64) {
        let fields = self.0.get_or_insert_default();
        if !fields.policy.is_empty() {
            fields.policy.push_str(", ");
            fields.state.push_str(", ");
        }
        fields.policy.push_str(&limit.policy);
        // Writing to a string doesn't fail.
        let _ = write!(fields.state, "\"{}\";r={remaining};t={wait}", limit.name);
    }

    /// Adds the `RateLimit` fields. An upstream's own stay: they are lists, and its limits hold as
    /// well.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let Some(fields) = &self.0 else { return };
        for (name, text) in [(POLICY, &fields.policy), (STATE, &fields.state)] {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.append(name, value);
            }
        }
    }
}

/// Before anything else: what the client says has no part in it.
pub fn by_address(arrival: &mut Arrival) -> Result<(), Refusal> {
    if arrival.snapshot.limits.address.is_empty() {
        return Ok(());
    }
    let caller = address(record::source(arrival));
    for limit in &arrival.snapshot.limits.address {
        limit.take(caller, arrival.begun, &mut arrival.quota)?;
    }
    Ok(())
}

/// The route's own limits by address, once the route is known.
pub fn by_address_on(arrival: &mut Arrival, route: &RouteEntry) -> Result<(), Refusal> {
    if route.limits.address.is_empty() {
        return Ok(());
    }
    let caller = address(record::source(arrival));
    for limit in &route.limits.address {
        limit.take(caller, arrival.begun, &mut arrival.quota)?;
    }
    Ok(())
}

/// By session and tenant, once it is known who asks.
pub fn by_caller(
    arrival: &mut Arrival,
    route: &RouteEntry,
    caller: &Credential,
) -> Result<(), Refusal> {
    let Arrival { snapshot, quota, begun, .. } = arrival;
    for limit in snapshot.limits.caller.iter().chain(&route.limits.caller) {
        let counted = match limit.rule.per {
            LimitPer::Tenant => tenant(caller.principal().tenant.as_deref()),
            _ => session(&caller.share().0),
        };
        limit.take(counted, *begun, quota)?;
    }
    Ok(())
}

/// By route, once the request is permitted.
pub fn by_route(arrival: &mut Arrival, route: &RouteEntry) -> Result<(), Refusal> {
    let Arrival { snapshot, quota, begun, .. } = arrival;
    for limit in &snapshot.limits.route {
        limit.take(hashed(route.name()), *begun, quota)?;
    }
    for limit in &route.limits.route {
        limit.take(0, *begun, quota)?;
    }
    Ok(())
}

fn address(source: IpAddr) -> u128 {
    Subscriber::of(source).bits()
}

/// Half of a SHA-256 is as good as the whole.
fn session(id: &[u8; 32]) -> u128 {
    id.iter().take(16).fold(0, |value, byte| (value << 8) | u128::from(*byte))
}

/// Those who belong to no tenant share one count.
fn tenant(name: Option<&str>) -> u128 {
    name.map_or(0, hashed)
}

/// 128 bits under two secret keys, so that no name can be made to count as another.
fn hashed(name: &str) -> u128 {
    static KEYS: LazyLock<[RandomState; 2]> =
        LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    KEYS.iter().fold(0, |value, key| (value << 64) | u128::from(key.hash_one(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(per: LimitPer, requests: u32, seconds: u64) -> RateLimit {
        RateLimit { per, requests, window: Duration::from_secs(seconds) }
    }

    fn told(quota: &Quota) -> (String, String) {
        let mut headers = HeaderMap::new();
        quota.tell(&mut headers);
        let text = |name: HeaderName| headers[name].to_str().unwrap().to_owned();
        (text(POLICY), text(STATE))
    }

    #[test]
    fn the_answer_says_what_the_limit_is_what_is_left_and_when_there_is_more() {
        let limit = Limit::new(&rule(LimitPer::Address, 2, 8), "all-");
        let (begun, mut quota) = (limit.begun, Quota::default());
        limit.take(7, begun, &mut quota).unwrap();
        let (policy, state) = told(&quota);
        assert_eq!(policy, "\"all-address-8s\";q=2;w=8");
        assert_eq!(state, "\"all-address-8s\";r=1;t=9");
        let at = begun + Duration::from_millis(2500);
        limit.take(7, at, &mut Quota::default()).unwrap();
        let mut quota = Quota::default();
        let refused = limit.take(7, at, &mut quota).unwrap_err();
        assert_eq!(told(&quota).1, "\"all-address-8s\";r=0;t=7");
        let Refusal::RateLimited { wait, .. } = refused else { panic!("{refused}") };
        // Who waits as long as he was told passes, and who comes a moment earlier doesn't.
        let told = at + Duration::from_secs(wait);
        let early = told - Duration::from_millis(501);
        assert!(limit.take(7, early, &mut Quota::default()).is_err());
        assert!(limit.take(7, told, &mut Quota::default()).is_ok());
    }

    #[test]
    fn several_limits_are_told_of_in_one_list() {
        let mut quota = Quota::default();
        for rule in [rule(LimitPer::Session, 5, 1), rule(LimitPer::Session, 100, 3600)] {
            let limit = Limit::new(&rule, "");
            limit.take(1, limit.begun, &mut quota).unwrap();
        }
        let (policy, state) = told(&quota);
        assert_eq!(policy, "\"session-1s\";q=5;w=1, \"session-3600s\";q=100;w=3600");
        assert_eq!(state, "\"session-1s\";r=4;t=2, \"session-3600s\";r=99;t=4050");
        let mut headers = HeaderMap::new();
        Quota::default().tell(&mut headers);
        assert!(headers.is_empty(), "nothing is said where no limit is");
    }

    #[test]
    fn a_reload_that_leaves_a_limit_as_it_is_leaves_its_counts() {
        let rules = [rule(LimitPer::Address, 1, 60), rule(LimitPer::Tenant, 1, 60)];
        let first = Limits::of_route(&rules, None);
        let at = first.address[0].begun;
        first.address[0].take(1, at, &mut Quota::default()).unwrap();
        let same = Limits::of_route(&rules, Some(&first));
        assert!(same.address[0].take(1, at, &mut Quota::default()).is_err());
        let more = Limits::of_route(&[rule(LimitPer::Address, 2, 60)], Some(&first));
        assert!(more.address[0].take(1, at, &mut Quota::default()).is_ok());
        assert!(more.caller.is_empty());
    }

    #[test]
    fn who_belongs_to_no_tenant_is_not_unlimited() {
        assert_eq!(tenant(None), 0);
        assert_ne!(tenant(Some("acme")), tenant(Some("umbra")));
        assert_eq!(tenant(Some("acme")), tenant(Some("acme")));
    }
}
