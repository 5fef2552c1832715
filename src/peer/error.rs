//! Why the other side cannot be reached. The texts are Dovecot's where it has one.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::doveadm;

/// The other side cannot be reached, or does not want us.
#[derive(Debug, Error)]
pub enum Error {
    /// A name that no one knows.
    #[error("Lookup of host {host} failed: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// Why not.
        reason: String,
    },
    /// Nobody listens, or nobody answers.
    #[error("connect({address}) failed: {}", reason(source))]
    Connect {
        /// Address and port.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The same for a UNIX socket.
    #[error("net_connect_unix({path}) failed: {}", reason(source), path = path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What stands behind the last colon is no port.
    #[error("Port not known for {0}. Either set proxy_port or use {0}:port")]
    Port(String),
    /// The command cannot be started.
    #[error("execvp({command}) failed: {}", reason(source))]
    Exec {
        /// Its first word.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// The command is not what it should be.
    #[error("{0}")]
    Command(String),
    /// The way is open, and something went wrong on it.
    #[error("Disconnected from remote: {0}")]
    Disconnected(String),
    /// There is no such user there.
    #[error("Unknown user in remote")]
    UnknownUser,
    /// The user's mail is not to be replicated; nothing is wrong.
    #[error("The user is not to be replicated")]
    NoReplicate,
    /// The other side refuses.
    #[error("Failed to start remote dsync-server command: Remote exit_code={status} {text}")]
    Refused {
        /// Its exit status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// Encryption: settings that cannot be used, a certificate that cannot be trusted.
    #[error("{0}")]
    Tls(String),
    /// The built-in ssh.
    #[error("ssh({host}): {text}")]
    Ssh {
        /// The host.
        host: String,
        /// What is wrong.
        text: String,
    },
}

/// What a script shall see of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// May work another time.
    Temporary,
    /// No such user.
    UnknownUser,
    /// The number that the other side ended with.
    Remote(u16),
}

impl Error {
    /// What a script shall see.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::UnknownUser => Status::UnknownUser,
            Self::Refused { status, .. } => Status::Remote(*status),
            Self::NoReplicate => Status::Remote(doveadm::NO_REPLICATE),
            _ => Status::Temporary,
        }
    }

    /// Dovecot ends at once after these.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Lookup { .. } | Self::Connect { .. } | Self::Unix { .. } | Self::Port(_) | Self::Exec { .. })
    }
}

/// The system's words without Rust's number behind them.
pub(super) fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rsplit_once(" (os error ") {
        Some((text, _)) => text.into(),
        None if e.get_ref().is_none() && e.kind() == io::ErrorKind::TimedOut => "Timed out".into(),
        None => text,
    }
}
