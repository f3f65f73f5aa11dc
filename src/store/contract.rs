//! The one test suite of every backend. `suite!` takes a function that makes an empty store and
//! whatever has to live as long as it.

use super::{Entry, Space, Store};
use crate::domain::clock::Timestamp;

macro_rules! suite {
    ($make:expr) => {
        crate::store::contract::suite!(@each $make;
            what_was_put_is_got,
            what_was_never_put_is_absent,
            a_later_put_takes_the_place_of_an_earlier_one,
            what_is_put_together_is_as_if_put_one_by_one,
            spaces_do_not_meet,
            any_bytes_are_keys_and_values,
            what_was_removed_is_absent_and_removed_once,
            a_scan_is_ordered_and_whole,
            a_scan_finds_the_keys_that_begin_so_and_no_others,
            a_purge_takes_the_expired_and_nothing_else,
            a_later_put_moves_the_expiry,
            an_expired_entry_counts_as_absent,
            of_many_who_put_one_wins,
            of_many_who_remove_one_wins,
        );
    };
    (@each $make:expr; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (store, _kept) = ($make)();
                crate::store::contract::$name(std::sync::Arc::new(store)).await;
            }
        )+
    };
}
pub(crate) use suite;

type Shared = std::sync::Arc<dyn Store>;

const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

pub(crate) async fn what_was_put_is_got(store: Shared) {
    store.put(Space::Sessions, b"key", b"value", at(10)).await.unwrap();
    assert_eq!(store.get(Space::Sessions, b"key").await, Ok(Some(b"value".to_vec())));
}

pub(crate) async fn what_was_never_put_is_absent(store: Shared) {
    store.put(Space::Sessions, b"key", b"value", at(10)).await.unwrap();
    assert_eq!(store.get(Space::Sessions, b"ke").await, Ok(None));
    assert_eq!(store.get(Space::Sessions, b"key2").await, Ok(None));
    assert_eq!(store.remove(Space::Sessions, b"").await, Ok(false));
}

pub(crate) async fn a_later_put_takes_the_place_of_an_earlier_one(store: Shared) {
    store.put(Space::Keys, b"key", b"a longer first", at(10)).await.unwrap();
    store.put(Space::Keys, b"key", b"second", at(10)).await.unwrap();
    assert_eq!(store.get(Space::Keys, b"key").await, Ok(Some(b"second".to_vec())));
    assert_eq!(store.scan(Space::Keys, b"").await.unwrap().len(), 1);
}

pub(crate) async fn what_is_put_together_is_as_if_put_one_by_one(store: Shared) {
    let entry = |key: &[u8], value: &[u8], expires| Entry {
        key: key.to_vec(),
        value: value.to_vec(),
        expires: at(expires),
    };
    store.put(Space::Sessions, b"a", b"before", at(1)).await.unwrap();
    let entries = vec![entry(b"a", b"1", 10), entry(b"b", b"2", 5), entry(b"a", b"3", 20)];
    store.put_all(Space::Sessions, entries).await.unwrap();
    store.put_all(Space::Sessions, vec![]).await.unwrap();
    assert_eq!(store.get(Space::Sessions, b"a").await, Ok(Some(b"3".to_vec())));
    assert_eq!(store.get(Space::Keys, b"a").await, Ok(None));
    assert_eq!(store.purge(Space::Sessions, at(10)).await, Ok(1));
    assert_eq!(store.scan(Space::Sessions, b"").await, Ok(vec![(b"a".to_vec(), b"3".to_vec())]));
}

pub(crate) async fn spaces_do_not_meet(store: Shared) {
    for space in Space::ALL {
        let value = format!("{space:?}");
        store.put(space, b"key", value.as_bytes(), at(10)).await.unwrap();
    }
    store.remove(Space::Keys, b"key").await.unwrap();
    assert_eq!(store.get(Space::Sessions, b"key").await, Ok(Some(b"Sessions".to_vec())));
    assert_eq!(store.get(Space::Keys, b"key").await, Ok(None));
    assert_eq!(store.scan(Space::Keys, b"").await, Ok(vec![]));
    assert_eq!(
        store.scan(Space::Logins, b"").await,
        Ok(vec![(b"key".to_vec(), b"Logins".to_vec())])
    );
}

pub(crate) async fn any_bytes_are_keys_and_values(store: Shared) {
    let all: Vec<u8> = (0..=255).collect();
    for key in [&[][..], &[0], &[0xff; 64], &all] {
        store.put(Space::Logins, key, &all, at(10)).await.unwrap();
        assert_eq!(store.get(Space::Logins, key).await, Ok(Some(all.clone())));
        store.put(Space::Logins, key, b"", at(10)).await.unwrap();
        assert_eq!(store.get(Space::Logins, key).await, Ok(Some(Vec::new())));
    }
    assert_eq!(store.scan(Space::Logins, b"").await.unwrap().len(), 4);
}

pub(crate) async fn what_was_removed_is_absent_and_removed_once(store: Shared) {
    store.put(Space::Sessions, b"key", b"value", at(10)).await.unwrap();
    assert_eq!(store.remove(Space::Sessions, b"key").await, Ok(true));
    assert_eq!(store.remove(Space::Sessions, b"key").await, Ok(false));
    assert_eq!(store.get(Space::Sessions, b"key").await, Ok(None));
}

