use super::*;

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server whose first connection answers once and then, at the second request, hangs up after
/// having sent `last`. Later connections answer well, nine times. Tells of every request that it read.
pub(super) async fn dies_on_reuse(
    last: &'static str,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    let (listener, address) = listen().await;
    let (sender, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            number += 1;
            let mut answers = if number == 1 { vec![last, GOOD] } else { vec![GOOD; 9] };
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Some(answer) = answers.pop() {
                    if read_head(&mut stream).await.is_none() {
                        break;
                    }
                    let _ = sender.send(number);
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, seen)
}

async fn second_request(
    method: &str,
    last: &'static str,
) -> (Result<String, UpstreamError>, Vec<usize>) {
    let (address, mut seen) = dies_on_reuse(last).await;
    let pool = pool(upstream(&[address]));
    let first = pool.ask(by(0), request("GET")).await.unwrap();
    text(first).await.unwrap();
    until(|| pool.all_ready()).await;
    let result = match pool.ask(by(0), request(method)).await {
        Ok(response) => text(response).await,
        Err(error) => Err(error),
    };
    let mut connections = Vec::new();
    while let Ok(number) = seen.try_recv() {
        connections.push(number);
    }
    (result, connections)
}

#[tokio::test]
async fn a_get_on_a_kept_connection_that_dies_goes_out_once_more() {
    let (result, connections) = second_request("GET", "").await;
    assert_eq!(result.unwrap(), "ok");
    assert_eq!(connections, [1, 1, 2]);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let (result, connections) = second_request("POST", "").await;
    assert_eq!(result.unwrap_err().status().as_u16(), 502);
    assert_eq!(connections, [1, 1]);
}

#[tokio::test]
async fn a_get_is_not_repeated_once_a_byte_of_its_answer_came() {
    let (result, connections) = second_request("GET", "H").await;
    assert_eq!(result.unwrap_err().status().as_u16(), 502);
    assert_eq!(connections, [1, 1]);
}

#[tokio::test]
async fn a_get_is_not_repeated_when_a_new_connection_dies() {
    let (address, mut seen) = scripted("", 1).await;
    let error = pool(upstream(&[address])).ask(by(0), request("GET")).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), ("closed", 502));
    seen.recv().await.unwrap();
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_passed_over_for_any_method() {
    let (good, _seen) = scripted(GOOD, 1).await;
    let bad = nowhere().await;
    let pool = pool(upstream(&[bad, good]));
    for _ in 0..4 {
        let outgoing = request("POST").map(|_| Full::new(Bytes::from_static(b"body")));
        let response = pool.ask(by(0), outgoing).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_502() {
    let pool = pool(upstream(&[nowhere().await, nowhere().await]));
    let error = pool.ask(by(0), request("GET")).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), ("connect", 502));
}

fn retries(pool: &(Arc<Pool>, Arc<Metrics>), result: &str) -> String {
    let text = pool.1.render();
    let of = |line: &&str| {
        line.starts_with("wicketgate_upstream_retries_total{") && line.contains(result)
    };
    text.lines().find(of).map_or("none", |line| line.rsplit(' ').next().unwrap()).to_owned()
}

fn counted(upstream: Upstream) -> (Arc<Pool>, Arc<Metrics>) {
    let metrics = Metrics::new();
    (Pool::new(&route(upstream), 2, &metrics).unwrap(), metrics)
}

#[tokio::test]
async fn without_a_budget_another_endpoint_is_not_tried() {
    let (good, _seen) = scripted(GOOD, 1).await;
    let mut settings = upstream(&[nowhere().await, good]);
    settings.outliers = None;
    let generous = counted(settings.clone());
    for _ in 0..4 {
        generous.0.ask(by(0), request("GET")).await.unwrap();
    }
    assert_ne!(retries(&generous, "sent"), "none");
    assert_eq!(retries(&generous, "refused"), "none");

    settings.retries = RetryBudget { percent: 0, minimum_per_second: 0 };
    let strict = counted(settings);
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let sent = strict.0.ask(by(0), request("GET")).await;
        kinds.push(sent.map_or_else(|error| error.kind(), |_| "ok"));
    }
    let refused = kinds.iter().filter(|kind| **kind == "connect").count();
    assert!((1..4).contains(&refused) && kinds.contains(&"ok"), "{kinds:?}");
    assert_eq!(retries(&strict, "refused"), refused.to_string());
    assert_eq!(retries(&strict, "sent"), "none");
}

