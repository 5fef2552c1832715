//! What was asked for, as the handshake item says it (wire.md 3.2, 5.9, 6.1), and back again on the other side.

use std::time::Duration;

use super::Settings;
use crate::mail::{Flags, Keyword, Selection, Timestamp};
use crate::sync::{Algorithm, Filter, FlagFilter, FlagOrKeyword, Mode, Only, Options, Source};
use crate::wire::Handshake;

/// The version of what we speak among ourselves.
pub(super) const OWN_KIND: u32 = 2;

/// The master's item. Directions are those of its receiver.
pub(super) fn of_master(options: &Options, settings: &Settings) -> Handshake {
    let source = match options.mode {
        Mode::TwoWay => None,
        Mode::OneWay(s) | Mode::Backup(s) => Some(s),
    };
    let time = |t: Option<Timestamp>| t.map(|t| i64::from(t.0)).filter(|t| *t > 0);
    let octets = |text: &String| text.clone().into_bytes();
    Handshake {
        hostname: octets(&settings.hostname),
        namespaces: match &options.namespaces {
            Selection::Prefixes(prefixes) => Some(prefixes.join("\n").into_bytes()),
            _ => None,
        },
        mailbox: match &options.only {
            Only::Name(name) => Some(octets(name)),
            _ => None,
        },
        mailbox_guid: match options.only {
            Only::Guid(guid) => Some(guid),
            _ => None,
        },
        sync_type: Some(match options.algorithm {
            Algorithm::Full => b'f',
            Algorithm::Changed => b'c',
            Algorithm::State(_) => b's',
        }),
        debug: settings.debug,
        visible_namespaces: options.namespaces == Selection::All,
        exclude: (!options.exclude.is_empty()).then(|| options.exclude.iter().map(octets).collect()),
        send_mail_requests: true,
        backup_send: source == Some(Source::Slave),
        backup_recv: source == Some(Source::Master),
        lock_timeout: options.lock_timeout.and_then(|t| u32::try_from(t.as_secs()).ok()).filter(|t| *t > 0),
        no_mail_sync: options.only == Only::TreeOnly,
        no_backup_overwrite: matches!(options.mode, Mode::OneWay(_)),
        purge: options.purge,
        no_notify: false,
        // Dovecot 2.3 itself sends the one in place of the other; every version reads them rightly.
        since: time(options.filter.since),
        until: time(options.filter.until),
        max_size: options.filter.max_size.filter(|s| *s > 0),
        flags: options.filter.flag.as_ref().map(flag_text),
        virtual_all: options.all_mailbox.as_ref().map(octets),
        empty_header_workaround: settings.empty_header_workaround,
        commit_interval: Some(options.commit_interval).filter(|n| *n > 0),
        // Without the empty name at the end that Dovecot sends: it spoils the hashes (sync.md 6.4).
        hashed_headers: Some(settings.hashed_headers.iter().map(octets).collect()),
        alt_char: Some(u8::try_from(settings.alt_char).ok()),
        own_kind: settings.own_kind.then_some(OWN_KIND),
    }
}

/// The slave's item, which only says who it is.
pub(super) fn of_slave(settings: &Settings) -> Handshake {
    Handshake {
        hostname: settings.hostname.clone().into_bytes(),
        hashed_headers: Some(Vec::new()),
        own_kind: settings.own_kind.then_some(OWN_KIND),
        ..Handshake::default()
    }
}

/// What the master wants, from the slave's point of view. The state comes later.
pub(super) fn options(h: &Handshake) -> Options {
    let source = if h.backup_send { Some(Source::Slave) } else { h.backup_recv.then_some(Source::Master) };
    let time = |t: Option<i64>| t.map(|t| Timestamp(u32::try_from(t).unwrap_or(u32::MAX)));
    let text = |octets: &Vec<u8>| String::from_utf8_lossy(octets).into_owned();
    Options {
        mode: match source {
            None => Mode::TwoWay,
            Some(s) if h.no_backup_overwrite => Mode::OneWay(s),
            Some(s) => Mode::Backup(s),
        },
        algorithm: match h.sync_type {
            Some(b'c') => Algorithm::Changed,
            Some(b's') => Algorithm::State(String::new()),
            _ => Algorithm::Full,
        },
        namespaces: match &h.namespaces {
            Some(prefixes) => Selection::Prefixes(text(prefixes).split('\n').map(str::to_owned).collect()),
            None if h.visible_namespaces => Selection::All,
            None => Selection::Default,
        },
        only: match (&h.mailbox, h.mailbox_guid) {
            _ if h.no_mail_sync => Only::TreeOnly,
            (Some(name), _) => Only::Name(text(name)),
            (None, Some(guid)) => Only::Guid(guid),
            (None, None) => Only::All,
        },
        exclude: h.exclude.iter().flatten().map(text).collect(),
        filter: Filter {
            since: time(h.since),
            until: time(h.until),
            max_size: h.max_size,
            flag: h.flags.as_ref().map(|f| flag_filter(&text(f))),
        },
        all_mailbox: h.virtual_all.as_ref().map(text),
        purge: h.purge,
        lock_timeout: h.lock_timeout.map(|t| Duration::from_secs(t.into())),
        ..Options::default()
    }
}

fn flag_text(filter: &FlagFilter) -> Vec<u8> {
    let name = match &filter.flag {
        FlagOrKeyword::Flag(flag) => flag.name().to_owned(),
        FlagOrKeyword::Keyword(keyword) => keyword.as_str().to_owned(),
    };
    format!("{}{name}", if filter.wanted { "" } else { "-" }).into_bytes()
}

fn flag_filter(text: &str) -> FlagFilter {
    let (wanted, name) = text.strip_prefix('-').map_or((true, text), |rest| (false, rest));
    let flag = Flags::by_name(name).map_or_else(|| FlagOrKeyword::Keyword(Keyword::new(name)), FlagOrKeyword::Flag);
    FlagFilter { wanted, flag }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_master_wants_reaches_the_slave() {
        let wanted = [
            Options::default(),
            Options { mode: Mode::Backup(Source::Slave), algorithm: Algorithm::Full, ..Options::default() },
            Options {
                mode: Mode::OneWay(Source::Master),
                namespaces: Selection::Prefixes(vec![String::new(), "Old/".into()]),
                only: Only::Name("Lists/*".into()),
                exclude: vec!["a b".into(), "\\Trash".into()],
                filter: Filter {
                    since: Some(Timestamp(5)),
                    until: Some(Timestamp(9)),
                    max_size: Some(7),
                    flag: Some(FlagFilter { wanted: false, flag: FlagOrKeyword::Flag(Flags::SEEN) }),
                },
                all_mailbox: Some("All".into()),
                purge: true,
                lock_timeout: Some(Duration::from_secs(3)),
                ..Options::default()
            },
            Options { only: Only::TreeOnly, namespaces: Selection::All, ..Options::default() },
        ];
        for options in wanted {
            let item = of_master(&options, &Settings::default());
            let mut wire = Vec::new();
            crate::wire::Item::Handshake(Box::new(item.clone())).write(&mut wire, &crate::wire::Headers::ours());
            assert_eq!(super::options(&item), options);
        }
    }
}
