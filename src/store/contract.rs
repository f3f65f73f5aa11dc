//! The one test suite of every backend. `suite!` takes a function that makes an empty store and
//! whatever has to live as long as it.

use super::{Entry, Position, Read, Space, Store, Stream};
use crate::domain::clock::Timestamp;

macro_rules! suite {
    ($make:expr) => {
        crate::store::contract::suite!(@each $make;
            what_was_put_is_got,
            what_was_never_put_is_absent,
            a_later_put_takes_the_place_of_an_earlier_one,
            what_is_put_together_is_as_if_put_one_by_one,
            only_what_is_there_is_replaced,
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

pub(crate) async fn only_what_is_there_is_replaced(store: Shared) {
    let entry = |key: &[u8], value: &[u8], expires| Entry {
        key: key.to_vec(),
        value: value.to_vec(),
        expires: at(expires),
    };
    store.put(Space::Sessions, b"a", b"1", at(5)).await.unwrap();
    store.put(Space::Sessions, b"b", b"1", at(5)).await.unwrap();
    store.remove(Space::Sessions, b"b").await.unwrap();
    let entries = vec![entry(b"a", b"2", 20), entry(b"b", b"2", 20), entry(b"c", b"2", 20)];
    store.replace_all(Space::Sessions, entries).await.unwrap();
    assert_eq!(store.scan(Space::Sessions, b"").await, Ok(vec![(b"a".to_vec(), b"2".to_vec())]));
    assert_eq!(store.purge(Space::Sessions, at(10)).await, Ok(0), "the expiry is the new one");
    assert_eq!(store.purge(Space::Sessions, at(20)).await, Ok(1));
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

/// The one test suite of every stream. The function makes a store that has an empty one.
macro_rules! stream_suite {
    ($make:expr) => {
        crate::store::contract::stream_suite!(@each $make;
            what_is_added_is_read_in_order_and_once,
            who_pauses_reads_on_where_he_was,
            of_many_who_add_all_are_heard_in_one_order,
            more_than_is_read_at_once_is_read_in_parts,
            what_was_trimmed_is_a_gap_for_those_behind_and_for_nobody_else,
            a_position_of_another_history_is_a_gap,
            who_waits_is_woken,
        );
    };
    (@each $make:expr; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (store, _kept) = ($make)();
                let stream = crate::store::Store::shared(&store).unwrap().stream;
                crate::store::contract::$name(stream).await;
            }
        )+
    };
}
pub(crate) use stream_suite;

type Events = std::sync::Arc<dyn Stream>;

fn events(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// All that follows; the position moves on.
async fn heard(stream: &Events, position: &mut Position) -> Vec<Vec<u8>> {
    let mut heard = Vec::new();
    loop {
        match stream.read(position).await.unwrap() {
            Read::Gap => panic!("a gap"),
            Read::Events { mut events, position: next, more } => {
                heard.append(&mut events);
                *position = next;
                if !more {
                    return heard;
                }
            }
        }
    }
}

pub(crate) async fn what_is_added_is_read_in_order_and_once(stream: Events) {
    let mut position = stream.end().await.unwrap();
    assert_eq!(heard(&stream, &mut position).await, events(&[]));
    stream.append(events(&["a"])).await.unwrap();
    stream.append(events(&["b", "", "c\0\r\n"])).await.unwrap();
    stream.append(vec![]).await.unwrap();
    assert_eq!(heard(&stream, &mut position).await, events(&["a", "b", "", "c\0\r\n"]));
    assert_eq!(heard(&stream, &mut position).await, events(&[]));
    assert_eq!(stream.end().await.unwrap(), position);
}

pub(crate) async fn who_pauses_reads_on_where_he_was(stream: Events) {
    stream.append(events(&["before"])).await.unwrap();
    let mut early = stream.end().await.unwrap();
    stream.append(events(&["a"])).await.unwrap();
    let mut late = stream.end().await.unwrap();
    stream.append(events(&["b"])).await.unwrap();
    assert_eq!(heard(&stream, &mut late).await, events(&["b"]));
    assert_eq!(heard(&stream, &mut early).await, events(&["a", "b"]));
    assert_eq!(early, late);
}

pub(crate) async fn of_many_who_add_all_are_heard_in_one_order(stream: Events) {
    let start = stream.end().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for name in 0..16_u8 {
        let stream = std::sync::Arc::clone(&stream);
        tasks.spawn(async move {
            for number in 0..8_u8 {
                stream.append(vec![vec![name, number]]).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let first = heard(&stream, &mut start.clone()).await;
    assert_eq!(first.len(), 16 * 8);
    assert_eq!(heard(&stream, &mut start.clone()).await, first);
    for name in 0..16 {
        let own = first.iter().filter(|event| event.first() == Some(&name));
        assert!(own.is_sorted(), "what one adds stays in order");
    }
}

pub(crate) async fn more_than_is_read_at_once_is_read_in_parts(stream: Events) {
    let mut position = stream.end().await.unwrap();
    let many: Vec<Vec<u8>> = (0..2500_u32).map(|number| number.to_be_bytes().to_vec()).collect();
    stream.append(many.clone()).await.unwrap();
    assert_eq!(heard(&stream, &mut position).await, many);
}

pub(crate) async fn what_was_trimmed_is_a_gap_for_those_behind_and_for_nobody_else(stream: Events) {
    let start = stream.end().await.unwrap();
    stream.append(events(&["a", "b"])).await.unwrap();
    let mut position = stream.end().await.unwrap();
    stream.trim(std::time::Duration::from_secs(3600)).await.unwrap();
    assert_eq!(heard(&stream, &mut start.clone()).await.len(), 2, "it isn't that old");
    stream.trim(std::time::Duration::ZERO).await.unwrap();
    assert_eq!(stream.read(&start).await, Ok(Read::Gap));
    assert_eq!(heard(&stream, &mut position).await, events(&[]));
    stream.append(events(&["c"])).await.unwrap();
    assert_eq!(heard(&stream, &mut position).await, events(&["c"]));
    assert_eq!(stream.read(&start).await, Ok(Read::Gap));
}

pub(crate) async fn a_position_of_another_history_is_a_gap(stream: Events) {
    stream.append(events(&["a"])).await.unwrap();
    let Position { id, .. } = stream.end().await.unwrap();
    let other = Position { id, link: b"another".to_vec() };
    assert_eq!(stream.read(&other).await, Ok(Read::Gap));
    stream.append(events(&["b"])).await.unwrap();
    assert_eq!(stream.read(&other).await, Ok(Read::Gap));
}

pub(crate) async fn who_waits_is_woken(stream: Events) {
    let mut position = stream.end().await.unwrap();
    let day = std::time::Duration::from_secs(86_400);
    let adding = std::sync::Arc::clone(&stream);
    let at = position.clone();
    let waiting = tokio::spawn(async move { adding.wait(&at, day).await });
    stream.append(events(&["a"])).await.unwrap();
    waiting.await.unwrap();
    assert_eq!(heard(&stream, &mut position).await, events(&["a"]));
    // What is there already is not waited for.
    let start = Position { id: position.id.clone(), link: vec![] };
    stream.append(events(&["b"])).await.unwrap();
    stream.wait(&start, day).await;
}
