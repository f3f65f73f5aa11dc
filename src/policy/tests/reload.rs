//! What a reload keeps of the set before.

use std::sync::Arc;

use super::{Engine, Policies, SCHEMA, decision_id, query, route, user};
use crate::domain::query::Action;

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let all = Self(tempfile::tempdir().unwrap());
        all.write("wicketgate.cedarschema", SCHEMA);
        files.iter().for_each(|(name, text)| all.write(name, text));
        all
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn policies(&self) -> Policies {
        let schema = self.0.path().join("wicketgate.cedarschema");
        Policies { directory: self.0.path().to_owned(), schema }
    }
}

const A: &str = "@id(\"a\") permit(principal, action, resource);";
const B: &str = "@id(\"b\") permit(principal in Wicketgate::Group::\"g\", action, resource);";

/// Valid, and warned of: it can never apply.
const WARNED: &str = "\n@id(\"w\") permit(principal, action, resource) when { false };";

/// All that a set is, as text.
fn whole(engine: &Engine) -> String {
    let policies: Vec<_> = engine.policies().collect();
    format!("{} {policies:?} {:?}", engine.hash(), engine.warnings())
}

#[test]
fn a_set_that_has_not_changed_is_the_former_one_with_all_that_it_remembers() {
    let files = Files::new(&[("a.cedar", A), ("w.cedar", WARNED)]);
    let former = Arc::new(Engine::load(&files.policies()).unwrap());
    let again = Engine::reload(&files.policies(), &former).unwrap();
    assert!(Arc::ptr_eq(&former, &again));
}

#[test]
fn a_set_of_kept_and_changed_files_is_what_it_would_be_without_a_former_one() {
    let files = Files::new(&[("a.cedar", A), ("b.cedar", B), ("w.cedar", WARNED)]);
    let mut former = Arc::new(Engine::load(&files.policies()).unwrap());
    assert!(!former.warnings().is_empty());
    let changes: [(&str, Option<&str>); 5] = [
        ("b.cedar", Some("\n@id(\"other\") forbid(principal, action, resource);")),
        ("c.cedar", Some(B)),
        ("w.cedar", Some(&WARNED.replace("false", "1 > 2"))),
        ("a.cedar", None),
        ("wicketgate.cedarschema", Some(&format!("// another\n{SCHEMA}"))),
    ];
    for (name, text) in changes {
        match text {
            Some(text) => files.write(name, text),
            None => std::fs::remove_file(files.0.path().join(name)).unwrap(),
        }
        let reloaded = Engine::reload(&files.policies(), &former).unwrap();
        let afresh = Engine::load(&files.policies()).unwrap();
        assert_eq!(whole(&reloaded), whole(&afresh), "{name}");
        let asked = query(&user("u", &["g"], None), Action::HttpGet, &route("r", "x", None));
        assert_eq!(
            reloaded.decide(decision_id(), asked.clone()).is_ok(),
            afresh.decide(decision_id(), asked).is_ok(),
            "{name}"
        );
        former = reloaded;
    }
}

#[test]
fn an_id_that_a_kept_file_has_is_taken() {
    let files = Files::new(&[("a.cedar", A)]);
    let former = Arc::new(Engine::load(&files.policies()).unwrap());
    files.write("b.cedar", A);
    let findings = Engine::reload(&files.policies(), &former).unwrap_err();
    assert!(findings[0].cause.contains("`a` is taken"), "{findings:?}");
}

#[test]
fn a_schema_that_a_kept_file_does_not_fit_refuses_it() {
    let files = Files::new(&[(
        "a.cedar",
        &format!("{A} {}", WARNED.replace("false", "context.host == \"h\"")),
    )]);
    let former = Arc::new(Engine::load(&files.policies()).unwrap());
    files.write("wicketgate.cedarschema", &SCHEMA.replace("host:", "hosts:"));
    assert!(Engine::reload(&files.policies(), &former).is_err());
}
