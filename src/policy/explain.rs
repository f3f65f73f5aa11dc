//! Why a query is allowed or denied, in words that whoever wrote the policies can act on.
//!
//! The query is decided once more, by the same engine, and then every policy whose scope fits is
//! looked at condition by condition.

use std::fmt;
use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Var};
use cedar_policy::{Effect, Entities, EvalResult, Expression, Request, eval_expression};
use serde::{Deserialize, Serialize};

use super::context::Projection;
use super::engine::Engine;
use super::footprint::Footprint;
use super::load::Loaded;
use crate::domain::decision::{Decision, PolicyRef, Verdict};
use crate::domain::query::AccessQuery;

/// A decision with its reasons. It prints as plain text for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `Wicketgate::User::"demo/vera"`, as policies would write it.
    pub principal: String,
    pub action: String,
    pub resource: String,
    #[serde(flatten)]
    pub decision: Decision,
    /// The determining policies with their text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub determining_policies: Vec<ExplainedPolicy>,
    /// Only where nothing allowed the query: the permits that are about this principal, action
    /// and resource, and what each still wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near_misses: Vec<NearMiss>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPolicy {
    #[serde(flatten)]
    pub reference: PolicyRef,
    pub text: Arc<str>,
}

/// A permit whose scope fits, but not its conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearMiss {
    #[serde(flatten)]
    pub policy: ExplainedPolicy,
    pub unmet: Vec<Unmet>,
}

/// One condition that kept a policy from allowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmet {
    /// The condition that had to be true (of a `when`), or had to be false (of an `unless`).
    pub condition: String,
    pub clause: ClauseKind,
    /// Attributes that the condition is about and that the query does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClauseKind {
    When,
    Unless,
}

/// Decides the query again and explains the decision.
pub fn explain(engine: &Engine, query: &AccessQuery) -> Explanation {
    let decision = Decision::clone(&engine.decision(query));
    let determining_policies = decision
        .determining
        .iter()
        .filter_map(|reference| engine.find(&reference.id))
        .map(explained)
        .collect();
    let by_default = decision.verdict == Verdict::Deny && decision.determining.is_empty();
    let mut near_misses = Vec::new();
    let mut names =
        (query.principal.id.to_string(), String::new(), query.resource.route.to_string());
    if let Ok(question) = engine.question(query) {
        names = (
            question.principal.to_string(),
            question.action.to_string(),
            question.resource.to_string(),
        );
        let projection = Projection::new(Footprint::ALL, query);
        if by_default && let Ok((request, with_device)) = engine.request(&question, &projection) {
            let entities = with_device.as_ref().unwrap_or(&question.entities);
            let world = World { request: &request, entities };
            near_misses = engine
                .applicable(&question)
                .into_iter()
                .filter_map(|number| engine.loaded(number))
                .filter_map(|policy| near_miss(policy, &world))
                .collect();
        }
    }
    let (principal, action, resource) = names;
    Explanation { principal, action, resource, decision, determining_policies, near_misses }
}

fn explained(policy: &Loaded) -> ExplainedPolicy {
    ExplainedPolicy { reference: policy.reference.clone(), text: Arc::clone(&policy.text) }
}

fn near_miss(policy: &Loaded, world: &World<'_>) -> Option<NearMiss> {
    if policy.policy.effect() != Effect::Permit {
        return None;
    }
    let tree = policy.policy.to_pst().ok()?;
    let mut unmet = Vec::new();
    for clause in tree.body().clauses() {
        let (kind, parts) = match clause {
            Clause::When(expression) => (ClauseKind::When, parts(expression, BinaryOp::And)),
            Clause::Unless(expression) => (ClauseKind::Unless, parts(expression, BinaryOp::Or)),
        };
        let wanted = kind == ClauseKind::When;
        for part in parts.into_iter().filter(|part| world.test(part) != Some(wanted)) {
            let missing = world.missing(part);
            unmet.push(Unmet { condition: part.to_string(), clause: kind, missing });
        }
    }
    // A part that could not be evaluated for want of an attribute says the same as the test for
    // that attribute before it.
    let mut named: Vec<String> = Vec::new();
    unmet.retain(|one| {
        let repeats =
            !one.missing.is_empty() && one.missing.iter().all(|path| named.contains(path));
        let is_test = one.condition.contains(" has ");
        named.extend(one.missing.iter().cloned());
        !repeats || is_test
    });
    Some(NearMiss { policy: explained(policy), unmet })
}

