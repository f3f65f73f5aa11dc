//! The rules of `docs/architecture.md`, held by walking the syntax tree.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

#[path = "architecture/checker.rs"]
mod checker;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use checker::{Rules, Sources, check};

/// A module uses strictly lower layers only, so never a sibling.
const LAYERS: &[(&str, u8)] = &[
    ("domain", 0),
    ("sharded", 0),
    ("config", 1),
    ("metrics", 2),
    ("pages", 2),
    ("pem", 2),
    ("store", 2),
    ("audit", 3),
    ("identity", 3),
    ("policy", 3),
    ("posture", 3),
    ("tls", 3),
    ("upstream", 3),
    ("pipeline", 4),
    ("admin", 5),
    ("proxy", 5),
    ("app", 6),
    ("demo", 7),
    ("cli", 8),
];

/// Each library stays behind the modules that own it.
const CONFINED: &[(&str, &[&str])] = &[
    ("askama", &["pages", "demo"]),
    ("cedar_policy", &["policy"]),
    ("clap", &["cli"]),
    ("hyper", &["proxy", "upstream", "admin", "demo"]),
    ("hyper_util", &["proxy", "upstream", "admin", "demo"]),
    ("ipnet", &["config", "domain"]),
    ("jsonwebtoken", &["identity", "demo"]),
    ("notify", &["config"]),
    ("openidconnect", &["identity", "demo"]),
    ("pingora_limits", &["pipeline"]),
    ("pingora_load_balancing", &["upstream"]),
    ("prometheus", &["metrics"]),
    ("rcgen", &["demo"]),
    ("redb", &["store"]),
    ("redis", &["store"]),
    ("reqwest", &["identity", "demo"]),
    ("rustix", &["app", "proxy"]),
    ("rustls", &["tls", "upstream", "demo"]),
    ("saphyr_parser", &["config"]),
    ("sd_listen_fds", &["app"]),
    ("sd_notify", &["app"]),
    ("tokio_rustls", &["tls", "upstream", "demo"]),
    ("tokio_tungstenite", &["demo"]),
];

/// Findings that are tolerated, as they are reported but without the line. It only ever shrinks.
const EXCEPTIONS: &[&str] = &[];

const RULES: Rules<'static> = Rules { layers: LAYERS, confined: CONFINED, longest_file: 500 };

#[test]
fn the_crate_keeps_its_layers_its_crates_and_its_file_lengths() {
    let mut sources = Sources::new();
    collect(&root().join("src"), &mut sources);
    assert!(sources.len() > 5, "the sources were not found");
    let mut unused: BTreeSet<&str> = EXCEPTIONS.iter().copied().collect();
    let found: Vec<String> = check(&sources, &["lib.rs", "main.rs"], &RULES)
        .into_iter()
        .filter(|finding| !unused.remove(without_line(finding).as_str()))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    assert!(unused.is_empty(), "no longer needed, take them out: {unused:?}");
}

#[test]
fn every_direct_dependency_has_its_reason_in_the_documentation() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let mut section = String::new();
    let mut declared = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if section.ends_with("dependencies")
            && let Some((name, _)) = line.split_once('=')
            && !line.starts_with([' ', '#'])
        {
            declared.insert(name.trim().to_owned());
        }
    }
    let mut explained = BTreeSet::new();
    for line in page.lines() {
        let Some((name, reason)) = line.strip_prefix("| `").and_then(|row| row.split_once("` |"))
        else {
            continue;
        };
        assert!(reason.trim_matches([' ', '|']).len() > 15, "`{name}` is listed without a reason");
        assert!(explained.insert(name.to_owned()), "`{name}` is listed twice");
    }
    assert!(declared.len() > 20, "the manifest was not understood");
    let missing: Vec<_> = declared.difference(&explained).collect();
    let extra: Vec<_> = explained.difference(&declared).collect();
    assert!(missing.is_empty(), "docs/dependencies.md lacks {missing:?}");
    assert!(extra.is_empty(), "docs/dependencies.md lists {extra:?}, which Cargo.toml doesn't");
}

#[test]
fn the_checker_sees_every_way_to_name_a_higher_layer() {
    for snippet in [
        "use crate::proxy::http;",
        "use crate::{domain, proxy};",
        "use crate::{domain::id, proxy::{self, http as h}};",
        "use crate::proxy as p;",
        "use super::proxy;",
        "use self::super::proxy;",
        "pub use crate::proxy::Thing;",
        "fn f() { crate::proxy::run(); }",
        "fn f(_: &super::proxy::Thing) {}",
        "type A = Option<crate::proxy::Thing>;",
        "impl crate::proxy::Trait for u8 {}",
        "fn f() { println!(\"{}\", crate::proxy::NAME); }",
        "macro_rules! m { () => { $crate::proxy::run() } }",
        "mod inner { use super::super::proxy; }",
        "#[cfg(any(test, feature = \"x\"))] use crate::proxy;",
    ] {
        assert_finding(&with("policy.rs", snippet), "must not use `proxy`");
    }
    assert_finding(&with("policy.rs", "use crate::tls::Acceptor;"), "must not use `tls`");
    assert_finding(&with("policy.rs", "use crate::*;"), "root is imported whole");
    assert_finding(&with("policy.rs", "use super::*;"), "root is imported whole");
    assert_finding(&with("policy.rs", "use crate as me;"), "root is imported whole");
    assert_finding(&with("policy.rs", "use crate::Launder;"), "no module with a layer");
    assert_finding(&with("policy.rs", "m!(use crate::{proxy, domain};);"), "spell it out");
}