pub(crate) async fn a_scan_is_ordered_and_whole(store: Shared) {
    for key in [3_u8, 1, 2, 0xff, 0] {
        store.put(Space::Sessions, &[key], &[key], at(10)).await.unwrap();
    }
    store.put(Space::Keys, &[9], &[9], at(10)).await.unwrap();
    let expected: Vec<(Vec<u8>, Vec<u8>)> =
        [0, 1, 2, 3, 0xff].map(|key| (vec![key], vec![key])).into();
    assert_eq!(store.scan(Space::Sessions, b"").await, Ok(expected));
}

pub(crate) async fn a_scan_finds_the_keys_that_begin_so_and_no_others(store: Shared) {
    for key in [&b"a"[..], b"ab", b"ab\xff", b"abc", b"ac", b"b"] {
        store.put(Space::Sessions, key, b"", at(10)).await.unwrap();
    }
    store.put(Space::SessionsOfLogins, b"abz", b"", at(10)).await.unwrap();
    let found = store.scan(Space::Sessions, b"ab").await.unwrap();
    let keys: Vec<&[u8]> = found.iter().map(|(key, _)| key.as_slice()).collect();
    assert_eq!(keys, [&b"ab"[..], b"abc", b"ab\xff"]);
    let last = store.scan(Space::SessionsOfLogins, b"ab").await.unwrap();
    assert_eq!(last, [(b"abz".to_vec(), vec![])]);
    assert_eq!(store.scan(Space::Sessions, b"\xff").await, Ok(vec![]));
}

pub(crate) async fn a_purge_takes_the_expired_and_nothing_else(store: Shared) {
    store.put(Space::Sessions, b"past", b"", at(4)).await.unwrap();
    store.put(Space::Sessions, b"now", b"", at(5)).await.unwrap();
    store.put(Space::Sessions, b"future", b"", at(6)).await.unwrap();
    store.put(Space::Sessions, b"ever", b"", Timestamp::from_millis(i64::MAX)).await.unwrap();
    store.put(Space::Sessions, b"before 1970", b"", at(-5)).await.unwrap();
    store.put(Space::Logins, b"past", b"", at(4)).await.unwrap();
    assert_eq!(store.get(Space::Sessions, b"past").await, Ok(Some(vec![])));
    assert_eq!(store.purge(Space::Sessions, at(5)).await, Ok(3));
    assert_eq!(store.purge(Space::Sessions, at(5)).await, Ok(0));
    assert_eq!(store.get(Space::Sessions, b"past").await, Ok(None));
    assert_eq!(store.get(Space::Sessions, b"now").await, Ok(None));
    assert_eq!(store.get(Space::Sessions, b"future").await, Ok(Some(vec![])));
    assert_eq!(store.get(Space::Sessions, b"ever").await, Ok(Some(vec![])));
    assert_eq!(store.get(Space::Logins, b"past").await, Ok(Some(vec![])));
    assert_eq!(store.purge(Space::Logins, at(3)).await, Ok(0));
    assert_eq!(store.purge(Space::Logins, at(4)).await, Ok(1));
}

pub(crate) async fn a_later_put_moves_the_expiry(store: Shared) {
    store.put(Space::Sessions, b"key", b"1", at(5)).await.unwrap();
    store.put(Space::Sessions, b"key", b"2", at(50)).await.unwrap();
    assert_eq!(store.purge(Space::Sessions, at(10)).await, Ok(0));
    assert_eq!(store.get(Space::Sessions, b"key").await, Ok(Some(b"2".to_vec())));
    store.put(Space::Sessions, b"key", b"3", at(20)).await.unwrap();
    assert_eq!(store.purge(Space::Sessions, at(20)).await, Ok(1));
}

pub(crate) async fn an_expired_entry_counts_as_absent(store: Shared) {
    let put = |value: &'static [u8], expires, now| {
        store.put_if_absent(Space::Logins, b"key", value, at(expires), at(now))
    };
    assert_eq!(put(b"1", 10, 0).await, Ok(true));
    assert_eq!(put(b"2", 20, 9).await, Ok(false));
    assert_eq!(store.get(Space::Logins, b"key").await, Ok(Some(b"1".to_vec())));
    assert_eq!(put(b"3", 30, 10).await, Ok(true));
    assert_eq!(store.get(Space::Logins, b"key").await, Ok(Some(b"3".to_vec())));
    assert_eq!(store.purge(Space::Logins, at(29)).await, Ok(0));
}

pub(crate) async fn of_many_who_put_one_wins(store: Shared) {
    let mut tasks = tokio::task::JoinSet::new();
    for value in 0..16_u8 {
        let store = std::sync::Arc::clone(&store);
        tasks.spawn(async move {
            let won = store.put_if_absent(Space::Logins, b"key", &[value], at(10), at(0)).await;
            won.unwrap().then_some(value)
        });
    }
    let winners: Vec<u8> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(store.get(Space::Logins, b"key").await, Ok(Some(winners)));
}

pub(crate) async fn of_many_who_remove_one_wins(store: Shared) {
    store.put(Space::Logins, b"key", b"", at(10)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = std::sync::Arc::clone(&store);
        tasks.spawn(async move { store.remove(Space::Logins, b"key").await.unwrap() });
    }
    let winners = tasks.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1);
}
