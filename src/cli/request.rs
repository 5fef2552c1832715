//! From what was typed to what is meant: the values of the options (cli-config.md 3.3). Looks at the clock, at nothing else.

use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::flags::{BackupArgs, CommonArgs, RunArgs, SyncArgs};
use super::{Failure, exit};
use crate::config::{Override, parse_size, parse_time};
use crate::mail::{Flags, Keyword, MailboxGuid, Selection, Timestamp};
use crate::sync::{Algorithm, Filter, FlagFilter, FlagOrKeyword, Mode, Only, Options, Placement, Source};

/// What shall be done, apart from which users and with whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// For the engine; settings of the configuration are not in yet.
    pub(super) options: Options,
    /// `-T` and `-r`.
    pub(super) stream: Stream,
    /// `-p`: for the destination only.
    pub(super) destination_options: Vec<Override>,
    /// The destination's words.
    pub(super) words: Vec<String>,
    /// `-d`.
    pub(super) default_destination: bool,
    /// Things to tell the user.
    pub(super) warnings: Vec<String>,
}

/// What holds for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    /// `-T`; `None` never.
    pub(super) timeout: Option<Duration>,
    /// `-r`.
    pub(super) rawlog: Option<PathBuf>,
}

impl Stream {
    /// From the options of all commands.
    pub(super) fn of(common: &CommonArgs) -> Result<Self, Failure> {
        let timeout = common.timeout.as_deref().map(|text| seconds('T', text)).transpose()?;
        Ok(Self {
            timeout: Some(timeout.unwrap_or(DEFAULT_TIMEOUT)).filter(|t| *t != Duration::ZERO),
            rawlog: common.rawlog.as_ref().map(PathBuf::from),
        })
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

impl Request {
    /// Of `sync`.
    pub(super) fn sync(args: &SyncArgs) -> Result<Self, Failure> {
        let mode = if args.oneway_sync { Mode::OneWay(source(&args.run)) } else { Mode::TwoWay };
        Self::new(&args.run, &args.common, mode, false)
    }

    /// Of `backup`.
    pub(super) fn backup(args: &BackupArgs) -> Result<Self, Failure> {
        Self::new(&args.run, &args.common, Mode::Backup(source(&args.run)), args.allow_empty_source)
    }

    // In the order of doveadm's table of options, which decides what wrong value is reported first.
    fn new(run: &RunArgs, common: &CommonArgs, mode: Mode, allow_empty_source: bool) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        let lock_timeout = run.lock_timeout.as_deref().map(|text| seconds('l', text)).transpose()?;
        let only = only(run.mailbox.as_deref(), run.mailbox_guid.as_deref())?;
        let namespaces = match (run.all_namespaces, run.namespace.as_slice()) {
            (true, _) => Selection::All,
            (false, []) => Selection::Default,
            (false, prefixes) => Selection::Prefixes(prefixes.to_vec()),
        };
        let algorithm = match run.state.as_deref() {
            _ if run.full_sync => Algorithm::Full,
            None | Some("") => Algorithm::Changed,
            Some(state) => Algorithm::State(state.into()),
        };
        let filter = Filter {
            since: run.sync_since_time.as_deref().map(|text| time('t', text)).transpose()?,
            until: run.sync_until_time.as_deref().map(|text| time('e', text)).transpose()?,
            flag: run.sync_flags.as_deref().map(flag).transpose()?.flatten(),
            max_size: run.sync_max_size.as_deref().map(max_size).transpose()?,
        };
        let placement = run.alt.as_deref().map(placement).transpose()?.unwrap_or_default();
        let stream = Stream::of(common)?;
        let destination_options = run.destination_option.iter().map(|text| destination_option(text)).collect::<Result<_, _>>()?;
        if run.no_renames {
            warnings.push("-D after the command is of Dovecot 2.2 and is ignored: renames are synchronised".into());
        }
        Ok(Self {
            options: Options {
                mode,
                algorithm,
                want_state: run.state.is_some(),
                namespaces,
                only,
                exclude: run.exclude_mailbox.clone(),
                filter,
                all_mailbox: run.all_mailbox.clone(),
                purge: run.purge_remote,
                lock_timeout: lock_timeout.filter(|t| *t != Duration::ZERO),
                allow_empty_source,
                placement,
                ..Options::default()
            },
            stream,
            destination_options,
            words: run.destination.iter().chain(&run.words).cloned().collect(),
            default_destination: run.default_destination,
            warnings,
        })
    }

    /// Whether the dates contradict each other.
    pub(super) fn dates_are_reversed(&self) -> bool {
        let Filter { since, until, .. } = &self.options.filter;
        matches!((since, until), (Some(since), Some(until)) if since > until)
    }
}

const fn source(run: &RunArgs) -> Source {
    if run.reverse_sync { Source::Slave } else { Source::Master }
}

fn invalid(option: char, value: impl std::fmt::Display) -> Failure {
    Failure::fatal(format!("Invalid -{option} parameter: {value}"))
}

/// Seconds. What is no number is an error for us: a lock that silently is none helps nobody.
fn seconds(option: char, text: &str) -> Result<Duration, Failure> {
    match text.parse::<i64>() {
        Ok(n @ ..=-1) => Err(invalid(option, n.cast_unsigned())),
        Ok(n) => match u32::try_from(n) {
            Ok(n) => Ok(Duration::from_secs(n.into())),
            Err(_) => Err(invalid(option, n)),
        },
        Err(_) => {
            let text = format!("Invalid -{option} parameter: {text}: not a number of seconds");
            Err(Failure::error(text, exit::USAGE))
        }
    }
}

fn only(mailbox: Option<&str>, guid: Option<&str>) -> Result<Only, Failure> {
    Ok(match (mailbox, guid) {
        (Some(""), guid) => {
            guid.filter(|g| !g.is_empty()).map(parse_guid).transpose()?;
            Only::TreeOnly
        }
        (_, Some("")) => Only::TreeOnly,
        (_, Some(guid)) => Only::Guid(parse_guid(guid)?),
        (Some(mailbox), None) => Only::Name(mailbox.into()),
        (None, None) => Only::All,
    })
}

fn parse_guid(text: &str) -> Result<MailboxGuid, Failure> {
    text.parse().map_err(|_| invalid('g', text))
}

/// What `--alt` takes.
fn placement(text: &str) -> Result<Placement, Failure> {
    let wrong = || Failure::error(format!("Invalid --alt parameter: {text}: not keep, primary or older-than=TIME"), exit::USAGE);
    match text {
        "keep" => Ok(Placement::Keep),
        "primary" => Ok(Placement::Primary),
        _ => {
            let when = text.strip_prefix("older-than=").ok_or_else(wrong)?;
            Ok(Placement::OlderThan(seconds_of(when).ok_or_else(wrong)?))
        }
    }
}

/// `YYYY-MM-DD`, an IMAP date, UNIX seconds, or an interval before now. Dates begin at local midnight.
fn time(option: char, text: &str) -> Result<Timestamp, Failure> {
    seconds_of(text).ok_or_else(|| invalid(option, text))
}

fn seconds_of(text: &str) -> Option<Timestamp> {
    let seconds = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // Beyond what mails can have is as good as the last second.
        Some(text.parse().unwrap_or(i64::MAX))
    } else if let Some(date) = date(text) {
        date.to_zoned(TimeZone::system()).ok().map(|midnight| midnight.timestamp().as_second())
    } else {
        let now = jiff::Timestamp::now().as_second();
        let ago = parse_time(text).ok().and_then(|ago| i64::try_from(ago.as_secs()).ok());
        ago.map(|ago| now.saturating_sub(ago))
    };
    Some(Timestamp(u32::try_from(seconds?.max(0)).unwrap_or(u32::MAX)))
}

