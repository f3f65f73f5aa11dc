//! An application from another age: HTTP/1.0, one request a connection, a password of its own.
//!
//! Written by hand on a socket, because no library of today answers like this any more. People
//! never see its password: the gate puts it into every request that a policy allows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::serve;

pub const USERNAME: &str = "archive";

/// The longest header section that it reads, in bytes.
const MOST: usize = 16 * 1024;

/// Serves until `stop`.
pub async fn run(listener: TcpListener, password: String, stop: CancellationToken) {
    let expected = format!("Basic {}", STANDARD.encode(format!("{USERNAME}:{password}")));
    serve::accept(listener, stop, move |stream| {
        let expected = expected.clone();
        async move {
            let _ = converse(stream, &expected).await;
        }
    })
    .await;
}

async fn converse(mut stream: TcpStream, expected: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        if read == 0 || head.len() > MOST {
            return Ok(());
        }
        head.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
    let answer = answer(&String::from_utf8_lossy(&head), expected);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// No `Content-Length`: as in 1996, the end of the connection is the end of the page.
fn answer(head: &str, expected: &str) -> String {
    let mut lines = head.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("/");
    let field = |name: &str| {
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    };
    if field("authorization") != Some(expected) {
        return "HTTP/1.0 401 Unauthorized\r\nServer: ARCHIVE/1.4\r\n\
                WWW-Authenticate: Basic realm=\"ARCHIVE\"\r\nContent-Type: text/html\r\n\r\n\
                <HTML><H1>401 Password please</H1></HTML>\n"
            .to_owned();
    }
    let (status, body) = match path {
        "/" => ("200 OK", PAGE.replace("@USER@", &escape(field("x-wicketgate-user")))),
        _ => ("404 Not Found", "<HTML><H1>404 No such record</H1></HTML>\n".to_owned()),
    };
    format!(
        "HTTP/1.0 {status}\r\nServer: ARCHIVE/1.4\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{body}"
    )
}

fn escape(text: Option<&str>) -> String {
    let text = text.unwrap_or("nobody");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const PAGE: &str = include_str!("../../templates/demo/legacy.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_its_password_the_archive_shows_nothing() {
        for head in
            ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nAuthorization: Basic eA==\r\n\r\n"]
        {
            let answer = answer(head, "Basic YQ==");
            assert!(answer.starts_with("HTTP/1.0 401 "), "{answer}");
            assert!(!answer.contains("SEAL"));
        }
    }

    #[test]
    fn with_its_password_the_archive_answers_in_http_1_0() {
        let head =
            "GET / HTTP/1.1\r\nauthorization: Basic YQ==\r\nX-Wicketgate-User: <otto>\r\n\r\n";
        let answer = answer(head, "Basic YQ==");
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert!(answer.contains("USER: &lt;otto&gt;"), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("content-length"));
    }
}
