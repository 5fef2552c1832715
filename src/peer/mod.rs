//! How the other side is reached: a command, ssh, a doveadm server over TCP, TLS or a UNIX socket, or our own standard
//! input and output. What comes out is a pair of byte streams that begin with the dsync protocol, whatever had to be said
//! before it (wire.md 7, 8, 10, 11).
//!
//! Streams never block longer than the time of `-T`, and not at all when a signal asks to stop. Knows nothing of what is
//! said over them.

mod clock;
mod connect;
pub mod doveadm;
mod error;
mod hostname;
mod notify;
mod process;
mod rawlog;
mod socket;
#[cfg(feature = "ssh")]
mod ssh;
mod stdio;
mod timed;
mod tls;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

pub use clock::{Clock, StreamError};
pub use connect::Address;
pub use error::{Error, Status};
pub use hostname::hostname;
pub use notify::notify_replicator;
pub use process::Command;
#[cfg(feature = "ssh")]
pub use ssh::SshTarget;
pub use stdio::{read_user, stdio};
pub use tls::TlsSettings;

use crate::os::stop::Stop;
use crate::wire::Ends;

/// Longest time for looking up a name, connecting, and saying who we are (wire.md 4.3).
const CONNECT: Duration = Duration::from_secs(30);

/// How long a program at the other end may take to end after its streams were closed (wire.md 4.3).
const PATIENCE: Duration = Duration::from_secs(30);

/// What holds for a stream.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The time for finding the other side, and for saying who we are.
    pub connect: Duration,
    /// The time without any progress after which a stream has failed; `None` never.
    pub silence: Option<Duration>,
    /// Somebody wants us to stop.
    pub stop: Stop,
}

impl Limits {
    /// For `-T`. The session over the stream looks after that time itself and says where it was: the stream's own time is a
    /// longer one, so that nothing waits for ever when the session has ended.
    #[must_use]
    pub fn of(timeout: Option<Duration>, stop: &Stop) -> Self {
        let silence = timeout.map(|t| t * 2 + Duration::from_secs(5));
        Self { connect: timeout.map_or(CONNECT, |t| t.min(CONNECT)), silence, stop: stop.clone() }
    }
}

type Input = Box<dyn Read + Send>;
type Output = Box<dyn Write + Send>;

/// An opened way to the other side.
pub struct Peer {
    /// Both directions, and what error messages call the other side.
    pub ends: Ends,
    /// To be called when both streams are dropped.
    pub end: Ending,
}

impl Peer {
    /// Both directions are also appended to this file, or sent to `tcp:host:port` (`-r`, wire.md 11.1). That it cannot be
    /// opened is only logged.
    #[must_use]
    pub fn with_rawlog(self, path: &Path, limits: &Limits) -> Self {
        match rawlog::Rawlog::open(path, limits) {
            Ok(log) => Self { ends: log.around(self.ends), ..self },
            Err(text) => {
                tracing::error!("{text}");
                self
            }
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("name", &self.ends.name).finish_non_exhaustive()
    }
}

/// What is left to do when a stream is over.
pub struct Ending(Kind);

enum Kind {
    Process(Box<process::Running>),
    #[cfg(feature = "ssh")]
    Ssh(Box<ssh::Running>),
    /// Closing was all.
    Nothing,
}

impl Ending {
    /// Waits until the other side's program has ended, and logs how it ended where that is worth a line (wire.md 7.5). Both
    /// streams must have been dropped. The outcome of the run does not depend on it. After a success it may have something
    /// to do yet (`-P`); else it is not waited for longer than its silence was borne.
    pub fn finish(self, succeeded: bool) {
        match self.0 {
            Kind::Process(running) => running.finish(succeeded),
            #[cfg(feature = "ssh")]
            Kind::Ssh(running) => running.finish(succeeded),
            Kind::Nothing => {}
        }
    }
}
