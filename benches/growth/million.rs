//! A store with as many sessions as one likes, without as many logins, and what they cost.
//!
//! `benches/growth/run` calls it with a folder and a number. It leaves `store.redb` there, which a
//! gate can be started with, and `cookies`, a value a line; on standard output it says in JSON
//! what it measured. The sessions are made by the code that a login calls; only their way into the
//! file is shorter: thousands in one transaction. With the address of a Valkey or Redis as a last
//! word they go there (`benches/shared/run`). A gate takes them from a provider that it knows: with
//! `by ISSUER CLIENT` after the number they are that one's.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at what it does not expect")]
#![allow(clippy::print_stdout, reason = "whoever calls it reads its output")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use wicketgate::config::model;
use wicketgate::domain::clock::{Clock, Timestamp};
use wicketgate::domain::event::EndReason;
use wicketgate::domain::principal::{Authentication, Principal, PrincipalKind};
use wicketgate::identity::session::{Cached, NewSession, Sessions};
use wicketgate::identity::vouched::VouchedBy;
use wicketgate::metrics::Metrics;
use wicketgate::store::{EmbeddedStore, Entry, RedisStore, Space, Store, StoreError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sessions in one transaction.
const BATCH: usize = 20_000;
/// Sessions of one user besides, which are ended together.
const OF_ONE: usize = 1000;
/// Look-ups that are timed.
const LOOKS: usize = 20_000;

/// Takes what is put, and knows nothing but the keys, which records are sealed with.
#[derive(Debug)]
struct Collect {
    store: Arc<dyn Store>,
    made: Mutex<Vec<(Space, Entry)>>,
}

#[async_trait]
impl Store for Collect {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if space == Space::Keys { self.store.get(space, key).await } else { Ok(None) }
    }

    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        if space == Space::Keys {
            return self.store.put(space, key, value, expires).await;
        }
        let entry = Entry { key: key.to_vec(), value: value.to_vec(), expires };
        self.made.lock().push((space, entry));
        Ok(())
    }

    async fn put_if_absent(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if space == Space::Keys {
            return self.store.put_if_absent(space, key, value, expires, now).await;
        }
        Ok(true)
    }

    async fn remove(&self, _: Space, _: &[u8]) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn scan(&self, _: Space, _: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        Ok(Vec::new())
    }

    async fn purge(&self, _: Space, _: Timestamp) -> Result<usize, StoreError> {
        Ok(0)
    }
}

/// Somebody with very many sessions.
const ONE: &str = "test/one";

fn login(user: Option<&str>, number: usize, vouched_by: VouchedBy) -> NewSession {
    let id = user.map_or_else(|| format!("test/2f1c9b1e-{number}"), str::to_owned);
    NewSession {
        principal: Arc::new(Principal {
            kind: PrincipalKind::User,
            id: id.into(),
            email: Some(format!("user-{number}@example.com").into()),
            name: Some(format!("User {number}").into()),
            groups: ["customers", "plant-7", "readers"].into_iter().map(Arc::from).collect(),
            tenant: Some("acme".into()),
        }),
        authentication: Authentication::default(),
        provider: "test".into(),
        vouched_by,
        sid: None,
        subject: None,
        id_token: None,
        access_token: None,
        refresh: None,
        host: None,
        begun: None,
    }
}

fn config() -> model::Session {
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    model::Session {
        idle_timeout: hours(8),
        absolute_lifetime: hours(12),
        max_per_user: usize::MAX,
        ..model::Session::default()
    }
}

/// The file in the folder, or what listens at this address.
fn open(folder: &Path, address: Option<&str>) -> Arc<dyn Store> {
    let Some(address) = address else {
        return Arc::new(EmbeddedStore::open(&folder.join("store.redb")).unwrap());
    };
    let (host, port) = address.rsplit_once(':').unwrap();
    let node = model::RedisNode::Tcp { host: host.to_owned(), port: port.parse().unwrap() };
    let config = model::Redis {
        servers: model::RedisServers::Single(node),
        tls: None,
        username: None,
        password: None,
        database: 0,
        key_prefix: "wicketgate".to_owned(),
        timeout: Duration::from_secs(10),
        lease: Duration::from_secs(60),
    };
    Arc::new(RedisStore::open(&config).unwrap())
}

