//! Every row of the table of options in cli-config.md 3.2, fed through the way that `main` goes.

use clap::{ArgAction, CommandFactory};

use super::flags::{Cli, Command, CommonArgs, RunArgs};
use super::request::Request;
use super::{Words, command_words, parse};
use crate::mail::Selection;
use crate::sync::{Algorithm, Mode, Only, Source};

/// What a row takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// b
    Flag,
    /// s, i: the last one wins.
    Value,
    /// a
    List,
}

use Kind::{Flag, List, Value};

struct Row {
    short: Option<char>,
    long: Option<&'static str>,
    kind: Kind,
    /// The letters of the commands: S, B, D.
    commands: &'static str,
    /// An argument that it takes.
    argument: &'static str,
    /// It shows in what is meant.
    shows: fn(&Typed) -> bool,
}

/// One command line of `sync` or `backup`, as typed and as meant.
struct Typed {
    run: RunArgs,
    common: CommonArgs,
    request: Request,
}

const fn row(
    short: char,
    long: &'static str,
    kind: Kind,
    commands: &'static str,
    argument: &'static str,
    shows: fn(&Typed) -> bool,
) -> Row {
    Row { short: if short == '-' { None } else { Some(short) }, long: Some(long), kind, commands, argument, shows }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row('A', "all-users", Flag, "SBD", "", |t| t.common.all_users),
    row('S', "socket-path", Value, "SBD", "/s", |t| t.common.socket_path.as_deref() == Some("/s")),
    row('u', "user", Value, "SBD", "tim", |t| t.common.user.as_deref() == Some("tim")),
    row('-', "trans-flags", Value, "SBD", "0", |t| t.common.trans_flags.as_deref() == Some("0")),
    row('F', "user-file", Value, "SBD", "-", |t| t.common.user_file.as_deref() == Some("-")),
    row('-', "no-userdb-lookup", Flag, "SBD", "", |t| t.common.no_userdb_lookup),
    row('f', "full-sync", Flag, "SB", "", |t| t.request.options.algorithm == Algorithm::Full),
    row('P', "purge-remote", Flag, "SB", "", |t| t.request.options.purge),
    row('R', "reverse-sync", Flag, "SB", "", |t| t.run.reverse_sync),
    row('U', "replicator-notify", Flag, "SBD", "", |t| t.common.replicator_notify),
    row('l', "lock-timeout", Value, "SB", "7", |t| t.request.options.lock_timeout.is_some_and(|l| l.as_secs() == 7)),
    row('r', "rawlog", Value, "SBD", "raw", |t| t.request.stream.rawlog.as_deref() == Some("raw".as_ref())),
    row('m', "mailbox", Value, "SB", "Box", |t| t.request.options.only == Only::Name("Box".into())),
    row('g', "mailbox-guid", Value, "SB", "0123456789abcdef0123456789abcdef", |t| matches!(t.request.options.only, Only::Guid(_))),
    row('n', "namespace", List, "SB", "Old/", |t| matches!(&t.request.options.namespaces, Selection::Prefixes(p) if p.iter().all(|p| p == "Old/"))),
    row('N', "all-namespaces", Flag, "SB", "", |t| t.request.options.namespaces == Selection::All),
    row('x', "exclude-mailbox", List, "SB", "\\Junk", |t| t.request.options.exclude.iter().any(|x| x == "\\Junk")),
    row('a', "all-mailbox", Value, "SB", "All", |t| t.request.options.all_mailbox.as_deref() == Some("All")),
    row('s', "state", Value, "SB", "abc", |t| t.request.options.want_state && t.request.options.algorithm == Algorithm::State("abc".into())),
    row('t', "sync-since-time", Value, "SB", "5", |t| t.request.options.filter.since.is_some_and(|t| t.0 == 5)),
    row('e', "sync-until-time", Value, "SB", "6", |t| t.request.options.filter.until.is_some_and(|t| t.0 == 6)),
    row('O', "sync-flags", Value, "SB", "-\\Seen", |t| t.request.options.filter.flag.as_ref().is_some_and(|f| !f.wanted)),
    row('I', "sync-max-size", Value, "SB", "1k", |t| t.request.options.filter.max_size == Some(1024)),
    row('T', "timeout", Value, "SBD", "9", |t| t.request.stream.timeout.is_some_and(|t| t.as_secs() == 9)),
    // Ours: some peers of old send it to the server as well.
    row('d', "default-destination", Flag, "SBD", "", |t| t.request.default_destination),
    row('p', "destination-option", List, "SB", "a=b", |t| t.request.destination_options[0].path() == "a"),
    row('E', "legacy-dsync", Flag, "SBD", "", |t| t.common.legacy_dsync),
    row('-', "destination", List, "SB", "x:y", |t| t.request.words.iter().any(|w| w == "x:y")),
    row('1', "oneway-sync", Flag, "S", "", |t| t.request.options.mode == Mode::OneWay(Source::Master)),
    Row { short: Some('D'), long: None, kind: Flag, commands: "SB", argument: "", shows: |t| t.request.warnings.len() == 1 },
];

