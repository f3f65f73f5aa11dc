//! A whole HTTP/1 connection (`proxy::connection` with hyper and the observer): the requests that
//! are served are those that every server would see in these bytes.

use std::cell::LazyCell;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use wicketgate::config::model::ListenerLimits;
use wicketgate::proxy::activity::Activity;
use wicketgate::proxy::connection::{Protocol, serve};

use super::site;

/// A request: method, target, body.
pub type Read = (String, String, Vec<u8>);

/// A configuration whose listener has the default limits.
const CONFIG: &[u8] = b"listeners: [{name: a, address: '127.0.0.1:1', tls: {certificates: \
[{certificate: file, key: private}]}}]
identity_providers: [{name: a, issuer: 'https://a.example', client_id: a}]
policies: {directory: folder, schema: file}
applications: [{name: a}]
routes: [{name: a, host: a.example, application: a, upstreams: ['http://10.0.0.1:1']}]
audit: {directory: audit}
store: {path: store}
";

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().expect("a runtime")
    });
    static LIMITS: LazyCell<ListenerLimits> = LazyCell::new(|| {
        let config = site::with_file(CONFIG, wicketgate::config::load);
        let (config, _) = config.expect("a good configuration");
        config.listeners.first().expect("one listener").limits.clone()
    });
}

pub fn run(data: &[u8]) {
    let limits = LIMITS.with(|limits| (**limits).clone());
    let served = RUNTIME.with(|runtime| runtime.block_on(serve_all(data, &limits)));
    for reading in readings(data) {
        for (index, request) in served.iter().enumerate() {
            let shown = String::from_utf8_lossy(data);
            assert_eq!(reading.get(index), Some(request), "request {index} of {shown:?}");
        }
    }
}

/// The requests that arrived whole and read in one way only.
async fn serve_all(data: &[u8], limits: &ListenerLimits) -> Vec<Read> {
    let served: Arc<Mutex<Vec<Read>>> = Arc::default();
    let activity = Activity::new(true);
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let log = Arc::clone(&served);
    let requests = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (log, in_flight) = (Arc::clone(&log), requests.begin());
        async move {
            let (mut head, body) = request.into_parts();
            head.extensions.clear();
            let body = body.collect().await;
            let mut response = Response::new(Empty::<Bytes>::new());
            match body {
                Ok(body) if in_flight.ambiguity().is_none() => {
                    let target = head.uri.to_string();
                    let method = head.method.to_string();
                    let read = (method, target, body.to_bytes().to_vec());
                    log.lock().expect("no panic").push(read);
                }
                _ => {
                    // As the gate does with what reads in two ways.
                    let close = http::HeaderValue::from_static("close");
                    response.headers_mut().insert(http::header::CONNECTION, close);
                }
            }
            Ok::<_, Infallible>(response)
        }
    });
    let stop = CancellationToken::new();
    let talk = async {
        let _ = client.write_all(data).await;
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    let _ = tokio::join!(serve(server, Protocol::Http1, limits, &activity, &stop, service), talk);
    let served = served.lock().expect("no panic");
    // An absolute target is printed normalised: nothing to compare with.
    let plain = |read: &&Read| read.1.starts_with('/') && read.0 != "CONNECT";
    served.iter().take_while(plain).cloned().collect()
}

/// How a kind server reads what isn't clear.
#[derive(Clone, Copy)]
struct Habit {
    bare_lf: bool,
    length_first: bool,
    folds: bool,
    last_length: bool,
}

/// The same bytes as three servers read them, each with habits of its own.
pub fn readings(data: &[u8]) -> [Vec<Read>; 3] {
    [
        Habit { bare_lf: true, length_first: false, folds: true, last_length: false },
        Habit { bare_lf: false, length_first: true, folds: false, last_length: false },
        Habit { bare_lf: true, length_first: true, folds: false, last_length: true },
    ]
    .map(|habit| read_all(data, habit))
}

fn read_all(mut data: &[u8], habit: Habit) -> Vec<Read> {
    let mut requests = Vec::new();
    while let Some((request, rest)) = read_one(data, habit) {
        data = rest;
        requests.push(request);
    }
    requests
}

/// A line without its end, and what follows it.
fn line(data: &[u8], habit: Habit) -> Option<(&[u8], &[u8])> {
    if habit.bare_lf {
        let at = data.iter().position(|byte| *byte == b'\n')?;
        let line = &data[..at];
        return Some((line.strip_suffix(b"\r").unwrap_or(line), &data[at + 1..]));
    }
    let at = data.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&data[..at], &data[at + 2..]))
}

fn read_one(mut data: &[u8], habit: Habit) -> Option<(Read, &[u8])> {
    let (mut first, mut rest) = line(data, habit)?;
    while first.is_empty() {
        data = rest;
        (first, rest) = line(data, habit)?;
    }
    let first = String::from_utf8_lossy(first).into_owned();
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut chunked): (Option<u64>, bool) = (None, false);
    let mut fields: Vec<Vec<u8>> = Vec::new();
    loop {
        let (field, after) = line(rest, habit)?;
        rest = after;
        if field.is_empty() {
            break;
        }
        match fields.last_mut() {
            Some(last) if habit.folds && field.starts_with(b" ") => last.extend_from_slice(field),
            _ => fields.push(field.to_vec()),
        }
    }
    for field in &fields {
        let field = String::from_utf8_lossy(field).to_ascii_lowercase();
        let Some((name, value)) = field.split_once(':') else { continue };
        match name.trim() {
            "content-length" if length.is_none() || habit.last_length => {
                length = value.trim().parse().ok();
            }
            "transfer-encoding" => chunked |= value.contains("chunked"),
            _ => {}
        }
    }
    let chunked = chunked && !(habit.length_first && length.is_some());
    let (body, rest) = if chunked {
        read_chunks(rest, habit)?
    } else {
        rest.split_at_checked(usize::try_from(length.unwrap_or(0)).ok()?)
            .map(|(body, rest)| (body.to_vec(), rest))?
    };
    Some(((method, target, body), rest))
}

fn read_chunks(mut rest: &[u8], habit: Habit) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (size, after) = line(rest, habit)?;
        let size = String::from_utf8_lossy(size).into_owned();
        let digits = size.split(';').next()?.trim();
        let size = usize::try_from(u64::from_str_radix(digits, 16).ok()?).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        let (chunk, after) = rest.split_at_checked(size)?;
        body.extend_from_slice(chunk);
        let (end, after) = line(after, habit)?;
        end.is_empty().then_some(())?;
        rest = after;
    }
    loop {
        let (trailer, after) = line(rest, habit)?;
        rest = after;
        if trailer.is_empty() {
            return Some((body, rest));
        }
    }
}
