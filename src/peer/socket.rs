//! Sockets and pipes that do not wait.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::timed::Pollable;

/// A connected socket of any family. Clones are the same socket.
#[derive(Debug, Clone)]
pub(super) struct Socket(Arc<OwnedFd>);

impl Socket {
    pub(super) fn new(fd: impl Into<OwnedFd>) -> Self {
        Self(Arc::new(fd.into()))
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (n, _) = rustix::net::recv(&*self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(n)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&*self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The receiving half.
pub(super) struct SocketInput(pub(super) Socket);

impl Read for SocketInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Pollable for SocketInput {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn waits_for(&self) -> PollFlags {
        PollFlags::IN
    }
}

/// The sending half: dropped, it says so.
pub(super) struct SocketOutput(pub(super) Socket);

impl Write for SocketOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pollable for SocketOutput {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn waits_for(&self) -> PollFlags {
        PollFlags::OUT
    }
}

impl Drop for SocketOutput {
    fn drop(&mut self) {
        // The other side may be gone already.
        let _ = rustix::net::shutdown(&*self.0.0, Shutdown::Write);
    }
}

/// What a pipe shall hold.
#[cfg(target_os = "linux")]
const PIPE: usize = 1 << 20;

/// One end of a pipe, or whatever standard input and output are.
pub(super) struct Pipe {
    file: File,
    flags: PollFlags,
    /// The flags of a descriptor that others use after us.
    restore: Option<OFlags>,
}

impl Pipe {
    pub(super) fn input(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Self::new(fd.into(), PollFlags::IN, false)
    }

    pub(super) fn output(fd: impl Into<OwnedFd>) -> io::Result<Self> {
        Self::new(fd.into(), PollFlags::OUT, false)
    }

    fn new(fd: OwnedFd, flags: PollFlags, restore: bool) -> io::Result<Self> {
        let before = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, before | OFlags::NONBLOCK)?;
        // Fewer turns for many small mails. Standard input may be no pipe, and users have a limit.
        #[cfg(target_os = "linux")]
        let _ = rustix::pipe::fcntl_setpipe_size(&fd, PIPE);
        Ok(Self { file: fd.into(), flags, restore: restore.then_some(before) })
    }

    /// The descriptor blocks again when we are done with it, if it did before.
    pub(super) fn borrowed(fd: OwnedFd, flags: PollFlags) -> io::Result<Self> {
        Self::new(fd, flags, true)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(flags) = self.restore {
            let _ = rustix::fs::fcntl_setfl(&self.file, flags);
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Pollable for Pipe {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn waits_for(&self) -> PollFlags {
        self.flags
    }
}
