//! Runs the decision tables in `policies/tests/*.yaml` against a policy set.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::engine::Engine;
use super::explain::{Explanation, explain};
use super::table::{self, Case};
use crate::config::finding::Finding;
use crate::config::model::Policies;
use crate::domain::decision::Verdict;
use crate::domain::query::AccessQuery;

/// What became of a directory of tables. It prints as plain text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SuiteReport {
    pub files: usize,
    pub cases: usize,
    /// Decisions made: a case with lists stands for several.
    pub decisions: usize,
    pub failures: Vec<Failure>,
}

/// A decision that did not come out as the table says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
    pub case: String,
    pub expected: Verdict,
    /// The policies that should have determined the decision, where the table names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<BTreeSet<String>>,
    pub got: Explanation,
}

impl SuiteReport {
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Loads the set and runs every `*.yaml` table of `directory`, in the order of their names.
///
/// # Errors
/// What is wrong with the policies or with the tables; a directory without a table is wrong, so
/// that a mistyped one can't pass.
pub fn run(policies: &Policies, directory: &Path) -> Result<SuiteReport, Vec<Finding>> {
    run_with(&Engine::load(policies)?, directory)
}

/// As [`run`], with a set that is loaded already.
pub fn run_with(engine: &Engine, directory: &Path) -> Result<SuiteReport, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut report = SuiteReport::default();
    for file in tables(directory)? {
        match table::read(&file) {
            Ok(cases) => {
                report.files += 1;
                for case in cases {
                    run_case(engine, &file, &case, &mut report);
                }
            }
            Err(found) => findings.extend(found),
        }
    }
    if findings.is_empty() { Ok(report) } else { Err(findings) }
}

fn tables(directory: &Path) -> Result<Vec<PathBuf>, Vec<Finding>> {
    let refuse = |cause: String| {
        vec![Finding::error(directory, cause).hint("tables are `*.yaml` files in this directory")]
    };
    let entries = std::fs::read_dir(directory)
        .map_err(|error| refuse(format!("the directory of policy tests can't be read: {error}")))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| refuse(error.to_string()))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(refuse("there are no policy tests".to_owned()));
    }
    files.sort();
    Ok(files)
}

fn run_case(engine: &Engine, file: &Path, case: &Case, report: &mut SuiteReport) {
    report.cases += 1;
    for query in &case.queries {
        report.decisions += 1;
        if !is_met(engine, case, query) {
            report.failures.push(Failure {
                file: file.to_owned(),
                line: case.line,
                case: case.name.clone(),
                expected: case.expect,
                because: case.because.clone(),
                got: explain(engine, query),
            });
        }
    }
}

fn is_met(engine: &Engine, case: &Case, query: &AccessQuery) -> bool {
    let decision = engine.decision(query);
    let determining: BTreeSet<&str> =
        decision.determining.iter().map(|policy| policy.id.as_ref()).collect();
    let because = case
        .because
        .as_ref()
        .is_none_or(|wanted| determining.iter().copied().eq(wanted.iter().map(String::as_str)));
    // An error that denies is never what a table meant by `deny`.
    decision.verdict == case.expect && decision.errors.is_empty() && because
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        let Self { files, cases, decisions, failures } = self;
        write!(f, "{files} files, {cases} cases, {decisions} decisions: {} failed", failures.len())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = match self.expected {
            Verdict::Permit => "permit",
            Verdict::Deny => "deny",
        };
        let Self { file, line, case, .. } = self;
        writeln!(f, "{}:{line}: {}", file.display(), case.escape_debug())?;
        write!(f, "  expected: {expected}")?;
        if let Some(because) = &self.because {
            let ids: Vec<&str> = because.iter().map(String::as_str).collect();
            let ids = if ids.is_empty() { "no policy".to_owned() } else { ids.join(", ") };
            write!(f, " because of {}", ids.escape_debug())?;
        }
        writeln!(f)?;
        for (number, line) in self.got.to_string().lines().enumerate() {
            writeln!(f, "  {}{line}", if number == 0 { "got: " } else { "  " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::load;
    use super::*;

    const WORLD: &str = "principals:
  ada: { groups: [g] }
  bob: {}
devices:
  old: { posture: { age: 2d } }
resources:
  r: { application: x }
";

    fn run(cases: &str) -> Result<SuiteReport, Vec<Finding>> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("t.yaml"), format!("{WORLD}cases:\n{cases}")).unwrap();
        let engine = load(
            "@id(\"g\") permit(principal in Group::\"g\", action, resource)
             unless { context has posture && context.posture.age > 86400 };
             @id(\"slow\") permit(principal, action in Action::\"operate\", resource)
             when { context.segments.count * 9223372036854775807 > 1 };",
        )
        .unwrap();
        run_with(&engine, directory.path())
    }

    #[test]
    fn a_table_that_holds_passes_and_counts() {
        let report = run("  - { name: a, principal: ada, action: view, resource: r, expect: permit, because: [g] }
  - { name: b, principal: [bob], action: [http:GET, http:HEAD], resource: r, expect: deny, because: [] }
  - { name: c, principal: ada, action: http:GET, resource: r, context: { device: old }, expect: deny }
")
        .unwrap();
        assert!(report.passed(), "{report}");
        assert_eq!((report.files, report.cases, report.decisions), (1, 3, 7));
    }

    #[test]
    fn a_case_that_does_not_hold_is_reported_with_line_and_reason() {
        let report = run("  - { name: strangers, principal: bob, action: http:GET, resource: r, expect: permit }\n").unwrap();
        assert_eq!(report.failures.len(), 1);
        let text = report.to_string();
        assert!(text.contains("t.yaml:9: strangers\n  expected: permit\n  got: deny: "), "{text}");
        assert!(text.ends_with("1 files, 1 cases, 1 decisions: 1 failed"), "{text}");
    }

    #[test]
    fn the_right_verdict_for_another_reason_fails() {
        let report = run("  - { name: a, principal: ada, action: http:GET, resource: r, expect: permit, because: [h] }\n").unwrap();
        assert!(!report.passed());
    }

    #[test]
    fn a_denial_by_error_is_not_the_denial_that_a_table_means() {
        let report = run("  - { name: a, principal: bob, action: http:PUT, resource: r, context: { path: /a/b }, expect: deny }\n").unwrap();
        assert_eq!(report.failures.len(), 1, "{report}");
    }

    #[test]
    fn a_name_that_the_table_does_not_define_is_a_finding() {
        let findings =
            run("  - { name: a, principal: ad, action: http:GTE, resource: r, expect: maybe }\n")
                .unwrap_err();
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(finding.line, Some(9));
        assert_eq!(finding.hint.as_deref(), Some("did you mean `ada`?"));
    }

    #[test]
    fn a_directory_without_tables_does_not_pass() {
        let directory = tempfile::tempdir().unwrap();
        let engine = load("permit(principal, action, resource);").unwrap();
        let findings = run_with(&engine, directory.path()).unwrap_err();
        assert!(findings[0].cause.contains("no policy tests"), "{findings:?}");
    }
}
