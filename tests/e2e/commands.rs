//! What people type: each command of the binary, its output and its exit code.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::gate::mentions;
use crate::harness::pki::{Authority, write_secret};
use crate::harness::{Gate, Recorder, binary};

fn wicketgate(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().unwrap()
}

/// Both streams, as a person sees them.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn shipped(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string()
}

/// A configuration with its files, and nothing running.
struct Site {
    folder: tempfile::TempDir,
    config: Value,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let authority = Authority::new("Test CA");
        let (certificate, key) = authority.server(&["app.localhost"]).write(root, "first");
        write_secret(&root.join("client-secret"), "a-client-secret");
        let config = json!({
            "listeners": [{
                "name": "public",
                "address": "127.0.0.1:0",
                "tls": { "certificates": [{ "certificate": certificate, "key": key }] },
            }],
            "admin": { "address": "127.0.0.1:0" },
            "identity_providers": [{
                "name": "test",
                "issuer": "https://id.example.com",
                "client_id": "wicketgate",
                "client_secret": "file:client-secret",
            }],
            "policies": { "directory": shipped("policies") },
            "applications": [{ "name": "app", "zone": "enterprise" }],
            "routes": [{
                "name": "app",
                "host": "app.localhost",
                "application": "app",
                "upstreams": ["http://127.0.0.1:9"],
            }],
            "audit": { "directory": root.join("audit") },
            "store": { "path": root.join("store.redb") },
        });
        Self { folder, config }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, command: &str) -> Output {
        let file = self.path("wicketgate.yaml");
        fs::write(&file, serde_json::to_string_pretty(&self.config).unwrap()).unwrap();
        wicketgate(&[command, "--config", &file])
    }
}

#[test]
fn a_good_configuration_is_good_and_nothing_is_started_or_written() {
    let site = Site::new();
    let output = site.run("check");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("good (1 listener, 1 route, "), "{}", said(&output));
    for made in ["audit", "store.redb"] {
        assert!(!Path::new(&site.path(made)).exists(), "{made}");
    }
}

#[test]
fn every_mistake_in_the_file_is_told_at_once() {
    let mut site = Site::new();
    site.config["listeners"][0]["adress"] = json!("127.0.0.1:1");
    site.config["identity_providers"][0]["issuer"] = json!("ftp://id.example.com");
    site.config["identity_providers"][0]["client_secret"] = json!("in the clear");
    site.config["session"] = json!({ "idle_timeout": "soon" });
    site.config["routes"][0]["upstreams"] = json!(["http://"]);
    site.config["routes"][0]["application"] = json!("ap");
    site.config["audit"]["queue"] = json!(0);
    for command in ["check", "run"] {
        let output = site.run(command);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        for finding in [
            "listeners[0].adress",
            "did you mean `address`",
            "identity_providers[0].issuer",
            "identity_providers[0].client_secret",
            "session.idle_timeout",
            "routes[0].upstreams[0]",
            "routes[0].application",
            "audit.queue",
            "7 errors",
        ] {
            assert!(told.contains(finding), "`{finding}` is missing: {told}");
        }
        assert!(told.contains("wicketgate.yaml:"), "with the line: {told}");
    }
}

#[test]
fn what_is_wrong_in_the_files_that_it_names_is_told_at_once() {
    let mut site = Site::new();
    let other = Authority::new("Other CA").server(&["other.localhost"]);
    let (_, key) = other.write(site.folder.path(), "other");
    site.config["listeners"][0]["tls"]["certificates"][0]["key"] = json!(key);
    fs::create_dir(site.path("policies")).unwrap();
    fs::write(site.path("policies/a.cedar"), "permit (principal, action, resource) when { ")
        .unwrap();
    fs::write(site.path("devices.yaml"), "devices:\n  - id: laptop\n    certificat: x\n").unwrap();
    site.config["policies"] = json!({
        "directory": site.path("policies"),
        "schema": shipped("policies/wicketgate.cedarschema"),
    });
    site.config["devices"] = json!({ "registry": site.path("devices.yaml") });
    for command in ["check", "run"] {
        let output = site.run(command);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {told}");
        for finding in ["first.pem", "a.cedar:1", "devices.yaml:3", "did you mean `certificate`"] {
            assert!(told.contains(finding), "`{finding}` is missing: {told}");
        }
    }
}

