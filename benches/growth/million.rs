//! A store with as many sessions as one likes, without as many logins, and what they cost.
//!
//! `benches/growth/run` calls it with a folder and a number. It leaves `store.redb` there, which a
//! gate can be started with, and `cookies`, a value a line; on standard output it says in JSON
//! what it measured. The sessions are made by the code that a login calls; only their way into the
//! file is shorter: thousands in one transaction.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at what it does not expect")]
#![allow(clippy::print_stdout, reason = "whoever calls it reads its output")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use wicketgate::config::model;
use wicketgate::domain::clock::{Clock, Timestamp};
use wicketgate::domain::principal::{Authentication, Principal, PrincipalKind};
use wicketgate::identity::session::{Cached, NewSession, Sessions};
use wicketgate::metrics::Metrics;
use wicketgate::store::{EmbeddedStore, Entry, Space, Store, StoreError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sessions in one transaction.
const BATCH: usize = 20_000;
/// Look-ups that are timed.
const LOOKS: usize = 20_000;

/// Takes what is put, and knows nothing.
#[derive(Debug, Default)]
struct Collect(Mutex<Vec<Entry>>);

#[async_trait]
impl Store for Collect {
    async fn get(&self, _: Space, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    async fn put(
        &self,
        space: Space,
        key: &[u8],
        value: &[u8],
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        if space == Space::Sessions {
            self.0.lock().push(Entry { key: key.to_vec(), value: value.to_vec(), expires });
        }
        Ok(())
    }

    async fn put_if_absent(
        &self,
        _: Space,
        _: &[u8],
        _: &[u8],
        _: Timestamp,
        _: Timestamp,
    ) -> Result<bool, StoreError> {
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

fn login(number: usize) -> NewSession {
    NewSession {
        principal: Arc::new(Principal {
            kind: PrincipalKind::User,
            id: format!("test/2f1c9b1e-{number}").into(),
            email: Some(format!("user-{number}@example.com").into()),
            name: Some(format!("User {number}").into()),
            groups: ["customers", "plant-7", "readers"].into_iter().map(Arc::from).collect(),
            tenant: Some("acme".into()),
        }),
        authentication: Authentication::default(),
        provider: "test".into(),
        sid: None,
        id_token: None,
    }
}

fn config() -> model::Session {
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    model::Session {
        idle_timeout: hours(8),
        absolute_lifetime: hours(12),
        keep_forms: 0,
        sign_in_host: None,
    }
}

async fn fill(folder: &Path, count: usize) {
    let store = EmbeddedStore::open(&folder.join("store.redb")).unwrap();
    let collect = Arc::new(Collect::default());
    let (config, metrics) = (config(), Metrics::new());
    let sessions =
        Sessions::open(Arc::clone(&collect) as _, &config, Clock::System, metrics).await.unwrap();
    let mut cookies = String::with_capacity(count * 44);
    for number in 0..count {
        let (cookie, _) = sessions.create(login(number), None).await.unwrap();
        writeln!(cookies, "{}", cookie.expose()).unwrap();
        if (number + 1) % BATCH == 0 || number + 1 == count {
            let made = std::mem::take(&mut *collect.0.lock());
            store.put_all(Space::Sessions, made).await.unwrap();
        }
    }
    std::fs::write(folder.join("cookies"), cookies).unwrap();
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

async fn measure(folder: &Path) {
    let cookies = std::fs::read_to_string(folder.join("cookies")).unwrap();
    let cookies: Vec<&str> = cookies.lines().collect();
    let began = Instant::now();
    let store = Arc::new(EmbeddedStore::open(&folder.join("store.redb")).unwrap());
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
    let each = |total: Duration| total.as_secs_f64() * 1e6 / looked.len() as f64;
    println!(
        "{{\"sessions\": {}, \"open_ms\": {:.1}, \"from_store_us\": {:.2}, \"cached_us\": {:.3}, \
         \"bytes_in_memory\": {}, \"sweep_ms\": {:.2}, \"file_bytes\": {}}}",
        cookies.len(),
        open.as_secs_f64() * 1e3,
        each(from_store),
        each(cached),
        kept / looked.len() as u64,
        sweep.as_secs_f64() * 1e3,
        std::fs::metadata(folder.join("store.redb")).unwrap().len(),
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [folder, count] = words.as_slice() else {
        println!("million: run by benches/growth/run, with a folder and a number of sessions");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = Path::new(folder);
    runtime.block_on(async {
        fill(folder, count.parse().unwrap()).await;
        measure(folder).await;
    });
}
