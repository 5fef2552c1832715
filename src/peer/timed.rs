//! Streams that wait, but not for ever, over things that do not wait at all.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;

use super::Clock;

/// Something that says `WouldBlock`, and what to wait for then.
pub(super) trait Pollable {
    fn fd(&self) -> BorrowedFd<'_>;

    /// What the last `WouldBlock` waits for.
    fn waits_for(&self) -> PollFlags;
}

/// Waits for it, as long as the clock allows.
pub(super) struct Timed<T> {
    pub(super) inner: T,
    pub(super) clock: Clock,
}

impl<T: Pollable> Timed<T> {
    fn patiently<R>(&mut self, mut attempt: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        loop {
            match attempt(&mut self.inner) {
                Ok(done) => {
                    self.clock.touch();
                    return Ok(done);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.clock.wait(self.inner.fd(), self.inner.waits_for())?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl<T: Read + Pollable> Read for Timed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|inner| inner.read(buffer))
    }
}

impl<T: Write + Pollable> Write for Timed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.patiently(|inner| inner.write(bytes))?;
        // Encrypted streams keep what the socket did not take: nothing may be left behind while we wait for an answer.
        self.flush()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.patiently(T::flush)
    }
}