/// `a`, `b` and `c` of `a && b && c`: what has to hold, one by one.
fn parts(expression: &Expr, operator: BinaryOp) -> Vec<&Expr> {
    match expression {
        Expr::BinaryOp { op, left, right } if *op == operator => {
            let mut found = parts(left, operator);
            found.extend(parts(right, operator));
            found
        }
        other => vec![other],
    }
}

/// What conditions are evaluated in.
struct World<'a> {
    request: &'a Request,
    entities: &'a Entities,
}

impl World<'_> {
    /// None when the expression ends in an error.
    fn test(&self, expression: &Expr) -> Option<bool> {
        self.test_text(&expression.to_string())
    }

    fn test_text(&self, text: &str) -> Option<bool> {
        let expression: Expression = text.parse().ok()?;
        match eval_expression(self.request, self.entities, &expression) {
            Ok(EvalResult::Bool(value)) => Some(value),
            _ => None,
        }
    }

    /// The attributes of principal, resource and context that the expression is about and that
    /// are absent, each once.
    fn missing(&self, expression: &Expr) -> Vec<String> {
        let mut paths = Vec::new();
        collect_paths(expression, &mut paths);
        let mut missing = Vec::new();
        for (root, path) in paths {
            // The first step that is not there is the one to name.
            let mut walked = root.to_owned();
            for step in path {
                let present =
                    self.test_text(&format!("{walked} has \"{}\"", step.escape_default()));
                let next = if is_plain(&step) {
                    format!("{walked}.{step}")
                } else {
                    format!("{walked}[\"{}\"]", step.escape_default())
                };
                if present == Some(false) && !missing.contains(&next) {
                    missing.push(next.clone());
                }
                if present != Some(true) {
                    break;
                }
                walked = next;
            }
        }
        missing
    }
}

