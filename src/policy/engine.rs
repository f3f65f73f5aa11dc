//! The question, the answer, and the memory of answers given.
//!
//! A decision is a function of principal, action, resource and that part of the context which the
//! applicable policies can read. The first three lead to a [`Pair`], the fourth is a
//! [`Projection`]; under both together the answer is remembered. Nothing but the projection is
//! shown to Cedar, so that an answer can't depend on what is not in the key.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use cedar_policy::{Authorizer, Entities, EntityUid, PolicySet, Request};
use foldhash::fast::RandomState;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::archive::Archive;
use super::context::Projection;
use super::entities::{Names, TranslationError};
use super::footprint::{Field, Footprint};
use super::index::Index;
use super::load::{self, Earlier, Loaded, Places};
use super::pairs::{PairKey, Pairs};
use super::permit::{Denial, Permit};
use crate::config::finding::Finding;
use crate::config::model::Policies;
use crate::domain::decision::{Decision, PolicyRef, Verdict};
use crate::domain::id::{DecisionId, PolicySetHash};
use crate::domain::principal::Principal;
use crate::domain::query::{AccessQuery, Resource};
use crate::sharded::Sharded;

/// Most entities that are kept ready, over all combinations of principal, action and route.
const MAX_ENTITIES: usize = 100_000;
/// Most different contexts remembered for each combination, and how much text in each, in bytes:
/// a client chooses its paths.
const MAX_REMEMBERED: usize = 32;
const MAX_TEXT: usize = 256;
/// Most policies in the selections that are kept ready, counted as often as they are selected.
const MAX_SELECTED: u64 = 50_000;

/// A validated policy set, ready to decide. Immutable; a reload makes another.
#[derive(Debug)]
pub struct Engine {
    /// Where it was read from; `None` when it was made from an archive.
    origin: Option<Policies>,
    pub(super) archive: Archive,
    hash: PolicySetHash,
    warnings: Vec<Finding>,
    policies: Vec<Loaded>,
    numbers: HashMap<Arc<str>, usize>,
    index: Index,
    names: Names,
    /// The actions and their groups.
    actions: Entities,
    slices: Cache<Vec<usize>, Arc<Slice>>,
    /// Each worker's own.
    pub(super) pairs: Sharded<Pairs>,
}

/// The policies whose scope fits a query, and what they can read together.
#[derive(Debug)]
struct Slice {
    set: PolicySet,
    footprint: Footprint,
}

/// What principal, action and resource determine.
#[derive(Debug)]
pub(super) struct Pair {
    /// Held, so that their addresses, which are the key, can't be used again for others.
    pub(super) principal: Arc<Principal>,
    pub(super) resource: Arc<Resource>,
    pub(super) question: Arc<Question>,
    slice: Arc<Slice>,
    remembered: Mutex<HashMap<Projection, Arc<Decision>, RandomState>>,
    /// In how many sets one after the other nobody asked, but `recall` each time.
    unasked: AtomicU8,
}

/// A query in Cedar's words, less the context.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) principal: EntityUid,
    pub(super) action: EntityUid,
    pub(super) resource: EntityUid,
    /// The three with all their ancestors; not the device, which belongs to the context.
    pub(super) entities: Entities,
}

fn places(policies: &Policies) -> Places<'_> {
    Places { schema: &policies.schema, directory: &policies.directory }
}

