//! A running gate with its provider, certificates and files.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::binary::binary;
use super::client::{Answer, Browser};
use super::folder;
use super::pki::{Authority, Identity, client_config, write_secret};
use super::port::{self, Port};
use super::process::Process;
use super::provider::{self, Provider};
use super::raw::Raw;
use super::recorder::Recorder;
use super::wait::eventually;

/// The host of a route that names none.
pub const HOST: &str = "app.localhost";
/// A host with a certificate of its own.
pub const SECOND_HOST: &str = "second.localhost";

const EVERYBODY: &str = r#"
@id("signed-in")
permit (principal is Wicketgate::User, action, resource);
"#;

/// A route of the test's own host; more keys are merged in with [`Setup::configure`].
pub fn route(name: &str, path: &str, upstream: &str) -> Value {
    json!({
        "name": name,
        "host": HOST,
        "path": path,
        "application": "app",
        "upstreams": [upstream],
    })
}

type Registry = Box<dyn FnOnce(&Authority, &Path) -> String>;
type Edit = Box<dyn FnOnce(&mut Value)>;

/// What a gate is started with.
pub struct Setup {
    routes: Vec<Value>,
    policies: BTreeMap<String, String>,
    devices: Option<Registry>,
    configure: Vec<Edit>,
    launch: Launch,
    port: Option<Port>,
    guests: Vec<u16>,
    issuer: Option<String>,
    others: Vec<(&'static str, Value, Value)>,
    refresh: bool,
}

/// How the binary is started.
#[derive(Clone, Default)]
pub struct Launch {
    /// In place of the binary, in the gate's folder.
    pub program: Option<String>,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// A Python program that prepares the process and then executes `sys.argv[1:]`.
    pub parent: Option<String>,
    /// File descriptors that it may have.
    pub descriptors: Option<u64>,
}

impl Setup {
    /// Has no more file descriptors than this, from the start.
    #[must_use]
    pub fn descriptors(mut self, most: u64) -> Self {
        self.launch.descriptors = Some(most);
        self
    }

    #[must_use]
    pub fn route(mut self, route: Value) -> Self {
        self.routes.push(route);
        self
    }

    /// In place of the policy that lets everybody do everything.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Self {
        self.policies.insert("world.cedar".to_owned(), text.to_owned());
        self
    }

    /// A registry of devices: `write` gets the device CA and the gate's folder.
    #[must_use]
    pub fn devices(mut self, write: impl FnOnce(&Authority, &Path) -> String + 'static) -> Self {
        self.devices = Some(Box::new(write));
        self
    }

    /// Signs in with another real provider, too, of this name.
    #[must_use]
    pub fn provider(self, name: &'static str) -> Self {
        self.provider_with(name, json!({}), json!({}))
    }

    /// The same, where `client` is what it has registered of the gate, and `entry` what the gate's
    /// configuration has of it, instead of or besides what is usual. `null` leaves a key out.
    #[must_use]
    pub fn provider_with(mut self, name: &'static str, client: Value, entry: Value) -> Self {
        self.others.push((name, client, entry));
        self
    }

    /// The provider gives refresh tokens, and users are asked about again as often as this says.
    #[must_use]
    pub fn refresh(mut self, interval: &'static str, max_age: &'static str) -> Self {
        self.refresh = true;
        self.configure(move |config| {
            config["identity_providers"][0]["refresh"] =
                json!({ "interval": interval, "max_age": max_age });
        })
    }

    /// Edits the configuration before it is written.
    #[must_use]
    pub fn configure(mut self, edit: impl FnOnce(&mut Value) + 'static) -> Self {
        self.configure.push(Box::new(edit));
        self
    }

    /// On a port that the test has reserved itself.
    #[must_use]
    pub fn at(mut self, port: Port) -> Self {
        self.port = Some(port);
        self
    }

    /// The provider signs in for the gate at this port, too.
    #[must_use]
    pub fn provides_for(mut self, port: &Port) -> Self {
        self.guests.push(port.number());
        self
    }

    /// Users are those of another gate's provider, as they are at gates that share a store.
    #[must_use]
    pub fn signs_in_with(mut self, provider: &Provider) -> Self {
        self.issuer = Some(provider.issuer.clone());
        self
    }

