//! The certified `oidc-provider` in a node process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::process::Process;

pub const SECRET: &str = "a-client-secret-of-the-test-world";

pub struct Provider {
    pub issuer: String,
    pub process: Process,
}

impl Provider {
    pub async fn start(origins: &[String]) -> Self {
        Self::start_with(json!({ "origins": origins, "secret": SECRET })).await
    }

    /// With settings of its own; see `provider.mjs`.
    pub async fn start_with(settings: Value) -> Self {
        let folder = node_folder();
        // What signed the gate's certificate, where the provider is to call the gate.
        let ca = settings["ca"].as_str().map(str::to_owned);
        let settings = settings.to_string();
        let mut command = Command::new("node");
        command.arg(folder.join("provider.mjs")).arg(settings).env("NODE_ENV", "production");
        if let Some(ca) = ca {
            command.env("NODE_EXTRA_CA_CERTS", ca);
        }
        let mut process = Process::spawn("the OpenID provider", &mut command);
        let issuer = process
            .line("the issuer", |line| {
                let parsed: Value = serde_json::from_str(line).ok()?;
                Some(parsed.get("issuer")?.as_str()?.to_owned())
            })
            .await;
        Self { issuer, process }
    }
}

fn node_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    let modules = folder.join("node_modules/oidc-provider");
    assert!(modules.exists(), "{} is missing: run ./test once", modules.display());
    folder
}
