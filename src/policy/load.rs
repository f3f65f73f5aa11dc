//! From the text of a policy set to policies that are known to be valid, or to findings.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use cedar_policy::pst::Policy as Tree;
use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use super::archive::{Archive, SourceText};
use super::footprint::Footprint;
use super::limits;
use crate::config::finding::{Finding, has_errors};
use crate::domain::decision::PolicyRef;

/// Longest `@id`, in bytes.
const MAX_ID: usize = 128;

/// A policy of the set, and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) policy: Policy,
    pub(super) reference: PolicyRef,
    pub(super) text: Arc<str>,
    pub(super) footprint: Footprint,
}

/// Where the files of an archive lie, for findings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    pub(super) schema: &'a Path,
    pub(super) directory: &'a Path,
}

impl Places<'_> {
    fn policy(self, source: &SourceText) -> PathBuf {
        self.directory.join(source.name.as_ref())
    }
}

/// What an earlier set of the same schema and places made of its files.
///
/// INVARIANT: Cedar validates each policy by itself, against the schema alone. So a file whose text
/// is the same has the same policies and warnings, whatever became of the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Earlier<'a> {
    pub(super) archive: &'a Archive,
    pub(super) policies: &'a [Loaded],
    pub(super) warnings: &'a [Finding],
}

impl Earlier<'_> {
    /// The policies of a file that has not changed since.
    fn of(&self, source: &SourceText) -> Option<Vec<Loaded>> {
        self.archive.policies.iter().find(|known| *known == source)?;
        let same = self.policies.iter().filter(|one| one.reference.file == source.name);
        Some(same.cloned().collect())
    }
}

type Outcome = Result<(Schema, Vec<Loaded>, Vec<Finding>), Vec<Finding>>;

/// Parses and validates the whole set. Warnings come back with the policies.
///
/// Cedar's parser and validator recurse, and a stack that runs out ends the process. So what is
/// too deep is refused before ([`limits`]), and what is not gets a stack with room to spare.
pub(super) fn load(archive: &Archive, places: Places<'_>, earlier: Option<Earlier<'_>>) -> Outcome {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("policies".to_owned())
            .stack_size(limits::STACK)
            .spawn_scoped(scope, || load_here(archive, places, earlier))
            .map_err(|error| error.to_string())
            .and_then(|thread| thread.join().map_err(|_| "the validator failed".to_owned()))
    })
    .unwrap_or_else(|cause| {
        let cause = format!("the policies can't be validated: {cause}");
        Err(vec![Finding::error(places.directory, cause)])
    })
}

fn load_here(archive: &Archive, places: Places<'_>, earlier: Option<Earlier<'_>>) -> Outcome {
    let mut findings = Vec::new();
    let schema = parse_schema(&archive.schema, places.schema, &mut findings);
    let mut policies = Vec::new();
    let mut changed = Vec::new();
    let mut known = Vec::new();
    for source in &archive.policies {
        let path = places.policy(source);
        if let Some(earlier) = earlier
            && let Some(same) = earlier.of(source)
        {
            policies.extend(same);
            let warnings = earlier.warnings.iter().filter(|warning| warning.file == path);
            known.extend(warnings.cloned());
        } else {
            parse_file(source, &path, &mut policies, &mut findings);
            changed.push(source);
        }
    }
    refuse_duplicates(&policies, places, &mut findings);
    if policies.is_empty() && !has_errors(&findings) {
        findings.push(
            Finding::error(
                places.directory,
                "there is no policy, so that everybody is denied everything",
            )
            .hint("put at least one `permit` into a `*.cedar` file of this directory"),
        );
    }
    let Some(schema) = schema else { return Err(findings) };
    if has_errors(&findings) {
        return Err(findings);
    }
    validate(&schema, &policies, &changed, places, &mut known);
    once_for_all_actions(&mut known);
    findings.append(&mut known);
    if has_errors(&findings) { Err(findings) } else { Ok((schema, policies, findings)) }
}

