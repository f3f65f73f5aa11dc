//! `identity_providers[].refresh`: how old may be what a provider said of a user.

use std::time::Duration;

use crate::config::model::Refresh;
use crate::config::yaml::{Cursor, Map, quote};

use super::keys;

/// A provider that is asked more often than this has done something wrong.
const SHORTEST: Duration = Duration::from_secs(1);

/// Below this a finding says what it costs.
const OFTEN: Duration = Duration::from_secs(10);

/// `None`: it is off.
pub(super) fn refresh(provider: &Map<'_>) -> Option<Refresh> {
    let default = Some(Refresh::default());
    let Some(at) = provider.get("refresh") else { return default };
    if !at.is_map() {
        let text = at.text();
        if let Some(text) = text.filter(|text| *text != "off") {
            let hint = "write `refresh: off`, or `refresh: { interval: 5m, max_age: 1h }`";
            at.error_with(format!("{} is neither `off` nor a map", quote(text)), hint);
        }
        return if text == Some("off") { None } else { default };
    }
    let Some(map) = keys(&at) else { return default };
    let mut refresh = Refresh::default();
    refresh.interval = map.or("interval", refresh.interval, interval);
    refresh.max_age = map.or("max_age", refresh.max_age, Cursor::duration);
    if refresh.max_age < refresh.interval {
        let hint = "nothing would be allowed between the two; shorten `interval` (5m by default) or lengthen `max_age` (1h by default)";
        at.error_with("`max_age` is shorter than `interval`", hint);
    }
    Some(refresh)
}

fn interval(at: &Cursor<'_>) -> Option<Duration> {
    let interval = at.duration()?;
    if interval < SHORTEST {
        let hint = "minutes are usual; one second is the least";
        at.error_with("nobody is asked again so often", hint);
        return None;
    }
    if interval < OFTEN {
        let hint = "minutes are usual";
        at.warn_with("the provider is asked this often for each session that is in use", hint);
    }
    Some(interval)
}
