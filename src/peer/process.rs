//! A command whose standard input and output are the stream (wire.md 7, cli-config.md 7.5).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::reason;
use super::socket::Pipe;
use super::timed::Timed;
use super::{Clock, Ending, Error, Kind, Limits, PATIENCE, Peer};
use crate::wire::Ends;

/// What a command of doveadm's kind ends with when it has said what is wrong.
const TEMPORARY: i32 = 75;
const USAGE: i32 = 64;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments. No shell sees them.
    pub words: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What goes to its standard input before the protocol (`remoteprefix:`).
    pub prefix: Vec<u8>,
    /// What error messages call the other side.
    pub name: String,
}

impl Command {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Exec`].
    pub fn start(self, limits: &Limits) -> Result<Peer, Error> {
        let exec = |source| Error::Exec { command: self.words.first().cloned().unwrap_or_default(), source };
        let Some((program, arguments)) = self.words.split_first().filter(|(program, _)| !program.is_empty()) else {
            return Err(exec(io::Error::from(rustix::io::Errno::NOENT)));
        };
        let mut command = std::process::Command::new(program);
        command.args(arguments).env_clear().envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(exec)?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut running =
            Running { child, words: self.words.clone(), heard: Arc::default(), relay: None, limits: limits.clone() };
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
            return Err(exec(io::Error::other("no pipes")));
        };
        running.relay = Some(Relay::start(stderr));
        let clock = Clock::new(limits);
        let input = Timed { inner: Pipe::input(stdout).map_err(exec)?, clock: clock.clone() };
        let mut output = Timed { inner: Pipe::output(stdin).map_err(exec)?, clock };
        // A command that ends at once breaks the pipe; the first read will tell.
        let _ = output.write_all(&self.prefix);
        let heard = Arc::clone(&running.heard);
        Ok(Peer {
            ends: Ends { name: self.name, read: Box::new(Listening { inner: input, heard }), write: Box::new(output) },
            end: Ending(Kind::Process(Box::new(running))),
        })
    }
}

/// Notes whether anything came at all.
struct Listening<T> {
    inner: T,
    heard: Arc<AtomicBool>,
}

impl<T: Read> Read for Listening<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 {
            self.heard.store(true, Ordering::Relaxed);
        }
        Ok(n)
    }
}

/// A command that was started. Dropped without [`Running::finish`], it is killed.
pub(super) struct Running {
    child: Child,
    words: Vec<String>,
    /// Anything came from it.
    heard: Arc<AtomicBool>,
    relay: Option<Relay>,
    limits: Limits,
}

impl Running {
    pub(super) fn finish(mut self, succeeded: bool) {
        let status = self.wait(if succeeded { PATIENCE } else { self.limits.connect });
        let spoke = self.relay.take().is_some_and(Relay::finish);
        let Some(status) = status else { return };
        let words = self.words.join(" ");
        if let Some(signal) = status.signal() {
            tracing::error!("Remote command died with signal {signal}: {words}");
        } else if let Some(code) = status.code().filter(|code| *code != 0 && !(*code == TEMPORARY && spoke)) {
            tracing::error!("Remote command returned error {code}: {words}");
            if code == USAGE && !self.heard.load(Ordering::Relaxed) && self.words.last().is_some_and(|w| w == "-U") {
                tracing::error!("Dovecot 2.4 does not know -U any more: set dsync_remote_cmd without it");
            }
        }
    }

    /// `None` if it cannot be known.
    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => {}
                Err(e) => {
                    tracing::error!("waitpid() failed: {e}");
                    return None;
                }
            }
            let patience = if self.limits.stop.requested().is_some() { Duration::from_secs(1) } else { patience };
            if begin.elapsed() >= patience {
                tracing::error!("Remote command process isn't dying, killing it");
                // It may be root's, and we not root any more.
                if let Err(e) = self.child.kill() {
                    tracing::error!("kill({}, SIGKILL) failed: {}", self.child.id(), reason(&e));
                }
                return None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whom we may not kill we cannot wait for. The closed streams end it sooner or later.
        if let Ok(None) = self.child.try_wait()
            && self.child.kill().is_ok()
        {
            let _ = self.child.wait();
        }
    }
}

/// Copies the command's standard error to ours, line by line and unchanged.
struct Relay {
    thread: JoinHandle<bool>,
    ended: Arc<AtomicBool>,
}

impl Relay {
    fn start(stderr: ChildStderr) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        Self { thread: std::thread::spawn(move || relay(stderr, &flag)), ended }
    }

    /// Copies what is still there. True if there was anything at all.
    fn finish(self) -> bool {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Longest line that is kept together.
const LINE: usize = 64 * 1024;

fn relay(mut stderr: ChildStderr, ended: &AtomicBool) -> bool {
    let mut spoke = false;
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // Something that the command left behind may keep the pipe open for ever: when the command has ended, what is there
        // now is all.
        let last = ended.load(Ordering::Relaxed);
        let wait = Timespec { tv_sec: 0, tv_nsec: if last { 0 } else { 50_000_000 } };
        match poll(&mut [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN)], Some(&wait)) {
            Ok(0) if last => break,
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => break,
        }
        let n = match stderr.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        spoke = true;
        line.extend_from_slice(&buffer[..n]);
        let whole = memchr::memrchr(b'\n', &line).map_or(0, |end| end + 1);
        let whole = if line.len() > LINE { line.len() } else { whole };
        say(&line[..whole]);
        line.drain(..whole);
    }
    if !line.is_empty() {
        line.push(b'\n');
        say(&line);
    }
    spoke
}

fn say(text: &[u8]) {
    let _ = io::stderr().lock().write_all(text);
}
