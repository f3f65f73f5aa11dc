//! The kinds of servers beside a single one without TLS: TLS with a client's certificate and a user
//! of the access control list; Sentinel; Cluster. Those that take seconds are ignored by default:
//! `cargo test --lib store::redis -- --ignored`.

use std::fs;
use std::net::TcpListener;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;
use crate::config::model::{CertificateFiles, RedisTls};
use crate::config::secret::Secret;
use crate::store::Read;

/// What docs/operating.md says that a gate's user needs.
const COMMANDS: &[&str] = &[
    "~{wicketgate:*",
    "resetchannels",
    "-@all",
    "+get",
    "+set",
    "+del",
    "+exists",
    "+mget",
    "+zadd",
    "+zrem",
    "+zscore",
    "+zrangebylex",
    "+zrangebyscore",
    "+hget",
    "+hset",
    "+hincrby",
    "+hsetnx",
    "+xadd",
    "+xrange",
    "+xrevrange",
    "+xread",
    "+xtrim",
    "+eval",
    "+time",
    "+ping",
    "+hello",
    "+select",
    "+role",
    "+cluster|slots",
];

struct Servers {
    processes: Vec<Child>,
    folder: TempDir,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Servers {
    fn none() -> Self {
        Self { processes: Vec::new(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn start(&mut self, arguments: &[&str]) {
        let folder = self.path("");
        let common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &folder];
        self.processes.push(spawn(&[arguments, &common].concat()));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn client(arguments: &[&str]) -> String {
    let ask = |program: &str| Command::new(program).args(arguments).output();
    let output = ask("valkey-cli").or_else(|_| ask("redis-cli")).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tcp(port: u16) -> RedisNode {
    RedisNode::Tcp { host: "127.0.0.1".to_owned(), port }
}

fn config(servers: RedisServers) -> Redis {
    Redis {
        servers,
        tls: None,
        username: None,
        password: None,
        database: 0,
        key_prefix: "wicketgate".to_owned(),
        timeout: Duration::from_secs(5),
        lease: Duration::from_secs(1),
    }
}

/// One of everything that a gate does.
async fn everything_works(store: &RedisStore) {
    for space in Space::ALL {
        for key in [b"a".as_slice(), b"b", b"\xff"] {
            store.put(space, key, b"1", LATER).await.unwrap();
        }
        let entries = vec![entry(b"a", b"2", LATER), entry(b"z", b"2", LATER)];
        store.replace_all(space, entries).await.unwrap();
        assert_eq!(store.get(space, b"a").await, Ok(Some(b"2".to_vec())));
        let now = Timestamp::from_seconds(1);
        assert_eq!(store.put_if_absent(space, b"a", b"3", LATER, now).await, Ok(false));
        assert_eq!(store.remove(space, b"b").await, Ok(true));
        assert_eq!(store.scan(space, b"").await.unwrap().len(), 2);
        assert_eq!(store.purge(space, LATER).await, Ok(2));
    }
    let stream = store.shared().unwrap().stream;
    let position = stream.end().await.unwrap();
    stream.append(vec![b"event".to_vec()]).await.unwrap();
    stream.wait(&position, Duration::from_secs(10)).await;
    let Read::Events { events, .. } = stream.read(&position).await.unwrap() else {
        panic!("a gap");
    };
    assert_eq!(events, [b"event".to_vec()]);
    stream.trim(Duration::from_secs(1)).await.unwrap();
}

struct Certificates {
    authority: String,
    server: (String, String),
    gate: (String, String),
}

impl Certificates {
    fn write(servers: &Servers, host: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = servers.path("ca.pem");
        fs::write(&authority, issuer.pem()).unwrap();
        let issue = |name: &str, host: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let files =
                (servers.path(&format!("{name}.pem")), servers.path(&format!("{name}.key")));
            fs::write(&files.0, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
            fs::write(&files.1, key.serialize_pem()).unwrap();
            files
        };
        Self { authority, server: issue("server", host), gate: issue("gate", "gate.test") }
    }

    fn client(&self) -> RedisTls {
        RedisTls {
            ca: Some(self.authority.clone().into()),
            client_certificate: Some(CertificateFiles {
                certificate: self.gate.0.clone().into(),
                key: self.gate.1.clone().into(),
            }),
        }
    }
}

fn over_tls(host: &str) -> (Servers, Certificates, Redis) {
    let mut servers = Servers::none();
    let files = Certificates::write(&servers, host);
    let port = free_port();
    let user = ["--user", "gate", "on", ">hunter2"];
    let number = port.to_string();
    let tls = [
        "--port",
        "0",
        "--tls-port",
        &number,
        "--tls-cert-file",
        &files.server.0,
        "--tls-key-file",
        &files.server.1,
        "--tls-ca-cert-file",
        &files.authority,
        "--user",
        "default",
        "off",
    ];
    servers.start(&[&tls[..], &user, COMMANDS].concat());
    let config = Redis {
        tls: Some(files.client()),
        username: Some("gate".to_owned()),
        password: Some(Secret::new("hunter2")),
        ..config(RedisServers::Single(tcp(port)))
    };
    (servers, files, config)
}

#[tokio::test]
async fn tls_with_a_client_certificate_and_a_user_who_may_do_just_what_is_needed() {
    let (_servers, _files, config) = over_tls("127.0.0.1");
    everything_works(&RedisStore::open(&config).unwrap()).await;
}

#[tokio::test]
async fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let (_servers, files, config) = over_tls("another.test");
    let error = RedisStore::open(&config).unwrap().get(Space::Keys, b"a").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let (_servers, _files, config) = over_tls("127.0.0.1");
    let stranger =
        RedisTls { ca: Some(files.authority.clone().into()), ..config.tls.clone().unwrap() };
    let config = Redis { tls: Some(stranger), ..config };
    let error = RedisStore::open(&config).unwrap().get(Space::Keys, b"a").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_a_missing_file_or_right_is_an_error_that_says_so() {
    let (_servers, _files, config) = over_tls("127.0.0.1");
    let wrong = Redis { password: Some(Secret::new("hunter3")), ..config.clone() };
    let error = RedisStore::open(&wrong).unwrap().get(Space::Keys, b"a").await.unwrap_err();
    assert!(error.to_string().contains("can't be reached"), "{error}");
    assert!(!error.to_string().contains("hunter"), "{error}");
    let gone = RedisTls { ca: Some("/gone.pem".into()), ..config.tls.clone().unwrap() };
    let gone = Redis { tls: Some(gone), ..config.clone() };
    let error = RedisStore::open(&gone).unwrap().get(Space::Keys, b"a").await.unwrap_err();
    assert!(error.to_string().contains("`/gone.pem` can't be read"), "{error}");
    let other = Redis { key_prefix: "other".to_owned(), ..config };
    let error = RedisStore::open(&other).unwrap().get(Space::Keys, b"a").await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("perm"), "{error}");
}

#[tokio::test]
#[ignore = "takes seconds: a fail-over"]
async fn sentinels_name_the_master_and_the_next_one_after_a_fail_over() {
    let mut servers = Servers::none();
    let (first, second, sentinel) = (free_port(), free_port(), free_port());
    let [first_port, second_port, sentinel_port] =
        [first, second, sentinel].map(|port| port.to_string());
    servers.start(&["--port", &first_port]);
    servers.start(&["--port", &second_port, "--replicaof", "127.0.0.1", &first_port]);
    let file = servers.path("sentinel.conf");
    let text = format!(
        "port {sentinel}\nsentinel monitor gates 127.0.0.1 {first} 1\n\
         sentinel down-after-milliseconds gates 500\nsentinel failover-timeout gates 3000\n"
    );
    fs::write(&file, text).unwrap();
    let arguments = [file.as_str(), "--sentinel"];
    let sentinel_process =
        Command::new("redis-server").args(arguments).stdout(Stdio::null()).spawn().unwrap();
    servers.processes.push(sentinel_process);
    let config = config(RedisServers::Sentinel {
        master: "gates".to_owned(),
        // One that isn't there stands before the one that is.
        nodes: vec![tcp(free_port()), tcp(sentinel)],
        username: None,
        password: None,
    });
    let store = RedisStore::open(&config).unwrap();
    while store.get(Space::Keys, b"a").await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    everything_works(&store).await;
    store.put(Space::Keys, b"kept", b"1", LATER).await.unwrap();
    while client(&["-p", &second_port, "EXISTS", "{wicketgate:keys:6}:k:kept"]).trim() != "1"
        || !client(&["-p", &sentinel_port, "SENTINEL", "REPLICAS", "gates"]).contains(&second_port)
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let master = servers.processes.first_mut().unwrap();
    master.kill().unwrap();
    master.wait().unwrap();
    while store.put(Space::Keys, b"after", b"1", LATER).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.get(Space::Keys, b"kept").await, Ok(Some(b"1".to_vec())));
    assert_eq!(client(&["-p", &second_port, "EXISTS", "{wicketgate:keys:6}:k:after"]).trim(), "1");
}

#[tokio::test]
#[ignore = "takes seconds: the nodes have to find each other"]
async fn a_cluster_of_three_masters_holds_everything_and_goes_on_after_one_was_away() {
    let mut servers = Servers::none();
    let ports = [free_port(), free_port(), free_port()];
    for port in ports {
        let (number, file) = (port.to_string(), format!("nodes-{port}.conf"));
        let bus = free_port().to_string();
        servers.start(&[
            "--port",
            &number,
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--cluster-config-file",
            &file,
            "--cluster-node-timeout",
            "1000",
        ]);
    }
    let nodes = ports.map(|port| format!("127.0.0.1:{port}"));
    let [one, two, three] = &nodes;
    client(&["--cluster", "create", one, two, three, "--cluster-yes"]);
    let store = RedisStore::open(&config(RedisServers::Cluster(ports.map(tcp).to_vec()))).unwrap();
    while store.put(Space::Keys, b"a", b"1", LATER).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    everything_works(&store).await;
    for number in 0..=255_u8 {
        store.put(Space::Sessions, &[number], &[number], LATER).await.unwrap();
    }
    let found = store.scan(Space::Sessions, b"").await.unwrap();
    assert!(found.len() == 256 && found.is_sorted());
    let used = |port: u16| client(&["-p", &port.to_string(), "DBSIZE"]).trim() != "0";
    assert!(ports.into_iter().all(used), "the shards are spread over the nodes");

    let id = servers.processes.first().unwrap().id().to_string();
    let signal = |name: &str| {
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    };
    signal("STOP");
    assert!(store.scan(Space::Sessions, b"").await.is_err(), "a part is not the whole");
    signal("CONT");
    while store.scan(Space::Sessions, b"").await.ok().is_none_or(|found| found.len() != 256) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
