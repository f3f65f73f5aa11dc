use std::sync::Arc;

use tempfile::TempDir;

use super::*;

const NEVER: Timestamp = Timestamp::from_seconds(9_999_999_999);

/// A store whose file another "process" has: here, a thread with a store of its own on it.
fn moved() -> (MovableStore, TempDir) {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store");
            let store = MovableStore::open(&path).unwrap();
            let moving = store.release().await.unwrap();
            moving.there(successor(&path));
            (store, folder)
        })
    })
    .join()
    .unwrap()
}

fn successor(path: &Path) -> UnixStream {
    let (here, there) = UnixStream::pair().unwrap();
    let store = EmbeddedStore::open(path).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        while let Ok(request) = Request::read(&there) {
            if runtime.block_on(request.serve(&store, &there)).is_err() {
                break;
            }
        }
    });
    here
}

crate::store::contract::suite!(moved);

#[tokio::test]
async fn what_was_written_before_the_move_is_read_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = MovableStore::open(&path).unwrap();
    store.put(Space::Keys, b"before", b"1", NEVER).await.unwrap();
    let moving = store.release().await.unwrap();
    moving.there(successor(&path));
    assert_eq!(store.get(Space::Keys, b"before").await, Ok(Some(b"1".to_vec())));
    store.put(Space::Keys, b"after", b"2", NEVER).await.unwrap();
    assert_eq!(store.scan(Space::Keys, b"").await.unwrap().len(), 2);
    assert!(store.release().await.is_none(), "what isn't here can't be given away");
}

#[tokio::test]
async fn an_operation_in_the_middle_of_a_move_waits_for_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = MovableStore::open(&path).unwrap();
    let moving = store.release().await.unwrap();
    let mut put = std::pin::pin!(store.put(Space::Keys, b"k", b"v", NEVER));
    assert!(futures_util::poll!(put.as_mut()).is_pending());
    // Whoever takes it over can open it meanwhile, and give up again.
    drop(EmbeddedStore::open(&path).unwrap());
    assert!(futures_util::poll!(put.as_mut()).is_pending());
    moving.back().await.unwrap();
    put.await.unwrap();
    assert_eq!(store.get(Space::Keys, b"k").await, Ok(Some(b"v".to_vec())));
}

#[tokio::test]
async fn when_the_process_that_has_it_is_gone_every_operation_fails() {
    let folder = tempfile::tempdir().unwrap();
    let store = MovableStore::open(&folder.path().join("store")).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    store.release().await.unwrap().there(here);
    drop(there);
    let store: Arc<dyn Store> = Arc::new(store);
    for _ in 0..2 {
        assert!(store.get(Space::Sessions, b"k").await.is_err(), "not: there is no session");
        assert!(store.remove(Space::Sessions, b"k").await.is_err());
    }
}
