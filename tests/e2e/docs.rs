//! What the documentation tells people to type, typed.
//!
//! Every block of commands (```` ```sh ````) stands under an HTML comment that says how it is run:
//!
//! - `run`: by itself, in a fresh clone after a build;
//! - `run: first gate`: one session, block after block over all documents, `README.md` first, with
//!   a real provider behind it. Behind it may stand `, with the test's values` (what the block
//!   sets is then set to what the test has), `, typing the secret`, `, in FOLDER`, and
//!   `, at the end`. `act: first gate, ...` is something that a person does in between;
//! - `run: an assertion`: where an application of the gate's stands;
//! - `run by ./test: STEP`: that step runs the same command;
//! - `manual: WHY`: in `docs/performance.md` alone; it parses, and the programs exist.
//!
//! A `text` block behind it shows what it prints. A block without a marker fails. `file: NAME` above
//! any other block puts it where the commands find it, and `recipe` stands above a policy and the
//! table that it keeps.

mod page;
mod shell;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use page::{Block, Page, fits};
use shell::Shell;

use crate::harness::port::{self, Port};
use crate::harness::provider::{self, Provider};
use crate::harness::{Browser, Gate, Recorder, binary, eventually, pki};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document of the repository, the first to read first.
fn pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned()];
    for folder in [".", "docs", "certs", "policies", "benches/compare"] {
        let Ok(entries) = fs::read_dir(root().join(folder)) else { continue };
        let mut here: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".md"))
            .map(|name| if folder == "." { name } else { format!("{folder}/{name}") })
            .filter(|name| name != "README.md")
            .collect();
        here.sort();
        names.append(&mut here);
    }
    names.iter().map(|name| Page::read(root(), name)).collect()
}

fn session(story: &str) -> Vec<Block> {
    let marker = format!("run: {story}");
    let act = format!("act: {story}");
    let fits = |block: &Block| block.marker.starts_with(&marker) || block.marker.starts_with(&act);
    let mut blocks: Vec<Block> =
        pages().into_iter().flat_map(|page| page.blocks).filter(fits).collect();
    blocks.sort_by_key(|block| block.marker.contains(", at the end"));
    blocks
}

fn check_shown(block: &Block, said: &str) {
    if let Some(shown) = &block.shows {
        assert!(fits(shown, said), "{} shows\n{shown}\n---- but it printed\n{said}", block.at);
    }
}

#[test]
fn no_command_in_the_documents_is_left_unrun() {
    for page in pages() {
        for block in &page.blocks {
            let Block { at, marker, language, .. } = block;
            match language.as_str() {
                "sh" => {}
                "bash" | "shell" | "console" | "" => panic!("{at}: say `sh` or `text`"),
                _ => continue,
            }
            if marker == "run" || marker.starts_with("run: ") {
                let stories = ["run", "run: first gate", "run: an assertion"];
                let story = marker.split(',').next().unwrap();
                assert!(stories.contains(&story), "{at}: nothing runs `{marker}`");
            } else if let Some(step) = marker.strip_prefix("run by ./test: ") {
                run_by_the_test_script(block, step);
            } else {
                let manual = marker.starts_with("manual: ") && page.name == "docs/performance.md";
                assert!(manual, "{at}: a block of commands has to say how it is run: {marker:?}");
                for line in block.text.lines() {
                    let program = line.split_whitespace().next().unwrap_or_default();
                    let ours = program.contains('/') && !program.starts_with('/');
                    assert!(!ours || root().join(program).exists(), "{at}: no {program}");
                }
                let status = Command::new("bash").args(["-n", "-c", &block.text]).status();
                assert!(status.unwrap().success(), "{at}: not even a shell understands this");
            }
        }
    }
}