fn parse_schema(source: &SourceText, path: &Path, findings: &mut Vec<Finding>) -> Option<Schema> {
    if let Err(excess) = limits::check_schema(&source.text) {
        findings.push(refuse_excess(path, &excess));
        return None;
    }
    let lines = Lines::of(&source.text);
    match Schema::from_cedarschema_str(&source.text) {
        Ok((schema, warnings)) => {
            for warning in warnings {
                findings.push(describe(Finding::warning(path, ""), &warning, &lines));
            }
            Some(schema)
        }
        Err(error) => {
            findings.push(describe(Finding::error(path, ""), &error, &lines));
            None
        }
    }
}

fn parse_file(
    source: &SourceText,
    path: &Path,
    policies: &mut Vec<Loaded>,
    findings: &mut Vec<Finding>,
) {
    if let Err(excess) = limits::check_policies(&source.text) {
        findings.push(refuse_excess(path, &excess));
        return;
    }
    let lines = Lines::of(&source.text);
    let set = match PolicySet::from_str(&source.text) {
        Ok(set) => set,
        Err(errors) => {
            for error in errors.iter() {
                findings.push(describe(Finding::error(path, ""), error, &lines));
            }
            return;
        }
    };
    for template in set.templates() {
        let start = template.as_ref().loc().map_or(0, |place| place.start());
        findings.push(
            Finding::error(path, "this is a template (`?principal`, `?resource`), not a policy")
                .at_line(lines.at(start))
                .hint("write the policy out; templates are not used here"),
        );
    }
    let mut found: Vec<(usize, usize, &Policy)> = set
        .policies()
        .map(|policy| {
            let place = policy.as_ref().loc();
            (place.map_or(0, |at| at.start()), place.map_or(0, |at| at.end()), policy)
        })
        .collect();
    found.sort_by_key(|(start, _, _)| *start);
    let stem = source.name.strip_suffix(".cedar").unwrap_or(&source.name);
    for (number, (start, end, policy)) in found.into_iter().enumerate() {
        let line = lines.at(start);
        let refuse = |cause: String| Finding::error(path, cause).at_line(line);
        let id: Arc<str> = match policy.annotation("id") {
            None => format!("{stem}#{}", number + 1).into(),
            Some(id) if is_good_id(id) => id.into(),
            Some(id) => {
                let cause = format!("`{}` can't be an `@id`", id.escape_default());
                findings.push(
                    refuse(cause).hint(format!("use 1 to {MAX_ID} letters, digits and `-_.:/#`")),
                );
                continue;
            }
        };
        let policy = policy.new_id(PolicyId::new(&id));
        // From what is evaluated; `Policy::to_pst` would parse the text once more.
        let footprint = match Tree::try_from(policy.as_ref().clone()) {
            Ok(tree) => Footprint::of_policy(tree.body()),
            Err(error) => {
                findings.push(refuse(format!("the policy can't be analysed: {error}")));
                continue;
            }
        };
        policies.push(Loaded {
            policy,
            reference: PolicyRef { id, file: Arc::clone(&source.name), line },
            text: source.text.get(start..end).unwrap_or_default().into(),
            footprint,
        });
    }
}

fn refuse_excess(path: &Path, excess: &limits::Excess) -> Finding {
    Finding::error(path, excess.to_string())
        .at_line(excess.line())
        .hint("split it into several policies, or use a set and `contains`")
}

fn is_good_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID
        && id.chars().all(|letter| letter.is_alphanumeric() || "-_.:/#".contains(letter))
}

fn refuse_duplicates(policies: &[Loaded], places: Places<'_>, findings: &mut Vec<Finding>) {
    let mut first: HashMap<&str, &PolicyRef> = HashMap::new();
    for Loaded { reference, .. } in policies {
        if let Some(earlier) = first.get(reference.id.as_ref()) {
            findings.push(
                Finding::error(
                    places.directory.join(reference.file.as_ref()),
                    format!("the policy id `{}` is taken", reference.id),
                )
                .at_line(reference.line)
                .hint(format!("it stands at {}:{} already", earlier.file, earlier.line)),
            );
        } else {
            first.insert(&reference.id, reference);
        }
    }
}

