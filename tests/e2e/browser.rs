//! What a real browser does: Chromium, and the certified provider.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{Gate, Recorder};

const PAGE: &str = "<!doctype html><title>Orders</title><h1>Orders</h1>\
    <form method=post action=/orders?x=1><input name=item><input name=password type=password>\
    <button>Order</button></form>";

const POLICY: &str = r#"
    permit(principal, action, resource) unless { context.path == "/secure" };
    permit(principal, action, resource) when { context has acr && context.acr == "mfa" };
"#;

/// Plays a script of `tests/browser` with Chromium; its pictures go to a folder of that name. What it
/// said.
async fn played(gate: &Gate, script: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join(script);
    let script = root.join("tests/browser").join(script).with_extension("mjs");
    let (url, issuer) = (gate.url(""), gate.provider.issuer.clone());
    let output = tokio::task::spawn_blocking(move || {
        Command::new("node").arg(script).args([&url, &issuer]).arg(pictures).output().unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said.into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_forms_scripts_and_step_up_work_in_chromium() {
    let length = PAGE.len();
    let upstream = Recorder::answering(&format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{PAGE}"
    ))
    .await;
    let gate = Gate::with_upstream(&upstream)
        .policy(POLICY)
        .configure(|config| {
            config["identity_providers"][0]["step_up"] = json!([{ "acr": "mfa" }]);
        })
        .start()
        .await;
    let said = played(&gate, "requests").await;
    let posts: Vec<_> =
        upstream.requests().into_iter().filter(|one| one.line().starts_with("POST")).collect();
    let [sent] = posts.as_slice() else { panic!("sent {} times: {said}", posts.len()) };
    assert_eq!(sent.line(), "POST /orders?x=1 HTTP/1.1");
    assert_eq!(sent.body, b"item=N-3001&password=hunter2");
    assert_eq!(sent.value("origin"), Some(gate.url("").as_str()));
    assert_eq!(sent.value("referer"), Some(gate.url("/form").as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_out_in_chromium_is_offered_to_do_so_everywhere() {
    let gate = Gate::with_upstream(&Recorder::start().await).start().await;
    let elsewhere = gate.login("vera").await;
    let other = gate.login("otto").await;
    played(&gate, "sign_out").await;
    elsewhere.as_program().get("/").await.expect(401);
    other.as_program().get("/").await.expect(200);
}
