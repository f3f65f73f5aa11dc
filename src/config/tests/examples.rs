//! Files that are good, and what becomes of their values.

use std::time::Duration;

use super::*;
use crate::config::model::*;
use crate::config::secret::Secret;
use crate::domain::connection::{ClientAddr, SourceRules};

/// In seconds.
fn timeouts(limits: &ListenerLimits) -> [u64; 3] {
    [limits.handshake_timeout, limits.header_timeout, limits.idle_timeout].map(|one| one.as_secs())
}

#[test]
fn what_is_left_out_has_its_documented_default() {
    let config = good(MINIMAL);
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9180");
    assert_eq!(config.session.idle_timeout, Duration::from_secs(1800));
    assert_eq!(config.session.absolute_lifetime, Duration::from_secs(36_000));
    assert!(config.devices.is_none());
    let limits = &config.listeners[0].limits;
    assert_eq!((limits.max_headers, limits.max_header_bytes), (100, 32 * 1024));
    assert_eq!(timeouts(limits), [10, 10, 75]);
    assert_eq!(limits.max_connections, 10_000);
    assert_eq!((limits.max_connections_per_address, limits.max_handshakes), (1000, 1000));
    assert_eq!((limits.min_data_rate, limits.data_rate_grace.as_secs()), (240, 20));
    let listener = &config.listeners[0];
    assert_eq!((&listener.proxy_protocol, &*listener.source), (&None, &SourceRules::default()));
    let provider = &config.identity_providers[0];
    assert_eq!(&*provider.display_name, "main");
    assert!(provider.access_tokens.is_none());
    assert_eq!(provider.issuer.as_str(), "https://id.example.com", "without a slash of ours");
    assert_eq!(provider.scopes, ["openid", "profile", "email"]);
    let claims = &provider.claims;
    assert_eq!(*claims, ClaimNames::default());
    assert_eq!(provider.client, ClientAuthentication::Public);
    assert!(provider.parameters.is_empty() && !provider.own_callback);
    assert!(config.session.sign_in_host.is_none());
    let route = &config.routes[0];
    assert_eq!((&*route.path, route.max_body_bytes), ("/", 10 << 20));
    assert!(route.cross_site_origins.is_empty() && provider.step_up.is_empty());
    assert_eq!(config.session.keep_forms, 64 << 10);
    assert_eq!(route.accepted, Accepted::default());
    assert_eq!((&route.application.session, config.session.shortest_idle), (&None, None));
    assert!(route.websocket && route.refuse_cross_site && !route.path_parameters);
    assert!(route.response.location && route.response.cookie_domain);
    assert_eq!(route.audit, AuditDurability::Buffered);
    assert_eq!(route.upstream.host, UpstreamHost::Preserve);
    assert!(route.upstream.tls.is_none() && route.upstream.credential.is_none());
    assert!(route.identity_providers.is_none() && route.takes("main"));
    assert_eq!(route.bounds, RouteBounds::default());
    assert_eq!((&*config.rate_limits, config.limits.memory), (&[][..], None));
    assert_eq!(config.audit.segment_bytes, 256 << 20);
}