#[test]
fn a_host_that_no_certificate_covers_is_found() {
    let mut site = Site::new();
    site.config["routes"][0]["host"] = json!("portal.example.com");
    let output = site.run("check");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("routes[0].host"), "{}", said(&output));
    assert!(said(&output).contains("app.localhost"), "what is covered: {}", said(&output));
}

#[test]
fn a_secret_that_everybody_may_read_is_refused_at_start() {
    use std::os::unix::fs::PermissionsExt;
    for name in ["client-secret", "first.key"] {
        let site = Site::new();
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o644)).unwrap();
        for command in ["check", "run"] {
            let output = site.run(command);
            let told = said(&output);
            assert_eq!(output.status.code(), Some(1), "{command} {name}: {told}");
            assert!(told.contains(name) && told.contains("chmod"), "{command} {name}: {told}");
            assert!(!told.contains("a-client-secret"), "{told}");
            assert!(!told.contains("PRIVATE KEY"), "{told}");
        }
    }
}

#[test]
fn a_file_that_is_no_configuration_is_a_finding_and_no_panic() {
    for text in ["", "\0", "[]", "listeners: [", "a: &a [*a, *a]", "- - - -", "routes: 7"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bad.yaml");
        fs::write(&file, text).unwrap();
        for command in ["check", "run"] {
            let output = wicketgate(&[command, "--config", file.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(1), "{command} {text:?}: {}", said(&output));
            assert!(said(&output).contains("bad.yaml"), "{command} {text:?}: {}", said(&output));
        }
    }
    for command in ["check", "run"] {
        let missing = wicketgate(&[command, "--config", "/nowhere/wicketgate.yaml"]);
        assert_eq!(missing.status.code(), Some(1));
        assert!(said(&missing).contains("/nowhere/wicketgate.yaml"), "{}", said(&missing));
    }
}

#[test]
fn wrong_usage_is_told_apart_from_findings() {
    for arguments in [&["chek"][..], &["check", "--nothing"], &["policy", "explain", "no-id"], &[]]
    {
        let output = wicketgate(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
    for arguments in [&["--version"][..], &["--help"], &["policy", "--help"]] {
        let output = wicketgate(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn the_shipped_policies_are_good_and_pass_their_tables() {
    let policies = shipped("policies");
    let output = wicketgate(&["policy", "check", "--policies", &policies]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("good ("), "{}", said(&output));
    let output = wicketgate(&["policy", "test", "--policies", &policies]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn a_policy_that_does_not_fit_the_schema_is_found_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::copy(shipped("policies/wicketgate.cedarschema"), root.join("wicketgate.cedarschema"))
        .unwrap();
    let text =
        "@id(\"typo\")\npermit (principal, action, resource)\nwhen { context.hots == \"a\" };\n";
    fs::write(root.join("bad.cedar"), text).unwrap();
    let output = wicketgate(&["policy", "check", "--policies", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = said(&output);
    assert!(told.contains("bad.cedar:3") && told.contains("hots"), "{told}");
}

#[test]
fn a_table_that_the_policies_do_not_keep_is_told_case_by_case() {
    let folder = tempfile::tempdir().unwrap();
    let table = "principals:\n  vera: { groups: [vendors] }\nresources:\n  \
                 ics: { application: ics-dashboard, zone: control }\ncases:\n  \
                 - name: vera may do everything\n    principal: vera\n    \
                 action: operate\n    resource: ics\n    expect: permit\n";
    fs::write(folder.path().join("wrong.yaml"), table).unwrap();
    let tests = folder.path().to_str().unwrap();
    let arguments = ["policy", "test", "--policies", &shipped("policies"), "--tests", tests];
    let output = wicketgate(&arguments);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for part in ["wrong.yaml:6", "vera may do everything", "vendor-access/never-operate"] {
        assert!(told.contains(part), "`{part}` is missing: {told}");
    }
}

const ONLY_OTTO: &str = r#"
@id("look")
permit (principal is Wicketgate::User, action in Wicketgate::Action::"view", resource);
@id("engineers")
permit (principal is Wicketgate::User, action, resource)
when { principal in Wicketgate::Group::"ot-engineers" };
"#;

#[tokio::test]
async fn a_denial_is_explained_by_its_id_in_text_and_json() {
    let gate = Gate::with_upstream(&Recorder::start().await).policy(ONLY_OTTO).start().await;
    let mut vera = gate.login("vera").await.as_program();
    let answer = vera.send(http::Method::POST, "/orders", &[], "a=b".into()).await.expect(403);
    let id = answer.header("x-wicketgate-decision").unwrap().to_owned();
    assert_eq!(answer.json()["decision"], id.as_str());
    gate.audited("the denial", |record| record["id"] == id.as_str()).await;

    let text = gate.command(&["policy", "explain", &id]);
    assert_eq!(text.status.code(), Some(0), "{}", said(&text));
    for part in [&id, "test/vera", "http:POST", "engineers", "ot-engineers"] {
        assert!(said(&text).contains(part), "`{part}` is missing: {}", said(&text));
    }
    let structured = gate.command(&["policy", "explain", &id, "--json"]);
    assert_eq!(structured.status.code(), Some(0), "{}", said(&structured));
    let explained: Value = serde_json::from_slice(&structured.stdout).unwrap();
    assert!(mentions(&explained, &[&id, "test/vera", "\"deny\"", "engineers"]), "{explained}");

    // With the policies of its time, not with those of today.
    gate.rewrite_policies("@id(\"all\") permit (principal, action, resource);");
    gate.audited("the new set", |record| record["event"] == "configuration-loaded").await;
    let again = gate.command(&["policy", "explain", &id, "--json"]);
    assert_eq!(again.stdout, structured.stdout);

    let unknown = gate.command(&["policy", "explain", "01JDXM3YHZ0000000000000000"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
}

#[tokio::test]
async fn a_refusal_before_the_policies_is_explained_too() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let answer = gate.browser().as_program().get("/orders").await.expect(401);
    let id = answer.header("x-wicketgate-decision").unwrap();
    gate.audited("the refusal", |record| record["id"] == id).await;
    let output = gate.command(&["policy", "explain", id]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("unauthenticated"), "{}", said(&output));
}

#[tokio::test]
async fn the_log_is_searched_by_who_what_how_and_when() {
    let gate = Gate::with_upstream(&Recorder::start().await).policy(ONLY_OTTO).start().await;
    let mut vera = gate.login("vera").await.as_program();
    let mut otto = gate.login("otto").await.as_program();
    vera.send(http::Method::POST, "/orders", &[], "a=b".into()).await.expect(403);
    otto.send(http::Method::POST, "/orders", &[], "a=b".into()).await.expect(200);
    gate.audited("the last", |record| mentions(record, &["permit", "test/otto", "POST"])).await;

    let query = |arguments: &[&str]| -> Vec<Value> {
        let output = gate.command(&[&["audit", "query"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = query(&[]);
    assert_eq!(all, gate.audit(), "all of them, oldest first");
    let denied = query(&["--verdict", "deny"]);
    assert_eq!(denied.len(), 1, "{denied:?}");
    assert!(mentions(&denied[0], &["test/vera", "http:POST"]), "{denied:?}");
    let of_otto = query(&["--principal", "test/otto"]);
    assert!(of_otto.iter().all(|record| mentions(record, &["test/otto"])), "{of_otto:?}");
    assert!(of_otto.len() >= 2, "the session and the request: {of_otto:?}");
    assert_eq!(query(&["--event", "session-started"]).len(), 2);
    assert_eq!(query(&["--route", "app", "--verdict", "deny"]), denied);
    assert!(query(&["--route", "another"]).is_empty());
    assert!(query(&["--since", "2999-01-01T00:00:00Z"]).is_empty());
    assert_eq!(query(&["--until", "2999-01-01T00:00:00Z"]), all);

    let folder = gate.folder().join("audit");
    let by_folder = wicketgate(&["audit", "verify", "--audit", folder.to_str().unwrap()]);
    assert_eq!(by_folder.status.code(), Some(0), "{}", said(&by_folder));
    assert!(said(&by_folder).contains(": good ("), "{}", said(&by_folder));
    let nowhere = wicketgate(&["audit", "verify", "--audit", "/nowhere"]);
    assert_eq!(nowhere.status.code(), Some(1), "{}", said(&nowhere));
}

#[cfg(feature = "demo")]
#[test]
fn the_demo_without_a_screen_plays_its_tour() {
    let output = wicketgate(&["demo", "--tour", "--port", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!output.stdout.contains(&0x1b), "plain when it is not a terminal");
}
