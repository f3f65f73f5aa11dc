//! Which other sign-in would make a permit of a denial.
//!
//! The question is put again as it was, but for how and when the user signed in. Nothing of it is
//! recorded or remembered, and it is put only where the policies that can apply read any of that.
//!
//! INVARIANT: what comes of it is never a permit. The request is decided anew, whole, once the
//! sign-in has happened.

use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::footprint::Field;
use crate::domain::principal::Authentication;
use crate::domain::query::AccessQuery;
use crate::domain::step_up::{MAX_LEVELS, SignInLevel, StepUp};

/// Longest age that is looked for, in seconds: who may be signed in for a day need not hurry.
const LONGEST: u64 = 24 * 3600;

impl Engine {
    /// The least that a sign-in has to bring for a denied query to be allowed: to be recent, else
    /// to be of one of these kinds, in their order, else both. `None` when no sign-in would help.
    /// The question is put 34 times at most.
    pub fn step_up(&self, denied: &AccessQuery, levels: &[SignInLevel]) -> Option<StepUp> {
        if !self.reads(denied, &[Field::Acr, Field::Amr, Field::AuthAge, Field::SessionAge]) {
            return None;
        }
        let has = &denied.authentication;
        let trial = Trial { engine: self, denied };
        if let Some(max_age) = trial.max_age(has) {
            return Some(StepUp { max_age: Some(max_age), ..StepUp::default() });
        }
        // A session that is of the kind already would come back as it went.
        let is_had = |level: &&SignInLevel| {
            has.acr.as_ref() == Some(&level.acr) && level.amr.is_subset(&has.amr)
        };
        let others: Vec<(StepUp, Authentication)> = levels
            .iter()
            .take(MAX_LEVELS)
            .filter(|level| !is_had(level))
            .map(|level| of(level, has))
            .collect();
        for (asked, with) in &others {
            if trial.allows(with) {
                return Some(asked.clone());
            }
        }
        others.into_iter().find_map(|(asked, with)| {
            trial.max_age(&with).map(|max_age| StepUp { max_age: Some(max_age), ..asked })
        })
    }
}

/// What to ask for, and what the session would then say.
fn of(level: &SignInLevel, has: &Authentication) -> (StepUp, Authentication) {
    let SignInLevel { acr, amr } = level;
    let asked = StepUp { acr: Some(Arc::clone(acr)), amr: amr.clone(), max_age: None };
    let amr = if amr.is_empty() { has.amr.clone() } else { amr.clone() };
    (asked, Authentication { acr: Some(Arc::clone(acr)), amr, ..has.clone() })
}

struct Trial<'a> {
    engine: &'a Engine,
    denied: &'a AccessQuery,
}

