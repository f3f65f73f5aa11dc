//! What a set was asked lately is put to its successor before that is in force.
//!
//! A new set remembers nothing, so the first request of each session to each route would wait for
//! its decision to be made anew; after a reload under load, all of them at once. The thread that
//! builds the set, which gives way to the workers, asks beforehand.
//!
//! INVARIANT: the successor answers for itself. Of the former set only questions are used, and
//! contexts as its policies were shown them where the successor's see the same part.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::context::Projection;
use super::engine::{Engine, Pair};
use super::footprint::{Field, Footprint};
use super::pairs::PairKey;
use crate::domain::decision::Decision;

/// Most combinations of principal, resource and action that are put to a successor.
const MOST_PAIRS: usize = 4096;

/// How long the successor may be kept from being in force by that. A thousand questions are some
/// tenth of it; large sets whose scopes tell little apart take longer.
const AT_MOST: Duration = Duration::from_millis(200);

/// For how many reloads one after the other a pair stays that nobody asks for.
const PATIENCE: u8 = 3;

/// What was asked lately.
#[derive(Debug)]
pub struct Asked {
    former: Arc<Engine>,
    /// Each worker's.
    pairs: Vec<Vec<(PairKey, Arc<Pair>)>>,
}

impl Engine {
    /// Waits for workers, each for a moment. To be called where nothing has to give way: a worker
    /// waits as well.
    pub fn asked(self: &Arc<Self>) -> Asked {
        let most = MOST_PAIRS / self.pairs.copies().max(1);
        let pairs = self.pairs.all().map(|pairs| pairs.asked(PATIENCE, most)).collect();
        Asked { former: Arc::clone(self), pairs }
    }

    /// Decides what its predecessor was asked, and remembers it. For a set that isn't in force yet.
    pub fn recall(&self, asked: &Asked) {
        self.recall_until(asked, Instant::now() + AT_MOST);
    }

    fn recall_until(&self, asked: &Asked, until: Instant) {
        // Questions are made of the schema's words.
        if std::ptr::eq(self, &*asked.former) || self.archive.schema != asked.former.archive.schema
        {
            return;
        }
        let mut answers = HashMap::new();
        for (mut own, former) in self.pairs.all().zip(&asked.pairs) {
            for (key, pair) in former {
                if Instant::now() >= until {
                    return;
                }
                if let Some(pair) = self.succeeding(*key, pair, &mut answers) {
                    own.insert(*key, Arc::new(pair), self.most_entities());
                }
            }
        }
    }

    fn succeeding(&self, key: PairKey, former: &Pair, answers: &mut Answers) -> Option<Pair> {
        let (principal, resource) = (Arc::clone(&former.principal), Arc::clone(&former.resource));
        let (question, unasked) = (Arc::clone(&former.question), former.unasked() + 1);
        let pair = self.pair_of(principal, resource, question, unasked).ok()?;
        if pair.footprint() == former.footprint() && !sees_an_age(pair.footprint()) {
            for projection in former.projections() {
                match answers.get(&(key, projection.clone())) {
                    Some(known) => pair.remember(projection, known),
                    None => {
                        let answer = self.answer(&pair, projection.clone());
                        answers.insert((key, projection), answer);
                    }
                }
            }
        }
        Some(pair)
    }
}

/// What several workers were asked is decided once.
type Answers = HashMap<(PairKey, Projection), Arc<Decision>>;

