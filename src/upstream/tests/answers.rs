use super::*;

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_used_again_by_its_own_worker_only() {
    let (address, mut seen) = scripted(GOOD, 10).await;
    let pool = pool(upstream(&[address]));
    let mut connections = String::new();
    for worker in [0, 0, 1] {
        let response = pool.ask(by(worker), request("GET")).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "ok");
        until(|| pool.all_ready()).await;
        connections.push(seen.recv().await.unwrap().chars().next().unwrap());
    }
    assert_eq!(connections, "112");
    assert_eq!(pool.waiting(), 2);
}

#[tokio::test]
async fn so_many_connections_are_kept_and_that_used_last_is_used_next() {
    let (address, mut seen) = scripted(GOOD, 10).await;
    let pool = pool(upstream(&[address]));
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(pool.ask(by(0), request("GET")).await.unwrap());
        seen.recv().await.unwrap();
    }
    for answer in answers {
        assert_eq!(text(answer).await.unwrap(), "ok");
    }
    assert_eq!(pool.waiting(), 4);
    let mut unread = Vec::new();
    for expected in ["6", "5", "4", "3", "7"] {
        unread.push(pool.ask(by(0), request("GET")).await.unwrap());
        assert_eq!(seen.recv().await.unwrap().split(' ').next(), Some(expected));
    }
}

/// Once to send, once when the answer is there: nothing on the way wakes the task for nothing.
#[tokio::test]
async fn a_request_over_a_kept_connection_runs_twice() {
    let (address, _seen) = scripted(GOOD, 10).await;
    let pool = pool(upstream(&[address]));
    let mut polls = 0;
    for _ in 0..3 {
        let pool = Arc::clone(&pool);
        polls = tokio::spawn(async move {
            let mut exchange = Box::pin(async {
                let response = pool.ask(by(0), request("GET")).await.unwrap();
                assert_eq!(text(response).await.unwrap(), "ok");
            });
            let mut polls = 0;
            std::future::poll_fn(|cx| {
                polls += 1;
                exchange.as_mut().poll(cx)
            })
            .await;
            polls
        })
        .await
        .unwrap();
    }
    assert_eq!(polls, 2);
}

#[tokio::test]
async fn what_the_upstream_sees_is_origin_form_with_the_host() {
    let (address, mut seen) = scripted(GOOD, 1).await;
    let mut outgoing = request("GET");
    *outgoing.version_mut() = http::Version::HTTP_2;
    *outgoing.uri_mut() = "https://public.example/path?query".parse().unwrap();
    pool(upstream(&[address])).ask(by(0), outgoing).await.unwrap();
    assert_eq!(
        seen.recv().await.unwrap(),
        "1 GET /path?query HTTP/1.1\r\nhost: public.example\r\n\r\n"
    );
}

#[tokio::test]
async fn ambiguous_or_broken_answers_are_502_and_the_connection_is_dropped() {
    for answer in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let (address, _seen) = scripted(answer, 1).await;
        let pool = pool(upstream(&[address]));
        let error = pool.ask(by(0), request("GET")).await.map(drop).unwrap_err();
        assert_eq!(
            (error.kind(), error.status().as_u16()),
            ("protocol", 502),
            "{answer:?}: {error}"
        );
        assert_eq!(pool.waiting(), 0, "{answer:?}");
    }
}

#[tokio::test]
async fn too_large_a_header_is_502() {
    let many = "X-A: b\r\n".repeat(101);
    let long = format!("X-A: {}\r\n", "b".repeat(70_000));
    for fields in [many, long] {
        let answer: &'static str =
            Box::leak(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").into());
        let (address, _seen) = scripted(answer, 1).await;
        let error =
            pool(upstream(&[address])).ask(by(0), request("GET")).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), "protocol", "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_is_an_error_and_never_a_short_success() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        let (address, _seen) = scripted(answer, 1).await;
        let pool = pool(upstream(&[address]));
        let response = pool.ask(by(0), request("GET")).await.unwrap();
        assert_eq!(text(response).await.unwrap_err().kind(), "closed", "{answer:?}");
        assert_eq!(pool.waiting(), 0);
    }
}

#[tokio::test]
async fn a_legacy_server_answers_up_to_the_end_of_its_connection() {
    let (address, mut seen) = scripted("HTTP/1.0 200 OK\r\n\r\nold but well", 1).await;
    let pool = pool(upstream(&[address]));
    for connection in ["1", "2"] {
        let response = pool.ask(by(0), request("GET")).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "old but well");
        assert!(seen.recv().await.unwrap().starts_with(connection));
    }
    assert_eq!(pool.waiting(), 0);
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                  HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (address, _seen) = scripted(answer, 1).await;
    let response = pool(upstream(&[address])).ask(by(0), request("GET")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("link"));
    assert_eq!(text(response).await.unwrap(), "ok");
}

#[tokio::test]
async fn an_upgrade_that_was_asked_for_hands_over_the_stream() {
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello";
    let (address, _seen) = scripted(answer, 1).await;
    let mut outgoing = request("GET");
    outgoing.headers_mut().insert("connection", "upgrade".parse().unwrap());
    outgoing.headers_mut().insert("upgrade", "x".parse().unwrap());
    let response = pool(upstream(&[address])).ask(by(0), outgoing).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut first = [0; 5];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"hello");
}

/// Answers one request with these bytes and no more; ends once its connection has been closed.
async fn halting(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let (listener, address) = listen().await;
    let closed = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Not one byte more of what was asked for, in particular not asked for again.
        assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    });
    (address, closed)
}

#[tokio::test]
async fn silence_ends_at_the_response_and_idle_timeouts_and_the_connection_is_dropped() {
    let patience = Duration::from_secs(30);
    let (address, closed) = halting("").await;
    let mut settings = upstream(&[address]);
    settings.response_timeout = Duration::from_millis(50);
    let waiting = pool(settings);
    let error = waiting.ask(by(0), request("GET")).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.status().as_u16()), ("timeout", 504));
    assert_eq!(waiting.waiting(), 0);
    tokio::time::timeout(patience, closed).await.expect("an end of the connection").unwrap();

    let (address, closed) = halting("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await;
    let mut settings = upstream(&[address]);
    settings.idle_timeout = Duration::from_millis(50);
    let waiting = pool(settings);
    let response = waiting.ask(by(0), request("GET")).await.unwrap();
    assert_eq!(text(response).await.unwrap_err().kind(), "timeout");
    assert_eq!(waiting.waiting(), 0);
    tokio::time::timeout(patience, closed).await.expect("an end of the connection").unwrap();
}
