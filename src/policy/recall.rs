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

use super::context::Projection;
use super::engine::{Engine, Pair};
use super::pairs::PairKey;
use crate::domain::decision::Decision;

/// Most combinations of principal, resource and action that are put to a successor, and most
/// contexts: a tenth of a second's work or so.
const MOST_PAIRS: usize = 4096;
const MOST_CONTEXTS: usize = 4096;

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
        // Questions are made of the schema's words.
        if std::ptr::eq(self, &*asked.former) || self.archive.schema != asked.former.archive.schema
        {
            return;
        }
        let mut answers = Answers { left: MOST_CONTEXTS, known: HashMap::new() };
        for (mut own, former) in self.pairs.all().zip(&asked.pairs) {
            for (key, pair) in former {
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
        if pair.footprint() == former.footprint() {
            for projection in former.projections() {
                answers.remember(self, key, &pair, projection);
            }
        }
        Some(pair)
    }
}

/// Workers were asked much the same.
struct Answers {
    left: usize,
    known: HashMap<(PairKey, Projection), Arc<Decision>>,
}

impl Answers {
    fn remember(&mut self, engine: &Engine, key: PairKey, pair: &Pair, projection: Projection) {
        let question = (key, projection.clone());
        if let Some(known) = self.known.get(&question) {
            pair.remember(projection, known);
        } else if self.left > 0 {
            self.left -= 1;
            self.known.insert(question, engine.answer(pair, projection));
        }
    }
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
