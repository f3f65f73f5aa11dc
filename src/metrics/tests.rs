use std::collections::BTreeSet;
use std::time::Duration;

use super::*;

/// A registry in which every family has a series, so that all of them are gathered.
fn touched() -> Arc<Metrics> {
    let metrics = Metrics::new();
    let route = metrics.route("portal");
    route.observe(RequestOutcome::Permitted, Duration::from_micros(300));
    route.upstream_error("connect");
    route.upstream_latency(Duration::from_millis(2));
    metrics.connections("public").inc();
    metrics.connection_refused("public", "limit");
    metrics.tls_handshakes("1.3", "full");
    metrics.sessions_ended(EndReason::Logout);
    metrics.logins("success");
    metrics.access_tokens("verified");
    metrics.refreshes("refreshed");
    metrics.token_revocations("revoked");
    metrics.refreshes_queued("idp", "waited");
    metrics.rate_limited("portal", "address");
    metrics.shed("portal", "route");
    metrics.reloads("applied");
    metrics.certificate_expiry("server.pem", Timestamp::from_seconds(7));
    metrics.policy_set_info(&PolicySetHash("abc".into()));
    metrics.upstream_healthy("portal", "127.0.0.1:80").set(1);
    metrics.upstream("portal", ["127.0.0.1:80".to_owned()].into_iter()).ejection(0);
    route.upstream_retry(true);
    metrics
}

#[test]
fn a_permitted_request_counts_under_its_route_and_outcome() {
    let text = touched().render();
    assert!(
        text.contains(r#"wicketgate_requests_total{outcome="permitted",route="portal"} 1"#),
        "{text}"
    );
    assert!(text.contains(
        r#"wicketgate_request_duration_seconds_bucket{outcome="permitted",route="portal",le="0.0005"} 1"#
    ));
    assert!(text.contains(
        r#"wicketgate_request_duration_seconds_bucket{outcome="permitted",route="portal",le="0.00025"} 0"#
    ));
}

#[test]
fn of_several_certificates_in_one_file_the_first_to_expire_is_told() {
    let metrics = Metrics::new();
    for expires in [9, 7, 8] {
        metrics.certificate_expiry("ca.pem", Timestamp::from_seconds(expires));
    }
    let line = r#"wicketgate_certificate_expiry_timestamp_seconds{name="ca.pem"} 7"#;
    assert!(metrics.render().contains(line), "{}", metrics.render());
    metrics.forget_certificates();
    metrics.certificate_expiry("ca.pem", Timestamp::from_seconds(99));
    assert!(metrics.render().contains(r#"{name="ca.pem"} 99"#));
}

#[test]
fn a_route_that_rests_has_its_counters_and_no_histogram() {
    let metrics = Metrics::new();
    let route = metrics.route("portal");
    let text = metrics.render();
    assert!(text.contains(r#"wicketgate_requests_total{outcome="denied",route="portal"} 0"#));
    assert!(!text.contains("duration_seconds_bucket{outcome"), "{text}");
    assert!(!text.contains("wicketgate_upstream_duration_seconds_bucket{route"), "{text}");
    route.upstream_latency(Duration::from_millis(2));
    let line = r#"wicketgate_upstream_duration_seconds_count{route="portal"} 1"#;
    assert!(metrics.render().contains(line));
}

#[test]
fn every_outcome_and_stage_lands_under_its_own_name() {
    for outcome in RequestOutcome::ALL {
        let metrics = Metrics::new();
        metrics.route("r").observe(outcome, Duration::from_micros(1));
        let line =
            format!(r#"wicketgate_requests_total{{outcome="{}",route="r"}} 1"#, outcome.name());
        assert!(metrics.render().contains(&line), "{line}");
    }
    for stage in Stage::ALL {
        let metrics = Metrics::new();
        metrics.route("r").stage(stage, Duration::from_micros(1));
        let line =
            format!(r#"wicketgate_stage_duration_seconds_count{{stage="{}"}} 1"#, stage.name());
        assert!(metrics.render().contains(&line), "{line}");
    }
}

#[test]
fn requests_without_a_route_count_under_a_label_that_no_route_has() {
    let metrics = Metrics::new();
    for _ in 0..2 {
        metrics.unrouted().observe(RequestOutcome::Refused, Duration::from_micros(1));
    }
    let line = r#"wicketgate_requests_total{outcome="refused",route="-"} 2"#;
    assert!(metrics.render().contains(line), "{}", metrics.render());
}

#[test]
fn end_reasons_are_called_as_in_audit_records() {
    for reason in [
        EndReason::Logout,
        EndReason::ProviderLogout,
        EndReason::IdleTimeout,
        EndReason::AbsoluteLifetime,
        EndReason::Revoked,
        EndReason::Replaced,
        EndReason::Limit,
        EndReason::Suspended,
        EndReason::RefreshRefused,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), labels::end_reason(reason));
    }
}

#[test]
fn a_new_policy_set_takes_the_place_of_the_old_one() {
    let metrics = touched();
    metrics.policy_set_info(&PolicySetHash("def".into()));
    let text = metrics.render();
    assert!(text.contains(r#"wicketgate_policy_set_info{hash="def"} 1"#));
    assert!(!text.contains(r#"hash="abc""#));
}

#[test]
fn what_is_no_longer_an_endpoint_is_forgotten_and_the_rest_stays() {
    let metrics = touched();
    for (route, endpoint) in [("portal", "127.0.0.2:80"), ("gone", "127.0.0.1:80")] {
        metrics.upstream_healthy(route, endpoint).set(1);
        metrics.upstream(route, [endpoint.to_owned()].into_iter()).ejection(0);
    }
    metrics.forget_upstreams(|route, endpoint| {
        route == "portal" && endpoint.is_none_or(|endpoint| endpoint == "127.0.0.1:80")
    });
    let text = metrics.render();
    for name in ["healthy", "ejected", "ejections_total"] {
        let of = |line: &&str| line.starts_with(&format!("wicketgate_upstream_{name}{{"));
        let lines: Vec<_> = text.lines().filter(of).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(r#"endpoint="127.0.0.1:80",route="portal""#), "{lines:?}");
    }
    assert!(text.contains(r#"wicketgate_upstream_breaker_open{route="portal"}"#));
    assert!(!text.contains(r#"route="gone""#), "{text}");
}

#[test]
fn the_metrics_page_lists_every_metric_with_its_type_and_labels() {
    let page = include_str!("../../docs/metrics.md");
    let mut documented = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `wicketgate_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels: BTreeSet<String> = cells[3]
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        documented.insert((cells[1].trim_matches('`').to_owned(), cells[2].to_owned(), labels));
    }
    let mut registered = BTreeSet::new();
    for family in touched().registry.gather() {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let labels = family
            .get_metric()
            .iter()
            .flat_map(|metric| metric.get_label().iter().map(|pair| pair.name().to_owned()))
            .collect::<BTreeSet<_>>();
        registered.insert((family.name().to_owned(), kind, labels));
    }
    assert_eq!(documented, registered);
}
