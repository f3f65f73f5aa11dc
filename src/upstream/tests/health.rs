//! Endpoints that are asked whether they are well.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BAD: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";

fn check(healthy_after: usize, unhealthy_after: usize) -> HealthCheck {
    HealthCheck {
        kind: HealthCheckKind::Http { path: "/health".into() },
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        unhealthy_after,
        healthy_after,
    }
}

#[tokio::test]
async fn unhealthy_endpoints_get_no_requests_until_they_are_well() {
    let (good, mut seen) = scripted(GOOD, 1).await;
    let mut settings = upstream(&[nowhere().await]);
    settings.health = Some(check(1, 1));
    let pool_down = pool(settings.clone());
    pool_down.check_health().await;
    let error = pool_down.ask(by(0), request("GET")).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), ("no_healthy_endpoint", 503));

    settings.endpoints = vec![endpoint(good)];
    let pool_up = pool(settings);
    pool_up.check_health().await;
    assert!(seen.recv().await.unwrap().contains("GET /health HTTP/1.1"));
    pool_up.ask(by(0), request("GET")).await.unwrap();
}

/// A server that is well or not as the test says.
async fn moody() -> (SocketAddr, Arc<AtomicBool>) {
    let (listener, address) = listen().await;
    let well = Arc::new(AtomicBool::new(true));
    let mood = Arc::clone(&well);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mood = Arc::clone(&mood);
            tokio::spawn(async move {
                while read_head(&mut stream).await.is_some() {
                    let answer = if mood.load(Ordering::SeqCst) { GOOD } else { BAD };
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, well)
}

#[tokio::test]
async fn an_endpoint_changes_sides_only_after_as_many_checks_in_a_row_as_configured() {
    let (address, well) = moody().await;
    let mut settings = upstream(&[address]);
    settings.health = Some(check(3, 2));
    let pool = pool(settings);
    let checked = async |mood| {
        well.store(mood, Ordering::SeqCst);
        pool.check_health().await;
        pool.ask(by(0), request("GET")).await.map_err(|error| error.kind()).map(drop)
    };
    let out = Err("no_healthy_endpoint");
    assert_eq!(checked(false).await, Ok(()), "one failure");
    assert_eq!(checked(true).await, Ok(()));
    assert_eq!(checked(false).await, Ok(()), "one again");
    assert_eq!(checked(false).await, out, "two in a row");
    assert_eq!(checked(true).await, out);
    assert_eq!(checked(true).await, out);
    assert_eq!(checked(false).await, out, "not in a row");
    assert_eq!(checked(true).await, out);
    assert_eq!(checked(true).await, out);
    assert_eq!(checked(true).await, Ok(()), "three in a row");
}
