mod kinds;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::config::model::{RedisNode, RedisServers};

/// A server of Debian's, of this test alone, on a socket in a folder of its own.
struct Server {
    process: Child,
    folder: TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { process: run(&folder.path().join("socket")), folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn config(&self) -> Redis {
        Redis {
            servers: RedisServers::Single(RedisNode::Unix(self.socket())),
            tls: None,
            username: None,
            password: None,
            database: 3,
            key_prefix: "test".to_owned(),
            timeout: Duration::from_secs(10),
            lease: Duration::from_secs(1),
        }
    }

    fn store(&self) -> RedisStore {
        RedisStore::open(&self.config()).unwrap()
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn again(&mut self) {
        self.process = run(&self.socket());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(socket: &Path) -> Child {
    let socket = socket.to_str().unwrap();
    spawn(&["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", socket])
}

/// Starts a server and waits until it says that it takes connections.
fn spawn(arguments: &[&str]) -> Child {
    let start =
        |program: &str| Command::new(program).args(arguments).stdout(Stdio::piped()).spawn();
    let mut process = start("valkey-server")
        .or_else(|_| start("redis-server"))
        .expect("valkey-server or redis-server is installed (./test does that)");
    let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(
        said.any(|line| line.unwrap().to_lowercase().contains("ready to accept connections")),
        "the server did not start"
    );
    // It may go on talking.
    std::thread::spawn(move || said.for_each(drop));
    process
}

fn fresh() -> (RedisStore, Server) {
    let server = Server::start();
    (server.store(), server)
}

crate::store::contract::suite!(fresh);

mod the_stream {
    use super::fresh;

    crate::store::contract::stream_suite!(fresh);
}

const LATER: Timestamp = Timestamp::from_seconds(9_999_999_999);

async fn run_command<T: redis::FromRedisValue>(store: &RedisStore, words: &[&str]) -> T {
    let mut command = redis::cmd(words.first().unwrap());
    for word in words.iter().skip(1) {
        command.arg(word);
    }
    store.inner.link.call(&command, Again::Never).await.unwrap()
}

#[tokio::test]
async fn nothing_is_left_behind_by_what_is_removed_or_purged() {
    let (store, _server) = fresh();
    for number in 0..=255_u8 {
        store.put(Space::Sessions, &[number, 1], b"", Timestamp::from_seconds(5)).await.unwrap();
    }
    for number in 0..100_u8 {
        assert_eq!(store.remove(Space::Sessions, &[number, 1]).await, Ok(true));
    }
    assert_eq!(store.purge(Space::Sessions, Timestamp::from_seconds(5)).await, Ok(156));
    assert_eq!(run_command::<usize>(&store, &["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn more_than_one_page_is_scanned_and_purged_whole() {
    let (store, _server) = fresh();
    let key = |number: u32| [&[7][..], &number.to_be_bytes()].concat();
    let entry = |number| Entry {
        key: key(number),
        value: number.to_be_bytes().to_vec(),
        expires: Timestamp::from_seconds(1),
    };
    for count in [AT_ONCE as u32, 2 * AT_ONCE as u32 + 1] {
        store.put_all(Space::Logins, (0..count).map(entry).collect()).await.unwrap();
        let found = store.scan(Space::Logins, &[7]).await.unwrap();
        let wanted = (0..count).map(|number| (key(number), number.to_be_bytes().to_vec()));
        assert_eq!(found, wanted.collect::<Vec<_>>());
        let purged = store.purge(Space::Logins, Timestamp::from_seconds(1)).await;
        assert_eq!(purged, Ok(count as usize));
    }
}

#[tokio::test]
async fn gates_with_other_prefixes_do_not_meet() {
    let (store, server) = fresh();
    let other = Redis { key_prefix: "other".to_owned(), ..server.config() };
    let other = RedisStore::open(&other).unwrap();
    store.put(Space::Keys, b"key", b"value", LATER).await.unwrap();
    assert_eq!(other.get(Space::Keys, b"key").await, Ok(None));
    assert_eq!(other.scan(Space::Keys, b"").await, Ok(vec![]));
}

#[tokio::test]
async fn a_value_of_the_wrong_kind_is_an_error_and_never_absence() {
    let (store, _server) = fresh();
    let key = "{test:sessions:6}:k:key";
    run_command::<usize>(&store, &["LPUSH", key, "a"]).await;
    assert!(store.get(Space::Sessions, b"key").await.is_err());
    run_command::<usize>(&store, &["SADD", "{test:keys:6}:i", "a"]).await;
    assert!(store.scan(Space::Keys, b"").await.is_err());
    assert!(store.put(Space::Keys, b"key", b"", LATER).await.is_err());
}

#[tokio::test]
async fn a_key_whose_expiry_was_lost_is_not_given_away() {
    let (store, _server) = fresh();
    store.put(Space::Logins, b"key", b"1", Timestamp::from_seconds(1)).await.unwrap();
    run_command::<usize>(&store, &["DEL", "{test:logins:6}:x"]).await;
    let now = Timestamp::from_seconds(99);
    assert_eq!(store.put_if_absent(Space::Logins, b"key", b"2", LATER, now).await, Ok(false));
}

/// With a restart in between, the first call meets a connection that is gone.
#[tokio::test]
async fn after_a_restart_of_the_server_it_goes_on() {
    let (store, mut server) = fresh();
    store.put(Space::Keys, b"key", b"1", LATER).await.unwrap();
    server.stop();
    server.again();
    assert_eq!(store.get(Space::Keys, b"key").await, Ok(None), "the server keeps nothing here");
    store.put(Space::Keys, b"key", b"2", LATER).await.unwrap();
    assert_eq!(store.get(Space::Keys, b"key").await, Ok(Some(b"2".to_vec())));
}

#[tokio::test]
async fn while_the_server_is_gone_every_call_fails_and_none_waits_for_long() {
    let (store, mut server) = fresh();
    store.put(Space::Keys, b"key", b"1", LATER).await.unwrap();
    server.stop();
    let error = store.get(Space::Keys, b"key").await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed(_)), "{error}");
    assert!(store.put(Space::Keys, b"key", b"2", LATER).await.is_err());
    assert!(store.remove(Space::Keys, b"key").await.is_err());
    assert!(store.scan(Space::Keys, b"").await.is_err());
    assert!(store.purge(Space::Keys, LATER).await.is_err());
    let stream = store.shared().unwrap().stream;
    assert!(stream.append(vec![vec![]]).await.is_err());
    assert!(stream.end().await.is_err());
    server.again();
    while store.get(Space::Keys, b"key").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_stands_still_is_an_error_within_the_timeout_and_is_back_when_it_goes_on() {
    let server = Server::start();
    let config = Redis { timeout: Duration::from_millis(100), ..server.config() };
    let store = RedisStore::open(&config).unwrap();
    store.put(Space::Keys, b"key", b"1", LATER).await.unwrap();
    server.signal("STOP");
    assert!(store.get(Space::Keys, b"key").await.is_err());
    assert!(store.put(Space::Keys, b"key", b"2", LATER).await.is_err());
    server.signal("CONT");
    while store.get(Space::Keys, b"key").await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// What a gate could not hear must not look like silence.
#[tokio::test]
async fn a_server_that_takes_no_writes_does_not_count_as_one_that_was_read() {
    let (store, _server) = fresh();
    let stream = store.shared().unwrap().stream;
    let position = stream.end().await.unwrap();
    run_command::<()>(&store, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    assert!(stream.read(&position).await.is_err());
    assert!(stream.append(vec![b"a".to_vec()]).await.is_err());
    run_command::<()>(&store, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    assert!(stream.read(&position).await.is_ok());
}

#[tokio::test]
async fn a_server_that_was_emptied_is_a_gap() {
    let (store, _server) = fresh();
    let stream = store.shared().unwrap().stream;
    let nothing_yet = stream.end().await.unwrap();
    run_command::<()>(&store, &["FLUSHALL"]).await;
    assert_eq!(stream.read(&nothing_yet).await, Ok(crate::store::Read::Gap));
    stream.append(vec![b"a".to_vec()]).await.unwrap();
    let position = stream.end().await.unwrap();
    run_command::<()>(&store, &["FLUSHALL"]).await;
    assert_eq!(stream.read(&position).await, Ok(crate::store::Read::Gap));
    stream.append(vec![b"b".to_vec()]).await.unwrap();
    assert_eq!(stream.read(&position).await, Ok(crate::store::Read::Gap));
}

#[test]
fn debugging_shows_no_password() {
    let server = Server::start();
    let password = Some(crate::config::secret::Secret::new("hunter2"));
    let config = Redis { password, ..server.config() };
    let store = RedisStore::open(&config).unwrap();
    assert!(!format!("{config:?} {store:?}").contains("hunter2"));
}
