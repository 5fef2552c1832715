//! `dsync-server`: the other side of a run, on standard input and output (wire.md 10). Nothing but the protocol may go to
//! standard output.

use std::path::PathBuf;

use super::flags::ServerArgs;
use super::job::{self, Caller};
use super::request::Stream;
use super::{Failure, exit};
use crate::peer::{self, Limits};
use crate::run::{self, Service, check};
use crate::users::User;

/// Serves one run.
pub(super) fn run(caller: &Caller<'_>, args: &ServerArgs) -> Result<u8, Failure> {
    // Peers append the command's name twice at times.
    if args.words.len() > 1 {
        let text = format!("Extraneous arguments found: {}", args.words[1..].join(" "));
        return Err(Failure::error(text, exit::USAGE));
    }
    let stream = Stream::of(caller.common)?;
    super::refuse_many_users(caller.common)?;
    let limits = Limits::of(stream.timeout, caller.stop);
    let name = if args.read_user {
        peer::read_user(&limits).map_err(|e| Failure::fatal(format!("The user name could not be read: {e}")))?
    } else {
        job::user_name(caller.config, caller.common)?
    };
    let (service, user) = job::span("doveadm", &name).in_scope(|| prepare(caller, args, &stream, &name).map_err(Failure::say))?;
    let prefix = format!("dsync-remote({name})<{}>: ", user.vars.session);
    let span = tracing::error_span!("user", prefix);
    let _in = span.enter();
    // A user's name before the protocol is for the wrapper that the peer expects here.
    let skipped = caller.common.user.as_deref().filter(|_| !args.read_user);
    let peer = peer::stdio(skipped, &limits).map_err(|e| Failure::fatal(format!("Standard input or output: {e}")).say())?;
    let outcome = run::serve(&service, peer, caller.stop);
    if let Some(signal) = caller.stop.requested() {
        tracing::warn!("Killed with signal {signal}");
        return Ok(exit::TEMPORARY);
    }
    Ok(exit::of_outcome(outcome))
}

fn prepare(caller: &Caller<'_>, args: &ServerArgs, stream: &Stream, name: &str) -> Result<(Service, User), Failure> {
    let config = caller.config;
    config.check_user().map_err(|e| job::temporary(format!("User lookup failed: {e}")))?;
    let who = job::who(config, caller.common, name, args.read_user);
    let user = User::find(&who, config).map_err(|e| job::user_error(&e, ""))?;
    user.become_user(config).map_err(|e| Failure::error(e.to_string(), exit::of_class(e.class())))?;
    let location = job::source_location(config, &user, &who)?;
    let account = job::account(config, &user, location)?;
    check::locations(&account, job::has_namespaces(config)).map_err(|e| job::unusable(&e))?;
    let service = Service {
        account,
        stream: job::stream_settings(caller, stream.timeout),
        rawlog: stream.rawlog.clone(),
        read_only: args.read_only,
        notify: caller.common.replicator_notify.then(|| PathBuf::from(config.text("base_dir"))),
    };
    Ok((service, user))
}
