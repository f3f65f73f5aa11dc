mod reload;

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::archive::{Archive, MAX_FILE, MAX_FILES, MAX_TOTAL, SourceText};
use super::samples::{SCHEMA, archive, load, query, route, user};
use crate::config::finding::{Finding, Severity};
use crate::config::model::Policies;
use crate::domain::clock::Timestamp;
use crate::domain::decision::Verdict;
use crate::domain::device::{Device, Posture};
use crate::domain::id::DecisionId;
use crate::domain::query::Action;

const ID: u128 = 7;

fn decision_id() -> DecisionId {
    DecisionId::new(Timestamp::from_seconds(1), ID)
}

fn findings(text: &str) -> Vec<Finding> {
    load(text).expect_err("the set must be refused")
}

#[test]
fn what_no_policy_allows_is_denied() {
    let engine = load("permit(principal in Group::\"g\", action, resource);").unwrap();
    let stranger = query(&user("a", &[], None), Action::HttpGet, &route("r", "x", None));
    let denial = engine.decide(decision_id(), stranger.clone()).unwrap_err();
    assert_eq!(denial.decision().verdict, Verdict::Deny);
    assert_eq!(denial.decision().determining, []);
    assert_eq!(denial.id(), decision_id());
    assert_eq!(denial.query(), &stranger);
}

#[test]
fn a_permit_names_the_policy_with_file_and_line() {
    let engine = load(
        "// first line\n\n@id(\"g-may\")\npermit(principal in Group::\"g\",\n action, resource);",
    )
    .unwrap();
    let member = query(&user("a", &["g"], None), Action::HttpPost, &route("r", "x", None));
    let permit = engine.decide(decision_id(), member).unwrap();
    let [policy] = permit.decision().determining.as_slice() else { panic!("{permit:?}") };
    assert_eq!((policy.id.as_ref(), policy.file.as_ref(), policy.line), ("g-may", "test.cedar", 3));
    assert_eq!(&permit.decision().policy_set, engine.hash());
}

#[test]
fn a_policy_without_an_id_is_named_after_its_file_and_place() {
    let engine = load("permit(principal, action, resource); permit(principal, action, resource);\nforbid(principal, action, resource);").unwrap();
    let ids: Vec<_> =
        engine.policies().map(|policy| (policy.id.to_string(), policy.line)).collect();
    assert_eq!(ids, [("test#1".into(), 1), ("test#2".into(), 1), ("test#3".into(), 2)]);
}