fn date(text: &str) -> Option<Date> {
    let is_iso =
        text.len() == 10 && text.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
    if is_iso {
        return Date::strptime("%Y-%m-%d", text).ok();
    }
    let text = text.strip_prefix(' ').unwrap_or(text);
    let (day, rest) = text.split_once('-')?;
    let (month, year) = rest.split_once('-')?;
    let digits = |s: &str, len: std::ops::RangeInclusive<usize>| len.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    (digits(day, 1..=2) && month.len() == 3 && digits(year, 4..=4)).then(|| Date::strptime("%d-%b-%Y", text).ok())?
}

/// `None` for an empty one, which filters nothing.
fn flag(text: &str) -> Result<Option<FlagFilter>, Failure> {
    let (wanted, name) = text.strip_prefix('-').map_or((true, text), |name| (false, name));
    if name.contains(' ') {
        return Err(Failure::fatal("-O parameter doesn't support multiple flags currently".into()));
    }
    if name.is_empty() {
        return Ok(None);
    }
    let flag = if name.starts_with('\\') {
        let wrong = || Failure::fatal(format!("Invalid system flag given for -O parameter: '{name}'"));
        FlagOrKeyword::Flag(Flags::by_name(name).ok_or_else(wrong)?)
    } else {
        FlagOrKeyword::Keyword(Keyword::new(name))
    };
    Ok(Some(FlagFilter { wanted, flag }))
}

