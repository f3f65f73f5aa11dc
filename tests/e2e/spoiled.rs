//! Configuration and policies are untrusted input: empty, huge, broken, half-written or gone, they
//! change nothing in a running gate, which says so everywhere, and none starts with them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::gate::mentions;
use crate::harness::{Browser, Gate, Recorder, eventually};

const GOOD: &str =
    "@id(\"signed-in\")\npermit (principal is Wicketgate::User, action, resource);\n";

/// What the file says instead (nothing: it is gone), and what is told about it.
fn configurations(good: &str) -> Vec<(Option<String>, &'static str)> {
    let whole: Value = serde_json::from_str(good).unwrap();
    let first = json!({ "listeners": whole["listeners"] }).to_string();
    vec![
        (Some(good[..good.len() / 2].to_owned()), "not valid YAML: while"),
        (Some(String::new()), "the file is empty"),
        // Half of it, and well-formed.
        (Some(first), "is missing"),
        (Some(format!("{good}\n# {}\n", "x".repeat(5 << 20))), "the file is larger than 4096 KiB"),
        (Some("\0\0\0".to_owned()), "unprintable character"),
        (None, "the file can't be read"),
    ]
}

/// The policy files instead, and what is told about them.
fn policies() -> Vec<(Vec<(String, String)>, &'static str)> {
    let world = |text: &str| vec![("world.cedar".to_owned(), text.to_owned())];
    let many = |count: usize, text: &str| {
        (0..count).map(|at| (format!("{at:04}.cedar"), text.to_owned())).collect::<Vec<_>>()
    };
    vec![
        (world(""), "there is no policy"),
        (world(&GOOD[..GOOD.len() / 2]), "unexpected end of input"),
        (Vec::new(), "there is no policy"),
        (world("permit (principal, action, resource) when { context.nonsense > 1 };"), "nonsense"),
        (world(&format!("{GOOD}// {}", "x".repeat(1 << 20))), "the file is larger than"),
        (many(1001, GOOD), "there are 1001 policy files"),
        (many(9, &"/".repeat(1 << 20)), "the policy files are larger than"),
    ]
}

/// Another folder in the place of the gate's policies.
fn replace_policies(folder: &Path, files: &[(String, String)]) {
    let (fresh, former, place) =
        (folder.join("policies.new"), folder.join("policies.old"), folder.join("policies"));
    fs::create_dir(&fresh).unwrap();
    for (name, text) in files {
        fs::write(fresh.join(name), text).unwrap();
    }
    fs::rename(&place, &former).unwrap();
    fs::rename(&fresh, &place).unwrap();
    fs::remove_dir_all(&former).unwrap();
}

/// What a refused reload leaves behind.
struct Before {
    refused: f64,
    generation: f64,
    lines: usize,
}

impl Before {
    async fn of(gate: &Gate) -> Self {
        Self {
            refused: gate.metric("wicketgate_reloads_total", "refused").await,
            generation: gate.metric("wicketgate_configuration_generation", "").await,
            lines: gate.process.output().len(),
        }
    }

    /// Has the gate look, and waits until it has told of this cause everywhere.
    async fn nothing_changes(&self, gate: &Gate, browser: &mut Browser, cause: &str) {
        gate.process.signal("HUP");
        let newest = || gate.audit().into_iter().rfind(|one| mentions(one, &["configuration-"]));
        eventually(&format!("a record of `{cause}`"), async || {
            newest().filter(|one| mentions(one, &["configuration-refused", cause]))
        })
        .await;
        eventually(&format!("`{cause}` in the log"), async || {
            let said = gate.process.output().split_off(self.lines).join("\n");
            (said.contains("reload refused") && said.contains(cause)).then_some(())
        })
        .await;
        let now = Self::of(gate).await;
        assert!(now.refused > self.refused, "{cause}: {}", now.refused);
        assert_eq!(now.generation, self.generation, "{cause}");
        let (status, told) = gate.admin("/readyz").await.unwrap();
        assert!(status == 200 && told.contains(cause), "{status} {told}");
        browser.get("/").await.expect(200);
    }
}

/// Neither `check` nor `run` takes what is on the disk.
fn starts_with_nothing_of_it(gate: &Gate, cause: &str) {
    for command in ["check", "run"] {
        let output = gate.command(&[command]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}, {cause}: {said}");
        assert!(said.contains(cause), "{command}, {cause}: {said}");
    }
}

async fn takes_what_is_good_again(gate: &mut Gate, browser: &mut Browser) {
    gate.restart().await;
    browser.get("/").await.expect(200);
    gate.assert_audit_verifies();
}

#[tokio::test]
async fn a_spoiled_configuration_changes_nothing_is_told_everywhere_and_starts_no_gate() {
    let mut gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let mut browser = gate.login("vera").await;
    let file = gate.config_file();
    let good = fs::read_to_string(&file).unwrap();
    let write = |text: &Option<String>| match text {
        Some(text) => fs::write(&file, text).unwrap(),
        None => fs::remove_file(&file).unwrap(),
    };
    for (text, cause) in configurations(&good) {
        let before = Before::of(&gate).await;
        write(&text);
        before.nothing_changes(&gate, &mut browser, cause).await;
    }
    let generation = Before::of(&gate).await.generation;
    fs::write(&file, &good).unwrap();
    eventually("the good one", async || {
        (Before::of(&gate).await.generation > generation).then_some(())
    })
    .await;
    gate.process.kill();
    for (text, cause) in configurations(&good) {
        write(&text);
        starts_with_nothing_of_it(&gate, cause);
    }
    fs::write(&file, &good).unwrap();
    takes_what_is_good_again(&mut gate, &mut browser).await;
}

#[tokio::test]
async fn a_spoiled_policy_set_changes_nothing_is_told_everywhere_and_starts_no_gate() {
    let setup = Gate::with_upstream(&Recorder::start().await).policy(GOOD);
    let mut gate = setup.start().await;
    let mut browser = gate.login("vera").await;
    for (files, cause) in policies() {
        let before = Before::of(&gate).await;
        replace_policies(gate.folder(), &files);
        before.nothing_changes(&gate, &mut browser, cause).await;
    }
    let good = [("world.cedar".to_owned(), GOOD.to_owned())];
    let generation = Before::of(&gate).await.generation;
    replace_policies(gate.folder(), &good);
    eventually("the good one", async || {
        (Before::of(&gate).await.generation > generation).then_some(())
    })
    .await;
    gate.process.kill();
    for (files, cause) in policies() {
        replace_policies(gate.folder(), &files);
        starts_with_nothing_of_it(&gate, cause);
    }
    replace_policies(gate.folder(), &good);
    takes_what_is_good_again(&mut gate, &mut browser).await;
}
