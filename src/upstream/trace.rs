//! What went over an HTTP/1 connection since its request began: enough to tell a kept connection
//! that had died quietly from one that began to answer, and to send the request once more.
//!
//! hyper takes a request's head and doesn't give it back. A copy of each, made for the few that
//! need it, would cost more than keeping the bytes that were written.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderName, HeaderValue, Request, Uri};
use parking_lot::Mutex;

use super::body::RequestBody;

/// Bytes of a head beyond which it isn't kept, and so not sent again.
const MOST: usize = 128 * 1024;

/// Bytes for which room is held between two requests.
const ROOM: usize = 4 * 1024;

/// Shared by a connection's socket and whoever uses it, who are in one task.
///
/// INVARIANT: what is kept begins with the request's first byte. An upstream may answer before it
/// has taken the whole of a request, so the next one can find bytes of the last still unwritten;
/// then nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Trace {
    heard: AtomicBool,
    keeps: AtomicBool,
    /// The socket has not taken all that it was offered last.
    owes: AtomicBool,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    /// What the socket was offered, which it need not have taken: it may have been dead already.
    offered: Vec<u8>,
    taken: usize,
}

impl Trace {
    /// A request begins. `keeps`: it has no body, and may be sent again.
    pub(super) fn begin(&self, keeps: bool) {
        self.heard.store(false, Ordering::Relaxed);
        self.keeps.store(keeps && !self.owes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The answer is here, or won't come. A head holds what nobody else should see.
    pub(super) fn settled(&self) {
        if self.keeps.swap(false, Ordering::Relaxed) {
            let mut sent = self.sent.lock();
            sent.taken = 0;
            sent.offered.clear();
            sent.offered.shrink_to(ROOM);
        }
    }

    /// How much of what it was offered the socket took.
    pub(super) fn wrote(&self, offered: usize, taken: usize) {
        self.owes.store(taken < offered, Ordering::Relaxed);
        if self.keeps() {
            let mut sent = self.sent.lock();
            sent.taken = sent.taken.saturating_add(taken);
        }
    }

    pub(super) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Whether the upstream has sent a byte since.
    pub(super) fn heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps.load(Ordering::Relaxed)
    }

    /// The socket is offered these bytes, which follow those that it took.
    pub(super) fn offer(&self, parts: &[IoSlice<'_>]) {
        let mut sent = self.sent.lock();
        let Sent { offered, taken } = &mut *sent;
        offered.truncate(*taken);
        for part in parts {
            if offered.len().saturating_add(part.len()) > MOST {
                self.keeps.store(false, Ordering::Relaxed);
                *sent = Sent::default();
                return;
            }
            offered.extend_from_slice(part);
        }
    }

    /// The request that was sent, where it was kept.
    pub(super) fn request(&self) -> Option<Request<RequestBody>> {
        if !self.keeps() {
            return None;
        }
        parse(&self.sent.lock().offered)
    }
}

/// Reads a whole head, as hyper wrote it.
fn parse(head: &[u8]) -> Option<Request<RequestBody>> {
    let lines = head.iter().filter(|byte| **byte == b'\n').count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines];
    let mut parsed = httparse::Request::new(&mut fields);
    if parsed.parse(head).ok()?.is_partial() {
        return None;
    }
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = parsed.method?.parse().ok()?;
    *request.uri_mut() = Uri::try_from(parsed.path?).ok()?;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] =
        b"DELETE /a?b HTTP/1.1\r\nhost: app.test\r\nx-two: 1\r\nx-two: 2\r\nx-empty: \r\n\r\n";

    fn sent(trace: &Trace, parts: &[(&[u8], usize)]) {
        for (part, taken) in parts {
            trace.offer(&[IoSlice::new(part)]);
            trace.wrote(part.len(), *taken);
        }
    }

    #[test]
    fn the_request_is_what_was_written_however_it_was_taken() {
        let (first, second) = HEAD.split_at(30);
        let takes: [&[(&[u8], usize)]; 4] = [
            &[(HEAD, HEAD.len())],
            &[(HEAD, 0)],
            &[(first, 30), (second, second.len())],
            &[(HEAD, 30), (second, 0)],
        ];
        for parts in takes {
            let trace = Trace::default();
            trace.begin(true);
            sent(&trace, parts);
            let request = trace.request().unwrap();
            assert_eq!(request.method(), "DELETE");
            assert_eq!(request.uri(), "/a?b");
            let fields: Vec<_> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            assert_eq!(
                fields,
                [("host", "app.test"), ("x-two", "1"), ("x-two", "2"), ("x-empty", "")]
            );
        }
    }

    #[test]
    fn part_of_a_head_is_no_request() {
        let trace = Trace::default();
        trace.begin(true);
        sent(&trace, &[(HEAD.split_at(30).0, 0)]);
        assert!(trace.request().is_none());
    }

    #[test]
    fn nothing_is_kept_of_an_exchange_before() {
        let trace = Trace::default();
        trace.begin(true);
        sent(&trace, &[(HEAD, HEAD.len())]);
        trace.hear();
        trace.settled();
        assert!(trace.sent.lock().offered.is_empty());
        trace.begin(true);
        assert!(!trace.heard());
        assert!(trace.request().is_none());
        sent(&trace, &[(HEAD, HEAD.len())]);
        trace.settled();
        assert!(trace.request().is_none());
        trace.begin(false);
        assert!(trace.request().is_none());
    }

    #[test]
    fn a_request_behind_the_rest_of_another_is_not_kept() {
        let trace = Trace::default();
        trace.begin(true);
        sent(&trace, &[(HEAD, 30)]);
        trace.settled();
        trace.begin(true);
        assert!(!trace.keeps());
        trace.wrote(HEAD.len(), HEAD.len());
        trace.settled();
        trace.begin(true);
        assert!(trace.keeps());
    }

    #[test]
    fn a_head_that_is_too_large_is_not_kept() {
        let trace = Trace::default();
        trace.begin(true);
        sent(&trace, &[(HEAD, HEAD.len()), (&vec![b'x'; MOST], 0)]);
        assert!(!trace.keeps());
        assert!(trace.request().is_none());
    }
}