#[test]
fn every_value_arrives_in_the_model() {
    let config = good(FULL);
    let ListenerRole::Tls(tls) = &config.listeners[0].role else { panic!("no tls") };
    assert_eq!(tls.minimum_version, TlsVersion::Tls13);
    assert!(tls.client_ca.as_ref().unwrap().ends_with("file"));
    assert!(tls.client_crl.as_ref().unwrap().ends_with("file"));
    assert!(tls.ticket_keys.as_ref().unwrap().ends_with("private"));
    assert!(matches!(config.listeners[1].role, ListenerRole::RedirectToHttps { port: 8443 }));
    let limits = &config.listeners[0].limits;
    assert_eq!(limits.max_header_bytes, 16 * 1024);
    assert_eq!(timeouts(limits), [1, 2, 3]);
    assert_eq!(limits.max_connections, 100);
    assert_eq!((limits.max_connections_per_address, limits.max_handshakes), (18, 19));
    assert_eq!((limits.min_data_rate, limits.data_rate_grace.as_secs()), (1024, 20));
    let proxy = config.listeners[0].proxy_protocol.as_ref().unwrap();
    assert!(proxy.serves_others && proxy.trusted.contains([10, 1, 2, 3].into()));
    let source = &config.listeners[0].source;
    assert!(source.trusted_proxies.contains("2001:db8::1".parse().unwrap()));
    assert!(source.allows(ClientAddr([192, 0, 2, 1].into())));
    assert!(!source.allows(ClientAddr([192, 0, 3, 1].into())));
    let provider = &config.identity_providers[0];
    let method = Some(SecretMethod::Post);
    let secret = Secret::new("hunter2");
    assert_eq!(provider.client, ClientAuthentication::Secret { secret: secret.clone(), method });
    assert_eq!(provider.parameters, [("prompt".into(), "login".into()), ("hd".into(), "x".into())]);
    let claims = &provider.claims;
    assert_eq!(
        (claims.user.names(), claims.groups.names()),
        (&["oid".into()][..], &["roles".into()][..])
    );
    assert_eq!(claims.roles.as_ref().unwrap().names(), ["realm_access", "roles"]);
    assert_eq!(
        (claims.separator.as_deref(), claims.group_prefix.as_deref()),
        (Some(","), Some("main:"))
    );
    let other = &config.identity_providers[1];
    assert!(other.own_callback && !provider.own_callback);
    assert!(other.asks_userinfo && !provider.asks_userinfo);
    assert!(other.revokes_tokens && !provider.revokes_tokens);
    assert_eq!(other.claims.fixed_tenant.as_deref(), Some("acme"));
    let ClientAuthentication::Key { pem, id, audience } = &other.client else { panic!("no key") };
    assert_eq!((pem, id.as_deref()), (&secret, Some("k1")));
    assert_eq!(*audience, AssertionAudience::TokenEndpoint);
    assert_eq!(config.session.sign_in_host.as_ref().unwrap().as_str(), "login.example.com");
    let kinds: Vec<_> = provider.step_up.iter().map(|kind| (&*kind.acr, kind.amr.len())).collect();
    assert_eq!(kinds, [("urn:x:mfa", 2), ("phr", 0)]);
    assert_eq!(config.session.keep_forms, 9 << 10);
    let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
    let limits = SessionLimits { idle_timeout: minutes(4), absolute_lifetime: minutes(300) };
    assert_eq!(config.applications[0].session, Some(limits));
    let limits = SessionLimits { idle_timeout: minutes(3), absolute_lifetime: None };
    assert_eq!(config.applications[1].session, Some(limits));
    assert_eq!(config.session.shortest_idle, minutes(3));
    let tokens = provider.access_tokens.as_ref().unwrap();
    let audiences: Vec<&str> = tokens.audiences.iter().map(|one| &**one).collect();
    assert_eq!(audiences, ["https://portal.example.com", "second"]);
    assert_eq!(provider.issuer.as_str(), "https://id.example.com/x");
    let route = &config.routes[0];
    assert_eq!((route.host.as_str(), &*route.path), ("portal.example.com", "/café"));
    assert_eq!(route.tenant.as_deref(), Some("globex"));
    let audience = Some("second".into());
    let expected = Accepted { bearer: true, certificate: true, audience, ..Accepted::default() };
    assert_eq!(route.accepted, expected);
    assert!(!route.allows(ClientAddr([192, 0, 2, 1].into())));
    assert!(route.takes("main") && !route.takes("other"), "its own list, not the application's");
    let names = config.routes[1].identity_providers.as_deref().unwrap();
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["other", "main"]);
    let upstream = &route.upstream;
    let ends: Vec<_> =
        upstream.endpoints.iter().map(|end| (end.host.as_str(), end.port, end.weight)).collect();
    assert_eq!(ends, [("10.0.0.5", 443, 3), ("[::1]", 8443, 1)]);
    assert_eq!(upstream.selection, Selection::Random);
    assert_eq!(
        upstream.tls.as_ref().unwrap().server_name.as_ref().unwrap().as_str(),
        "inside.example.com"
    );
    assert!(
        matches!(&upstream.credential, Some(UpstreamCredential::Basic { username, .. }) if username == "gate")
    );
    assert!(matches!(&upstream.host, UpstreamHost::Fixed(to) if to.to_string() == "inside:81"));
    let health = upstream.health.as_ref().unwrap();
    assert_eq!((health.unhealthy_after, health.healthy_after), (9, 10));
    let outliers = OutlierDetection {
        consecutive_failures: 21,
        failure_percent: 22,
        minimum_requests: 23,
        window: Duration::from_secs(24),
        ejection_time: Duration::from_secs(25),
        max_ejection_time: Duration::from_secs(26),
        max_ejection_percent: 27,
    };
    assert_eq!(upstream.outliers, Some(outliers));
    assert_eq!(upstream.slow_start, Some(Duration::from_secs(28)));
    assert_eq!(upstream.retries, RetryBudget { percent: 29, minimum_per_second: 30 });
    assert_eq!(upstream.idle_timeout, Duration::from_secs(13));
    assert_eq!((upstream.max_idle, route.max_body_bytes), (14, 15));
    assert!(!route.refuse_cross_site && !route.response.location && !route.response.cookie_domain);
    let grpc = &config.routes[1];
    let origins: Vec<_> = grpc.cross_site_origins.iter().map(ToString::to_string).collect();
    assert_eq!(origins, ["partner.example", "other.example:8443"]);
    assert_eq!(grpc.upstream.protocol, UpstreamProtocol::Http2);
    assert_eq!(grpc.upstream.outliers, None);
    assert_eq!(grpc.upstream.selection, Selection::Sticky);
    assert!(!grpc.websocket, "http2 upstreams carry none");
    assert!(
        matches!(&grpc.upstream.credential, Some(UpstreamCredential::Header { name, .. }) if name == "x-api-key")
    );
    assert!(matches!(grpc.upstream.health.as_ref().unwrap().kind, HealthCheckKind::Tcp));
    let rule =
        |per, requests, seconds| RateLimit { per, requests, window: Duration::from_secs(seconds) };
    let bounds = RouteBounds {
        rate_limits: vec![rule(LimitPer::Session, 20, 21), rule(LimitPer::Tenant, 22, 86_400)],
        max_in_flight: 23,
        max_upstream_in_flight: Some(24),
        max_websockets: 25,
        websocket: WebSocketLimits {
            max_frame: 32 << 10,
            max_message: 64 << 10,
            frames_per_second: 26,
        },
    };
    assert_eq!(route.bounds, bounds);
    let whole = [rule(LimitPer::Address, 27, 60), rule(LimitPer::Route, 28, 3600)];
    assert_eq!((&*config.rate_limits, config.limits.memory), (&whole[..], Some(512 << 20)));
    assert_eq!((config.audit.queue, config.audit.segment_bytes), (16, 17 << 20));
    assert_eq!(watch::paths(&config).len(), 4, "itself, file, folder, private");
}