    /// Changes how the binary is started.
    #[must_use]
    pub fn launch(mut self, change: impl FnOnce(&mut Launch)) -> Self {
        change(&mut self.launch);
        self
    }

    pub async fn start(self) -> Gate {
        let folder = folder::temporary();
        let root = folder.path();
        let public = self.port.unwrap_or_else(Port::reserve);
        let authority = Authority::new("Test CA");
        let device_authority = Authority::new("Test device CA");
        let (first, first_key) = authority.server(&[HOST, "other.localhost"]).write(root, "first");
        let (second, second_key) = authority.server(&[SECOND_HOST]).write(root, "second");
        fs::write(root.join("ca.pem"), &authority.pem).unwrap();
        fs::write(root.join("devices-ca.pem"), &device_authority.pem).unwrap();
        write_secret(&root.join("client-secret"), provider::SECRET);
        fs::create_dir(root.join("policies")).unwrap();
        for (name, text) in &self.policies {
            fs::write(root.join("policies").join(name), text).unwrap();
        }

        let hosts = [HOST, SECOND_HOST, "other.localhost"];
        let ports = std::iter::once(public.number()).chain(self.guests);
        let origins: Vec<String> =
            ports.flat_map(|port| hosts.map(|host| format!("https://{host}:{port}"))).collect();
        let mut provider = Provider::start_with(json!({
            "origins": origins, "secret": provider::SECRET, "ca": root.join("ca.pem"),
            "refresh": self.refresh,
        }))
        .await;
        provider.issuer = self.issuer.unwrap_or(provider.issuer);
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/wicketgate.cedarschema");
        let mut config = json!({
            "listeners": [{
                "name": "public",
                "address": public.address().to_string(),
                "tls": {
                    "certificates": [
                        { "certificate": first, "key": first_key },
                        { "certificate": second, "key": second_key },
                    ],
                },
            }],
            "admin": { "address": port::free().to_string() },
            "identity_providers": [{
                "name": "test",
                "issuer": provider.issuer,
                "client_id": "wicketgate",
                "client_secret": "file:client-secret",
            }],
            "policies": { "directory": root.join("policies"), "schema": schema },
            "applications": [{ "name": "app", "zone": "enterprise" }],
            "routes": self.routes,
            "audit": { "directory": root.join("audit") },
            "store": { "path": root.join("store.redb") },
        });
        let mut others = BTreeMap::new();
        for (name, client, changes) in self.others {
            // A host of its own: cookies know no ports.
            let host = format!("{name}-id.localhost");
            let secret = provider::SECRET;
            let settings =
                json!({ "origins": origins, "secret": secret, "host": host, "client": client });
            let other = Provider::start_with(settings).await;
            let mut entry = json!({
                "name": name,
                "issuer": other.issuer,
                "client_id": "wicketgate",
                "client_secret": "file:client-secret",
            });
            let known = entry.as_object_mut().unwrap();
            known.extend(changes.as_object().unwrap().clone());
            known.retain(|_, value| !value.is_null());
            config["identity_providers"].as_array_mut().unwrap().push(entry);
            others.insert(name, other);
        }
        if let Some(write) = self.devices {
            let text = write(&device_authority, root);
            fs::write(root.join("devices.yaml"), text).unwrap();
            config["devices"] = json!({ "registry": root.join("devices.yaml") });
            config["listeners"][0]["tls"]["client_ca"] = json!(root.join("devices-ca.pem"));
        }
        for edit in self.configure {
            edit(&mut config);
        }
        let file = root.join("wicketgate.yaml");
        write_config(&file, &config);
        let launch = self.launch;
        if let Some(program) = &launch.program {
            std::os::unix::fs::symlink(binary(), root.join(program)).unwrap();
        }
        let process = spawn(&file, &launch);
        let mut gate = Gate {
            process,
            provider,
            others,
            authority,
            device_authority,
            public,
            config,
            launch,
            folder,
        };
        gate.ready().await;
        gate
    }
}

