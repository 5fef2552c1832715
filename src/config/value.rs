//! The types of values in a configuration of Dovecot 2.3 (cli-config.md 10.4). The error texts are Dovecot's.

use std::time::Duration;

use thiserror::Error;

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text.
    Str,
    /// `yes` or `no`.
    Bool,
    /// A 32-bit number.
    UInt,
    /// A 16-bit number.
    Port,
    /// A time with a unit, in whole seconds.
    Time,
    /// A time with a unit, in milliseconds.
    MilliTime,
    /// A number of bytes with an optional unit.
    Size,
    /// One of these words.
    Enum(&'static [&'static str]),
}

/// A value that is not of its setting's type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ValueError {
    #[error("Invalid boolean value: {0} (use yes or no)")]
    Bool(String),
    #[error("Invalid number {0}: {1}")]
    Number(String, &'static str),
    #[error("Invalid port number {0}")]
    Port(String),
    #[error("Time interval '{0}' is missing units (add e.g. 's' for seconds)")]
    TimeUnit(String),
    #[error("Invalid time interval: {0}")]
    Time(String),
    #[error("Time interval is too large: {0}")]
    TimeLarge(String),
    #[error("Milliseconds not supported for this setting: {0}")]
    Milliseconds(String),
    #[error("Invalid size: {0}")]
    Size(String),
    #[error("Size is too large: {0}")]
    SizeLarge(String),
    #[error("Invalid value: {0}")]
    Enum(String),
}

type Result<T> = std::result::Result<T, ValueError>;

impl Kind {
    /// Whether this text is of the type.
    pub(crate) fn check(self, text: &str) -> Result<()> {
        match self {
            Self::Str => Ok(()),
            Self::Bool => parse_bool(text).map(drop),
            Self::UInt => parse_uint(text).map(drop),
            Self::Port => parse_port(text).map(drop),
            Self::Time => parse_time(text).map(drop),
            Self::MilliTime => parse_millis(text).map(drop),
            Self::Size => parse_size(text).map(drop),
            Self::Enum(words) if words.contains(&text) => Ok(()),
            Self::Enum(_) => Err(ValueError::Enum(text.into())),
        }
    }
}

/// `yes`, `y` in any case or `1`; `no` in any case. `n`, `0` and `true` are errors.
pub(crate) fn parse_bool(text: &str) -> Result<bool> {
    if text == "1" || text.eq_ignore_ascii_case("yes") || text.eq_ignore_ascii_case("y") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("no") {
        Ok(false)
    } else {
        Err(ValueError::Bool(text.into()))
    }
}

/// Decimal, 0 to 2^32-1.
pub(crate) fn parse_uint(text: &str) -> Result<u32> {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if digits(text) {
        text.parse().map_err(|_| ValueError::Number(text.into(), "Number too large"))
    } else if text.strip_prefix('-').is_some_and(digits) {
        Err(ValueError::Number(text.into(), "Number too small"))
    } else {
        Err(ValueError::Number(text.into(), "Not a valid number"))
    }
}

/// Decimal, 0 to 65535.
pub(crate) fn parse_port(text: &str) -> Result<u16> {
    parse_uint(text).ok().and_then(|n| n.try_into().ok()).ok_or_else(|| ValueError::Port(text.into()))
}

/// The leading digits as a number, and what follows without its leading spaces. `None` without digits or beyond 64 bits.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, text[end..].trim_start_matches(' ')))
}

/// A time for a setting that counts in seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration> {
    let time = parse_millis(text)?;
    if time.subsec_millis() == 0 { Ok(time) } else { Err(ValueError::Milliseconds(text.into())) }
}