/// Holds the policies of `changed` files against the schema.
fn validate(
    schema: &Schema,
    policies: &[Loaded],
    changed: &[&SourceText],
    places: Places<'_>,
    said: &mut Vec<Finding>,
) {
    let files: HashMap<&str, Lines> =
        changed.iter().map(|source| (source.name.as_ref(), Lines::of(&source.text))).collect();
    let fresh: HashMap<&str, &Loaded> = policies
        .iter()
        .filter(|one| files.contains_key(one.reference.file.as_ref()))
        .map(|one| (one.reference.id.as_ref(), one))
        .collect();
    let set = match PolicySet::from_policies(fresh.values().map(|one| one.policy.clone())) {
        Ok(set) => set,
        Err(error) => {
            said.push(Finding::error(places.directory, error.to_string()));
            return;
        }
    };
    let place = |finding: Finding, id: &PolicyId, diagnostic: &dyn Diagnostic| {
        let id: &str = id.as_ref();
        let Some(reference) = fresh.get(id).map(|one| &one.reference) else {
            return describe(finding, diagnostic, &Lines::default());
        };
        let none = Lines::default();
        let lines = files.get(reference.file.as_ref()).unwrap_or(&none);
        let mut finding = Finding {
            file: places.directory.join(reference.file.as_ref()),
            ..describe(finding, diagnostic, lines)
        };
        finding.line = finding.line.or(Some(reference.line));
        finding
    };
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    for error in result.validation_errors() {
        said.push(place(Finding::error(places.directory, ""), error.policy_id(), error));
    }
    for warning in result.validation_warnings() {
        said.push(place(Finding::warning(places.directory, ""), warning.policy_id(), warning));
    }
}

/// Cedar reports a mistake once for each kind of principal and action that it touches. One is
/// enough to read, and names an action only where the mistake is with that one.
fn once_for_all_actions(findings: &mut Vec<Finding>) {
    let mut actions: HashMap<(PathBuf, Option<u32>, String), BTreeSet<String>> = HashMap::new();
    let place = |one: &Finding, rest: String| (one.file.clone(), one.line, rest);
    for one in findings.iter() {
        if let Some((rest, action)) = without_action(&one.cause) {
            actions.entry(place(one, rest)).or_default().insert(action);
        }
    }
    for one in findings.iter_mut() {
        let Some((rest, _)) = without_action(&one.cause) else { continue };
        if actions.get(&place(one, rest.clone())).is_some_and(|actions| actions.len() > 1) {
            one.cause = rest;
        }
    }
    findings.sort_by(|one, other| {
        (&one.file, one.line, &one.cause).cmp(&(&other.file, other.line, &other.cause))
    });
    findings.dedup();
}

/// The text without ` for Wicketgate::Action::"..."`, and the action.
fn without_action(cause: &str) -> Option<(String, String)> {
    let (before, rest) = cause.split_once(" for Wicketgate::Action::\"")?;
    let (action, after) = rest.split_once('"')?;
    Some((format!("{before}{after}"), action.to_owned()))
}

/// Fills a finding with what Cedar says, where it points at, and what it advises.
fn describe(finding: Finding, diagnostic: &dyn Diagnostic, lines: &Lines) -> Finding {
    let mut cause = diagnostic.to_string();
    let mut source = std::error::Error::source(diagnostic);
    while let Some(inner) = source {
        let said = inner.to_string();
        if !cause.contains(&said) {
            cause = format!("{cause}: {said}");
        }
        source = inner.source();
    }
    let mut finding = Finding { cause, ..finding };
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    if let Some(label) = &label
        && !lines.is_empty()
    {
        finding = finding.at_line(lines.at(label.offset()));
    }
    let hint = diagnostic
        .help()
        .map(|help| help.to_string())
        .or_else(|| label.and_then(|label| label.label().map(str::to_owned)));
    if let Some(hint) = hint {
        finding = finding.hint(hint);
    }
    finding
}

/// Where the lines of a text end. A set has thousands of policies, and each wants its line.
#[derive(Debug, Default)]
struct Lines {
    ends: Vec<usize>,
    length: usize,
}

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at).collect();
        Self { ends, length: text.len() }
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The line, from 1, that the byte at `offset` is in.
    fn at(&self, offset: usize) -> u32 {
        let before = self.ends.partition_point(|end| *end < offset);
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }
}
