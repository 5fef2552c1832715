//! Carries bytes between an ssh channel and two pipes. libssh2 wants one thread to use a session, and a packet that was
//! sent in part to be completed before anything else is done: so one loop does everything.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, Session};

use super::super::socket::Pipe;
use super::super::timed::Pollable;

const BUFFER: usize = 64 * 1024;
/// So soon a request to give up is seen.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// How the command ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) status: i32,
    pub(super) signal: Option<String>,
    /// It wrote to its standard error.
    pub(super) spoke: bool,
}

pub(super) struct Pump {
    pub(super) host: String,
    pub(super) session: Session,
    pub(super) channel: Channel,
    pub(super) socket: TcpStream,
    /// What we say; `None` when all was said.
    pub(super) from_us: Option<Pipe>,
    /// What we hear; `None` when nobody listens any more, or nothing more comes.
    pub(super) to_us: Option<Pipe>,
    pub(super) give_up: Arc<AtomicBool>,
}

/// Bytes on their way in one direction.
struct Load {
    bytes: Box<[u8; BUFFER]>,
    from: usize,
    to: usize,
}

impl Load {
    fn new() -> Self {
        Self { bytes: Box::new([0; BUFFER]), from: 0, to: 0 }
    }

    const fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Reads when there is nothing: the number of bytes, `None` if there is nothing to be had now.
    fn fill(&mut self, source: &mut impl Read) -> io::Result<Option<usize>> {
        let n = patient(source.read(&mut self.bytes[..]))?;
        (self.from, self.to) = (0, n.unwrap_or(0));
        Ok(n)
    }

    fn empty(&mut self, sink: &mut impl Write) -> io::Result<Option<usize>> {
        let n = patient(sink.write(&self.bytes[self.from..self.to]))?;
        self.from += n.unwrap_or(0);
        Ok(n)
    }
}

fn patient<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Pump {
    pub(super) fn run(mut self) -> Ended {
        let mut stderr = Stderr::default();
        if let Err(e) = self.carry(&mut stderr)
            && !self.give_up.load(Ordering::Relaxed)
        {
            tracing::error!("ssh({}): {e}", self.host);
        }
        // Whoever reads shall not wait for us.
        (self.from_us, self.to_us) = (None, None);
        self.session.set_blocking(true);
        self.session.set_timeout(2000);
        let _ = self.channel.close();
        let _ = self.channel.wait_close();
        stderr.end();
        let signal = self.channel.exit_signal().ok().and_then(|s| s.exit_signal);
        let status = self.channel.exit_status().unwrap_or(0);
        let _ = self.session.disconnect(None, "", None);
        Ended { status, signal, spoke: stderr.spoke }
    }

    fn carry(&mut self, stderr: &mut Stderr) -> io::Result<()> {
        let (mut out, mut back) = (Load::new(), Load::new());
        let mut eof_sent = false;
        loop {
            if self.give_up.load(Ordering::Relaxed) {
                return Err(io::Error::other("given up"));
            }
            let mut moved = false;
            if out.is_empty()
                && let Some(pipe) = &mut self.from_us
            {
                match out.fill(pipe) {
                    Ok(Some(0)) | Err(_) => self.from_us = None,
                    Ok(n) => moved |= n.is_some(),
                }
            }
            if !out.is_empty() {
                match out.empty(&mut self.channel) {
                    Ok(n) => moved |= n.is_some(),
                    // The command has closed its input; what it still says counts.
                    Err(_) => {
                        out.from = out.to;
                        self.from_us = None;
                    }
                }
                if !moved && matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both) {
                    self.wait_for_socket(PollFlags::OUT)?;
                    continue;
                }
            }
            if self.from_us.is_none() && out.is_empty() && !eof_sent {
                match patient(self.channel.send_eof().map_err(io::Error::from)) {
                    Ok(Some(())) | Err(_) => eof_sent = true,
                    Ok(None) => {}
                }
            }
            moved |= stderr.read(&mut self.channel.stderr());
            let mut ended = false;
            if back.is_empty() {
                match back.fill(&mut self.channel)? {
                    Some(0) => ended = self.channel.eof(),
                    n => moved |= n.is_some(),
                }
            }
            if !back.is_empty() {
                match self.to_us.as_mut().map_or(Ok(Some(0)), |pipe| back.empty(pipe)) {
                    Ok(n) if self.to_us.is_some() => moved |= n.is_some(),
                    // Nobody listens: the command shall still come to its end.
                    _ => {
                        self.to_us = None;
                        back.from = back.to;
                        moved = true;
                    }
                }
            }
            if ended {
                return Ok(());
            }
            if !moved {
                self.wait(&out, &back)?;
            }
        }
    }

    fn wait_for_socket(&self, flags: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), flags)], Some(&SLICE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn wait(&self, out: &Load, back: &Load) -> io::Result<()> {
        let mut flags = PollFlags::IN;
        if matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both) {
            flags |= PollFlags::OUT;
        }
        // The socket tells nothing new while we cannot get rid of what it told before.
        let mut all = Vec::with_capacity(3);
        if back.is_empty() || !out.is_empty() {
            all.push(PollFd::from_borrowed_fd(self.socket.as_fd(), flags));
        }
        if let Some(pipe) = self.from_us.as_ref().filter(|_| out.is_empty()) {
            all.push(PollFd::from_borrowed_fd(pipe.fd(), PollFlags::IN));
        }
        if let Some(pipe) = self.to_us.as_ref().filter(|_| !back.is_empty()) {
            all.push(PollFd::from_borrowed_fd(pipe.fd(), PollFlags::OUT));
        }
        match poll(&mut all, Some(&SLICE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// The command's standard error goes to ours, line by line.
#[derive(Default)]
struct Stderr {
    line: Vec<u8>,
    spoke: bool,
}

impl Stderr {
    fn read(&mut self, stream: &mut impl Read) -> bool {
        let mut buffer = [0; 4096];
        let Ok(n @ 1..) = stream.read(&mut buffer) else { return false };
        self.spoke = true;
        self.line.extend_from_slice(&buffer[..n]);
        let whole = memchr::memrchr(b'\n', &self.line).map_or(0, |end| end + 1);
        let whole = if self.line.len() > BUFFER { self.line.len() } else { whole };
        let _ = io::stderr().lock().write_all(&self.line[..whole]);
        self.line.drain(..whole);
        true
    }

    fn end(&mut self) {
        if !self.line.is_empty() {
            self.line.push(b'\n');
            let _ = io::stderr().lock().write_all(&self.line);
        }
    }
}
