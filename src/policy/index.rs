//! Finds the policies whose scope fits a query, at a cost that the other policies don't add to.
//!
//! A scope says `==`, `in`, `is` or nothing of principal and resource, so each policy stands in
//! exactly one bucket, and a query knows every bucket that can fit it.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    ActionConstraint, Entities, EntityTypeName, EntityUid, Policy, PrincipalConstraint,
    ResourceConstraint,
};
use foldhash::fast::RandomState;

/// What a scope demands of the principal, or of the resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Demand {
    Any,
    Equals(EntityUid),
    In(EntityUid),
    Is(EntityTypeName),
    IsIn(EntityTypeName, EntityUid),
}

/// The policies of a set, by number, under what their scope demands: of the principal, then of the
/// resource. Most of what a query meets no policy demands, so most is looked up once and not once
/// for each resource.
#[derive(Debug, Default)]
pub(super) struct Index {
    buckets: HashMap<Demand, Resources, RandomState>,
}

type Resources = HashMap<Demand, Vec<Entry>, RandomState>;

#[derive(Debug)]
struct Entry {
    policy: usize,
    action: ActionDemand,
}

#[derive(Debug)]
enum ActionDemand {
    Any,
    Equals(EntityUid),
    /// Any of these actions, or a member of any of these groups.
    In(HashSet<EntityUid>),
}

impl Index {
    pub(super) fn new<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut index = Self::default();
        for (number, policy) in policies.into_iter().enumerate() {
            let principal = match policy.principal_constraint() {
                PrincipalConstraint::Any => Demand::Any,
                PrincipalConstraint::Eq(uid) => Demand::Equals(uid),
                PrincipalConstraint::In(uid) => Demand::In(uid),
                PrincipalConstraint::Is(kind) => Demand::Is(kind),
                PrincipalConstraint::IsIn(kind, uid) => Demand::IsIn(kind, uid),
            };
            let resource = match policy.resource_constraint() {
                ResourceConstraint::Any => Demand::Any,
                ResourceConstraint::Eq(uid) => Demand::Equals(uid),
                ResourceConstraint::In(uid) => Demand::In(uid),
                ResourceConstraint::Is(kind) => Demand::Is(kind),
                ResourceConstraint::IsIn(kind, uid) => Demand::IsIn(kind, uid),
            };
            let action = match policy.action_constraint() {
                ActionConstraint::Any => ActionDemand::Any,
                ActionConstraint::Eq(uid) => ActionDemand::Equals(uid),
                ActionConstraint::In(uids) => ActionDemand::In(uids.into_iter().collect()),
            };
            let entry = Entry { policy: number, action };
            let resources = index.buckets.entry(principal).or_default();
            resources.entry(resource).or_default().push(entry);
        }
        index
    }

    /// The numbers of all policies whose scope fits, in ascending order. `entities` holds the
    /// ancestors of the three.
    pub(super) fn applicable(
        &self,
        entities: &Entities,
        principal: &EntityUid,
        action: &EntityUid,
        resource: &EntityUid,
    ) -> Vec<usize> {
        let principals = demands(entities, principal);
        let resources = demands(entities, resource);
        let actions = lineage(entities, action);
        let mut found = Vec::new();
        for demanded in principals.iter().filter_map(|principal| self.buckets.get(principal)) {
            for bucket in resources.iter().filter_map(|resource| demanded.get(resource)) {
                let fits = |entry: &&Entry| match &entry.action {
                    ActionDemand::Any => true,
                    ActionDemand::Equals(wanted) => wanted == action,
                    ActionDemand::In(wanted) => actions.iter().any(|one| wanted.contains(one)),
                };
                found.extend(bucket.iter().filter(fits).map(|entry| entry.policy));
            }
        }
        found.sort_unstable();
        found
    }
}

/// The entity itself and all that it is in.
fn lineage(entities: &Entities, uid: &EntityUid) -> Vec<EntityUid> {
    let ancestors = entities.ancestors(uid).into_iter().flatten().cloned();
    std::iter::once(uid.clone()).chain(ancestors).collect()
}

/// Every demand that the entity meets.
fn demands(entities: &Entities, uid: &EntityUid) -> Vec<Demand> {
    let kind = uid.type_name();
    let mut met = vec![Demand::Any, Demand::Equals(uid.clone()), Demand::Is(kind.clone())];
    for holder in lineage(entities, uid) {
        met.push(Demand::In(holder.clone()));
        met.push(Demand::IsIn(kind.clone(), holder));
    }
    met
}