#[test]
fn an_error_in_any_policy_denies_and_is_recorded() {
    let engine = load(
        "permit(principal, action, resource);
         @id(\"broken\") permit(principal, action, resource)
         when { context.segments.count * 9223372036854775807 > 1 };",
    )
    .unwrap();
    let query = query(&user("a", &[], None), Action::HttpGet, &route("r", "x", None));
    for _ in 0..2 {
        let denial = engine.decide(decision_id(), query.clone()).unwrap_err();
        let [error] = denial.decision().errors.as_slice() else { panic!("{denial:?}") };
        assert!(error.contains("broken") && error.contains("overflow"), "{error}");
        assert_eq!(denial.decision().determining, []);
    }
}

#[test]
fn posture_from_the_future_is_as_old_as_can_be() {
    let engine =
        load("permit(principal, action, resource) when { context has posture && context.posture.age < 60 };")
            .unwrap();
    let mut query = query(&user("a", &[], None), Action::HttpGet, &route("r", "x", None));
    for (ahead, verdict) in [(60, Verdict::Permit), (86_400, Verdict::Deny)] {
        query.context.device = Some(Arc::new(Device {
            id: "d".into(),
            owner: None,
            posture: Some(Posture::unknown(query.context.time.plus(Duration::from_secs(ahead)))),
        }));
        assert_eq!(engine.decision(&query).verdict, verdict, "{ahead} s ahead");
    }
}

#[test]
fn a_device_of_the_same_name_with_another_owner_is_not_remembered_as_the_first() {
    let engine = load(
        "permit(principal, action, resource)
         when { context has device && context.device has owner && context.device.owner == \"a\" };",
    )
    .unwrap();
    let mut query = query(&user("a", &[], None), Action::HttpGet, &route("r", "x", None));
    for (owner, verdict) in
        [(Some("a"), Verdict::Permit), (None, Verdict::Deny), (Some("b"), Verdict::Deny)]
    {
        query.context.device =
            Some(Arc::new(Device { id: "d".into(), owner: owner.map(Arc::from), posture: None }));
        assert_eq!(engine.decision(&query).verdict, verdict, "{owner:?}");
    }
}

#[test]
fn a_set_without_policies_is_refused() {
    for files in [&[][..], &[("empty.cedar", "// nothing\n")][..]] {
        let findings = Engine::from_archive(archive(files)).unwrap_err();
        assert!(findings[0].cause.contains("no policy"), "{findings:?}");
    }
}

#[test]
fn a_mistake_of_syntax_is_reported_at_its_line() {
    let findings = findings("permit(principal, action, resource);\n\npermit(principal, action);\n");
    assert_eq!(findings[0].severity, Severity::Error);
    assert_eq!(findings[0].line, Some(3), "{findings:?}");
    assert_eq!(findings[0].file.to_str(), Some("test.cedar"));
}

#[test]
fn a_misspelt_attribute_is_reported_at_its_line_once_and_with_a_hint() {
    let findings = findings(
        "permit(principal, action, resource);\npermit(principal, action, resource)\nwhen { principal has tenant &&\n principal.tenat == resource.application };",
    );
    assert!(
        findings.iter().any(|one| one.line == Some(4) && one.cause.contains("tenat")),
        "{findings:#?}"
    );
    let mut unique = findings.clone();
    unique.dedup();
    assert_eq!(unique, findings);
}

#[test]
fn an_optional_attribute_that_is_read_untested_is_refused() {
    let findings =
        findings("permit(principal, action, resource) when { context.posture.age < 5 };");
    assert!(findings.iter().any(|one| one.cause.contains("posture")), "{findings:?}");
    assert!(findings.iter().any(|one| one.hint.is_some()), "{findings:?}");
}

#[test]
fn a_mistake_is_told_once_and_names_an_action_only_where_it_is_with_that_one() {
    let all =
        findings("@id(\"x\") permit(principal, action, resource) when { context.acrr == \"x\" };");
    let [one] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(one.cause, "for policy `x`, attribute `acrr` in context not found");
    assert_eq!(one.hint.as_deref(), Some("did you mean `acr`?"));
    let get = findings(
        "permit(principal, action == Wicketgate::Action::\"http:GET\", resource) \
         when { context.acrr == \"x\" };",
    );
    let [one] = get.as_slice() else { panic!("{get:?}") };
    assert!(one.cause.contains("http:GET"), "{one}");
}

#[test]
fn an_id_is_given_once() {
    let findings = Engine::from_archive(archive(&[
        ("one.cedar", "@id(\"same\") permit(principal, action, resource);"),
        ("two.cedar", "\n@id(\"same\") forbid(principal, action, resource);"),
    ]))
    .unwrap_err();
    assert_eq!(
        findings[0].to_string(),
        "error: two.cedar:2: the policy id `same` is taken\n  hint: it stands at one.cedar:1 already"
    );
}

#[test]
fn an_id_that_could_forge_a_log_line_is_refused() {
    let findings = findings("@id(\"a\\nb\") permit(principal, action, resource);");
    assert!(findings[0].cause.contains("can't be an `@id`"), "{findings:?}");
}

#[test]
fn a_template_is_refused() {
    let findings = findings("\npermit(principal == ?principal, action, resource);");
    assert!(findings[0].cause.contains("template"), "{findings:?}");
    assert_eq!(findings[0].line, Some(2));
}

#[test]
fn a_schema_that_the_gate_can_not_fill_is_refused() {
    for (from, to) in [
        ("acr?: String", "acr: String"),
        ("host: String", "hosst: String"),
        ("http:HEAD", "http:HAED"),
    ] {
        let mut archive = archive(&[("test.cedar", "permit(principal, action, resource);")]);
        archive.schema.text = SCHEMA.replacen(from, to, 1).into();
        let findings = Engine::from_archive(archive).unwrap_err();
        assert!(findings[0].cause.contains("does not fit"), "{to}: {findings:?}");
    }
}

#[test]
fn an_archive_survives_its_json_form_and_keeps_its_hash() {
    let archive = archive(&[("a.cedar", "permit(principal, action, resource);")]);
    let again: Archive = serde_json::from_str(&serde_json::to_string(&archive).unwrap()).unwrap();
    assert_eq!(again, archive);
    assert_eq!(again.hash(), archive.hash());
    assert_eq!(Engine::from_archive(again).unwrap().hash(), &archive.hash());
}

#[test]
fn the_hash_changes_with_every_byte_and_name() {
    let base = archive(&[("a.cedar", "12"), ("b.cedar", "3")]);
    let others = [
        archive(&[("a.cedar", "1"), ("b.cedar", "23")]),
        archive(&[("a.cedar", "12"), ("c.cedar", "3")]),
        archive(&[("a.cedar", "12")]),
        Archive { schema: SourceText { name: "s".into(), text: "".into() }, ..base.clone() },
    ];
    for other in others {
        assert_ne!(other.hash(), base.hash(), "{other:?}");
    }
    assert_eq!(base.hash().0.len(), 64);
}

#[test]
fn the_files_of_a_directory_are_read_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let write =
        |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    let policies = Policies {
        directory: directory.path().to_owned(),
        schema: directory.path().join("wicketgate.cedarschema"),
    };
    write("wicketgate.cedarschema", SCHEMA.as_bytes());
    write("b.cedar", b"permit(principal, action, resource);");
    write("a.cedar", b"forbid(principal, action, resource);");
    write(".a.cedar.swp", b"rubbish");
    write(".hidden.cedar", b"rubbish");
    write("notes.txt", b"rubbish");
    let engine = Engine::load(&policies).unwrap();
    let files: Vec<_> = engine.policies().map(|policy| policy.file.to_string()).collect();
    assert_eq!(files, ["a.cedar", "b.cedar"]);

    write("c.cedar", b"\xff");
    write("d.cedar", &vec![b' '; usize::try_from(MAX_FILE).unwrap() + 1]);
    std::fs::create_dir(directory.path().join("e.cedar")).unwrap();
    std::fs::remove_file(&policies.schema).unwrap();
    let findings = Engine::load(&policies).unwrap_err();
    let causes: Vec<_> = findings.iter().map(|finding| finding.cause.as_str()).collect();
    assert_eq!(causes.len(), 4, "{causes:?}");
    for (cause, said) in causes.iter().zip(["can't be read", "not UTF-8", "larger than", "regular"])
    {
        assert!(cause.contains(said), "{cause}");
    }
}

#[test]
fn a_set_of_too_many_or_too_large_files_is_refused_and_one_at_the_limits_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let write = |number: usize, bytes: &[u8]| {
        std::fs::write(directory.path().join(format!("{number:04}.cedar")), bytes).unwrap();
    };
    let policies = Policies {
        directory: directory.path().to_owned(),
        schema: directory.path().join("wicketgate.cedarschema"),
    };
    std::fs::write(&policies.schema, SCHEMA).unwrap();
    let refused = || {
        let findings = Archive::read(&policies).unwrap_err();
        assert_eq!(findings.len(), 1, "{findings:?}");
        (findings[0].file.clone(), findings[0].cause.clone())
    };
    for number in 0..MAX_FILES {
        write(number, b"");
    }
    assert_eq!(Archive::read(&policies).unwrap().policies.len(), MAX_FILES);
    write(MAX_FILES, b"");
    let (file, cause) = refused();
    assert_eq!(file, policies.directory);
    assert_eq!(cause, "there are 1001 policy files, more than 1000");

    std::fs::remove_file(directory.path().join("1000.cedar")).unwrap();
    let largest = vec![b' '; usize::try_from(MAX_FILE).unwrap()];
    for number in 0..MAX_TOTAL / largest.len() {
        write(number, &largest);
    }
    assert_eq!(Archive::read(&policies).unwrap().policies.len(), MAX_FILES);
    write(999, b" ");
    let (file, cause) = refused();
    assert_eq!(file, policies.directory);
    assert_eq!(cause, "the policy files are larger than 8388608 bytes together");
}

