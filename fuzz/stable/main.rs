//! The fuzz targets on the stable toolchain: the corpus first, then mutations of it for as long as
//! `WICKETGATE_FUZZ_SECONDS` says for each target (2 without it). The mutations differ from run to
//! run and depend on one number, which is printed; `WICKETGATE_FUZZ_SEED` gives it.
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

// The names by which libFuzzer's entries call what they stand on.
extern crate self as libfuzzer_sys;
extern crate self as wicketgate_fuzz;

mod entries;
mod mutate;
#[path = "../targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use mutate::Mutator;
use targets::{TARGETS, Target};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`: write a whole number")))
}

/// How long each target is fuzzed.
fn time() -> Duration {
    Duration::from_secs(number("WICKETGATE_FUZZ_SECONDS").unwrap_or(2))
}

/// What the run's mutations depend on; said once, also when all is well.
static SEED: LazyLock<u64> = LazyLock::new(|| {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Six digits can be typed again; the mutator takes odd numbers only.
    let seed = number("WICKETGATE_FUZZ_SEED")
        .unwrap_or_else(|| (now().as_micros() % 500_000) as u64 * 2 + 1);
    // Past the test harness, which keeps what a good test prints to itself.
    let _ = writeln!(
        std::io::stderr(),
        "fuzz: WICKETGATE_FUZZ_SEED={seed}, {} s for each target",
        time().as_secs()
    );
    seed
});

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
            let whole = seeds.iter().all(|seed| seed.len() < mutate::LONGEST);
            assert!(whole, "{} has a seed that would be cut", target.name);
            let tried = fuzz(target, &seeds, *SEED, time());
            eprintln!("{}: {tried} inputs from {} seeds", target.name, seeds.len());
        })*
    };
}

tests!(audit canonical certificate config connection cookie devices frames head proxy_protocol);

/// What the seeds lack, mutations hardly ever come to.
#[test]
fn the_configurations_that_config_begins_with_are_todays() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (seed, file) in [
        ("example.yaml", "config/wicketgate.yaml"),
        ("minimal.yaml", "config/minimal.yaml"),
        ("full.yaml", "src/config/tests/full.yaml"),
    ] {
        let seed = fs::read(folder().join("corpus/config").join(seed)).unwrap();
        assert!(seed == fs::read(root.join(file)).unwrap(), "copy {file} over its seed");
    }
}

#[test]
fn every_target_has_a_test_a_corpus_and_an_entry() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED.iter().copied().collect());
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
