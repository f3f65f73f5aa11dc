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

#[test]
fn placeholder() {
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
        vec![(route, with("protocol: http2\n    websocket: true"))],
        vec![(route, with("path: /.Wicketgate/x"))],
        vec![(route, with("path: /a/"))],
        vec![(route, with("path: /a/../b"))],
        vec![(route, with("path: /%61dmin"))],
        vec![(route, with("path: /a;b"))],
        vec![(route, with("cross_site: alow"))],
        vec![(route, second("{name: portal, host: PORTAL.example.com., application: portal, upstreams: [http://b]}"))],
        vec![("application: portal", "application: potral".into())],
        vec![("portal.example.com", "'*.example.com'".into())],
        vec![("portal.example.com", "portal.example.com:8443".into())],
        vec![(name, "  - name: portal\n  - name: portal\n  - name: my portal\nroutes".into())],
        vec![("https://id.example.com", "http://id.example.com".into())],
        vec![("https://id.example.com", "http://id.localhost:9000".into())],
        vec![("client_id: gate", "client_id: gate, client_secret: hunter2".into())],
        vec![("client_id: gate", "client_id: gate, scopes: [email]".into())],
        vec![("client_id: gate}", "client_id: gate}\n  - {name: two, issuer: 'https://b', client_id: c}".into())],
        vec![("    tls: {certificates: [{certificate: file, key: private}]}", "    redirect_to_https: true".into())],
        vec![("    tls: {certificates: [{certificate: file, key: private}]}\n", String::new())],
        vec![("key: private", "key: file".into())],
        vec![("certificate: file", "certificate: gone.crt".into())],
        vec![("identity_providers", "  - {name: two, address: '127.0.0.1:8443', redirect_to_https: true}\nidentity_providers".into())],
        vec![("identity_providers", "admin: {address: '0.0.0.0:8443'}\nidentity_providers".into())],
        vec![("0.0.0.0:8443", "localhost:8443".into())],
        vec![("folder, schema: file", "folder".into())],
        vec![("store: {path: store.redb}", "store: {path: folder}\nsession: {idle_timeout: 11h}".into())],
        vec![("store: {path: store.redb}", String::new())],
    ];
    let mut text = String::new();
    for case in &cases {
        let change: Vec<(&str, &str)> = case.iter().map(|(a, b)| (*a, b.as_str())).collect();
        text.push_str(&format!("{}\n=> {}\n\n", case[0].1.trim(), said(&change).join("\n   ")));
    }
    fs::write("/tmp/golden.txt", text).unwrap();
}
