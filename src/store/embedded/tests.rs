use super::*;

fn fresh() -> (EmbeddedStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (EmbeddedStore::open(&folder.path().join("store")).unwrap(), folder)
}

crate::store::contract::suite!(fresh);

#[tokio::test]
async fn what_was_put_is_there_after_reopening() {
    let (store, folder) = fresh();
    store.put(Space::Keys, b"k", b"v", Timestamp::from_seconds(9)).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(&folder.path().join("store")).unwrap();
    assert_eq!(store.get(Space::Keys, b"k").await, Ok(Some(b"v".to_vec())));
}

/// Has these wait for a commit, and then commits them together.
async fn together<T: Send + 'static>(
    store: &EmbeddedStore,
    writes: Vec<impl Future<Output = Result<T, StoreError>> + Send + 'static>,
) -> Vec<Result<T, StoreError>> {
    let count = writes.len();
    let tasks: Vec<_> = {
        let (held, waiting) = store.file.changes.held();
        let tasks = writes.into_iter().map(tokio::spawn).collect();
        while waiting() < count {
            std::thread::yield_now();
        }
        drop(held);
        tasks
    };
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_are_committed_together_have_each_its_answer() {
    let (store, _folder) = fresh();
    store.put(Space::Keys, &[3], b"v", Timestamp::from_seconds(9)).await.unwrap();
    let removes = (0..8u8).map(|key| {
        let store = store.clone();
        async move { store.remove(Space::Keys, &[key]).await }
    });
    let answers = together(&store, removes.collect()).await;
    let expected: Vec<_> = (0..8).map(|key| Ok(key == 3)).collect();
    assert_eq!(answers, expected);
    assert_eq!(store.scan(Space::Keys, b"").await, Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_commit_fails_all_of_its_writes_have() {
    let (store, _folder) = fresh();
    let writes = (0..3u8).map(|key| {
        let store = store.clone();
        async move {
            match key {
                1 => store.write(|_| Err(redb::Error::Corrupted("so".to_owned()))).await,
                key => store.put(Space::Keys, &[key], b"v", Timestamp::from_seconds(9)).await,
            }
        }
    });
    let answers = together(&store, writes.collect()).await;
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
    assert_eq!(store.scan(Space::Keys, b"").await, Ok(vec![]));
    store.put(Space::Keys, b"k", b"v", Timestamp::from_seconds(9)).await.unwrap();
}

#[tokio::test]
async fn however_many_have_expired_all_are_purged() {
    let (store, _folder) = fresh();
    let entry = |number: usize| Entry {
        key: number.to_be_bytes().to_vec(),
        value: b"v".to_vec(),
        expires: Timestamp::from_seconds(1),
    };
    for count in [PURGED_AT_ONCE - 1, PURGED_AT_ONCE, 2 * PURGED_AT_ONCE + 1] {
        store.put_all(Space::Sessions, (0..count).map(entry).collect()).await.unwrap();
        let now = Timestamp::from_seconds(1);
        assert_eq!(store.purge(Space::Sessions, now).await, Ok(count));
        assert_eq!(store.scan(Space::Sessions, b"").await, Ok(vec![]));
    }
}

#[tokio::test]
async fn after_an_io_error_it_is_opened_again() {
    let (store, folder) = fresh();
    store.put(Space::Keys, b"k", b"v", Timestamp::from_seconds(9)).await.unwrap();
    store.file.failed.store(true, Ordering::Release);
    let (path, away) = (folder.path().join("store"), folder.path().join("away"));
    std::fs::rename(&path, &away).unwrap();
    assert!(matches!(store.get(Space::Keys, b"k").await, Err(StoreError::Open { .. })));
    std::fs::rename(&away, &path).unwrap();
    assert_eq!(store.get(Space::Keys, b"k").await, Ok(Some(b"v".to_vec())));
    store.put(Space::Keys, b"k", b"w", Timestamp::from_seconds(9)).await.unwrap();
    assert_eq!(store.get(Space::Keys, b"k").await, Ok(Some(b"w".to_vec())));
}

#[test]
fn the_file_belongs_to_its_owner_alone() {
    let (store, folder) = fresh();
    let path = folder.path().join("store");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(store);
    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = EmbeddedStore::open(&path).unwrap_err();
        assert_eq!(error, StoreError::Permissions(path.clone()));
    }
}

#[test]
fn a_second_opener_is_told_that_the_store_is_in_use() {
    let (_store, folder) = fresh();
    let path = folder.path().join("store");
    assert_eq!(EmbeddedStore::open(&path).unwrap_err(), StoreError::InUse(path));
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::write(&path, b"listeners: []\n".repeat(1000)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(EmbeddedStore::open(&path), Err(StoreError::Open { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_folder_that_can_not_be_made_is_an_error_that_names_the_path() {
    let error = EmbeddedStore::open(Path::new("/proc/nonexistent/store")).unwrap_err();
    assert!(error.to_string().contains("`/proc/nonexistent/store`"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().join("store");
    let error = EmbeddedStore::open(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("`{}`", path.display())), "{error}");
}

#[test]
fn a_missing_folder_is_made_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/gate.redb");
    EmbeddedStore::open(&path).unwrap();
    let mode = std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn the_expiry_index_holds_one_entry_for_each_value() {
    let (store, _folder) = fresh();
    for expires in [5, 3, 8] {
        let at = Timestamp::from_seconds(expires);
        store.put(Space::Sessions, b"k", b"v", at).await.unwrap();
    }
    store.put(Space::Logins, b"k", b"v", Timestamp::from_seconds(1)).await.unwrap();
    store.remove(Space::Logins, b"k").await.unwrap();
    let database = store.file.database.read();
    let read = database.as_ref().unwrap().begin_read().unwrap();
    let expiry = read.open_table(EXPIRY).unwrap();
    let entries: Vec<i64> =
        expiry.iter().unwrap().map(|entry| entry.unwrap().0.value().0).collect();
    assert_eq!(entries, [8_000]);
}