/// Holds a block against the step that claims to run it.
fn run_by_the_test_script(block: &Block, step: &str) {
    let script = fs::read_to_string(root().join("test")).unwrap().replace("\\\n", " ");
    let start = format!("step '{step}' ");
    let run = script.lines().find_map(|line| line.trim().strip_prefix(start.as_str()));
    let run = run.unwrap_or_else(|| panic!("{}: ./test has no step `{step}`", block.at));
    if step == "system packages" {
        let (_, packages) = block.text.split_once(" install ").unwrap();
        for package in packages.split_whitespace().filter(|word| !word.starts_with('-')) {
            let installed =
                run.split_whitespace().any(|pair| pair.ends_with(&format!(":{package}")));
            assert!(installed, "{}: ./test does not install `{package}`", block.at);
        }
        return;
    }
    let plain = |command: &str| -> Vec<String> {
        let words = command.split_whitespace();
        let details = ["--locked", "--quiet", "--tour"];
        words.filter(|word| !details.contains(word)).map(str::to_owned).collect()
    };
    for line in block.text.lines() {
        let command = line.split(" # ").next().unwrap().trim();
        // ./test runs itself here, and CI runs nothing else.
        if command == "./test" {
            let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
            assert!(ci.lines().any(|line| line == "exec ./test"), "CI does not run ./test");
        } else {
            assert_eq!(plain(command), plain(run), "{}: ./test runs another command", block.at);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_alone_works_in_a_fresh_clone() {
    let mut ran = 0;
    for block in pages().iter().flat_map(|page| &page.blocks) {
        if block.language == "sh" && block.marker == "run" {
            let said = Shell::new().run(block, "", "", "").await;
            check_shown(block, &said);
            ran += 1;
        }
    }
    assert!(ran > 0, "there is not one such block");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_gate_of_the_readme_works_to_the_letter() {
    let public = Port::reserve();
    let origin = format!("https://portal.localhost:{}", public.number());
    let provider = Provider::start(std::slice::from_ref(&origin)).await;
    let values = [
        ("HOST", "portal.localhost".to_owned()),
        ("PORT", public.number().to_string()),
        ("ADMIN", port::free().to_string()),
        ("ISSUER", provider.issuer.clone()),
        ("UPSTREAM", format!("http://{}", port::free())),
    ];
    let mut shell = Shell::new();
    let mut browser = None;
    let mut done = BTreeSet::new();
    for block in session("first gate") {
        let has = |word: &str| block.marker.contains(word);
        if block.language == "act" {
            act(&block, &shell, &provider, &origin, &mut browser).await;
            done.insert("act");
            continue;
        }
        let mut after = String::new();
        if has("with the test's values") {
            for (name, value) in &values {
                let start = format!("{name}=");
                assert!(
                    block.text.lines().any(|line| line.starts_with(&start)),
                    "{} sets no {name}",
                    block.at
                );
                after += &format!("{name}={value}\n");
            }
            done.insert("values");
        }
        let input = if has("typing the secret") { provider::SECRET } else { "" };
        let directory = block.marker.split(", in ").nth(1).unwrap_or_default();
        let directory = directory.split(',').next().unwrap();
        let said = shell.run(&block, directory, &after, input).await;
        check_shown(&block, &said);
        done.insert(if input.is_empty() { "run" } else { "secret" });
    }
    assert_eq!(done, ["act", "run", "secret", "values"].into());
}

/// Plays what a person does in the browser.
async fn act(
    block: &Block,
    shell: &Shell,
    provider: &Provider,
    origin: &str,
    browser: &mut Option<Browser>,
) {
    let (_, what) = block.marker.split_once(", ").unwrap();
    match what {
        "sign in and be refused" => {
            let folder = shell.clone_folder();
            let ca = fs::read_to_string(folder.join("first-gate/tls/ca.pem")).unwrap();
            let mut person = Browser::new(origin, pki::trusting(&ca));
            let answer = person.get("/").await;
            let form = person.follow(answer).await.expect(200);
            assert!(form.url.as_str().starts_with(&provider.issuer), "{form:?}");
            let answer = person.post(form.url.as_str(), "user=nell").await;
            let page = person.follow(answer).await.expect(403);
            let decision = page.header("x-wicketgate-decision").unwrap();
            assert!(page.text().contains(decision), "the page doesn't show its decision");
            // A person takes longer to type the next command than the record takes to be written.
            eventually("the record", async || {
                let log = fs::read_dir(folder.join("first-gate/audit")).unwrap();
                let mut files =
                    log.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok());
                files.any(|text| text.contains(decision)).then_some(())
            })
            .await;
            *browser = Some(person);
        }
        "reload the page" => {
            let person = browser.as_mut().unwrap();
            eventually("the new policy", async || {
                (person.get("/").await.status == 200).then_some(())
            })
            .await;
        }
        other => panic!("{}: nobody knows how to `{other}`", block.at),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_can_check_the_assertion_as_the_documents_say() {
    let upstream = Recorder::start().await;
    let gate = Gate::with_upstream(&upstream).start().await;
    gate.login("ada").await.get("/").await.expect(200);
    let requests = upstream.requests();
    let assertion = requests.last().unwrap().value("x-wicketgate-assertion").unwrap();
    let mut shell = Shell::new();
    for file in pages().iter().flat_map(|page| &page.blocks) {
        if let Some(name) = file.marker.strip_prefix("file: ") {
            fs::write(shell.clone_folder().join(name), &file.text).unwrap();
        }
    }
    let preset = Block {
        at: "the test".to_owned(),
        language: "sh".to_owned(),
        marker: String::new(),
        text: format!(
            "ASSERTION={assertion}\nGATE={}\nCA={}",
            gate.url(""),
            gate.folder().join("ca.pem").display()
        ),
        shows: None,
    };
    shell.run(&preset, "", "", "").await;
    assert_eq!(shell.variable("ASSERTION"), assertion);
    let blocks = session("an assertion");
    assert!(!blocks.is_empty(), "no document shows how to check an assertion");
    for block in blocks {
        let said = shell.run(&block, "", "", "").await;
        check_shown(&block, &said);
    }
}

/// Each recipe is a policy file and, right behind it, the table that it keeps.
#[test]
fn the_recipes_for_policies_keep_their_tables() {
    let page = Page::read(root(), "policies/README.md");
    let mut recipes = page.blocks.iter().filter(|block| block.marker == "recipe");
    let mut count = 0;
    while let (Some(policy), Some(table)) = (recipes.next(), recipes.next()) {
        assert_eq!((policy.language.as_str(), table.language.as_str()), ("cedar", "yaml"));
        let folder = tempfile::tempdir().unwrap();
        let schema = "wicketgate.cedarschema";
        fs::copy(root().join("policies").join(schema), folder.path().join(schema)).unwrap();
        fs::write(folder.path().join("recipe.cedar"), &policy.text).unwrap();
        fs::create_dir(folder.path().join("tests")).unwrap();
        fs::write(folder.path().join("tests/recipe.yaml"), &table.text).unwrap();
        for verdict in ["expect: permit", "expect: deny"] {
            assert!(table.text.contains(verdict), "{}: no case says `{verdict}`", table.at);
        }
        for command in ["check", "test"] {
            let output = Command::new(binary())
                .args(["policy", command, "--policies"])
                .arg(folder.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "policy {command}, {}:\n{said}", policy.at);
            assert!(said.is_empty(), "policy {command}, {}:\n{said}", policy.at);
        }
        count += 1;
    }
    assert!(count >= 5, "there are {count} recipes");
}

/// `wicketgate ...` in running text names a command and options that there are.
#[test]
fn commands_in_running_text_exist() {
    let mut seen = 0;
    for page in pages() {
        for span in page.text.split('`').skip(1).step_by(2) {
            let Some(command) = span.strip_prefix("wicketgate ") else { continue };
            if span.contains('\n') || span.contains('…') || span.contains("...") {
                continue;
            }
            let words: Vec<&str> = command.split_whitespace().collect();
            let is_name = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
            let names: Vec<&str> = words.iter().take_while(is_name).copied().collect();
            let output = Command::new(binary()).args(&names).arg("--help").output().unwrap();
            let help = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}: there is no `{span}`", page.name);
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{}: `{span}` has no {option}", page.name);
            }
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// The transcript is a real one: in order, and word for word but for numbers and ids.
#[test]
fn the_tour_in_the_readme_is_what_the_demo_prints() {
    let page = Page::read(root(), "README.md");
    let block = page.blocks.iter().find(|block| block.marker == "printed by the tour").unwrap();
    let output = Command::new(binary()).args(["demo", "--tour"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let mut said = said.lines().map(masked);
    for line in block.text.lines().filter(|line| !line.trim().is_empty() && line.trim() != "...") {
        let wanted = masked(line);
        assert!(said.any(|line| line == wanted), "the tour doesn't print, or not there: {line}");
    }
}

/// A line with `#` for every word that holds a digit: no two runs have the same ids and times.
fn masked(line: &str) -> String {
    let words = line
        .trim()
        .split(' ')
        .map(|word| if word.bytes().any(|byte| byte.is_ascii_digit()) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// A link within the repository leads somewhere.
#[test]
fn links_between_the_documents_lead_somewhere() {
    for page in pages() {
        let folder = root().join(&page.name).parent().unwrap().to_owned();
        for target in page.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || target.contains("://") {
                continue;
            }
            assert!(folder.join(file).exists(), "{}: `{target}` leads nowhere", page.name);
        }
    }
}
