//! "Stop, please": a flag that a signal sets and that long work looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// A request to stop. Clones share the request.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicI32>);

impl Stop {
    /// Nobody wants anything to stop yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for it, because of this signal.
    pub fn request(&self, signal: i32) {
        self.0.store(signal, Ordering::Relaxed);
    }

    /// The signal, if stopping was asked for. To be looked at between two steps of work that leave everything valid.
    #[must_use]
    pub fn requested(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }
}
