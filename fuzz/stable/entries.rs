//! libFuzzer's entries and their manifest, which only a nightly toolchain builds, as far as a stable
//! one can check them: the entries compile and run their own targets, and `fuzz/Cargo.toml` lists
//! them and the crates that the targets use.
#![allow(unused_attributes, reason = "`no_main` is about the binary that an entry is elsewhere")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::targets::TARGETS;

/// `libfuzzer_sys::fuzz_target!` without libFuzzer: the function that it would call.
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:expr) => {
        pub const ENTRY: fn(&[u8]) = |$data: &[u8]| $body;
    };
}

#[path = "../fuzz_targets/audit.rs"]
mod audit;
#[path = "../fuzz_targets/canonical.rs"]
mod canonical;
#[path = "../fuzz_targets/certificate.rs"]
mod certificate;
#[path = "../fuzz_targets/config.rs"]
mod config;
#[path = "../fuzz_targets/connection.rs"]
mod connection;
#[path = "../fuzz_targets/cookie.rs"]
mod cookie;
#[path = "../fuzz_targets/devices.rs"]
mod devices;
#[path = "../fuzz_targets/frames.rs"]
mod frames;
#[path = "../fuzz_targets/head.rs"]
mod head;
#[path = "../fuzz_targets/proxy_protocol.rs"]
mod proxy_protocol;

type Entry = fn(&[u8]);

/// Each beside its name.
const ENTRIES: &[(&str, Entry)] = &[
    ("audit", audit::ENTRY),
    ("canonical", canonical::ENTRY),
    ("certificate", certificate::ENTRY),
    ("config", config::ENTRY),
    ("connection", connection::ENTRY),
    ("cookie", cookie::ENTRY),
    ("devices", devices::ENTRY),
    ("frames", frames::ENTRY),
    ("head", head::ENTRY),
    ("proxy_protocol", proxy_protocol::ENTRY),
];

/// What cargo reads in a manifest, without resolving anything.
fn package(manifest: &Path) -> Value {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let read: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    read["packages"][0].clone()
}

/// Names of the crates that a manifest asks for, with their versions.
fn dependencies(package: &Value) -> BTreeMap<String, String> {
    let listed = package["dependencies"].as_array().unwrap().iter();
    let text = |each: &Value, key: &str| each[key].as_str().unwrap().to_owned();
    listed.map(|each| (text(each, "name"), text(each, "req"))).collect()
}

#[test]
fn every_entry_compiles_and_runs_its_own_target() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, ENTRIES.iter().map(|(name, _)| *name).collect());
    let folder = super::folder().join("fuzz_targets");
    for (name, entry) in ENTRIES {
        let text = fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap();
        assert!(text.contains(&format!("::targets::{name}::run(data)")), "{text}");
        entry(b"");
    }
}

#[test]
fn the_manifest_lists_every_entry_and_the_crates_that_targets_use() {
    let home = super::folder();
    let package = package(&home.join("Cargo.toml"));
    let targets = package["targets"].as_array().unwrap().iter();
    assert!(targets.clone().any(|target| target["kind"][0] == "lib"), "the entries call one");
    let bins: BTreeSet<(&str, &str)> = targets
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| (target["name"].as_str().unwrap(), target["src_path"].as_str().unwrap()))
        .map(|(name, path)| (name, path.rsplit('/').next().unwrap().strip_suffix(".rs").unwrap()))
        .collect();
    assert_eq!(bins, TARGETS.iter().map(|target| (target.name, target.name)).collect());

    // Paths begin with a crate; a target may have a crate's name and is none.
    let files = fs::read_dir(home.join("targets")).unwrap();
    let sources: String =
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let begins = |path: &str| {
        sources.match_indices(path).any(|(at, _)| {
            !sources[..at]
                .ends_with(|last: char| last == ':' || last == '_' || last.is_alphanumeric())
        })
    };
    let mut used = dependencies(&self::package(&home.with_file_name("Cargo.toml")));
    used.retain(|name, _| {
        let target = TARGETS.iter().any(|target| target.name == name);
        !target && begins(&format!("{}::", name.replace('-', "_")))
    });
    let mut listed = dependencies(&package);
    assert!(listed.remove("libfuzzer-sys").is_some() && listed.remove("wicketgate").is_some());
    assert_eq!(listed, used);
}
