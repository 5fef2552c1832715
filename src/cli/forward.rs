//! `-S`: the whole command runs in a doveadm server; we say what came of it (cli-config.md 4.5, wire.md 8.6).

use std::io;

use super::flags::{CommonArgs, RunArgs};
use super::job::{self, Caller};
use super::print::Formatter;
use super::request::Stream;
use super::{Failure, exit, reach};
use crate::peer::doveadm::Order;
use crate::peer::{Address, Error, Limits};

/// What was typed, as far as it goes to the server.
pub(super) struct Typed<'a> {
    /// `sync` or `backup`.
    pub(super) command: &'a str,
    pub(super) run: &'a RunArgs,
    /// `-1`
    pub(super) oneway: bool,
}

/// Has the server do it.
pub(super) fn run(caller: &Caller<'_>, typed: &Typed<'_>, address: &str, formatter: Formatter) -> Result<u8, Failure> {
    let config = caller.config;
    let name = job::user_name(config, caller.common)?;
    let span = job::span("doveadm", &name);
    let _in = span.enter();
    let stream = Stream::of(caller.common)?;
    let limits = Limits::of(stream.timeout, caller.stop);
    let port = u16::try_from(config.uint("doveadm_port")).unwrap_or_default();
    let tls = match config.text("doveadm_ssl") {
        "ssl" => true,
        "starttls" => return Err(job::temporary("doveadm_ssl=starttls is not supported: use ssl".into()).say()),
        _ => false,
    };
    let parsed = Address::parse(address, port).map_err(|e| reach::failure(e).say())?;
    let tls = tls && matches!(parsed, Address::Host { .. });
    let flags = [(caller.global.debug, 'D'), (caller.global.verbose, 'v')];
    let flags = flags.iter().filter(|(given, _)| *given).map(|(_, letter)| *letter).collect();
    let order = Order { flags, user: name.clone(), words: words(typed, caller.common, &name) };
    let reply = reach::server(caller, address, parsed, tls).run(&order, &limits).map_err(|e| match e {
        Error::Disconnected(reason) => {
            job::temporary(format!("{address}: Command {} failed for {name}: {reason}", typed.command)).say()
        }
        e => reach::failure(e).say(),
    })?;

    let state = reply.rows.first().and_then(|row| row.first()).map(String::as_str);
    let printed = formatter.print(state, !caller.global.no_titles, &mut io::stdout().lock());
    printed.map_err(|e| job::temporary(format!("write(stdout) failed: {}", crate::config::reason(&e))).say())?;
    if reply.status == NO_USER {
        tracing::error!("{address}: No such user: {name}");
    }
    Ok(u8::try_from(reply.status & 0xff).unwrap_or(exit::TEMPORARY))
}

const NO_USER: u16 = exit::NO_USER as u16;

/// The words as doveadm sends them: options one by one in the order of its table.
fn words(typed: &Typed<'_>, common: &CommonArgs, user: &str) -> Vec<String> {
    let Typed { command, run, oneway } = typed;
    let mut out = Line(vec![(*command).to_owned(), "-u".into(), user.into()]);
    out.flag("-f", run.full_sync);
    out.flag("-P", run.purge_remote);
    out.flag("-R", run.reverse_sync);
    out.flag("-U", common.replicator_notify);
    out.values("-l", &run.lock_timeout);
    out.values("-r", &common.rawlog);
    out.values("-m", &run.mailbox);
    out.values("-g", &run.mailbox_guid);
    out.values("-n", &run.namespace);
    out.flag("-N", run.all_namespaces);
    out.values("-x", &run.exclude_mailbox);
    out.values("-a", &run.all_mailbox);
    out.values("-s", &run.state);
    out.values("-t", &run.sync_since_time);
    out.values("-e", &run.sync_until_time);
    out.values("-O", &run.sync_flags);
    out.values("-I", &run.sync_max_size);
    out.values("-T", &common.timeout);
    out.flag("-d", run.default_destination);
    out.values("-p", &run.destination_option);
    out.flag("-E", common.legacy_dsync);
    out.flag("-1", *oneway);
    out.flag("--", true);
    out.0.extend(run.destination.iter().chain(&run.words).cloned());
    out.0
}

struct Line(Vec<String>);

impl Line {
    fn flag(&mut self, letter: &str, given: bool) {
        self.0.extend(given.then(|| letter.to_owned()));
    }

    fn values<'a>(&mut self, letter: &str, values: impl IntoIterator<Item = &'a String>) {
        for value in values {
            self.0.extend([letter.to_owned(), value.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::flags::{Cli, Command};

    #[test]
    fn options_in_the_order_of_doveadms_table() {
        let typed = ["dsync", "sync", "-1", "-t", "2020-01-01", "-s", "", "-x", "a b", "-l", "5", "-f", "-U", "tcp:h:1", "x"];
        let Command::Sync(args) = Cli::try_parse_from(typed).unwrap().command else { panic!() };
        let typed = Typed { command: "sync", run: &args.run, oneway: args.oneway_sync };
        let words = words(&typed, &args.common, "jane").join("|");
        assert_eq!(words, "sync|-u|jane|-f|-U|-l|5|-x|a b|-s||-t|2020-01-01|-1|--|tcp:h:1|x");
    }
}
