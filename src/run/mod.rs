//! One job: opens both sides, runs the engine between them, reports. Many users one after another.
//!
//! Knows nothing of `argv` and of exit codes. Messages go to `tracing`, with the text only: the prefix with the user's
//! name comes from the span that `cli` has entered, so threads made here must enter `tracing::Span::current()` again.

pub mod check;
mod job;

pub use job::{Job, Peer};

use crate::mail::Class;
use crate::os::stop::Stop;

/// How a run ended. Everything worth telling has been logged already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Success or failure.
    pub outcome: Outcome,
    /// The new state (base64), where one was asked for.
    pub state: Option<String>,
}

/// How a run ended, from best to worst (cli-config.md 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The sides are equal.
    Done,
    /// Something is left to do: changes during the run, a mail that could not be read.
    Incomplete,
    /// It failed; the worst class of all errors.
    Failed(Class),
}

/// Does one job.
#[must_use]
pub fn execute(job: &Job, stop: &Stop) -> Report {
    let _ = (job, stop);
    tracing::error!("the engine is not built in yet");
    Report { outcome: Outcome::Failed(Class::NotPossible), state: None }
}
