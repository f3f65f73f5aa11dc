//! Files that are bad, and exactly what is said about them.

use super::*;

fn said(change: &[(&str, &str)]) -> Vec<String> {
    let mut yaml = MINIMAL.to_owned();
    for (from, to) in change {
        assert!(yaml.contains(from), "{from}");
        yaml = yaml.replacen(from, to, 1);
    }
    Site::with(&yaml).said()
}

/// Each change to a good file, and what is said about it, as reviewed in `findings.txt`.
/// `UPDATE_DOCS=1 cargo test --lib findings` writes the file anew.
#[test]
fn every_mistake_is_explained_as_reviewed() {
    let route = "upstreams: [http://10.0.0.5:8080]";
    let second = |text: &str| format!("{route}\n  - {text}");
    let with = |text: &str| format!("{route}\n    {text}");
    let name = "  - name: portal\nroutes";
    let cases: Vec<Vec<(&str, String)>> = vec![
        vec![("upstreams:", "upstreem:".into())],
        vec![("http://10.0.0.5:8080", "10.0.0.5:8080".into())],
        vec![("http://10.0.0.5:8080", "http://127.1".into())],
        vec![("http://10.0.0.5:8080", "http://u:hunter2@a".into())],
        vec![("http://10.0.0.5:8080", "http://a/b".into())],
        vec![("http://10.0.0.5:8080", "http://a, https://b".into())],
        vec![("http://10.0.0.5:8080", "http://a, http://A:80".into())],
        vec![("[http://10.0.0.5:8080]", "[]".into())],
        vec![(route, with("tls: {ca: file}"))],
        vec![(route, with("credential: {header: {name: X_Wicketgate.User, value: file:private}}"))],
        vec![(route, with("credential: {header: {name: cookie, value: file:private}}"))],
        vec![(route, with("credential: {basic: {username: 'a:b', password: hunter2}}"))],
        vec![(route, with("credential: {basic: {username: a, password: file:file}}"))],
        vec![(route, with("credential: {}"))],
        vec![(route, with("health_check: {tcp: {}, http: {}}"))],
        vec![(route, with("health_check:"))],
        vec![(route, with("timeouts: {connect: 0s}"))],
        vec![(route, with("selection: stiky"))],
        vec![(route, with("outlier_detection: {ejection_time: 1m}"))],
        vec![(route, with("outlier_detection: {max_ejection_percent: 0, enabled: no}"))],
        vec![(route, with("outlier_detection: {max_ejection_percentage: 10}"))],
        vec![(route, with("retry_budget: {percent: 101}"))],
        vec![(route, with("slow_start: 0s"))],
        vec![(route, with("protocol: http2\n    websocket: true"))],
        vec![(route, with("path: /.Wicketgate/x"))],
        vec![(route, with("path: /a/"))],
        vec![(route, with("path: /a/../b"))],
        vec![(route, with("path: /%61dmin"))],
        vec![(route, with("path: /a;b"))],
        vec![(route, with("cross_site: alow"))],
        vec![(route, with("cross_site_origins: [http://a.example, 'https://a.example/', a.example, 'null']"))],
        vec![(route, with("cross_site: allow\n    cross_site_origins: [https://a.example]"))],
        vec![("client_id: gate", "client_id: gate, step_up: [{acr: 'a b'}, {acr: mfa}, {acr: mfa}, {amr: [otp]}]".into())],
        vec![("client_id: gate", "client_id: gate, step_up: []".into())],
        vec![("client_id: gate", "client_id: gate, refresh: of".into())],
        vec![("client_id: gate", "client_id: gate, refresh: {interval: 500ms, max_age: soon}".into())],
        vec![("client_id: gate", "client_id: gate, refresh: {interval: 2h, maxage: 1m}".into())],
        vec![("client_id: gate", "client_id: gate, refresh: {interval: 5s}".into())],
        vec![("store: {path: store.redb}", "store: {path: store.redb}\nsession: {keep_forms: 2MiB}".into())],
        vec![(route, second("{name: portal, host: PORTAL.example.com., application: portal, upstreams: [http://b]}"))],
        vec![("application: portal", "application: potral".into())],
        vec![("portal.example.com", "'*.example.com'".into())],
        vec![("portal.example.com", "portal.example.com:8443".into())],
        vec![(name, "  - name: portal\n  - name: portal\n  - name: my portal\nroutes".into())],
        vec![("https://id.example.com", "http://id.example.com".into())],
        vec![("https://id.example.com", "http://id.localhost:9000".into())],
        vec![("https://id.example.com", "https://u:hunter2@id.example.com".into())],
        vec![("https://id.example.com", "https://id.example.com?x".into())],
        vec![("client_id: gate", "client_id: gate, client_secret: hunter2".into())],
        vec![("client_id: gate", "client_id: gate, scopes: [email]".into())],
        vec![("client_id: gate", "client_id: gate, client_authentication: client_secret_basic".into())],
        vec![("client_id: gate", "client_id: gate, client_secret: file:private, client_key: file:private".into())],
        vec![("client_id: gate", "client_id: gate, client_secret: file:private, client_authentication: private_key_jwt".into())],
        vec![("client_id: gate", "client_id: gate, client_key: file:private, client_authentication: none".into())],
        vec![("client_id: gate", "client_id: gate, client_key_id: k1, client_assertion_audience: me".into())],
        vec![("client_id: gate", "client_id: gate, authorization_parameters: {state: x, Client_ID: y, 'a b': z, prompt: [login]}".into())],
        vec![("client_id: gate", "client_id: gate, claims: {groups: a..b, tenant: org, name: ''}, tenant: acme".into())],
        vec![("client_id: gate", "client_id: gate, claims: {group: a}, callback: mine".into())],
        vec![("https://id.example.com", "id.example.com".into())],
        vec![("https://id.example.com", "https://id.example.com/r/.well-known/openid-configuration".into())],
        vec![("client_id: gate", "client_id: gate, client_secret: file:gone".into())],
        vec![("client_id: gate}", "client_id: gate}\n  - {name: main, issuer: 'https://b', client_id: c}\n  - {name: two, issuer: 'https://id.example.com', client_id: gate}".into())],
        vec![(route, with("identity_providers: [mian, main, main]"))],
        vec![(route, with("identity_providers: []"))],
        vec![(name, "  - {name: portal, identity_providers: google}\nroutes".into())],
        vec![("    tls: {certificates: [{certificate: file, key: private}]}", "    redirect_to_https: true".into())],
        vec![("    tls: {certificates: [{certificate: file, key: private}]}\n", String::new())],
        vec![("key: private", "key: file".into())],
        vec![("certificate: file", "certificate: gone.crt".into())],
        vec![("identity_providers", "  - {name: two, address: '127.0.0.1:8443', redirect_to_https: true}\nidentity_providers".into())],
        vec![("identity_providers", "admin: {address: '0.0.0.0:8443'}\nidentity_providers".into())],
        vec![("0.0.0.0:8443", "localhost:8443".into())],
        vec![("    tls", "    allow_from: [10.0.0.1/8, '::ffff:10.0.0.0/104', office]\n    tls".into())],
        vec![("    tls", "    allow_from: [10.0.0.0/33, '2001:db8::/400']\n    tls".into())],
        vec![("    tls", "    allow_from: []\n    trusted_proxies: ['0.0.0.0/0']\n    tls".into())],
        vec![("    tls", "    proxy_protocol: {trust: [10.0.0.1], others: deny}\n    tls".into())],
        vec![("    tls", "    limits: {max_connections: 1000}\n    tls".into())],
        vec![("    tls", "    limits: {min_data_rate: 240, max_handshakes: 0}\n    tls".into())],
        vec![("client_id: gate", "client_id: gate, bearer: {audiences: [gate, a, a]}".into())],
        vec![("client_id: gate", "client_id: gate, bearer: {audience: a}".into())],
        vec![(route, with("authentication: [bearer]"))],
        vec![(route, with("authentication: [session, certificate]\n    upstream_token: pass"))],
        vec![(route, with("upstream_token: {exchange: {}}"))],
        vec![("client_id: gate", "client_id: gate, bearer: {audiences: [a]}".into()), (route, with("authentication: [bearer]\n    upstream_token: keep\n    credential: {basic: {username: u, password: file:private}}"))],
        vec![("client_id: gate", "client_id: gate, bearer: {audiences: [a]}".into()), (route, with("authentication: [bearer]\n    upstream_token: pass\n    credential: {basic: {username: u, password: file:private}}"))],
        vec![(route, with("authentication: [certificate]"))],
        vec![(name, "  - {name: portal, session: {}}\nroutes".into())],
        vec![(name, "  - {name: portal, session: {idle_timeout: 31m, absolute_lifetime: 11h}}\nroutes".into())],
        vec![(name, "  - {name: portal, session: {idle_timeout: 20m, absolute_lifetime: 10m}}\nroutes".into())],
        vec![(name, "  - {name: portal, session: {idle_timout: soon}}\nroutes".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://a'}}".into())],
        vec![("key: private}]", "key: private}], client_crl: file".into())],
        vec![("name: main", "name: certificate".into())],
        vec![(route, with("authentication: [sesion, session, session]"))],
        vec![(route, with("authentication: []\n    audience: a"))],
        vec![("client_id: gate", "client_id: gate, bearer: {audiences: [a]}".into()), (route, with("authentication: [bearer]\n    audience: b"))],
        vec![(route, with("allow_from: 10.0.0.0/8"))],
        vec![("folder, schema: file", "folder".into())],
        vec![("store: {path: store.redb}", "store: {path: folder}\nsession: {idle_timeout: 11h}".into())],
        vec![(
            "store: {path: store.redb}",
            "store: {path: folder}\nsession: {sign_out_urls: [http://a.example/, 'https://a.example', 'https://u:hunter2@a.example/', 'https://a.example/#x', /bye]}".into(),
        )],
        vec![("store: {path: store.redb}", "store: {path: folder}\nsession: {key: hunter2, max_per_user: 0}".into())],
        vec![("store: {path: store.redb}", "store: {path: folder}\nsession: {key: file:private}".into())],
        vec![("store: {path: store.redb}", String::new())],
        vec![("store: {path: store.redb}", "store: {path: a, redis: {url: 'rediss://a'}}".into())],
        vec![("store: {path: store.redb}", "store: {lease: 1s}".into())],
        vec![("store: {path: store.redb}", "store: {path: a, lease: 1s}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://a', cluster: ['rediss://b']}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'redis://cache.internal:6379'}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'redis://10.0.0.5', ca: file, allow_plaintext: true}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://u:hunter2@a'}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://a/1'}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'http://a'}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {cluster: ['rediss://a', 'redis://127.0.0.1', 'unix:///a'], database: 1}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {sentinel: {nodes: []}}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://a', username: b, key_prefix: 'a{b}'}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://a', password: hunter2, timeout: 1m, tmeout: 1s}}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://a'}, lease: 100ms}".into())],
        vec![("store: {path: store.redb}", "store: {redis: {url: 'rediss://a'}, lease: 5s}".into())],
        vec![(route, with("rate_limits: [{per: adress, requests: 0, window: 1500ms}]"))],
        vec![(route, with("rate_limits: [{per: route, requests: 1, window: 2d}]"))],
        vec![(route, with("rate_limits:\n      - {per: route, requests: 1, window: 60s}\n      - {per: route, requests: 2, window: 1m}"))],
        vec![(route, with("rate_limits: {per: route, requests: 1, window: 1s}"))],
        vec![(route, with("websocket_limits: {max_message: 1KiB, max_frame: 2KiB, frames_per_second: 0}"))],
        vec![(route, with("max_in_flight: 0"))],
        vec![("store: {path: store.redb}", "store: {path: store.redb}\nlimits: {memory: 1MiB}".into())],
    ];
    let mut text = String::new();
    for case in &cases {
        let change: Vec<(&str, &str)> = case.iter().map(|(a, b)| (*a, b.as_str())).collect();
        for (from, to) in &change {
            text.push_str(&format!("{from:?} => {to:?}\n"));
        }
        for line in said(&change).iter().flat_map(|finding| finding.lines()) {
            text.push_str(&format!("    {line}\n"));
        }
        text.push('\n');
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/tests/findings.txt");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file, &text).unwrap();
    }
    let reviewed = fs::read_to_string(file).unwrap();
    for (now, then) in text.split("\n\n").zip(reviewed.split("\n\n")) {
        assert_eq!(now, then);
    }
    assert_eq!(text, reviewed);
}

#[test]
fn all_findings_are_reported_at_once_in_the_order_of_their_lines() {
    let yaml = "\
listeners:
  - name: public
    adress: 0.0.0.0:443
    tls: {certificates: []}
identity_providers: []
session: {idle_timeout: soon}
policies: {directory: gone}
applications:
  - name: portal
    zones: dmz
routes:
  - name: portal
    host: portal_1.example.com
    application: portals
    upstreams: [http://a:0]
    max_body: 10MB
  - host: b.example.com
    upstreams: {url: http://b}
audit: {directory: file, queue: 0}
";
    assert_eq!(
        Site::with(yaml).said(),
        [
            "error: wicketgate.yaml:1: the key `store` is missing",
            "error: wicketgate.yaml:2: listeners[0]: the key `address` is missing",
            "error: wicketgate.yaml:3: listeners[0].adress: unknown key `adress`\n  hint: did you mean `address`?",
            "error: wicketgate.yaml:4: listeners[0].tls.certificates: the list is empty; at least one entry is needed",
            "error: wicketgate.yaml:5: identity_providers: the list is empty; at least one entry is needed",
            "error: wicketgate.yaml:6: session.idle_timeout: `soon` is not a duration\n  hint: write a whole number and a unit: `250ms`, `30s`, `15m`, `8h` or `2d`",
            "error: wicketgate.yaml:7: policies.directory: `gone` can't be read: No such file or directory (os error 2)\n  hint: relative paths start at the folder of this configuration file",
            "error: wicketgate.yaml:10: applications[0].zones: unknown key `zones`\n  hint: did you mean `zone`?",
            "error: wicketgate.yaml:13: routes[0].host: `portal_1.example.com`: the host holds a character that no host name may have\n  hint: write a host name as `portal.example.com`",
            "error: wicketgate.yaml:14: routes[0].application: there is no application `portals`\n  hint: did you mean `portal`?",
            "error: wicketgate.yaml:15: routes[0].upstreams[0]: `http://a:0`: the port is not a number from 1 to 65535\n  hint: write a scheme, a host and a port: `http://10.0.0.5:8080`",
            "error: wicketgate.yaml:16: routes[0].max_body: `10MB` is not a size\n  hint: write a whole number and a unit: `512B`, `512KiB`, `10MiB` or `1GiB`",
            "error: wicketgate.yaml:17: routes[1]: the key `name` is missing",
            "error: wicketgate.yaml:17: routes[1]: the key `application` is missing",
            "error: wicketgate.yaml:18: routes[1].upstreams: a map stands where a list is needed\n  hint: start each entry with `- `",
            "error: wicketgate.yaml:19: audit.directory: `file` is not a directory",
            "error: wicketgate.yaml:19: audit.queue: `0` is not a number from 1 to 1000000",
        ]
    );
}
