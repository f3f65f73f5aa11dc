//! `store.redis`, where it is good.

use std::time::Duration;

use super::*;
use crate::config::model::*;

fn redis(text: &str) -> Redis {
    let yaml = MINIMAL.replace("store: {path: store.redb}", text);
    assert_ne!(yaml, MINIMAL);
    match good(&format!("{}\nsession: {{key: file:session-key}}\n", yaml.trim_end())).store {
        Store::Redis(redis) => *redis,
        Store::Embedded { .. } => panic!("embedded"),
    }
}

fn tcp(host: &str, port: u16) -> RedisNode {
    RedisNode::Tcp { host: host.to_owned(), port }
}

#[test]
fn one_server_needs_nothing_but_its_url() {
    let found = redis("store: {redis: {url: 'rediss://cache.example.com'}}");
    let wanted = Redis {
        servers: RedisServers::Single(tcp("cache.example.com", 6379)),
        tls: Some(RedisTls { ca: None, client_certificate: None }),
        username: None,
        password: None,
        database: 0,
        key_prefix: "wicketgate".to_owned(),
        timeout: Duration::from_secs(1),
        lease: Duration::from_millis(1500),
    };
    assert_eq!(found, wanted);
}

#[test]
fn plain_is_for_this_machine_or_where_it_is_asked_for() {
    for (url, node) in [
        ("redis://127.0.0.1:7000", tcp("127.0.0.1", 7000)),
        ("redis://[::1]", tcp("::1", 6379)),
        ("redis://localhost/", tcp("localhost", 6379)),
        ("unix:///run/redis.sock", RedisNode::Unix("/run/redis.sock".into())),
    ] {
        let found = redis(&format!("store: {{redis: {{url: '{url}'}}}}"));
        assert_eq!((found.servers, found.tls), (RedisServers::Single(node), None), "{url}");
    }
    let asked = redis("store: {redis: {url: 'redis://10.0.0.5', allow_plaintext: true}}");
    assert_eq!(asked.servers, RedisServers::Single(tcp("10.0.0.5", 6379)));
}

#[test]
fn every_value_of_it_arrives_in_the_model() {
    let found = redis(
        "
store:
  lease: 800ms
  redis:
    sentinel:
      master: gates
      nodes: ['rediss://10.0.0.1', 'rediss://10.0.0.2:7000']
      username: asker
      password: file:private
    username: gate
    password: file:private
    database: 4
    ca: file
    client_certificate: {certificate: file, key: private}
    key_prefix: portal:eu
    timeout: 200ms",
    );
    let RedisServers::Sentinel { master, nodes, username, password } = &found.servers else {
        panic!("{found:?}");
    };
    assert_eq!((master.as_str(), username.as_deref()), ("gates", Some("asker")));
    assert_eq!(*nodes, [tcp("10.0.0.1", 26379), tcp("10.0.0.2", 7000)]);
    assert_eq!(password.as_ref().unwrap().expose(), "hunter2");
    assert_eq!(found.password.as_ref().unwrap().expose(), "hunter2");
    assert_eq!((found.username.as_deref(), found.database), (Some("gate"), 4));
    assert_eq!((found.key_prefix.as_str(), found.timeout.as_millis()), ("portal:eu", 200));
    assert_eq!(found.lease.as_millis(), 800);
    let tls = found.tls.as_ref().unwrap();
    assert!(tls.ca.is_some() && tls.client_certificate.is_some());
    assert!(!format!("{found:?}").contains("hunter2"));
    let cluster = redis("store: {redis: {cluster: ['rediss://a', 'rediss://b:7001']}}");
    assert_eq!(cluster.servers, RedisServers::Cluster(vec![tcp("a", 6379), tcp("b", 7001)]));
}
