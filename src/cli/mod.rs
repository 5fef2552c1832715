//! The command line: what doveadm's users type, and what they get to see (cli-config.md 1 to 7).
//!
//! The words go through [`invocation`] (the program's name, options before the command), [`words`] (getopt's rules),
//! clap ([`flags`]: as typed) and [`request`] (as meant). [`job`] finds the user and both sides; `run` does the rest.

mod destination;
mod exit;
mod failure;
mod flags;
mod forward;
mod invocation;
mod job;
mod log;
mod man;
#[cfg(test)]
mod option_table;
mod print;
mod reach;
mod request;
mod serve;
mod words;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::config::{self, Config, Override, Source};
use crate::os::stop::Stop;
use crate::run;
use failure::Failure;
use flags::{Cli, Command, CommonArgs, Global};
use forward::Typed;
use invocation::Invocation;
use job::{Caller, Ready};
use print::Formatter;
use request::Request;
use words::{Rules, Words};

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let mut argv = Vec::new();
    for word in std::env::args_os() {
        match word.into_string() {
            Ok(word) => argv.push(word),
            Err(word) => {
                log::line(&format!("Error: Not valid UTF-8: {}", word.display()));
                return ExitCode::from(exit::USAGE);
            }
        }
    }
    ExitCode::from(run(&argv).unwrap_or_else(|failure| failure.say().code()))
}

/// The page dsync(1), made from the flags.
#[must_use]
pub fn man_page() -> String {
    man::page()
}

fn run(argv: &[String]) -> Result<u8, Failure> {
    let invocation = Invocation::read(argv)?;
    let Some(command) = &invocation.command else { return Ok(help(&invocation.global)) };
    if invocation.wants_help() {
        return Ok(help(&invocation.global));
    }
    let words = command_words(command, &invocation.words);
    if let Ok(words) = &words
        && words.options.iter().any(|word| word == "--help")
    {
        return Ok(help(&[command.clone(), "--help".into()]));
    }

    // A broken configuration is reported before a wrong option of the command, as doveadm does.
    // clap wants a command with the options before it; any will do.
    let global = parse(&invocation.global, "dsync-server", Words::default())?.global;
    let config = configuration(&global)?;
    log::start(style(&global, &config.config));
    config.file_warnings.iter().for_each(|text| log::line(&format!("doveconf: Warning: {text}")));
    config.warnings.iter().for_each(|text| tracing::warn!("{text}"));
    let config = of_instance(config.config, &global).map_err(in_users_name)?;
    let formatter = global.formatter.as_deref().unwrap_or("flow");
    let formatter = Formatter::named(formatter)
        .ok_or_else(|| in_users_name(Failure::fatal(format!("Unknown print formatter: {formatter}"))))?;
    if global.log_to_log {
        tracing::warn!("-L is not supported, messages go to standard error");
    }

    let cli = parse(&invocation.global, command, words?)?;
    let stop = stop_on_signals();
    let caller = |common| Caller { config: &config, global: &global, common, stop: &stop };
    let (typed, request, common, usage) = match &cli.command {
        Command::Sync(args) => {
            let typed = Typed { command: "sync", run: &args.run, oneway: args.oneway_sync };
            (typed, Request::sync(args)?, &args.common, usage("sync", "-1fPRU"))
        }
        Command::Backup(args) => {
            let typed = Typed { command: "backup", run: &args.run, oneway: false };
            (typed, Request::backup(args)?, &args.common, usage("backup", "-fPRU"))
        }
        Command::Server(args) => return serve::run(&caller(&args.common), args),
    };
    let caller = caller(common);
    if request.words.is_empty() && !request.default_destination {
        return Err(Failure::plain(usage, exit::USAGE));
    }
    if request.default_destination && !request.words.is_empty() {
        tracing::error!("Don't give mail location with -d parameter");
    }
    request.warnings.iter().for_each(|text| tracing::warn!("{text}"));
    refuse_many_users(common)?;
    if let Some(address) = &common.socket_path {
        return forward::run(&caller, &typed, address, formatter);
    }

    let user = job::user_name(&config, common)?;
    let Ready { job, peer, span } = job::prepare(&caller, request, &user)?;
    let report = span.in_scope(|| run::execute(&job, peer, &stop));
    if let Some(signal) = stop.requested() {
        span.in_scope(|| tracing::warn!("Killed with signal {signal}"));
    }
    let printed = formatter.print(report.state.as_deref(), !global.no_titles, &mut io::stdout().lock());
    if let Err(e) = printed {
        return Err(Failure::error(format!("write(stdout) failed: {}", config::reason(&e)), exit::TEMPORARY));
    }
    Ok(if stop.requested().is_some() { exit::TEMPORARY } else { exit::of_outcome(report.outcome) })
}

/// The words behind a command.
fn command_words(command: &str, words: &[String]) -> Result<Words, Failure> {
    let cli = Cli::command();
    let Some(definition) = cli.find_subcommand(command) else {
        return Err(Failure::fatal(format!("Invalid parameter: {command}")));
    };
    let rules = Rules { command: definition, name: command, mixed: command == "dsync-server", short_program: false };
    rules.read(words).map_err(|text| Failure::plain(text, exit::USAGE))
}

/// Words that have been read already, as clap's structs.
fn parse(global: &[String], command: &str, words: Words) -> Result<Cli, Failure> {
    let argv = ["dsync"].into_iter().chain(global.iter().map(String::as_str)).chain([command]);
    let options = words.options.iter().map(String::as_str);
    let rest = words.rest.iter().map(String::as_str);
    Cli::try_parse_from(argv.chain(options).chain(["--"]).chain(rest))
        .map_err(|e| Failure::plain(e.to_string().trim_end().into(), exit::USAGE))
}