/// A time for a setting that counts in milliseconds.
pub(crate) fn parse_millis(text: &str) -> Result<Duration> {
    // The order decides what an abbreviation means: `m` is minutes, `ms` is milliseconds.
    const UNITS: [(&str, u64); 11] = [
        ("secs", 1000),
        ("seconds", 1000),
        ("mins", 60_000),
        ("minutes", 60_000),
        ("hours", 3_600_000),
        ("days", 86_400_000),
        ("weeks", 604_800_000),
        ("msecs", 1),
        ("mseconds", 1),
        ("millisecs", 1),
        ("milliseconds", 1),
    ];
    let (number, unit) = number_and_unit(text).ok_or_else(|| ValueError::Time(text.into()))?;
    if unit.is_empty() {
        return if number == 0 { Ok(Duration::ZERO) } else { Err(ValueError::TimeUnit(text.into())) };
    }
    let unit = unit.to_ascii_lowercase();
    let (_, millis) = UNITS.iter().find(|(name, _)| name.starts_with(&unit)).ok_or_else(|| ValueError::Time(text.into()))?;
    let time = number.checked_mul(*millis).map(Duration::from_millis);
    time.filter(|t| t.as_secs() <= u64::from(u32::MAX)).ok_or_else(|| ValueError::TimeLarge(text.into()))
}

/// Bytes: a number and `B`, or `K`, `M`, `G`, `T` with an optional `i` and `B`; powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64> {
    let wrong = || ValueError::Size(text.into());
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| ValueError::SizeLarge(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every row was given to doveconf 2.3.19.1.
    #[test]
    fn times_as_doveconf_reads_them() {
        for (text, seconds) in [
            ("5m", 300),
            ("5 M", 300),
            ("5 mi", 300),
            ("5000 milli", 5),
            ("5000ms", 5),
            ("5000 mse", 5),
            ("00", 0),
            ("0", 0),
            ("4294967295s", 4_294_967_295),
            ("3 w", 3 * 604_800),
            ("5   hours", 18_000),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for (text, error) in [
            ("", "Invalid time interval: "),
            ("x", "Invalid time interval: x"),
            ("5 milli", "Milliseconds not supported for this setting: 5 milli"),
            ("4294967296s", "Time interval is too large: 4294967296s"),
            ("99999999999999999999s", "Invalid time interval: 99999999999999999999s"),
            ("1s s", "Invalid time interval: 1s s"),
            ("5\thours", "Invalid time interval: 5\thours"),
            ("5 hoursx", "Invalid time interval: 5 hoursx"),
            ("30", "Time interval '30' is missing units (add e.g. 's' for seconds)"),
        ] {
            assert_eq!(parse_time(text).unwrap_err().to_string(), error);
        }
        assert_eq!(parse_millis("1500 ms"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn sizes_as_doveconf_reads_them() {
        for (text, bytes) in
            [("1kb", 1024), ("1 kiB", 1024), ("1ki", 1024), ("1 b", 1), ("2MiB", 2 << 20), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, error) in [
            ("", "Invalid size: "),
            ("1bb", "Invalid size: 1bb"),
            ("1.5M", "Invalid size: 1.5M"),
            ("-1", "Invalid size: -1"),
            ("18446744073709551616", "Invalid size: 18446744073709551616"),
            ("9999999999999 T", "Size is too large: 9999999999999 T"),
        ] {
            assert_eq!(parse_size(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn numbers_and_words_as_doveconf_reads_them() {
        assert_eq!(parse_uint("010"), Ok(10));
        assert_eq!(parse_uint("+1").unwrap_err().to_string(), "Invalid number +1: Not a valid number");
        assert_eq!(parse_uint("").unwrap_err().to_string(), "Invalid number : Not a valid number");
        assert_eq!(parse_uint("-1").unwrap_err().to_string(), "Invalid number -1: Number too small");
        assert_eq!(parse_port("x").unwrap_err().to_string(), "Invalid port number x");
        assert_eq!(parse_bool("YES"), Ok(true));
        assert_eq!(parse_bool("n").unwrap_err().to_string(), "Invalid boolean value: n (use yes or no)");
        assert!(Kind::Enum(&["always"]).check("Always").is_err());
    }
}
