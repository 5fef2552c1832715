//! From the destination's words to an opened way to the other side (cli-config.md 7). Still with the rights that the program
//! was started with.

use std::ffi::OsString;
use std::time::Duration;

use super::destination::{Destination, SshWord};
use super::job::Caller;
use super::{Failure, exit};
use crate::config::Remote;
use crate::peer::doveadm::{Order, Server};
use crate::peer::{self, Address, Command, Limits, Peer, Status, TlsSettings};

/// Whose mail is wanted there.
pub(super) struct Whom<'a> {
    pub(super) name: &'a str,
    /// By `-u`, and not only by `USER`.
    pub(super) was_named: bool,
}

/// Opens the way. `None` for a mail location.
pub(super) fn open(
    caller: &Caller<'_>,
    timeout: Option<Duration>,
    to: &Destination,
    whom: &Whom<'_>,
) -> Result<Option<Peer>, Failure> {
    let limits = Limits::of(timeout, caller.stop);
    let opened = match to {
        Destination::Local(_) => return Ok(None),
        Destination::Command(words) => command(caller, words.clone(), "remote").start(&limits),
        Destination::Host(target) => {
            let (user, host) = target.split_once('@').unwrap_or_else(|| (if whom.was_named { whom.name } else { "" }, target));
            let words = remote_command(caller, Remote { user, login: "", host })?;
            command(caller, words, "remote").start(&limits)
        }
        Destination::Ssh { target, prefix } => {
            let (login, host) = target.rsplit_once('@').unwrap_or(("", target));
            let words = remote_command(caller, Remote { user: whom.name, login, host })?;
            let prefix = if *prefix { format!("{}\n", whom.name).into_bytes() } else { Vec::new() };
            Command { prefix, ..command(caller, words, target) }.start(&limits)
        }
        Destination::OwnSsh(SshWord { wrong: Some(wrong), .. }) => {
            return Err(Failure::fatal(format!("Invalid ssh:// destination: {wrong}")));
        }
        Destination::OwnSsh(word) => own_ssh(caller, word, whom, &limits)?,
        Destination::Tcp { target, tls } => {
            let order = Order::dsync_server(whom.name, caller.global.debug, caller.common.replicator_notify);
            let port = u16::try_from(caller.config.uint("doveadm_port")).unwrap_or_default();
            Address::parse(target, port).and_then(|address| server(caller, target, address, *tls).start(order, &limits))
        }
    };
    opened.map(Some).map_err(failure)
}

/// Opens it once more, with the rights that are left. Errors have been said.
pub(super) fn again(caller: &Caller<'_>, timeout: Option<Duration>, to: &Destination, whom: &Whom<'_>) -> Option<Peer> {
    open(caller, timeout, to, whom).map_err(Failure::say).ok().flatten()
}

/// A doveadm server with the settings' way in.
pub(super) fn server(caller: &Caller<'_>, target: &str, address: Address, tls: bool) -> Server {
    let config = caller.config;
    Server {
        target: target.into(),
        address,
        tls: tls.then(|| tls_settings(caller)),
        user: config.text("doveadm_username").into(),
        password: config.text("doveadm_password").into(),
    }
}

fn tls_settings(caller: &Caller<'_>) -> TlsSettings {
    let config = caller.config;
    let set = |name| Some(config.text(name)).filter(|text| !text.is_empty());
    TlsSettings {
        ca_file: set("ssl_client_ca_file").map(Into::into),
        ca_dir: set("ssl_client_ca_dir").map(Into::into),
        identity: set("ssl_client_cert").map(|cert| (cert.into(), config.text("ssl_client_key").into())),
        require_valid_cert: config.flag("ssl_client_require_valid_cert"),
        only_newest: config.text("ssl_min_protocol") == "TLSv1.3",
    }
}

