//! How long a stream may be silent (wire.md 4.3).

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Limits;
use crate::os::stop::Stop;

/// Why a stream was given up. Found inside of the `io::Error` of a read or a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// `-T` seconds without a byte in either direction.
    #[error("I/O has stalled, no activity for {0} seconds")]
    Stalled(u64),
    /// A signal asked to stop.
    #[error("Killed with signal {0}")]
    Stopped(usize),
}

/// The longest single wait: so soon a request to stop is seen.
const SLICE: Duration = Duration::from_millis(250);

/// One clock for both directions of a stream: any byte counts, whichever way it goes.
#[derive(Debug, Clone)]
pub struct Clock {
    begin: Instant,
    /// Milliseconds since the beginning.
    last: Arc<AtomicU64>,
    /// Milliseconds; `u64::MAX` is never.
    timeout: Arc<AtomicU64>,
    stop: Stop,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let clock = Self { begin: Instant::now(), last: Arc::default(), timeout: Arc::default(), stop: limits.stop.clone() };
        clock.allow(limits.silence);
        clock
    }

    /// Another time limit from here on, for both directions.
    pub(super) fn allow(&self, timeout: Option<Duration>) {
        let millis = timeout.and_then(|t| u64::try_from(t.as_millis()).ok());
        self.timeout.store(millis.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn touch(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// Waits until the descriptor can be used.
    pub(super) fn wait(&self, fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
        // What we ourselves did between two waits is no silence of the other side.
        let from = self.begin.elapsed();
        loop {
            if let Some(signal) = self.stop.requested() {
                return Err(io::Error::other(StreamError::Stopped(signal)));
            }
            let mut slice = SLICE;
            let timeout = self.timeout.load(Ordering::Relaxed);
            if timeout != u64::MAX {
                let timeout = Duration::from_millis(timeout);
                let last = Duration::from_millis(self.last.load(Ordering::Relaxed)).max(from);
                let left = (last + timeout).saturating_sub(self.begin.elapsed());
                if left.is_zero() {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, StreamError::Stalled(timeout.as_secs())));
                }
                slice = left.min(SLICE);
            }
            // Never zero: less than a millisecond left is one.
            let slice = Timespec::try_from(slice.max(Duration::from_millis(1))).unwrap_or_default();
            match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&slice)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
