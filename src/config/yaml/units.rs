//! Durations and sizes: a whole number and a unit.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

/// Longer waits than a year are a mistake, and some timers overflow on them.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// `250ms`, `30s`, `15m`, `8h` or `2d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let duration = Duration::from_millis(with_unit(text, &DURATIONS)?);
    (duration <= LONGEST).then_some(duration)
}

/// `512B`, `512KiB`, `10MiB` or `1GiB`, in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    with_unit(text, &SIZES)
}

/// A size as it would be written, in the largest unit of which it is a whole number.
pub fn size(bytes: u64) -> String {
    let whole = SIZES.iter().filter(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    let (unit, factor) = whole.max_by_key(|(_, factor)| factor).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, factor) = units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?.trim_end();
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then_some((number, *factor))
    })?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_a_number_and_a_unit() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("15m"), Some(Duration::from_secs(900)));
        assert_eq!(duration("8h"), Some(Duration::from_secs(28_800)));
        assert_eq!(duration("2d"), Some(Duration::from_secs(172_800)));
        assert_eq!(bytes("10MiB"), Some(10 * 1024 * 1024));
        assert_eq!(bytes("512KiB"), Some(512 * 1024));
        assert_eq!(bytes("7B"), Some(7));
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        for (size_of, text) in [
            (0, "0B"),
            (125, "125B"),
            (1024, "1KiB"),
            (1536, "1536B"),
            (64 << 20, "64MiB"),
            (3 << 30, "3GiB"),
        ] {
            assert_eq!(size(size_of), text);
            assert_eq!(bytes(text), Some(size_of));
        }
    }

    #[test]
    fn what_could_be_meant_in_two_ways_is_refused() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "+1s",
            "1.5h",
            "1h30m",
            "30S",
            "367d",
            "99999999999999999999d",
            "é",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in ["", "10", "10MB", "10M", "10mib", "-1B", "18446744073709551615KiB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