impl Trial<'_> {
    /// In a session that begins now, as every sign-in has it.
    fn allows(&self, with: &Authentication) -> bool {
        let session_started = Some(self.denied.context.time);
        let authentication = Arc::new(Authentication { session_started, ..with.clone() });
        self.engine.would_allow(&AccessQuery { authentication, ..self.denied.clone() })
    }

    fn allows_at_age(&self, with: &Authentication, seconds: u64) -> bool {
        let at = self.denied.context.time.minus(Duration::from_secs(seconds));
        self.allows(&Authentication { auth_time: Some(at), ..with.clone() })
    }

    /// How old the sign-in may be, in seconds, where one of this moment would be allowed. Policies
    /// that allow the older and not the younger are not looked for.
    fn max_age(&self, with: &Authentication) -> Option<u64> {
        if !self.allows_at_age(with, 0) {
            return None;
        }
        if self.allows_at_age(with, LONGEST) {
            return Some(LONGEST);
        }
        let (mut allowed, mut denied) = (0, LONGEST);
        while denied - allowed > 1 {
            let middle = allowed + (denied - allowed) / 2;
            if self.allows_at_age(with, middle) {
                allowed = middle;
            } else {
                denied = middle;
            }
        }
        Some(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::query::Action;
    use crate::policy::samples::{load, query, route, user};

    fn levels() -> Vec<SignInLevel> {
        let level = |acr: &str, amr: &[&str]| SignInLevel {
            acr: acr.into(),
            amr: amr.iter().map(|method| Arc::from(*method)).collect(),
        };
        vec![level("mfa", &["pwd", "otp"]), level("phr", &["hwk"])]
    }

    /// What a user who signed in an hour ago, as `acr`, is asked for.
    fn asked(condition: &str, acr: &str) -> Option<(Option<String>, Option<u64>)> {
        let engine = load(&format!("permit(principal, action, resource) {condition};")).unwrap();
        let mut denied = query(&user("a", &[], None), Action::HttpGet, &route("r", "x", None));
        let an_hour_ago = denied.context.time.minus(Duration::from_secs(3600));
        denied.authentication = Arc::new(Authentication {
            acr: Some(acr.into()),
            amr: ["pwd".into()].into(),
            auth_time: Some(an_hour_ago),
            session_started: Some(an_hour_ago),
            ..Authentication::default()
        });
        assert!(!engine.would_allow(&denied), "{condition} allows it as it is");
        let asked = engine.step_up(&denied, &levels())?;
        Some((asked.acr.as_deref().map(str::to_owned), asked.max_age))
    }

    #[test]
    fn the_first_kind_that_would_be_allowed_is_asked_for() {
        let mfa = Some((Some("mfa".to_owned()), None));
        assert_eq!(asked("when { context has acr && context.acr == \"mfa\" }", "pwd"), mfa);
        let otp = "when { context has amr && context.amr.contains(\"otp\") }";
        assert_eq!(asked(otp, "pwd"), mfa);
        let hwk = "when { context has amr && context.amr.contains(\"hwk\") }";
        assert_eq!(asked(hwk, "pwd"), Some((Some("phr".to_owned()), None)));
        let either = "when { context has acr && [\"phr\", \"mfa\"].contains(context.acr) }";
        assert_eq!(asked(either, "pwd"), mfa, "the order is the configuration's");
    }

    #[test]
    fn where_only_the_age_is_wrong_nothing_else_is_asked_for() {
        let young = "when { context has auth_age && context.auth_age < 300 }";
        assert_eq!(asked(young, "pwd"), Some((None, Some(299))));
        let session = "when { context has session_age && context.session_age <= 60 }";
        assert_eq!(asked(session, "pwd"), Some((None, Some(LONGEST))));
        let both = "when { context has auth_age && context.auth_age < 300 && context has acr && context.acr == \"mfa\" }";
        assert_eq!(asked(both, "pwd"), Some((Some("mfa".to_owned()), Some(299))));
        assert_eq!(asked(both, "mfa"), Some((None, Some(299))));
    }

    #[test]
    fn a_forbid_that_a_sign_in_lifts_is_one_too() {
        let engine = load(
            "permit(principal, action, resource); forbid(principal, action, resource) \
             unless { context has acr && context.acr == \"phr\" };",
        )
        .unwrap();
        let denied = query(&user("a", &[], None), Action::HttpPost, &route("r", "x", None));
        let asked = engine.step_up(&denied, &levels()).unwrap();
        assert_eq!(asked.acr.as_deref(), Some("phr"));
    }

    #[test]
    fn what_no_sign_in_changes_asks_for_none() {
        for condition in [
            "when { context.host == \"other\" }",
            "when { context has acr && context.acr == \"unknown\" }",
            "when { context has acr && context.acr == \"mfa\" && context.host == \"other\" }",
            "when { context has auth_age && context.auth_age > 86400 * 30 }",
        ] {
            assert_eq!(asked(condition, "pwd"), None, "{condition}");
        }
    }

    #[test]
    fn a_kind_that_the_session_is_of_already_is_not_asked_for_again() {
        // What the provider calls `phr` proves more here than the policy takes.
        let engine = load(
            "permit(principal, action, resource) when { context has amr && context.amr == [\"hwk\"] };",
        )
        .unwrap();
        let mut denied = query(&user("a", &[], None), Action::HttpGet, &route("r", "x", None));
        denied.authentication = Arc::new(Authentication {
            acr: Some("phr".into()),
            amr: ["hwk".into(), "pin".into()].into(),
            ..Authentication::default()
        });
        assert_eq!(engine.step_up(&denied, &levels()), None);
    }
}
