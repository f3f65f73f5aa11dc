//! What happens to requests when upstreams fail.

use crate::config::model::{OutlierDetection, RetryBudget};
use crate::config::yaml::Cursor;

use super::keys;

/// `None` when it is switched off.
pub(super) fn outlier_detection(at: &Cursor<'_>) -> Option<OutlierDetection> {
    let default = OutlierDetection::default();
    let Some(map) = keys(at) else { return Some(default) };
    let enabled = map.or("enabled", true, Cursor::boolean);
    let detection = OutlierDetection {
        consecutive_failures: map
            .or("consecutive_failures", default.consecutive_failures, |at| at.number(1, 1_000)),
        failure_percent: map.or("failure_percent", default.failure_percent, |at| at.number(1, 100)),
        minimum_requests: map
            .or("minimum_requests", default.minimum_requests, |at| at.number(1, 100_000)),
        window: map.or("window", default.window, Cursor::duration),
        ejection_time: map.or("ejection_time", default.ejection_time, Cursor::duration),
        max_ejection_time: map.or("max_ejection_time", default.max_ejection_time, Cursor::duration),
        max_ejection_percent: map
            .or("max_ejection_percent", default.max_ejection_percent, |at| at.number(1, 100)),
    };
    if detection.ejection_time > detection.max_ejection_time {
        let place = map.get("ejection_time").or_else(|| map.get("max_ejection_time"));
        let hint = "the time doubles with each ejection up to `max_ejection_time`; raise that, or lower `ejection_time`";
        place
            .as_ref()
            .unwrap_or(at)
            .error_with("`ejection_time` is longer than `max_ejection_time`", hint);
    }
    enabled.then_some(detection)
}

pub(super) fn retry_budget(at: &Cursor<'_>) -> Option<RetryBudget> {
    let default = RetryBudget::default();
    let map = keys(at)?;
    Some(RetryBudget {
        percent: map.or("percent", default.percent, |at| at.number(0, 100)),
        minimum_per_second: map
            .or("minimum_per_second", default.minimum_per_second, |at| at.number(0, 10_000)),
    })
}