#[test]
fn the_shipped_files_load() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    for name in ["wicketgate.yaml", "minimal.yaml"] {
        let yaml = fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let site = Site::with("");
        site.write("policies/wicketgate.cedarschema", "", 0o644);
        site.write(&format!("config/{name}"), &yaml, 0o644);
        for named in ["devices.yaml", "tls/portal.crt", "tls/example.com.crt"].into_iter().chain([
            "tls/plant.example.com.crt",
            "tls/device-ca.crt",
            "tls/plant-ca.crt",
        ]) {
            site.write(&format!("config/{named}"), "x", 0o644);
        }
        for private in ["tls/portal.key", "tls/example.com.key", "tls/plant.example.com.key"]
            .into_iter()
            .chain(["secrets/oidc-client-secret", "secrets/legacy-password"])
        {
            site.write(&format!("config/{private}"), "x", 0o600);
        }
        match load(&site.0.path().join("config").join(name)) {
            Ok((_, warnings)) => assert_eq!(warnings, []),
            Err(findings) => panic!("{findings:#?}"),
        }
    }
    let devices = format!("{folder}/devices.yaml");
    assert!(yaml::read(Path::new(&devices)).is_ok());
}

#[test]
fn sessions_are_refreshed_unless_it_is_off() {
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    for (text, refresh) in [
        ("", Some((minutes(5), minutes(60)))),
        (", refresh: off", None),
        (", refresh: {}", Some((minutes(5), minutes(60)))),
        (", refresh: {interval: 1m, max_age: 2m}", Some((minutes(1), minutes(2)))),
    ] {
        let yaml = MINIMAL.replacen("client_id: gate", &format!("client_id: gate{text}"), 1);
        let config = good(&yaml);
        let found = config.identity_providers[0].refresh;
        assert_eq!(found.map(|refresh| (refresh.interval, refresh.max_age)), refresh, "{text}");
    }
}

#[test]
fn the_documentation_shows_the_shipped_minimal_file() {
    let folder = env!("CARGO_MANIFEST_DIR");
    let shown = fs::read_to_string(format!("{folder}/docs/configuration.md")).unwrap();
    let shipped = fs::read_to_string(format!("{folder}/config/minimal.yaml")).unwrap();
    assert!(shown.contains(&format!("```yaml\n{shipped}```")));
}
