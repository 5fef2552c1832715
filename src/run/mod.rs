//! One job: opens both sides, runs the engine between them, reports. Many users one after another.
//!
//! Knows nothing of `argv` and of exit codes. Messages go to `tracing`, with the text only: the prefix with the user's
//! name comes from the span that `cli` has entered, so threads made here must enter `tracing::Span::current()` again.

pub mod check;
mod job;
mod local;
mod lock;
mod place;
mod remote;
mod revert;

pub use job::{Job, Peer, Reopen, Service};
pub use remote::settings;

use crate::mail::Class;
use crate::os::stop::Stop;
use crate::peer;
use crate::sync;

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
pub fn execute(job: &Job, peer: Peer<'_>, stop: &Stop) -> Report {
    match peer {
        Peer::Local(account) => local::run(job, &account, stop),
        Peer::Remote(peer, reopen) => remote::run(job, peer, &reopen, stop),
    }
}

/// Is the other side of somebody else's run.
#[must_use]
pub fn serve(service: &Service, peer: peer::Peer, stop: &Stop) -> Outcome {
    remote::serve(service, peer, stop)
}

/// Both sides' reports as one.
fn conclude(first: sync::Report, second: sync::Report, options: &sync::Options) -> Report {
    let state = options.want_state.then(|| first.state_string());
    let all = first.and(second);
    if let Some(reason) = &all.desync {
        tracing::warn!("Mailbox changes caused a desync. You may want to run dsync again: {reason}");
    }
    Report { outcome: outcome(&all), state }
}

fn outcome(report: &sync::Report) -> Outcome {
    match report.failed {
        Some(class) => Outcome::Failed(class),
        None if report.desync.is_some() || report.skipped > 0 => Outcome::Incomplete,
        None => Outcome::Done,
    }
}