pub struct Gate {
    // Dropped in this order: the gate before what it depends on, the folder last.
    pub process: Process,
    pub provider: Provider,
    /// The other ones, by name.
    pub others: BTreeMap<&'static str, Provider>,
    pub authority: Authority,
    pub device_authority: Authority,
    public: Port,
    config: Value,
    launch: Launch,
    folder: TempDir,
}

impl Gate {
    pub fn setup() -> Setup {
        Setup {
            routes: Vec::new(),
            policies: [("world.cedar".to_owned(), EVERYBODY.to_owned())].into(),
            devices: None,
            configure: Vec::new(),
            launch: Launch::default(),
            port: None,
            guests: Vec::new(),
            issuer: None,
            others: Vec::new(),
            refresh: false,
        }
    }

    /// One route for everything, to this upstream.
    pub fn with_upstream(upstream: &Recorder) -> Setup {
        Self::setup().route(route("app", "/", &upstream.url()))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder().join("wicketgate.yaml")
    }

    pub fn port(&self) -> u16 {
        self.public.number()
    }

    pub fn address(&self) -> SocketAddr {
        self.public.address()
    }

    /// `https://app.localhost:PORT` and this path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.port())
    }

    /// Nobody yet, over HTTP/1.1.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.url("/"), client_config(&self.authority, None, &["http/1.1"]))
    }

    pub fn client_tls(&self) -> std::sync::Arc<rustls::ClientConfig> {
        client_config(&self.authority, None, &["http/1.1"])
    }

    /// Nobody yet, over HTTP/2.
    pub fn browser_h2(&self) -> Browser {
        Browser::new(&self.url("/"), client_config(&self.authority, None, &["h2"]))
    }

    /// Nobody yet, on a device.
    pub fn browser_on(&self, device: &Identity) -> Browser {
        let tls = client_config(&self.authority, Some(device), &["http/1.1"]);
        Browser::new(&self.url("/"), tls)
    }

    /// The same over HTTP/2.
    pub fn browser_h2_on(&self, device: &Identity) -> Browser {
        let tls = client_config(&self.authority, Some(device), &["h2"]);
        Browser::new(&self.url("/"), tls)
    }

    /// Signed in through the provider, as a person would be.
    pub async fn login(&self, user: &str) -> Browser {
        self.login_at(user, "/").await
    }

    /// The same, for somebody who may not see `/`.
    pub async fn login_at(&self, user: &str, page: &str) -> Browser {
        let mut browser = self.browser();
        self.sign_in(&mut browser, user, page).await;
        assert!(browser.session_cookie().is_some(), "no session after signing in as {user}");
        browser
    }

    /// Plays the whole login and returns the last answer.
    pub async fn sign_in(&self, browser: &mut Browser, user: &str, return_to: &str) -> Answer {
        let callback = self.until_callback(browser, user, return_to).await;
        let answer = browser.get(&callback).await;
        browser.follow(answer).await
    }

    /// Plays the login up to the address that the provider sends the browser back to.
    pub async fn until_callback(
        &self,
        browser: &mut Browser,
        user: &str,
        return_to: &str,
    ) -> String {
        self.until_callback_at(browser, "test", user, return_to).await
    }

    /// The same with the provider of this name.
    pub async fn until_callback_at(
        &self,
        browser: &mut Browser,
        provider: &str,
        user: &str,
        return_to: &str,
    ) -> String {
        let start = format!("/.wicketgate/login?start&provider={provider}&return_to={return_to}");
        let answer = browser.get(&start).await;
        let form = browser.follow(answer).await.expect(200);
        let issuer = &self.others.get(provider).unwrap_or(&self.provider).issuer;
        assert!(form.url.as_str().starts_with(issuer), "not the provider: {form:?}");
        let mut answer = browser.post(form.url.as_str(), &format!("user={user}")).await;
        for _ in 0..8 {
            let next = answer.location();
            if next.path() == "/.wicketgate/callback" {
                return next.into();
            }
            answer = browser.get(next.as_str()).await;
        }
        panic!("the provider never sent the browser back: {answer:?}");
    }

    /// A raw connection to the public listener.
    pub async fn raw(&self) -> Raw {
        Raw::connect(&self.browser()).await
    }

    /// GET on the admin listener: status and body. None while it doesn't listen.
    pub async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let address: SocketAddr = self.config["admin"]["address"].as_str()?.parse().ok()?;
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.get(9..12)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// The sum of all series of a metric whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, page) = self.admin("/metrics").await.expect("metrics");
        page.lines()
            .filter(|line| line.starts_with(name) && line.contains(labels))
            .filter(|line| line[name.len()..].starts_with(['{', ' ']))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    async fn ready(&mut self) {
        eventually("the gate to be ready", async || {
            let exited = self.process.exited();
            let said = self.process.output().join("\n");
            assert!(exited.is_none(), "the gate ended early ({exited:?}):\n{said}");
            self.admin("/readyz").await.filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// Starts it again after it was killed: same address, same files.
    pub async fn restart(&mut self) {
        self.process = spawn(&self.config_file(), &self.launch);
        self.ready().await;
    }

    /// Rewrites the configuration; the gate is left to notice by itself.
    pub fn rewrite(&mut self, edit: impl FnOnce(&mut Value)) {
        edit(&mut self.config);
        write_config(&self.config_file(), &self.config);
    }

    /// Replaces the policies; the gate is left to notice by itself.
    pub fn rewrite_policies(&self, text: &str) {
        let file = self.folder().join("policies/world.cedar");
        let fresh = self.folder().join("world.cedar.new");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, &file).unwrap();
    }

    /// The files of the audit log, oldest first.
    pub fn audit_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.folder().join("audit"))
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        files.retain(|file| file.extension().is_some_and(|end| end == "jsonl"));
        files.sort();
        files
    }

    /// Every record of the audit log, oldest first. A line torn by a crash is left out.
    pub fn audit(&self) -> Vec<Value> {
        let files = self.audit_files();
        let texts = files.iter().filter_map(|file| fs::read(file).ok());
        let text: Vec<u8> = texts.flatten().collect();
        text.split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    /// Waits for a record.
    pub async fn audited(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("an audit record of {what}"), async || {
            self.audit().into_iter().find(|record| fits(record))
        })
        .await
    }

    /// Runs the binary with these arguments and the gate's configuration.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(self.config_file());
        command.output().unwrap()
    }

    /// Starts a gate that is expected to end by itself.
    pub fn run_to_the_end(&self, launch: impl FnOnce(&mut Launch)) -> Output {
        let mut changed = self.launch.clone();
        launch(&mut changed);
        command(&self.config_file(), &changed).output().unwrap()
    }

    /// Asserts that `wicketgate audit verify` finds nothing.
    #[track_caller]
    pub fn assert_audit_verifies(&self) {
        let output = self.command(&["audit", "verify"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the audit log doesn't verify: {said}");
    }
}

/// The text of a record, wherever in it the words stand.
pub fn mentions(record: &Value, words: &[&str]) -> bool {
    let text = record.to_string();
    words.iter().all(|word| text.contains(word))
}

fn spawn(config: &Path, launch: &Launch) -> Process {
    Process::spawn_with_children("the gate", &mut command(config, launch))
}

fn command(config: &Path, launch: &Launch) -> Command {
    let folder = config.parent().unwrap();
    let program = match &launch.program {
        Some(program) => folder.join(program),
        None => binary(),
    };
    // Without SIGXFSZ a file that may not grow is an error for the gate, as a full disk is.
    let limit = launch.descriptors.map_or_else(String::new, |most| format!("ulimit -n {most}; "));
    let run = format!("{limit}trap '' XFSZ; exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &run, "sh"]);
    if let Some(parent) = &launch.parent {
        command.args(["python3", "-c", parent]);
    }
    command.arg(program).arg("run").arg("--config").arg(config);
    command.args(&launch.arguments).envs(launch.environment.iter().cloned());
    command
}

/// JSON is YAML. Written beside and renamed, so that the gate never reads half of it.
fn write_config(file: &Path, config: &Value) {
    let fresh = file.with_extension("new");
    fs::write(&fresh, serde_json::to_string_pretty(config).unwrap()).unwrap();
    fs::rename(&fresh, file).unwrap();
}
