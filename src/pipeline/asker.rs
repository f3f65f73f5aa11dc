//! Who asks: a person in front of a page, or a program.
//!
//! Fetch Metadata (W3C) says so where the browser sends it; a page's script can't change it. Older
//! browsers and programs are told apart by `Accept`.

use http::header::{ACCEPT, HeaderName, RANGE, UPGRADE};
use http::{HeaderMap, Method};

use super::headers::{FETCH_DEST, FETCH_MODE};

const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// How browsers say that nobody has asked for it yet: new and old names.
const PURPOSES: [HeaderName; 3] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-moz"),
];

/// How the client wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// It shows HTML to a person.
    pub page: bool,
}

impl Asker {
    /// Reads JSON.
    pub const PROGRAM: Self = Self { page: false };

    pub fn of(head: &http::request::Parts) -> Self {
        let headers = &head.headers;
        let page = match headers.get(&FETCH_MODE) {
            // Not what a script fetches, a service worker's own script, or a WebSocket.
            Some(mode) => mode == "navigate",
            None => {
                accepts_html(headers)
                    && !headers.contains_key(&REQUESTED_WITH)
                    && !headers.contains_key(UPGRADE)
            }
        };
        Self { page }
    }
}

/// Whether a person goes to a page with this request, so that it can be sent elsewhere first and
/// come back.
pub fn navigates(head: &http::request::Parts) -> bool {
    let safe = head.method == Method::GET || head.method == Method::HEAD;
    // Nobody has asked for it yet: a login that nobody sees would only take the place of others.
    let ahead = || PURPOSES.iter().any(|name| is_prefetch(&head.headers, name));
    // The rest of a file: a sign-in page is no part of it.
    safe && is_top_level(head) && !head.headers.contains_key(RANGE) && !ahead()
}

/// Whether what comes back fills a tab. Providers refuse to be framed, and a frame's cookies are
/// not the page's.
pub fn is_top_level(head: &http::request::Parts) -> bool {
    Asker::of(head).page
        && head.headers.get(&FETCH_DEST).is_none_or(|destination| destination == "document")
}

fn is_prefetch(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| {
        let word = value.as_bytes().split(|byte| matches!(byte, b';' | b',')).next();
        word.unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"prefetch")
    })
}

/// Whether HTML is among what is accepted by name (RFC 9110, section 12.5.1). `*/*` is what
/// programs say.
fn accepts_html(headers: &HeaderMap) -> bool {
    let items = headers
        .get_all(ACCEPT)
        .iter()
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    items.map(<[u8]>::trim_ascii).any(|item| {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts.next().is_some_and(|kind| {
            kind.eq_ignore_ascii_case(b"text/html")
                || kind.eq_ignore_ascii_case(b"application/xhtml+xml")
        });
        is_html && !parts.any(|part| matches!(part, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Answer {
        Page,
        SignIn,
        Problem,
    }
    use Answer::{Page as PAGE, Problem as PROGRAM, SignIn as NAVIGATION};

    fn asker(method: &str, fields: &str) -> Answer {
        let mut request = http::Request::builder().method(method).uri("/");
        for field in fields.split('\n').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        match (Asker::of(&head).page, navigates(&head)) {
            (true, true) => NAVIGATION,
            (true, false) => PAGE,
            (false, navigates) => {
                assert!(!navigates, "{fields}");
                PROGRAM
            }
        }
    }

    #[test]
    fn everybody_is_answered_in_the_form_that_fits() {
        const TOP: &str = "sec-fetch-mode: navigate\nsec-fetch-dest: document";
        const OLD: &str = "accept: text/html,application/xhtml+xml,*/*;q=0.8";
        for (who, method, fields, expected) in [
            ("a browser that goes to a page", "GET", TOP, NAVIGATION),
            ("the same with HEAD", "HEAD", TOP, NAVIGATION),
            ("an older browser", "GET", OLD, NAVIGATION),
            ("one that says XHTML", "GET", "accept: application/xhtml+xml", NAVIGATION),
            ("a form", "POST", TOP, PAGE),
            ("a form of an older browser", "POST", OLD, PAGE),
            ("a frame", "GET", "sec-fetch-mode: navigate\nsec-fetch-dest: iframe", PAGE),
            ("an old frame", "GET", "sec-fetch-mode: navigate\nsec-fetch-dest: frame", PAGE),
            ("an object", "GET", "sec-fetch-mode: navigate\nsec-fetch-dest: object", PAGE),
            ("an embedded one", "GET", "sec-fetch-mode: navigate\nsec-fetch-dest: embed", PAGE),
            (
                "a fetch",
                "GET",
                "sec-fetch-mode: cors\nsec-fetch-dest: empty\naccept: text/html",
                PROGRAM,
            ),
            (
                "a fetch of its own site",
                "GET",
                "sec-fetch-mode: same-origin\naccept: text/html",
                PROGRAM,
            ),
            (
                "an image",
                "GET",
                "sec-fetch-mode: no-cors\nsec-fetch-dest: image\naccept: */*",
                PROGRAM,
            ),
            (
                "a service worker's script",
                "GET",
                "sec-fetch-mode: same-origin\nsec-fetch-dest: serviceworker\nservice-worker: script",
                PROGRAM,
            ),
            (
                "a worker's script",
                "GET",
                "sec-fetch-mode: same-origin\nsec-fetch-dest: worker",
                PROGRAM,
            ),
            (
                "a navigation that a service worker passes on",
                "GET",
                "sec-fetch-mode: navigate\nsec-fetch-dest: document\nservice-worker-navigation-preload: true",
                NAVIGATION,
            ),
            ("a WebSocket", "GET", "sec-fetch-mode: websocket\nupgrade: websocket", PROGRAM),
            (
                "a WebSocket of an older browser",
                "GET",
                "upgrade: websocket\naccept: text/html",
                PROGRAM,
            ),
            (
                "XMLHttpRequest of an older browser",
                "GET",
                "accept: text/html\nx-requested-with: XMLHttpRequest",
                PROGRAM,
            ),
            ("an event stream", "GET", "accept: text/event-stream", PROGRAM),
            ("curl", "GET", "accept: */*", PROGRAM),
            ("an API client", "GET", "accept: application/json, text/plain, */*", PROGRAM),
            ("one that says nothing", "GET", "", PROGRAM),
            ("one that wants no HTML", "GET", "accept: application/json, text/html;q=0", PROGRAM),
            ("one whose type begins like HTML", "GET", "accept: text/html-sandboxed", PROGRAM),
            (
                "a download that goes on",
                "GET",
                "sec-fetch-mode: navigate\nsec-fetch-dest: document\nrange: bytes=5-",
                PAGE,
            ),
            ("a download tool", "GET", "accept: */*\nrange: bytes=5-", PROGRAM),
            (
                "a prefetch",
                "GET",
                "sec-fetch-mode: navigate\nsec-fetch-dest: document\nsec-purpose: prefetch",
                PAGE,
            ),
            (
                "a prerender",
                "GET",
                "sec-fetch-mode: navigate\nsec-fetch-dest: document\nsec-purpose: prefetch;prerender",
                PAGE,
            ),
            ("a prefetch of an older browser", "GET", "accept: text/html\npurpose: prefetch", PAGE),
            (
                "another purpose",
                "GET",
                "sec-fetch-mode: navigate\nsec-fetch-dest: document\npurpose: preview",
                NAVIGATION,
            ),
        ] {
            assert_eq!(asker(method, fields), expected, "{who}");
        }
    }
}