async fn fill(folder: &Path, address: Option<&str>, count: usize, by: VouchedBy) {
    let store = open(folder, address);
    let made = Mutex::new(Vec::new());
    let collect = Arc::new(Collect { store: Arc::clone(&store), made });
    let (config, metrics) = (config(), Metrics::new());
    let sessions =
        Sessions::open(Arc::clone(&collect) as _, &config, Clock::System, metrics).await.unwrap();
    let mut cookies = String::with_capacity(count * 44);
    let all = count + OF_ONE;
    for number in 0..all {
        let user = (number >= count).then_some(ONE);
        let (cookie, _) = sessions.create(login(user, number, by), None).await.unwrap();
        if user.is_none() {
            writeln!(cookies, "{}", cookie.expose()).unwrap();
        }
        if (number + 1) % BATCH == 0 || number + 1 == all {
            let mut made = std::mem::take(&mut *collect.made.lock());
            for space in Space::ALL {
                let of = made.extract_if(.., |(of, _)| *of == space).map(|(_, entry)| entry);
                store.put_all(space, of.collect()).await.unwrap();
            }
        }
    }
    std::fs::write(folder.join("cookies"), cookies).unwrap();
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn measure(folder: &Path, address: Option<&str>) {
    let cookies = std::fs::read_to_string(folder.join("cookies")).unwrap();
    let cookies: Vec<&str> = cookies.lines().collect();
    let began = Instant::now();
    let store = open(folder, address);
    let open = began.elapsed();
    let clock = Clock::System;
    let (config, metrics) = (config(), Metrics::new());
    let sessions =
        Sessions::open(Arc::clone(&store) as _, &config, clock.clone(), metrics).await.unwrap();
    let before = resident();
    let step = (cookies.len() / LOOKS).max(1);
    let looked: Vec<&str> = cookies.iter().copied().step_by(step).take(LOOKS).collect();
    let began = Instant::now();
    for cookie in &looked {
        assert!(sessions.find(cookie, clock.now()).await.unwrap().is_some());
    }
    let from_store = began.elapsed();
    let began = Instant::now();
    for cookie in &looked {
        let found = sessions.find_cached(cookie, clock.now());
        assert!(matches!(found, Cached::Hit(_)));
    }
    let cached = began.elapsed();
    let kept = resident().saturating_sub(before);
    let began = Instant::now();
    sessions.sweep().await.unwrap();
    let sweep = began.elapsed();
    let began = Instant::now();
    let revoked = sessions.end_user(ONE, EndReason::Revoked).await.unwrap();
    let revoke = began.elapsed();
    let each = |total: Duration| total.as_secs_f64() * 1e6 / looked.len() as f64;
    println!(
        "{{\"sessions\": {}, \"open_ms\": {:.1}, \"from_store_us\": {:.2}, \"cached_us\": {:.3}, \
         \"bytes_in_memory\": {}, \"sweep_ms\": {:.2}, \"revoked\": {revoked}, \
         \"revoke_ms\": {:.1}, \"file_bytes\": {}}}",
        cookies.len(),
        open.as_secs_f64() * 1e3,
        each(from_store),
        each(cached),
        kept / looked.len() as u64,
        sweep.as_secs_f64() * 1e3,
        revoke.as_secs_f64() * 1e3,
        std::fs::metadata(folder.join("store.redb")).map_or(0, |file| file.len()),
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match words.as_slice() {
        // A process of its own, whose memory nothing else has grown.
        ["measure", folder, address @ ..] => {
            runtime.block_on(measure(Path::new(folder), address.first().copied()));
        }
        [folder, count, rest @ ..] => {
            let (by, address) = match rest {
                ["by", issuer, client, address @ ..] => (VouchedBy::new(issuer, client), address),
                address => (VouchedBy::default(), address),
            };
            let (address, count) = (address.first().copied(), count.parse().unwrap());
            runtime.block_on(fill(Path::new(folder), address, count, by));
            let mut measure = Command::new(std::env::current_exe().unwrap());
            measure.args(["measure", folder]).args(address);
            assert!(measure.status().unwrap().success());
        }
        _ => println!("million: run by benches/growth/run, with a folder and a number of sessions"),
    }
}