/// What a script and a reader shall see of it.
pub(super) fn failure(e: peer::Error) -> Failure {
    let code = match e.status() {
        Status::Temporary => exit::TEMPORARY,
        Status::UnknownUser => exit::NO_USER,
        // As the system cuts it.
        Status::Remote(n) => u8::try_from(n & 0xff).unwrap_or(exit::TEMPORARY),
    };
    match e {
        peer::Error::NoReplicate => Failure::silent(code),
        e if e.is_fatal() => Failure::fatal(e.to_string()),
        e => Failure::error(e.to_string(), code),
    }
}

fn command(caller: &Caller<'_>, words: Vec<String>, name: &str) -> Command {
    Command { words, environment: environment(caller), prefix: Vec::new(), name: name.into() }
}

fn remote_command(caller: &Caller<'_>, remote: Remote<'_>) -> Result<Vec<String>, Failure> {
    careful(remote)?;
    caller.config.remote_command(remote).map_err(|e| cannot_expand(caller, &e))
}

/// ssh would take such words for its options.
fn careful(remote: Remote<'_>) -> Result<(), Failure> {
    for (what, word) in [("host", remote.host), ("login", remote.login)] {
        if word.starts_with('-') {
            return Err(Failure::error(format!("The {what} name {word} of the destination begins with -"), exit::TEMPORARY));
        }
    }
    Ok(())
}

fn cannot_expand(caller: &Caller<'_>, e: &dyn std::fmt::Display) -> Failure {
    let text = format!("Failed to expand dsync_remote_cmd={}: {e}", caller.config.text("dsync_remote_cmd"));
    Failure::error(text, exit::TEMPORARY)
}

#[cfg(feature = "ssh")]
fn own_ssh(caller: &Caller<'_>, word: &SshWord, whom: &Whom<'_>, limits: &Limits) -> Result<Result<Peer, peer::Error>, Failure> {
    let login = word.login.as_deref().unwrap_or_default();
    let remote = Remote { user: whom.name, login, host: &word.host };
    careful(remote)?;
    let command = caller.config.remote_shell_command(remote).map_err(|e| cannot_expand(caller, &e))?;
    let target = peer::SshTarget {
        login: word.login.clone(),
        host: word.host.clone(),
        port: word.port,
        identity: word.identity.clone(),
        known_hosts: word.known_hosts.clone(),
        command,
    };
    Ok(target.start(limits))
}

#[cfg(not(feature = "ssh"))]
fn own_ssh(_: &Caller<'_>, _: &SshWord, _: &Whom<'_>, _: &Limits) -> Result<Result<Peer, peer::Error>, Failure> {
    let text = "This dsync was built without its own ssh client: use remote: with an ssh program";
    Err(Failure::error(text.into(), exit::TEMPORARY))
}

/// What a command may need of our environment. Dovecot's own hands nothing on, so its ssh finds no agent.
const USEFUL: [&str; 17] = [
    "HOME",
    "USER",
    "LOG_STDERR_TIMESTAMP",
    "PATH",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "KRB5CCNAME",
    "XDG_RUNTIME_DIR",
    "DOVECOT_HOSTNAME",
    "DOVECOT_HOSTDOMAIN",
];
/// With these a doveadm would ignore its own configuration (cli-config.md 7.5).
const HARMFUL: [&str; 3] = ["DOVECONF_ENV", "DOVECOT_CONFIG_FD", "DOVECOT_PRESERVE_ENVS"];

fn environment(caller: &Caller<'_>) -> Vec<(OsString, OsString)> {
    let all = std::env::vars_os().filter(|(name, _)| !HARMFUL.iter().any(|harmful| name == *harmful));
    let imported = caller.config.words("import_environment");
    let is_wanted = |name: &OsString| {
        let Some(name) = name.to_str() else { return false };
        USEFUL.contains(&name) || name.starts_with("LC_") || imported.contains(&name)
    };
    let mut kept: Vec<_> = all.filter(|(name, _)| caller.global.keep_environment || is_wanted(name)).collect();
    for (name, value) in imported.iter().filter_map(|word| word.split_once('=')) {
        kept.retain(|(n, _)| n != name);
        kept.push((name.into(), value.into()));
    }
    kept
}
