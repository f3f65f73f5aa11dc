mod examples;
mod findings;
mod robust;
mod shared;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

const FULL: &str = include_str!("full.yaml");
const MINIMAL: &str = "\
listeners:
  - name: public
    address: 0.0.0.0:8443
    tls: {certificates: [{certificate: file, key: private}]}
identity_providers:
  - {name: main, issuer: 'https://id.example.com', client_id: gate}
policies: {directory: folder, schema: file}
applications:
  - name: portal
routes:
  - name: portal
    host: portal.example.com
    application: portal
    upstreams: [http://10.0.0.5:8080]
audit: {directory: audit}
store: {path: store.redb}
";

/// A folder with `wicketgate.yaml` and a few files that it can name.
struct Site(tempfile::TempDir);

impl Site {
    fn with(yaml: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("wicketgate.yaml", yaml, 0o644);
        site.write("file", "x", 0o644);
        site.write("private", "hunter2\n", 0o600);
        site.write("session-key", &format!("{}\n{}\n", "a".repeat(44), "b".repeat(44)), 0o600);
        fs::create_dir(site.0.path().join("folder")).unwrap();
        site
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("wicketgate.yaml")
    }

    fn load(&self) -> Result<(Config, Vec<Finding>), Vec<Finding>> {
        load(&self.file())
    }

    /// Findings as printed, with paths below the site's folder made relative.
    fn said(&self) -> Vec<String> {
        let findings = match self.load() {
            Ok((_, warnings)) => warnings,
            Err(findings) => findings,
        };
        let folder = format!("{}/", self.0.path().display());
        findings.iter().map(|finding| finding.to_string().replace(&folder, "")).collect()
    }
}

fn good(yaml: &str) -> Config {
    let site = Site::with(yaml);
    match site.load() {
        Ok((config, warnings)) => {
            assert_eq!(warnings, [], "no warnings");
            config
        }
        Err(_) => panic!("{}", site.said().join("\n")),
    }
}