fn is_plain(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

type Place = (&'static str, Vec<String>);

/// Every attribute path that starts at a variable.
fn collect_paths(expression: &Expr, found: &mut Vec<Place>) {
    if let Some(place) = place_of(expression) {
        found.push(place);
        return;
    }
    match expression {
        Expr::UnaryOp { expr, .. } | Expr::GetAttr { expr, .. } | Expr::Like { expr, .. } => {
            collect_paths(expr, found);
        }
        Expr::HasAttr { expr, .. } | Expr::Is { expr, .. } => collect_paths(expr, found),
        Expr::BinaryOp { left, right, .. } => {
            collect_paths(left, found);
            collect_paths(right, found);
        }
        Expr::IfThenElse { cond, then_expr, else_expr } => {
            for part in [cond, then_expr, else_expr] {
                collect_paths(part, found);
            }
        }
        Expr::Set(elements) => elements.iter().for_each(|element| collect_paths(element, found)),
        Expr::Record(fields) => fields.values().for_each(|value| collect_paths(value, found)),
        _ => {}
    }
}

fn place_of(expression: &Expr) -> Option<Place> {
    match expression {
        Expr::Var(Var::Principal) => Some(("principal", Vec::new())),
        Expr::Var(Var::Resource) => Some(("resource", Vec::new())),
        Expr::Var(Var::Context) => Some(("context", Vec::new())),
        Expr::GetAttr { expr, attr } => {
            let (root, mut path) = place_of(expr)?;
            path.push(attr.to_string());
            Some((root, path))
        }
        Expr::HasAttr { expr, attrs } => {
            let (root, mut path) = place_of(expr)?;
            path.extend(attrs.iter().map(ToString::to_string));
            Some((root, path))
        }
        _ => None,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.decision.verdict {
            Verdict::Permit => "permit",
            Verdict::Deny => "deny",
        };
        writeln!(f, "{verdict}: {} {} {}", self.principal, self.action, self.resource)?;
        writeln!(f, "policy set: {}", self.decision.policy_set)?;
        for error in &self.decision.errors {
            writeln!(f, "error, and therefore denied: {}", error.escape_debug())?;
        }
        for policy in &self.determining_policies {
            write!(f, "\ndecided by {policy}")?;
        }
        if self.decision.verdict == Verdict::Permit || !self.determining_policies.is_empty() {
            return Ok(());
        }
        if self.near_misses.is_empty() {
            return writeln!(
                f,
                "\nno `permit` policy is about this principal, action and resource"
            );
        }
        for miss in &self.near_misses {
            write!(f, "\nnot allowed by {}", miss.policy)?;
            for one in &miss.unmet {
                let wanted = match one.clause {
                    ClauseKind::When => "wanted",
                    ClauseKind::Unless => "not wanted",
                };
                writeln!(f, "  {wanted}: {}", one.condition)?;
                for path in &one.missing {
                    writeln!(f, "    {path} is absent")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for ExplainedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyRef { id, file, line } = &self.reference;
        writeln!(f, "`{id}` ({file}:{line})")?;
        self.text.lines().try_for_each(|line| writeln!(f, "  | {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{load, query, route, user};
    use super::*;
    use crate::domain::query::Action;

    const POLICIES: &str = r#"
@id("healthy")
permit(principal in Group::"g", action, resource in Application::"x")
when { context has posture && context.posture.age < 60 && context.method == "GET" }
unless { context.host == "ics.localhost" || context.host == "other" };

@id("elsewhere")
permit(principal in Group::"g", action, resource in Application::"y");

@id("never")
forbid(principal, action in Action::"operate", resource);
"#;

    #[test]
    fn a_denial_by_default_says_what_each_fitting_permit_still_wanted() {
        let engine = load(POLICIES).unwrap();
        let query = query(&user("a", &["g"], None), Action::HttpGet, &route("r", "x", None));
        let explanation = explain(&engine, &query);
        let [miss] = explanation.near_misses.as_slice() else { panic!("{explanation}") };
        assert_eq!(miss.policy.reference.id.as_ref(), "healthy");
        let unmet: Vec<_> = miss
            .unmet
            .iter()
            .map(|one| (one.condition.as_str(), one.clause, one.missing.join(" ")))
            .collect();
        assert_eq!(
            unmet,
            [
                ("context has posture", ClauseKind::When, "context.posture".to_owned()),
                ("context.host == \"ics.localhost\"", ClauseKind::Unless, String::new()),
            ]
        );
        let text = explanation.to_string();
        assert!(text.starts_with("deny: Wicketgate::User::\"a\" Wicketgate::Action::\"http:GET\""));
        assert!(text.contains("not allowed by `healthy` (test.cedar:2)"), "{text}");
        assert!(text.contains("    context.posture is absent"), "{text}");
    }

    #[test]
    fn a_denial_by_forbid_names_it_with_its_text() {
        let engine = load(POLICIES).unwrap();
        let query = query(&user("a", &["g"], None), Action::HttpPost, &route("r", "y", None));
        let explanation = explain(&engine, &query);
        let [policy] = explanation.determining_policies.as_slice() else { panic!("{explanation}") };
        assert_eq!((policy.reference.id.as_ref(), policy.reference.line), ("never", 10));
        assert!(policy.text.contains("forbid("), "{policy}");
        assert_eq!(explanation.near_misses, []);
    }

    #[test]
    fn a_permit_names_what_allowed_it() {
        let engine = load(POLICIES).unwrap();
        let query = query(&user("a", &["g"], None), Action::HttpGet, &route("r", "y", None));
        let text = explain(&engine, &query).to_string();
        assert!(text.starts_with("permit: "), "{text}");
        assert!(text.contains("decided by `elsewhere` (test.cedar:7)"), "{text}");
    }

    #[test]
    fn a_stranger_is_told_that_no_permit_is_about_them() {
        let engine = load(POLICIES).unwrap();
        let query = query(&user("a", &[], None), Action::HttpGet, &route("r", "y", None));
        assert!(explain(&engine, &query).to_string().contains("no `permit` policy is about"));
    }

    #[test]
    fn an_explanation_survives_its_json_form() {
        let engine = load(POLICIES).unwrap();
        let query = query(&user("a", &["g"], None), Action::HttpGet, &route("r", "x", None));
        let explanation = explain(&engine, &query);
        let json = serde_json::to_string(&explanation).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
    }
}
