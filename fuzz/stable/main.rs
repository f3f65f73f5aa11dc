//! The fuzz targets on the stable toolchain: the corpus first, then seeded mutations of it for as
//! long as `WICKETGATE_FUZZ_SECONDS` says (2 without it). `WICKETGATE_FUZZ_SEED` begins elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a target stops at what it does not expect, and the driver shows what it was"
)]

mod mutate;
#[path = "../targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::{TARGETS, Target};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`: write a whole number"))
    })
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = folder().join("corpus").join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs the target on one input; a failing one is kept.
fn run(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let name = format!("fuzz-{}-{:016x}", target.name, targets::seed_of(input));
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&kept, input).unwrap();
        eprintln!("{} fails on {:?}", target.name, String::from_utf8_lossy(input));
        eprintln!("the input is kept in {}", kept.display());
        resume_unwind(panic);
    }
}

/// Returns how many inputs were tried.
fn fuzz(target: &Target, seeds: &[Vec<u8>], seed: u64, time: Duration) -> u64 {
    let begun = Instant::now();
    for input in seeds {
        run(target, input);
    }
    let mut mutator = Mutator::new(seed ^ targets::seed_of(target.name.as_bytes()), target.words);
    let mut tried = 0;
    while begun.elapsed() < time {
        for _ in 0..16 {
            run(target, mutator.next(seeds));
            tried += 1;
        }
    }
    tried
}

macro_rules! tests {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            let target = TARGETS.iter().find(|target| target.name == stringify!($name)).unwrap();
            let seeds = corpus(target.name);
            assert!(!seeds.is_empty(), "{} has no corpus", target.name);
            let seconds = number("WICKETGATE_FUZZ_SECONDS", 2);
            let seed = number("WICKETGATE_FUZZ_SEED", 1);
            let tried = fuzz(target, &seeds, seed, Duration::from_secs(seconds));
            eprintln!("{}: {tried} inputs from {} seeds", target.name, seeds.len());
        })*
    };
}

tests!(audit canonical certificate config connection cookie devices frames head proxy_protocol);

#[test]
fn every_target_has_a_test_a_corpus_and_an_entry() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED.iter().copied().collect());
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let listed: BTreeSet<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    assert_eq!(names, listed, "fuzz/Cargo.toml");
    for (place, end) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let entries = fs::read_dir(folder().join(place)).unwrap();
        let found: BTreeSet<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let expected = names.iter().map(|name| format!("{name}{end}")).collect();
        assert_eq!(found, expected, "fuzz/{place}");
    }
}

#[test]
fn the_driver_finds_what_its_words_can_make() {
    fn fragile(input: &[u8]) {
        let at = input.windows(4).position(|part| part == b"boom");
        assert!(at.is_none_or(|at| input.get(at + 4) != Some(&b'!')));
    }
    let target = Target { name: "fragile", run: fragile, words: &[b"boom", b"!"] };
    let found = catch_unwind(|| {
        fuzz(&target, &[b"a seed".to_vec()], 1, Duration::from_secs(20));
    });
    assert!(found.is_err(), "not found in twenty seconds");
}