/// An age is another every second, so that nobody will ask the same again.
fn sees_an_age(footprint: Footprint) -> bool {
    let ages = [Field::AuthAge, Field::SessionAge, Field::PostureAge];
    ages.into_iter().any(|field| footprint.contains(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::query::{AccessQuery, Action};
    use crate::policy::samples::{archive, load, qualify, query, route, user};

    const MEMBERS: &str = "permit(principal in Group::\"g\", action, resource);";

    fn set(text: &str) -> Arc<Engine> {
        Arc::new(load(text).unwrap())
    }

    fn member() -> AccessQuery {
        query(&user("a", &["g"], None), Action::HttpGet, &route("r", "x", None))
    }

    fn remembered(engine: &Engine, query: &AccessQuery) -> Option<Arc<Decision>> {
        let pair = engine.pairs.mine()?.get(&PairKey::of(query))?;
        pair.remembered(&Projection::new(pair.footprint(), query))
    }

    /// What the successor knows of the query before anybody asked it.
    fn recalled(former: &Arc<Engine>, text: &str, query: &AccessQuery) -> Option<Arc<Decision>> {
        let successor = set(text);
        successor.recall(&former.asked());
        remembered(&successor, query)
    }

    #[test]
    fn what_was_asked_is_decided_anew_by_the_successor() {
        let (former, query) = (set(MEMBERS), member());
        let before = former.decision(&query);
        assert_eq!(recalled(&former, MEMBERS, &query), Some(before.clone()));
        let refused = format!("{MEMBERS} forbid(principal, action, resource);");
        let after = recalled(&former, &refused, &query).unwrap();
        assert_eq!(*after, *set(&refused).decision(&query));
        assert_ne!(after.verdict, before.verdict);
    }

    #[test]
    fn policies_that_see_something_else_of_the_request_are_not_asked_about_what_others_saw() {
        let (former, query) = (set(MEMBERS), member());
        former.decision(&query);
        let device = "forbid(principal, action, resource) when { context has posture };";
        let successor = set(&format!("{MEMBERS} {device}"));
        successor.recall(&former.asked());
        let pair = successor.pairs.mine().unwrap().get(&PairKey::of(&query)).unwrap();
        assert_eq!(pair.projections(), []);
    }

    #[test]
    fn what_nobody_asks_any_more_is_forgotten_after_some_reloads() {
        let (first, query) = (set(MEMBERS), member());
        first.decision(&query);
        let after = |engine: &Arc<Engine>, reloads: u8| {
            (0..reloads).fold(Arc::clone(engine), |former, number| {
                let successor = set(&format!("{MEMBERS} // {number}"));
                successor.recall(&former.asked());
                successor
            })
        };
        assert_eq!(remembered(&after(&first, PATIENCE + 1), &query), None);
        let last = after(&first, PATIENCE);
        assert!(remembered(&last, &query).is_some());
        last.decision(&query);
        assert!(remembered(&after(&last, PATIENCE), &query).is_some(), "asked again");
    }

    #[test]
    fn what_was_asked_at_an_age_is_not_decided_beforehand() {
        let old = "forbid(principal, action, resource)
            when { context has session_age && context.session_age > 9 };";
        let text = format!("{MEMBERS} {old}");
        let (former, query) = (set(&text), member());
        former.decision(&query);
        assert!(remembered(&former, &query).is_some());
        assert_eq!(recalled(&former, &format!("{text} // another"), &query), None);
    }

    #[test]
    fn when_the_time_is_up_the_rest_waits_for_who_asks() {
        let (former, query) = (set(MEMBERS), member());
        former.decision(&query);
        let successor = set(&format!("{MEMBERS} // another"));
        successor.recall_until(&former.asked(), Instant::now());
        assert!(successor.pairs.mine().unwrap().get(&PairKey::of(&query)).is_none());
    }

    #[test]
    fn a_set_with_another_schema_recalls_nothing() {
        let (former, query) = (set(MEMBERS), member());
        former.decision(&query);
        let mut archive = archive(&[("test.cedar", &qualify(MEMBERS))]);
        archive.schema.text = format!("// another\n{}", archive.schema.text).into();
        let successor = Engine::from_archive(archive).unwrap();
        successor.recall(&former.asked());
        assert_eq!(remembered(&successor, &query), None);
    }

    #[test]
    fn every_worker_recalls_what_it_was_asked_and_an_answer_is_made_once() {
        let (former, query) = (set(MEMBERS), member());
        let workers = former.pairs.copies() - 1;
        let ask = |engine: &Engine| {
            std::thread::scope(|scope| {
                for worker in 0..workers {
                    let query = &query;
                    scope.spawn(move || {
                        crate::sharded::claim(worker);
                        engine.decision(query);
                    });
                }
            });
        };
        ask(&former);
        let successor = set(&format!("{MEMBERS} // another"));
        successor.recall(&former.asked());
        let known: Vec<_> =
            successor.pairs.all().filter_map(|pairs| pairs.get(&PairKey::of(&query))).collect();
        assert_eq!(known.len(), workers);
        let answers: Vec<_> = known
            .iter()
            .map(|pair| pair.remembered(&Projection::new(pair.footprint(), &query)).unwrap())
            .collect();
        assert!(answers.iter().all(|answer| Arc::ptr_eq(answer, &answers[0])));
    }
}