#[tokio::test]
async fn without_a_budget_a_kept_connection_that_dies_is_the_end() {
    let (address, mut seen) = dies_on_reuse("").await;
    let mut settings = upstream(&[address]);
    settings.retries = RetryBudget { percent: 0, minimum_per_second: 0 };
    let pool = counted(settings);
    text(pool.0.ask(by(0), request("GET")).await.unwrap()).await.unwrap();
    until(|| pool.0.all_ready()).await;
    let error = pool.0.ask(by(0), request("GET")).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), ("closed", 502));
    assert_eq!([seen.recv().await, seen.recv().await], [Some(1), Some(1)]);
    assert!(seen.try_recv().is_err(), "no second connection");
    assert_eq!(retries(&pool, "refused"), "1");
}

#[tokio::test]
async fn the_background_task_ends_with_its_pool() {
    let pool = pool(upstream(&[nowhere().await]));
    let task = tokio::spawn(pool.health(&Metrics::new()));
    drop(pool);
    task.await.unwrap();
}

#[tokio::test]
async fn a_pool_that_is_made_and_not_used_does_not_show_in_the_metrics() {
    let metrics = Metrics::new();
    let route = route(upstream(&[nowhere().await]));
    let shown = || metrics.render().contains("\nwicketgate_upstream_healthy{");
    let pool = Pool::new(&route, 2, &metrics).unwrap();
    assert!(!shown());
    let _tended = pool.health(&metrics);
    assert!(shown());
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_is_not_taken() {
    let (address, _seen) = scripted(GOOD, 1).await;
    let pool = pool(upstream(&[address]));
    for _ in 0..3 {
        let outgoing = request("POST");
        let response = pool.ask(by(0), outgoing).await.unwrap();
        text(response).await.unwrap();
        until(|| pool.all_closed()).await;
    }
}

#[test]
fn the_upstreams_own_origins_are_known_in_every_spelling() {
    let mut settings =
        upstream(&["127.0.0.1:8080".parse().unwrap(), "127.0.0.2:80".parse().unwrap()]);
    settings.host =
        UpstreamHost::Fixed(crate::domain::canonical::Authority::parse("app.internal").unwrap());
    let pool = pool(settings);
    for own in [
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8080/path?x#y",
        "HTTP://127.0.0.2/",
        "http://127.0.0.2:80",
        "http://App.Internal.:80/",
    ] {
        assert!(pool.owns_origin(own), "{own}");
    }
    for other in [
        "https://127.0.0.1:8080",
        "http://127.0.0.1",
        "http://127.0.0.1:8080@evil.example/",
        "//127.0.0.1:8080",
        "/path",
        "http://app.internal.evil.example/",
    ] {
        assert!(!pool.owns_origin(other), "{other}");
    }
}

/// The connections on which two requests in a row arrive.
async fn connections_of_two(answer: &'static str, field: (&'static str, &'static str)) -> [u8; 2] {
    let (address, mut seen) = scripted(answer, 2).await;
    let pool = pool(upstream(&[address]));
    let mut connections = [0; 2];
    for connection in &mut connections {
        let mut request = request("GET");
        request.headers_mut().insert(field.0, http::HeaderValue::from_static(field.1));
        text(pool.ask(by(0), request).await.unwrap()).await.unwrap();
        *connection = seen.recv().await.unwrap().as_bytes()[0] - b'0';
    }
    connections
}

#[tokio::test]
async fn a_connection_that_a_user_is_signed_in_on_is_no_other_users() {
    let fine = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let asks =
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Negotiate\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(connections_of_two(fine, ("authorization", "Basic eDp5")).await, [1, 1]);
    assert_eq!(connections_of_two(fine, ("authorization", "NTLM TlRMTVNT")).await, [1, 2]);
    assert_eq!(connections_of_two(fine, ("authorization", "negotiate YII")).await, [1, 2]);
    assert_eq!(connections_of_two(asks, ("accept", "*/*")).await, [1, 2]);
}
