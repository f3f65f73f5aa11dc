//! Which counts of what is under way a new configuration goes on with.
//!
//! A route keeps its places by its name. The places at a set of upstream endpoints are shared by
//! all routes that have that set, and reloads change sets: routes come together in one, or part.
//! So the places of a set go on with those of the same endpoints, under whatever routes, and with
//! those that its routes took before, at whatever endpoints. What such requests still hold is
//! counted until they end; it never comes to more than was under way.
//!
//! Where one set takes the place of one, it goes on with the very counter, so not even a request
//! that began under the former configuration and takes its place now is missed. Else there is a
//! new counter, which counts what the former ones still hold as well. Where routes part, each of
//! their sets counts what was under way for all of them: which of it runs where, nobody noted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::slots::{Counter, Places, Slots};
use crate::config::model::Route;
use crate::domain::canonical::Host;

/// What tells sets of endpoints apart, whatever their weights and order.
type Endpoints = BTreeSet<(Host, u16)>;

/// By the addresses of their own counters, each once.
type Counters = BTreeMap<usize, Arc<Slots>>;

/// The places of every route of a configuration, and of routes that it has no more as long as
/// something is under way there: they may be put back.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<Arc<str>, Known>);

#[derive(Debug)]
struct Known {
    places: Places,
    /// What the upstream's places are at; none where they have no bound and aren't counted.
    endpoints: Option<Endpoints>,
    in_force: bool,
}

impl Counts {
    /// For these routes, after a configuration that may still have requests under way.
    pub fn after(former: Option<&Self>, routes: &[Arc<Route>]) -> Self {
        let nothing = Self::default();
        let former = former.unwrap_or(&nothing);
        let sets = former.sets(routes);
        let mut all = BTreeMap::new();
        for route in routes {
            let known = former.0.get(&route.name);
            let mut places = known.map(|known| known.places.clone()).unwrap_or_default();
            let endpoints = endpoints(route);
            if let Some(counter) = endpoints.as_ref().and_then(|endpoints| sets.get(endpoints)) {
                places.upstream = Arc::clone(counter);
            }
            all.insert(Arc::clone(&route.name), Known { places, endpoints, in_force: true });
        }
        for (name, known) in &former.0 {
            // In force until now, it may get requests until the new configuration is.
            if !all.contains_key(name) && (known.in_force || known.places.busy()) {
                let (places, endpoints) = (known.places.clone(), known.endpoints.clone());
                all.insert(Arc::clone(name), Known { places, endpoints, in_force: false });
            }
        }
        Self(all)
    }

    /// The places of a route.
    pub fn of(&self, route: &str) -> Places {
        self.0.get(route).map(|known| known.places.clone()).unwrap_or_default()
    }

    /// The counter of each set of endpoints that has a bound now.
    fn sets(&self, routes: &[Arc<Route>]) -> BTreeMap<Endpoints, Arc<Slots>> {
        let mut sets: BTreeMap<Endpoints, Counters> = BTreeMap::new();
        for route in routes {
            let Some(endpoints) = endpoints(route) else { continue };
            let counters = sets.entry(endpoints).or_default();
            counters.extend(self.0.get(&route.name).and_then(Known::counter));
        }
        for known in self.0.values() {
            let same = known.endpoints.as_ref().and_then(|endpoints| sets.get_mut(endpoints));
            if let Some(counters) = same {
                counters.extend(known.counter());
            }
        }
        let (mut followed, mut counted_along) = (BTreeMap::new(), BTreeSet::new());
        for (_, counter) in self.0.values().filter_map(Known::counter) {
            counted_along.extend(counter.before().iter().map(address));
        }
        for counters in sets.values() {
            counters.keys().for_each(|address| *followed.entry(*address).or_insert(0) += 1);
        }
        let goes_on =
            |address: &usize| followed.get(address) == Some(&1) && !counted_along.contains(address);
        let counter = |counters: Counters| match counters.iter().next() {
            Some((only, counter)) if counters.len() == 1 && goes_on(only) => Arc::clone(counter),
            _ => following(counters),
        };
        sets.into_iter().map(|(endpoints, counters)| (endpoints, counter(counters))).collect()
    }
}

impl Known {
    fn counter(&self) -> Option<(usize, Arc<Slots>)> {
        let slots = &self.places.upstream;
        self.endpoints.as_ref().map(|_| (address(slots.own()), Arc::clone(slots)))
    }
}

/// Places that begin with what is under way at these, and at those that they follow.
fn following(slots: Counters) -> Arc<Slots> {
    let earlier = slots.values().flat_map(|slots| slots.before());
    let busy = earlier.filter(|counter| counter.under_way() > 0);
    let before = busy.chain(slots.values().map(|slots| slots.own()));
    let before: BTreeMap<_, _> =
        before.map(|counter| (address(counter), Arc::clone(counter))).collect();
    Arc::new(Slots::counting(before.into_values()))
}