/// Prints help or the version.
fn help(words: &[String]) -> u8 {
    match Cli::try_parse_from(["dsync"].into_iter().chain(words.iter().map(String::as_str))) {
        // clap makes help an "error" that knows where to print itself.
        Err(e) if e.print().is_ok() => exit::OK,
        _ => exit::TEMPORARY,
    }
}

fn usage(command: &str, letters: &str) -> String {
    format!(
        "doveadm {command} [{letters}] [-l <secs>] [-r <rawlog path>] [-m <mailbox>] [-g <mailbox guid>] \
         [-n <namespace> | -N] [-x <exclude>] [-a <all mailbox>] [-s <state>] [-T <secs>] [-t <start date>] \
         [-e <end date>] [-O <sync flag>] [-I <max size>] -d|<dest>"
    )
}

/// Says it with the name of the current user in front, whoever will be the user of the run, as doveadm does.
fn in_users_name(failure: Failure) -> Failure {
    match std::env::var("USER") {
        Ok(user) => job::span("doveadm", &user).in_scope(|| failure.say()),
        Err(_) => failure,
    }
}

fn configuration(global: &Global) -> Result<config::Loaded, Failure> {
    let source = match (&global.config, std::env::var_os("CONFIG_FILE")) {
        _ if global.no_config => Source::None,
        (Some(path), _) => Source::File(path.into()),
        (None, Some(path)) if !path.is_empty() => Source::Environment(path.into()),
        (None, _) => Source::Default,
    };
    load(&source, global)
}

fn load(source: &Source, global: &Global) -> Result<config::Loaded, Failure> {
    let overrides = global.overrides.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>();
    let loaded = overrides.and_then(|overrides| Config::load(source, &overrides));
    loaded.map_err(|e| {
        if e.is_in_files() {
            Failure::plain(format!("doveconf: Fatal: {e}"), exit::CONFIG)
        } else {
            Failure::fatal(e.to_string())
        }
    })
}

/// The configuration of the instance of `-i`, which the first configuration's directory lists.
fn of_instance(config: Config, global: &Global) -> Result<Config, Failure> {
    let Some(instance) = &global.instance else { return Ok(config) };
    let file = instance_file(Path::new(config.text("state_dir")), instance)
        .ok_or_else(|| Failure::fatal(format!("Unknown instance name: {instance}")))?;
    load(&Source::File(file), global).map(|loaded| loaded.config)
}

/// The configuration of an instance, as Dovecot's list of instances has it: last use, name, base directory, file.
fn instance_file(state_dir: &Path, name: &str) -> Option<PathBuf> {
    let list = std::fs::read_to_string(state_dir.join("instances")).ok()?;
    list.lines().find_map(|line| {
        let mut fields = line.split('\t').skip(1);
        let (found, base_dir) = (fields.next()?, fields.next()?);
        let linked = Path::new(base_dir).join("dovecot.conf");
        let file = if linked.exists() { linked } else { fields.next().filter(|f| !f.is_empty())?.into() };
        (found == name).then_some(file)
    })
}

fn style(global: &Global, config: &Config) -> log::Style {
    let stamp = match std::env::var("LOG_STDERR_TIMESTAMP") {
        Ok(format) => Some(format),
        Err(_) if global.debug => Some(config.text("log_timestamp").to_owned()),
        Err(_) => None,
    };
    log::Style { verbose: global.verbose, debug: global.debug, stamp }
}

fn refuse_many_users(common: &CommonArgs) -> Result<(), Failure> {
    let what = if common.all_users {
        "-A: all users of the userdb"
    } else if common.user_file.is_some() {
        "-F: users from a file"
    } else if common.user.as_deref().is_some_and(|user| user.contains(['*', '?'])) {
        "-u with a wildcard"
    } else {
        return Ok(());
    };
    Err(Failure::error(format!("{what} is not supported yet; nothing was done"), exit::TEMPORARY))
}

/// SIGINT and SIGTERM ask the run to stop; a second one of a kind kills. SIGHUP and SIGPIPE mean nothing (the latter is
/// ignored by Rust's start-up code).
fn stop_on_signals() -> Stop {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    let stop = Stop::new();
    for signal in [SIGINT, SIGTERM] {
        let seen = Arc::new(AtomicBool::new(false));
        let number = usize::try_from(signal).unwrap_or_default();
        // The order matters: at the first signal the flag is still unset when the first action looks at it.
        let registered = signal_hook::flag::register_conditional_default(signal, Arc::clone(&seen))
            .and_then(|_| signal_hook::flag::register(signal, seen))
            .and_then(|_| signal_hook::flag::register_usize(signal, stop.slot(), number));
        if let Err(e) = registered {
            tracing::warn!("Signal {signal} cannot be handled: {e}");
        }
    }
    let ignored = signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)));
    if let Err(e) = ignored {
        tracing::warn!("Signal {SIGHUP} cannot be ignored: {e}");
    }
    stop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_asks_to_stop() {
        let stop = stop_on_signals();
        assert_eq!(stop.requested(), None);
        nix::sys::signal::raise(nix::sys::signal::SIGHUP).unwrap();
        assert_eq!(stop.requested(), None);
        nix::sys::signal::raise(nix::sys::signal::SIGTERM).unwrap();
        assert_eq!(stop.requested(), Some(15));
    }

    #[test]
    fn instances_are_found_in_dovecots_list() {
        let dir = tempfile::tempdir().unwrap();
        // As Dovecot 2.3.19.1 writes it.
        std::fs::write(dir.path().join("instances"), "1795304987\tfoo\t/nonexistent/run\t/etc/i.conf\n").unwrap();
        assert_eq!(instance_file(dir.path(), "foo"), Some("/etc/i.conf".into()));
        assert_eq!(instance_file(dir.path(), "bar"), None);
    }
}
