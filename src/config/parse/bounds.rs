//! `rate_limits`, `limits`, and what bounds a route.

use std::time::Duration;

use crate::config::model::{LimitPer, Limits, RateLimit, RouteBounds, WebSocketLimits};
use crate::config::yaml::{Cursor, Map, size};

use super::keys;
use super::values::Unique;

/// A window of more than a day would be lost with each restart before it is over.
const LONGEST: Duration = Duration::from_secs(86_400);

pub(super) fn rate_limits(map: &Map<'_>) -> Vec<RateLimit> {
    let Some(at) = map.get("rate_limits") else { return Vec::new() };
    let mut seen = Unique::new();
    at.list().iter().filter_map(|entry| rate_limit(entry, &mut seen)).collect()
}

fn rate_limit(entry: &Cursor<'_>, seen: &mut Unique<(LimitPer, Duration)>) -> Option<RateLimit> {
    let map = keys(entry)?;
    let words = LimitPer::ALL.map(|per| (per.name(), per));
    let per = map.required("per").and_then(|at| at.choice(&words));
    let requests = map.required("requests").and_then(|at| at.number(1, 1_000_000));
    let window = map.required("window").and_then(|at| window(&at));
    let limit = RateLimit { per: per?, requests: requests?, window: window? };
    if let Some(line) = seen.seen((limit.per, limit.window), entry.line()) {
        entry.error_with(
            format!("there are two limits per {} for this window", limit.per.name()),
            format!("the other is on line {line}; only the lower one would ever matter"),
        );
    }
    Some(limit)
}

fn window(at: &Cursor<'_>) -> Option<Duration> {
    let window = at.duration()?;
    if window.subsec_nanos() != 0 || window > LONGEST {
        let hint = "write `1s`, `10s`, `1m` or `1h`, up to `1d`";
        at.error_with("the window must be of whole seconds, and a day at most", hint);
        return None;
    }
    Some(window)
}

pub(super) fn limits(top: &Map<'_>) -> Limits {
    let map = top.get("limits").and_then(|at| keys(&at));
    let memory = map.and_then(|map| map.get("memory"));
    // Below that the gate would turn requests away while it rests.
    Limits { memory: memory.and_then(|at| at.bytes(64 << 20, 1 << 50)) }
}

/// What bounds a route.
pub(super) fn of_route(route: &Map<'_>) -> RouteBounds {
    let default = RouteBounds::default();
    let most = |key, default| route.or(key, default, |at| at.number(1, 1_000_000));
    RouteBounds {
        rate_limits: rate_limits(route),
        max_in_flight: most("max_in_flight", default.max_in_flight),
        max_upstream_in_flight: route
            .get("max_upstream_in_flight")
            .and_then(|at| at.number(1, 1_000_000)),
        max_websockets: most("max_websockets", default.max_websockets),
        websocket: websocket(route),
    }
}

/// A frame is a message, or a part of one.
fn frame(at: &Cursor<'_>, largest_message: u64) -> Option<u64> {
    let frame = at.bytes(125, 1 << 40)?;
    if frame > largest_message {
        at.error_with(
            format!(
                "a frame of `{}` would be larger than the largest message, `{}`",
                size(frame),
                size(largest_message)
            ),
            "a frame is a part of a message: lower `max_frame`, or raise `max_message`",
        );
        return None;
    }
    Some(frame)
}

fn websocket(route: &Map<'_>) -> WebSocketLimits {
    let mut limits = WebSocketLimits::default();
    let Some(map) = route.get("websocket_limits").and_then(|at| keys(&at)) else {
        return limits;
    };
    limits.max_message = map.or("max_message", limits.max_message, |at| at.bytes(125, 1 << 40));
    let most = limits.max_message;
    limits.max_frame = map.or("max_frame", limits.max_frame.min(most), |at| frame(at, most));
    limits.frames_per_second =
        map.or("frames_per_second", limits.frames_per_second, |at| at.number(1, 1_000_000));
    limits
}