fn weight(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Pair {
    /// The entities kept for it, which is what it costs to keep.
    pub(super) fn entities(&self) -> usize {
        self.question.entities.len()
    }

    pub(super) fn unasked(&self) -> u8 {
        self.unasked.load(Ordering::Relaxed)
    }

    /// The contexts whose answers are remembered.
    pub(super) fn projections(&self) -> Vec<Projection> {
        self.remembered.lock().keys().cloned().collect()
    }

    pub(super) fn footprint(&self) -> Footprint {
        self.slice.footprint
    }

    pub(super) fn remembered(&self, projection: &Projection) -> Option<Arc<Decision>> {
        self.remembered.lock().get(projection).cloned()
    }

    /// Keeps an answer, where it is worth keeping.
    pub(super) fn remember(&self, projection: Projection, decision: &Arc<Decision>) {
        // The text of an error may name values that are not part of the key, and a moment does
        // not come again.
        if decision.errors.is_empty()
            && !self.slice.footprint.contains(Field::Time)
            && projection.text_len() <= MAX_TEXT
        {
            let mut remembered = self.remembered.lock();
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(projection, Arc::clone(decision));
        }
    }
}

impl Engine {
    /// Reads, parses and validates the set. Warnings alone don't refuse it; see
    /// [`Self::warnings`].
    pub fn load(policies: &Policies) -> Result<Self, Vec<Finding>> {
        let archive = Archive::read(policies)?;
        Self::build(archive, places(policies), Some(policies), None)
    }

    /// As [`Self::load`]. A set that has not changed is `former` itself, with all that it
    /// remembers; of one that has, the files that stayed the same are not parsed and validated
    /// again.
    pub fn reload(policies: &Policies, former: &Arc<Self>) -> Result<Arc<Self>, Vec<Finding>> {
        let archive = Archive::read(policies)?;
        let comparable =
            former.origin.as_ref() == Some(policies) && former.archive.schema == archive.schema;
        if comparable && former.archive == archive {
            return Ok(Arc::clone(former));
        }
        let earlier = comparable.then(|| Earlier {
            archive: &former.archive,
            policies: &former.policies,
            warnings: &former.warnings,
        });
        Self::build(archive, places(policies), Some(policies), earlier).map(Arc::new)
    }

    /// The same set again, from what was kept of it. It has the same hash.
    pub fn from_archive(archive: Archive) -> Result<Self, Vec<Finding>> {
        let schema = Arc::clone(&archive.schema.name);
        let places = Places { schema: Path::new(schema.as_ref()), directory: Path::new("") };
        Self::build(archive, places, None, None)
    }

    fn build(
        archive: Archive,
        places: Places<'_>,
        origin: Option<&Policies>,
        earlier: Option<Earlier<'_>>,
    ) -> Result<Self, Vec<Finding>> {
        let (schema, policies, warnings) = load::load(&archive, places, earlier)?;
        let refuse = |cause: String| {
            vec![
                Finding::error(places.schema, cause)
                    .hint("start from the `wicketgate.cedarschema` that comes with the gate"),
            ]
        };
        let names = Names::new().map_err(|error| refuse(error.to_string()))?;
        let actions = schema.action_entities().map_err(|error| refuse(error.to_string()))?;
        let engine = Self {
            origin: origin.cloned(),
            hash: archive.hash(),
            archive,
            warnings,
            numbers: policies
                .iter()
                .enumerate()
                .map(|(number, one)| (Arc::clone(&one.reference.id), number))
                .collect(),
            index: Index::new(policies.iter().map(|one| &one.policy)),
            policies,
            names,
            actions,
            slices: Cache::builder()
                .weigher(|numbers: &Vec<usize>, _| weight(numbers.len() + 1))
                .max_capacity(MAX_SELECTED)
                .build(),
            pairs: Sharded::default(),
        };
        super::conformance::check(&engine, &schema).map_err(refuse)?;
        Ok(engine)
    }

    pub fn hash(&self) -> &PolicySetHash {
        &self.hash
    }

    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// What validation found that does not keep the set from deciding.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// Every policy of the set, in the order of the files.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyRef> {
        self.policies.iter().map(|one| &one.reference)
    }

    /// Decides. Anything but a clean permit is a denial.
    ///
    /// The answer is found fastest when the query shares the principal and resource of earlier
    /// ones: the same `Arc`, not an equal value.
    #[expect(clippy::result_large_err, reason = "both answers carry the query; a box is slower")]
    pub fn decide(&self, id: DecisionId, query: AccessQuery) -> Result<Permit, Denial> {
        let decision = self.decision(&query);
        match decision.verdict {
            Verdict::Permit => Ok(Permit::new(id, query, decision)),
            Verdict::Deny => Err(Denial::new(id, query, decision)),
        }
    }

    pub(super) fn decision(&self, query: &AccessQuery) -> Arc<Decision> {
        let pair = match self.pair(query) {
            Ok(pair) => pair,
            Err(error) => return Arc::new(self.failed(&error)),
        };
        let projection = Projection::new(pair.slice.footprint, query);
        if let Some(known) = pair.remembered(&projection) {
            return known;
        }
        self.answer(&pair, projection)
    }

    /// Decides afresh, and remembers it.
    pub(super) fn answer(&self, pair: &Pair, projection: Projection) -> Arc<Decision> {
        match self.evaluate(&pair.question, &pair.slice.set, &projection) {
            Ok(decision) => {
                let decision = Arc::new(decision);
                pair.remember(projection, &decision);
                decision
            }
            Err(error) => Arc::new(self.failed(&error)),
        }
    }

    /// Whether the policies that can apply to a query read one of these fields.
    pub(super) fn reads(&self, query: &AccessQuery, fields: &[Field]) -> bool {
        self.pair(query)
            .is_ok_and(|pair| fields.iter().any(|field| pair.slice.footprint.contains(*field)))
    }

    /// What would be decided, without a trace.
    pub(super) fn would_allow(&self, query: &AccessQuery) -> bool {
        let Ok(pair) = self.pair(query) else { return false };
        let projection = Projection::new(pair.slice.footprint, query);
        self.evaluate(&pair.question, &pair.slice.set, &projection)
            .is_ok_and(|decision| decision.verdict == Verdict::Permit)
    }

    fn pair(&self, query: &AccessQuery) -> Result<Arc<Pair>, TranslationError> {
        let key = PairKey::of(query);
        if let Some(pair) = self.pairs.mine().and_then(|pairs| pairs.get(&key)) {
            if pair.unasked() > 0 {
                pair.unasked.store(0, Ordering::Relaxed);
            }
            return Ok(pair);
        }
        let question = Arc::new(self.question(query)?);
        let (principal, resource) = (Arc::clone(&query.principal), Arc::clone(&query.resource));
        let pair = Arc::new(self.pair_of(principal, resource, question, 0)?);
        if let Some(mut pairs) = self.pairs.mine() {
            pairs.insert(key, Arc::clone(&pair), self.most_entities());
        }
        Ok(pair)
    }

    /// The pair for a question of this set or of one with the same schema.
    pub(super) fn pair_of(
        &self,
        principal: Arc<Principal>,
        resource: Arc<Resource>,
        question: Arc<Question>,
        unasked: u8,
    ) -> Result<Pair, TranslationError> {
        let slice = self.slice(self.applicable(&question))?;
        let (remembered, unasked) = (Mutex::default(), AtomicU8::new(unasked));
        Ok(Pair { principal, resource, question, slice, remembered, unasked })
    }

    /// Most entities that each worker's pairs may have.
    pub(super) fn most_entities(&self) -> usize {
        MAX_ENTITIES / self.pairs.copies().max(1)
    }

    pub(super) fn question(&self, query: &AccessQuery) -> Result<Question, TranslationError> {
        let mut entities = self.names.principal_entities(&query.principal)?;
        entities.extend(self.names.resource_entities(&query.resource)?);
        let entities = self
            .actions
            .clone()
            .add_entities(entities, None)
            .map_err(|error| TranslationError::entity(&error))?;
        Ok(Question {
            principal: self.names.principal(&query.principal),
            action: self.names.action(query.action),
            resource: self.names.resource(&query.resource),
            entities,
        })
    }

    pub(super) fn applicable(&self, question: &Question) -> Vec<usize> {
        let Question { principal, action, resource, entities } = question;
        self.index.applicable(entities, principal, action, resource)
    }

    fn slice(&self, numbers: Vec<usize>) -> Result<Arc<Slice>, TranslationError> {
        if let Some(slice) = self.slices.get(&numbers) {
            return Ok(slice);
        }
        let chosen: Vec<&Loaded> =
            numbers.iter().filter_map(|number| self.policies.get(*number)).collect();
        let set = PolicySet::from_policies(chosen.iter().map(|one| one.policy.clone()))
            .map_err(|error| TranslationError::entity(&error))?;
        let footprint =
            chosen.iter().fold(Footprint::default(), |together, one| together.union(one.footprint));
        let slice = Arc::new(Slice { set, footprint });
        self.slices.insert(numbers, Arc::clone(&slice));
        Ok(slice)
    }

    /// The request and entities for exactly what a projection shows.
    pub(super) fn request(
        &self,
        question: &Question,
        projection: &Projection,
    ) -> Result<(Request, Option<Entities>), TranslationError> {
        let with_device = match projection.device_entity(&self.names)? {
            None => None,
            Some(device) => Some(
                question
                    .entities
                    .clone()
                    .add_entities([device], None)
                    .map_err(|error| TranslationError::entity(&error))?,
            ),
        };
        let request = Request::new(
            question.principal.clone(),
            question.action.clone(),
            question.resource.clone(),
            projection.context(&self.names)?,
            // What is made here conforms by construction; `conformance` shows it at load.
            None,
        )
        .map_err(|error| TranslationError::context(&error))?;
        Ok((request, with_device))
    }

    fn evaluate(
        &self,
        question: &Question,
        set: &PolicySet,
        projection: &Projection,
    ) -> Result<Decision, TranslationError> {
        let (request, with_device) = self.request(question, projection)?;
        let entities = with_device.as_ref().unwrap_or(&question.entities);
        let response = Authorizer::new().is_authorized(&request, set, entities);
        let mut errors: Vec<Arc<str>> =
            response.diagnostics().errors().map(|error| error.to_string().into()).collect();
        errors.sort();
        let allowed = response.decision() == cedar_policy::Decision::Allow;
        let permitted = allowed && errors.is_empty();
        // The permits of an answer that an error turned into a denial did not determine it.
        let mut numbers: Vec<usize> = if allowed && !permitted {
            Vec::new()
        } else {
            response
                .diagnostics()
                .reason()
                .filter_map(|id| self.numbers.get(AsRef::<str>::as_ref(id)).copied())
                .collect()
        };
        numbers.sort_unstable();
        Ok(Decision {
            verdict: if permitted { Verdict::Permit } else { Verdict::Deny },
            policy_set: self.hash.clone(),
            determining: numbers
                .into_iter()
                .filter_map(|number| self.policies.get(number))
                .map(|one| one.reference.clone())
                .collect(),
            errors,
        })
    }

    fn failed(&self, error: &TranslationError) -> Decision {
        Decision {
            verdict: Verdict::Deny,
            policy_set: self.hash.clone(),
            determining: Vec::new(),
            errors: vec![error.to_string().into()],
        }
    }

    pub(super) fn loaded(&self, number: usize) -> Option<&Loaded> {
        self.policies.get(number)
    }

    pub(super) fn find(&self, id: &str) -> Option<&Loaded> {
        self.numbers.get(id).and_then(|number| self.policies.get(*number))
    }
}
