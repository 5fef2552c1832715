//! "Stop, please": a flag that a signal sets and that long work looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A request to stop. Clones share the request.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Nobody wants anything to stop yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where a signal handler stores the signal's number.
    #[must_use]
    pub fn slot(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.0)
    }

    /// The signal, if stopping was asked for. To be looked at between two steps of work that leave everything valid.
    #[must_use]
    pub fn requested(&self) -> Option<usize> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }
}