fn address(counter: &Arc<Counter>) -> usize {
    Arc::as_ptr(counter).addr()
}

/// The endpoints of a route, if it has a bound for what is under way there.
fn endpoints(route: &Route) -> Option<Endpoints> {
    route.bounds.max_upstream_in_flight?;
    let endpoints = route.upstream.endpoints.iter();
    Some(endpoints.map(|endpoint| (endpoint.host.clone(), endpoint.port)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::route::tests::config;
    use super::super::slots::Held;
    use super::*;
    use crate::config::model::Endpoint;

    /// A route with that many places at the upstream's endpoints, which have these ports.
    fn route(name: &str, limit: usize, ports: &[u16]) -> Arc<Route> {
        let mut route = config(name, "a.example", "/");
        let host = Host::parse("127.0.0.1").unwrap();
        let endpoint = |port: &u16| Endpoint { host: host.clone(), port: *port, weight: 1 };
        route.upstream.endpoints = ports.iter().map(endpoint).collect();
        route.bounds.max_upstream_in_flight = Some(limit);
        Arc::new(route)
    }

    fn unbounded(route: &Route) -> Arc<Route> {
        let mut route = route.clone();
        route.bounds.max_upstream_in_flight = None;
        route.bounds.max_in_flight = 5;
        Arc::new(route)
    }

    /// As many as there are, each for somebody else.
    fn all(counts: &Counts, route: &Route) -> Vec<Held> {
        let callers = (0..).map(|number: u32| number.to_string());
        let mut held = Vec::new();
        let mut refused = 0;
        for caller in callers {
            match counts.of(&route.name).take(route, false, &caller) {
                Ok(place) => held.push(place),
                // Some share a counter with another who has his share.
                Err(_) if refused < 20 => refused += 1,
                Err(_) => break,
            }
        }
        held
    }

    fn after(former: &Counts, routes: &[&Arc<Route>]) -> Counts {
        let routes: Vec<_> = routes.iter().map(|route| Arc::clone(route)).collect();
        Counts::after(Some(former), &routes)
    }

    fn first(routes: &[&Arc<Route>]) -> Counts {
        after(&Counts::default(), routes)
    }

    #[test]
    fn what_runs_is_counted_when_a_reload_changes_the_servers() {
        let (before, now) = (route("a", 10, &[1, 2]), route("a", 10, &[2, 3]));
        let former = first(&[&before]);
        let mut held = all(&former, &before);
        assert_eq!(held.len(), 10);
        let counts = after(&former, &[&now]);
        assert_eq!(all(&counts, &now).len(), 0);
        held.truncate(4);
        let more = all(&counts, &now);
        assert_eq!(more.len(), 6);
        // Under the former configuration, too.
        assert_eq!(all(&former, &before).len(), 0);
        drop((held, more));
        assert_eq!(all(&counts, &now).len(), 10);
    }

    #[test]
    fn a_lower_limit_waits_until_less_is_under_way() {
        let (before, now) = (route("a", 10, &[1]), route("a", 4, &[2]));
        let former = first(&[&before]);
        let mut held = all(&former, &before);
        let counts = after(&former, &[&now]);
        for left in [10, 5, 4] {
            held.truncate(left);
            assert_eq!(all(&counts, &now).len(), 0, "{left} under way");
        }
        held.truncate(3);
        assert_eq!(all(&counts, &now).len(), 1);
        held.clear();
        assert_eq!(all(&counts, &now).len(), 4);
    }

    #[test]
    fn routes_that_come_together_bring_all_that_they_have_under_way() {
        let (left, right) = (route("left", 4, &[1]), route("right", 3, &[2]));
        let former = first(&[&left, &right]);
        let (lefts, rights) = (all(&former, &left), all(&former, &right));
        let (left, right) = (route("left", 9, &[1, 2]), route("right", 9, &[2, 1]));
        let counts = after(&former, &[&left, &right]);
        let more = all(&counts, &left);
        assert_eq!(more.len(), 2, "of nine, seven are taken");
        assert_eq!(all(&counts, &right).len(), 0);
        // And over a reload that changes nothing, and one that changes the set again.
        let counts = after(&counts, &[&left, &right]);
        assert_eq!(all(&counts, &right).len(), 0);
        let (left, right) = (route("left", 9, &[3]), route("right", 9, &[3]));
        let counts = after(&counts, &[&left, &right]);
        assert_eq!(all(&counts, &left).len(), 0);
        drop((lefts, more));
        assert_eq!(all(&counts, &left).len(), 6);
        drop(rights);
        assert_eq!(all(&counts, &left).len(), 9);
    }

    #[test]
    fn routes_that_part_count_what_ran_before_and_then_each_its_own() {
        let (stays, moves) = (route("stays", 6, &[1]), route("moves", 6, &[1]));
        let former = first(&[&stays, &moves]);
        let held = all(&former, &moves);
        let moves = route("moves", 6, &[2]);
        let counts = after(&former, &[&stays, &moves]);
        assert_eq!((all(&counts, &stays).len(), all(&counts, &moves).len()), (0, 0));
        // What has come together again doesn't forget it.
        let moved = route("stays", 6, &[2]);
        let together = after(&counts, &[&moved, &moves]);
        assert_eq!(all(&together, &moves).len(), 0);
        drop(held);
        assert_eq!(all(&together, &moves).len(), 6);
        let held = all(&counts, &stays);
        assert_eq!(held.len(), 6);
        let again = after(&counts, &[&stays, &moves]);
        let others = all(&again, &moves);
        assert_eq!(others.len(), 6, "what the other takes now is none of its own");
        assert_eq!(all(&again, &stays).len(), 0);
        drop((held, others));
    }

    #[test]
    fn of_sets_that_part_and_come_together_again_and_again_nothing_is_kept() {
        let routes = |ports: [&[u16]; 2]| (route("a", 6, ports[0]), route("b", 6, ports[1]));
        let (together, apart) = (routes([&[1], &[1]]), routes([&[1], &[2]]));
        let mut counts = first(&[&together.0, &together.1]);
        let places = counts.of("a");
        let counter = Arc::downgrade(places.upstream.own());
        drop(places);
        for (a, b) in [&apart, &together, &apart, &together] {
            counts = after(&counts, &[a, b]);
        }
        assert!(counter.upgrade().is_none());
        assert!(counts.of("a").upstream.before().len() <= 2);
    }

    #[test]
    fn a_new_name_for_the_same_servers_goes_on_and_with_others_begins_anew() {
        let (before, renamed) = (route("a", 5, &[1]), route("b", 5, &[1]));
        let former = first(&[&before]);
        let held = all(&former, &before);
        let counts = after(&former, &[&renamed]);
        assert_eq!(all(&counts, &renamed).len(), 0);
        let elsewhere = route("c", 5, &[2]);
        let counts = after(&former, &[&elsewhere]);
        assert_eq!(all(&counts, &elsewhere).len(), 5);
        drop(held);
    }

    #[test]
    fn a_route_that_is_taken_out_and_put_back_has_what_still_runs() {
        let (a, other) = (route("a", 5, &[1]), route("other", 5, &[9]));
        let former = first(&[&a, &other]);
        let held = all(&former, &a);
        let without = after(&former, &[&other]);
        let without = after(&without, &[&other]);
        assert!(without.0.contains_key("a"));
        for back in [route("a", 5, &[1]), route("a", 5, &[1, 2]), route("b", 5, &[1])] {
            let counts = after(&without, &[&back, &other]);
            assert_eq!(all(&counts, &back).len(), 0);
        }
        assert_eq!(all(&without, &other).len(), 5);
        drop(held);
        let without = after(&without, &[&other]);
        assert!(!without.0.contains_key("a"), "nothing is kept of it once all has ended");
    }

    #[test]
    fn a_route_put_back_does_not_take_places_that_others_count_along() {
        let (stays, goes) = (route("stays", 8, &[1]), route("goes", 8, &[1]));
        let former = first(&[&stays, &goes]);
        let held = all(&former, &goes);
        let alone = route("stays", 8, &[2]);
        let counts = after(&former, &[&alone, &route("third", 8, &[1])]);
        let back = route("goes", 8, &[3]);
        let counts = after(&counts, &[&alone, &back]);
        drop(held);
        let taken = all(&counts, &back);
        assert_eq!(taken.len(), 8);
        assert_eq!(all(&counts, &alone).len(), 8);
    }

    #[test]
    fn a_route_has_its_own_places_over_a_reload_and_no_count_without_a_bound() {
        let bounded = route("a", 3, &[1]);
        let free = unbounded(&bounded);
        let former = first(&[&free]);
        let held = all(&former, &free);
        assert_eq!(held.len(), 5);
        let counts = after(&former, &[&free]);
        assert_eq!(all(&counts, &free).len(), 0, "the route's own");
        drop(held);
        let held = all(&counts, &bounded);
        assert_eq!(held.len(), 3);
        let (free_again, bounded_again) = (after(&counts, &[&free]), after(&counts, &[&bounded]));
        assert!(!all(&free_again, &free).is_empty());
        assert_eq!(all(&bounded_again, &bounded).len(), 3, "what wasn't bounded wasn't counted");
        drop(held);
    }
}