#[test]
fn the_shipped_policies_are_valid_without_a_warning() {
    let policies =
        Policies { directory: "policies".into(), schema: "policies/wicketgate.cedarschema".into() };
    let engine = Engine::load(&policies).unwrap();
    assert_eq!(engine.warnings(), []);
}

#[test]
fn a_policy_that_would_exhaust_the_stack_is_refused_and_not_parsed() {
    let chain = |count: usize| vec!["context.method == \"GET\""; count].join(" || ");
    let nested = |count: usize| format!("{}true{}", "(".repeat(count), ")".repeat(count));
    let policy = |condition: &str| {
        load(&format!("// so\npermit(principal, action, resource) when {{ {condition} }};"))
    };
    for condition in [chain(200), nested(25)] {
        policy(&condition).unwrap();
    }
    for condition in [chain(30_000), nested(100_000)] {
        let findings = policy(&condition).unwrap_err();
        assert_eq!(findings[0].line, Some(2), "{findings:?}");
        assert!(findings[0].hint.is_some(), "{findings:?}");
    }
}

#[test]
fn a_schema_that_would_exhaust_the_stack_is_refused_and_not_parsed() {
    let mut archive = archive(&[("test.cedar", "permit(principal, action, resource);")]);
    let deep =
        format!("entity Deep = {{ a: {}Long{} }};", "Set<".repeat(50_000), ">".repeat(50_000));
    archive.schema.text = deep.into();
    assert!(Engine::from_archive(archive).unwrap_err()[0].cause.contains("nested"));
}