#[test]
fn the_checker_sees_every_way_to_name_a_confined_crate() {
    for snippet in [
        "use hyper::Request;",
        "use ::hyper::Request;",
        "use {hyper::Request, std::fmt};",
        "use hyper as h;",
        "fn f(_: hyper::Request<()>) {}",
        "fn f() { m!(hyper::Request::new(())) }",
        "#[derive(Debug)] struct S { r: Vec<hyper::Request<()>> }",
    ] {
        assert_finding(&with("policy.rs", snippet), "`hyper` belongs in");
    }
    assert_finding(&with("policy.rs", "extern crate hyper as h;"), "can rename a crate");
    assert_clean(&with("proxy.rs", "use hyper::Request;"));
}

#[test]
fn the_checker_sees_what_hides_code_or_lints() {
    assert_finding(&with("policy.rs", "#[allow(dead_code)] fn f() {}"), "needs a `reason`");
    assert_finding(&with("policy.rs", "#![allow(dead_code)]"), "needs a `reason`");
    assert_finding(&with("policy.rs", "#[expect(unused)] fn f() {}"), "needs a `reason`");
    assert_finding(
        &with("policy.rs", "#[cfg_attr(all(), allow(unused))] fn f() {}"),
        "inside `cfg_attr`",
    );
    assert_clean(&with("policy.rs", "#[expect(unused, reason = \"shown\")] fn f() {}"));
    assert_finding(&with("policy.rs", "include!(\"x.rs\");"), "hides code");
    assert_finding(&with("policy.rs", "#[path = \"x.rs\"] mod x { }"), "hides where");
    assert_finding(&with("stray.rs", ""), "no module declares");
    let mut sources = with("policy.rs", "");
    sources.insert(PathBuf::from("lib.rs"), "mod policy; mod novelty {}".to_owned());
    assert_finding(&sources, "`novelty` has no layer");
    assert_finding(&with("policy.rs", &"// line\n".repeat(501)), "501 lines outside tests");
}

#[test]
fn the_checker_leaves_lower_layers_and_tests_alone() {
    for snippet in [
        "use crate::domain::id::DecisionId; use super::config::Secret;",
        "use self::engine::Engine; mod engine { use super::super::domain; use crate::policy::X; }",
        "#[cfg(test)] mod tests { use crate::proxy; use hyper::Request; }",
        "#[cfg(all(test, feature = \"demo\"))] use hyper::Request;",
        "fn f(config: &std::fmt::Arguments<'_>) { log!(proxy = %config, \"proxy::x\") }",
    ] {
        assert_clean(&with("policy.rs", snippet));
    }
    let long_tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// line\n".repeat(600));
    assert_clean(&with("policy.rs", &long_tests));
    let mut sources = with("policy/mod.rs", "mod engine; #[cfg(test)] mod tests;");
    sources.insert(PathBuf::from("policy/engine.rs"), "use super::super::domain;".to_owned());
    sources.insert(PathBuf::from("policy/tests.rs"), "use crate::proxy;".to_owned());
    assert_clean(&sources);
}

/// A small crate with `snippet` as one of its files.
fn with(file: &str, snippet: &str) -> Sources {
    let mut sources: Sources = ["config.rs", "domain.rs", "policy.rs", "proxy.rs", "tls.rs"]
        .map(|name| (PathBuf::from(name), String::new()))
        .into();
    let lib = "mod config; mod domain; mod policy; mod proxy; mod tls;";
    sources.insert(PathBuf::from("lib.rs"), lib.to_owned());
    if file == "policy/mod.rs" {
        sources.remove(Path::new("policy.rs"));
    }
    sources.insert(PathBuf::from(file), snippet.to_owned());
    sources
}

fn assert_finding(sources: &Sources, expected: &str) {
    let found = check(sources, &["lib.rs"], &RULES);
    assert!(
        found.iter().any(|finding| finding.contains(expected)),
        "expected `{expected}` of {sources:?}, found {found:?}"
    );
}

fn assert_clean(sources: &Sources) {
    assert_eq!(check(sources, &["lib.rs"], &RULES), Vec::<String>::new(), "{sources:?}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, sources: &mut Sources) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root().join("src")).unwrap().to_owned();
            sources.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// `file:line: what` without the line.
fn without_line(finding: &str) -> String {
    let mut parts = finding.splitn(3, ':');
    let (file, line, rest) = (parts.next(), parts.next(), parts.next());
    match (file, line, rest) {
        (Some(file), Some(line), Some(rest)) if line.parse::<u32>().is_ok() => {
            format!("{file}:{rest}")
        }
        _ => finding.to_owned(),
    }
}