fn max_size(text: &str) -> Result<u64, Failure> {
    parse_size(text).map_err(|e| Failure::fatal(format!("Invalid -I parameter '{text}': {e}")))
}

fn destination_option(text: &str) -> Result<Override, Failure> {
    Override::parse(text).map_err(|_| Failure::error(format!("Invalid -p parameter: {text}: not SETTING=VALUE"), exit::USAGE))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::flags::{Cli, Command};

    fn sync(words: &[&str]) -> Result<Request, String> {
        let cli = Cli::try_parse_from(["dsync", "sync"].iter().chain(words)).unwrap();
        let Command::Sync(args) = cli.command else { panic!() };
        Request::sync(&args).map_err(|failure| failure.to_string())
    }

    #[test]
    fn wrong_values_have_doveadms_words() {
        for (words, error) in [
            (["-l", "abc"], "Error: Invalid -l parameter: abc: not a number of seconds"),
            (["-l", "5x"], "Error: Invalid -l parameter: 5x: not a number of seconds"),
            (["-l=-5", "x"], "Fatal: Invalid -l parameter: 18446744073709551611"),
            (["-l", "4294967296"], "Fatal: Invalid -l parameter: 4294967296"),
            (["-T=-1", "x"], "Fatal: Invalid -T parameter: 18446744073709551615"),
            (["-g", "zz"], "Fatal: Invalid -g parameter: zz"),
            (["-g", "00000000000000000000000000000000"], "Fatal: Invalid -g parameter: 00000000000000000000000000000000"),
            (["-t", "foo"], "Fatal: Invalid -t parameter: foo"),
            (["-e", "2x"], "Fatal: Invalid -e parameter: 2x"),
            (["-t", "2020-1-1"], "Fatal: Invalid -t parameter: 2020-1-1"),
            (["-t", "2020-01-01x"], "Fatal: Invalid -t parameter: 2020-01-01x"),
            (["-t", "1 ms"], "Fatal: Invalid -t parameter: 1 ms"),
            (["-t", ""], "Fatal: Invalid -t parameter: "),
            (["-t", "01-Jan-20200"], "Fatal: Invalid -t parameter: 01-Jan-20200"),
            (["-I", "xx"], "Fatal: Invalid -I parameter 'xx': Invalid size: xx"),
            (["-O", "\\Foo"], "Fatal: Invalid system flag given for -O parameter: '\\Foo'"),
            (["-O", "\\Seen foo"], "Fatal: -O parameter doesn't support multiple flags currently"),
            (["-p", "x"], "Error: Invalid -p parameter: x: not SETTING=VALUE"),
        ] {
            assert_eq!(sync(&words).unwrap_err(), error, "{words:?}");
        }
    }

    #[test]
    fn dates_are_understood() {
        let since = |text| sync(&["-t", text]).unwrap().options.filter.since.unwrap().0;
        assert_eq!(since("1577836800"), 1_577_836_800);
        assert_eq!(since("99999999999999999999999"), u32::MAX);
        assert_eq!(since("2020-01-02") - since("2020-01-01"), 86_400);
        for text in ["01-Jan-2020", "1-Jan-2020", " 1-jan-2020"] {
            assert_eq!(since(text), since("2020-01-01"), "{text}");
        }
        let now = Timestamp::now().0;
        assert!((now - 2 * 86_400 - 5..=now - 2 * 86_400).contains(&since("2 days")));
        let reversed = sync(&["-t", "2020-01-01", "-e", "2019-01-01"]).unwrap();
        assert!(reversed.dates_are_reversed());
    }

    #[test]
    fn values_that_ask_for_nothing_are_fine() {
        let request = sync(&["-O", "", "-l", "0", "-T", "0", "-m", ""]).unwrap();
        assert_eq!(request.options.filter, Filter::default());
        assert_eq!((request.options.lock_timeout, request.stream.timeout), (None, None));
        assert_eq!(request.options.only, Only::TreeOnly);
        assert_eq!(sync(&[]).unwrap().stream.timeout, Some(DEFAULT_TIMEOUT));
    }
}