fn typed(command: &str, words: &[String]) -> Result<Typed, String> {
    let words = command_words(command, words).map_err(|e| e.to_string())?;
    let cli = parse(&[], command, words).map_err(|e| e.to_string())?;
    let (run, common, request) = match cli.command {
        Command::Sync(args) => {
            let request = Request::sync(&args);
            (args.run, args.common, request)
        }
        Command::Backup(args) => {
            let request = Request::backup(&args);
            (args.run, args.common, request)
        }
        Command::Server(_) => return Err("server".into()),
    };
    Ok(Typed { run, common, request: request.map_err(|e| e.to_string())? })
}

/// All ways to write it: `-x`, `-xARG`, `--long`, `--long=ARG`.
fn spellings(row: &Row) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for name in row.short.map(|c| format!("-{c}")).into_iter().chain(row.long.map(|l| format!("--{l}"))) {
        if row.kind == Flag {
            all.push(vec![name]);
            continue;
        }
        let glue = if name.starts_with("--") { "=" } else { "" };
        all.push(vec![format!("{name}{glue}{}", row.argument)]);
        all.push(vec![name, row.argument.into()]);
    }
    all
}

#[test]
fn every_row_does_what_it_says() {
    for row in ROWS {
        for (letter, command) in [('S', "sync"), ('B', "backup")] {
            for spelling in spellings(row) {
                let got = typed(command, &spelling);
                if row.commands.contains(letter) {
                    match got {
                        Ok(typed) => assert!((row.shows)(&typed), "{command} {spelling:?}"),
                        Err(error) => panic!("{command} {spelling:?}: {error}"),
                    }
                } else {
                    assert!(got.is_err(), "{command} {spelling:?}");
                }
            }
            // Without it, it does not show: the row tests something.
            let without = typed(command, &[]).unwrap();
            let shows = row.commands.contains(letter) && row.long != Some("namespace") && row.long != Some("destination-option");
            assert!(!shows || !(row.shows)(&without), "{command} {:?}", row.long);
        }
        for spelling in spellings(row) {
            let read = command_words("dsync-server", &spelling);
            assert_eq!(read.is_ok(), row.commands.contains('D'), "dsync-server {spelling:?}");
        }
    }
}

#[test]
fn kinds_are_those_of_the_table_and_nothing_else_is_defined() {
    let cli = Cli::command();
    for command in cli.get_subcommands() {
        for arg in command.get_arguments().filter(|a| !a.is_positional()) {
            let row = ROWS.iter().find(|row| row.long == arg.get_long() && row.short == arg.get_short());
            let Some(row) = row else {
                // Ours.
                assert!(
                    matches!(arg.get_long(), Some("help" | "allow-empty-source" | "alt" | "read-only" | "read-user")),
                    "{arg}"
                );
                continue;
            };
            let kind = match arg.get_action() {
                ArgAction::SetTrue => Flag,
                ArgAction::Append => List,
                _ => Value,
            };
            assert_eq!(kind, row.kind, "{arg}");
        }
    }
}

#[test]
fn the_last_scalar_wins_and_lists_grow() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let t = typed("sync", &words("-m A -m B -x a -x b -n p -n q -s S -f x:y")).unwrap();
    assert_eq!(t.request.options.only, Only::Name("B".into()));
    assert_eq!(t.request.options.exclude, ["a", "b"]);
    assert_eq!(t.request.options.namespaces, Selection::Prefixes(vec!["p".into(), "q".into()]));
    // -f beats -s wherever it stands, and the state is printed all the same.
    assert_eq!(t.request.options.algorithm, Algorithm::Full);
    assert!(t.request.options.want_state);
    let t = typed("backup", &words("-fRPU --destination=a x")).unwrap();
    assert_eq!(t.request.options.mode, Mode::Backup(Source::Slave));
    assert_eq!(t.request.words, ["a", "x"]);
}

#[test]
fn words_behind_the_destination_are_not_options() {
    let words = ["cmd", "-f", "--", "z"].map(str::to_owned);
    assert_eq!(typed("sync", &words).unwrap().request.words, words);
    assert_eq!(
        command_words("sync", &["--".to_owned(), "-f".to_owned()]).unwrap(),
        Words { options: vec![], rest: vec!["-f".into()] }
    );
}
