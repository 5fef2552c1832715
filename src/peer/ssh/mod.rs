//! An ssh client of our own, for machines without an ssh program: destinations `ssh://[login@]host[:port]`.
//!
//! The server's key must be in a known_hosts file. We log in with the keys of the agent and with key files; there is nobody
//! who could be asked for a password.

mod login;
mod pump;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use super::socket::Pipe;
use super::timed::Timed;
use super::{Clock, Ending, Error, Kind, Limits, PATIENCE, Peer};
use crate::wire::Ends;

/// Where to log in, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// Whom to log in as; otherwise the user of this process.
    pub login: Option<String>,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The only key that is tried; otherwise the agent's and the usual files.
    pub identity: Option<PathBuf>,
    /// The only file with keys of hosts; otherwise the usual ones.
    pub known_hosts: Option<PathBuf>,
    /// What the login shell runs there.
    pub command: String,
}

impl SshTarget {
    /// Logs in and starts the command.
    ///
    /// # Errors
    /// The host cannot be reached, is not the one it should be, or does not let us in.
    pub fn start(&self, limits: &Limits) -> Result<Peer, Error> {
        let failed = |text: String| Error::Ssh { host: self.host.clone(), text };
        let session = login::log_in(self, limits)?;
        let opened = session.session.channel_session().and_then(|mut channel| {
            channel.exec(&self.command)?;
            Ok(channel)
        });
        let channel = opened.map_err(|e| failed(format!("cannot run {}: {}", self.command, e.message())))?;
        session.session.set_blocking(false);

        let pipes = || pipe_with(PipeFlags::CLOEXEC);
        let piped = pipes().and_then(|a| Ok((a, pipes()?)));
        let ((from_us, to_pump), (from_pump, to_us)) = piped.map_err(|e| failed(e.to_string()))?;
        let pipe = |fd, output| if output { Pipe::output(fd) } else { Pipe::input(fd) }.map_err(|e| failed(e.to_string()));
        let give_up = Arc::new(AtomicBool::new(false));
        let pump = pump::Pump {
            host: self.host.clone(),
            socket: session.socket,
            session: session.session,
            channel,
            from_us: Some(pipe(from_us, false)?),
            to_us: Some(pipe(to_us, true)?),
            give_up: Arc::clone(&give_up),
        };
        let (sender, ended) = channel_of_one();
        let span = tracing::Span::current();
        std::thread::spawn(move || {
            let _in = span.entered();
            let _ = sender.send(pump.run());
        });
        let clock = Clock::new(limits);
        let ends = Ends {
            read: Box::new(Timed { inner: pipe(from_pump, false)?, clock: clock.clone() }),
            write: Box::new(Timed { inner: pipe(to_pump, true)?, clock }),
            name: self.host.clone(),
        };
        let running = Running { ended, give_up, command: self.command.clone(), impatience: limits.connect };
        Ok(Peer { ends, end: Ending(Kind::Ssh(Box::new(running))) })
    }
}

fn channel_of_one() -> (std::sync::mpsc::Sender<pump::Ended>, Receiver<pump::Ended>) {
    channel()
}

/// A command on the other machine.
pub(super) struct Running {
    ended: Receiver<pump::Ended>,
    give_up: Arc<AtomicBool>,
    command: String,
    impatience: Duration,
}

impl Running {
    pub(super) fn finish(self, succeeded: bool) {
        let Ok(ended) = self.ended.recv_timeout(if succeeded { PATIENCE } else { self.impatience }) else {
            tracing::error!("Remote command process isn't dying, closing the connection");
            return;
        };
        if let Some(signal) = ended.signal {
            tracing::error!("Remote command died with signal {signal}: {}", self.command);
        } else if ended.status != 0 && !(ended.status == 75 && ended.spoke) {
            tracing::error!("Remote command returned error {}: {}", ended.status, self.command);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.give_up.store(true, Ordering::Relaxed);
    }
}
