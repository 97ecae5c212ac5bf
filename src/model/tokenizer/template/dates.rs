//! Dates in templates: Python's `strftime`.
//!
//! Invariant: an unknown directive is printed literally. To support another one, see which chrono supports.

use std::fmt::Write as _;

use chrono::DateTime;
use chrono::format::StrftimeItems;

/// Formats a time, in UTC (Python uses the local zone).
pub(crate) fn strftime(format: &str, unix_seconds: u64) -> String {
    let time = i64::try_from(unix_seconds)
        .ok()
        .and_then(|s| DateTime::from_timestamp(s, 0));
    let mut out = String::new();
    // A directive that the time does not support is left out.
    let _whole = write!(
        out,
        "{}",
        time.unwrap_or_default()
            .format_with_items(StrftimeItems::new_lenient(format))
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y", 1_721_952_000), "26 Jul 2024");
        assert_eq!(
            strftime("%A, %B %-d, %Y %H:%M:%S %I%p", 951_782_399 + 13 * 3600),
            "Tuesday, February 29, 2000 12:59:59 12PM"
        );
        assert_eq!(strftime("%F %a %y%% %Q", 0), "1970-01-01 Thu 70% %Q");
    }
}
