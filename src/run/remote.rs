//! A run with another machine or another program: the brain of this side, and a stream to the other one.

use super::place::Own;
use super::revert::Revert;
use super::{Job, Outcome, Reopen, Report, Service};
use crate::os::stop::Stop;
use crate::peer::{self, Limits, Peer};
use crate::sync;
use crate::sync::dovecot::{self, Settings};
use crate::sync::tree::Side;

/// Runs the job as the one who has started it.
pub(super) fn run(job: &Job, peer: Peer, reopen: &Reopen<'_>, stop: &Stop) -> Report {
    let limits = Limits::of(job.stream.timeout, stop);
    let mut revert = Revert::new(job);
    let mut peer = Some(peer);
    loop {
        let Some(Peer { ends, end }) = peer.take().map(|peer| match &job.rawlog {
            Some(path) => peer.with_rawlog(path, &limits),
            None => peer,
        }) else {
            break;
        };
        let mut place = Own { account: &job.account, side: Side::Master, read_only: false };
        let mastered = dovecot::master(&revert.options, &revert.settings, &mut place, ends, stop);
        end.finish(mastered.report.failed.is_none());
        if !revert.take(mastered) || stop.requested().is_some() {
            break;
        }
        peer = (reopen.0)();
    }
    super::conclude(revert.report(), sync::Report::default(), &job.options)
}

/// Answers whoever is at the other end.
pub(super) fn serve(service: &Service, peer: Peer, stop: &Stop) -> Outcome {
    let limits = Limits::of(service.stream.timeout, stop);
    let peer = match &service.rawlog {
        Some(path) => peer.with_rawlog(path, &limits),
        None => peer,
    };
    let mut place = Own { account: &service.account, side: Side::Slave, read_only: service.read_only };
    let Peer { ends, end } = peer;
    let served = dovecot::serve(&service.stream, &mut place, ends, stop);
    let outcome = super::outcome(&served.report);
    end.finish(outcome == Outcome::Done);
    if let (Outcome::Done, Some(base_dir)) = (outcome, &service.notify) {
        peer::notify_replicator(base_dir, &service.account.owner.name, served.full, &served.report.state_string());
    }
    outcome
}

/// The settings of the stream that depend on the machine.
#[must_use]
pub fn settings(settings: Settings) -> Settings {
    Settings { hostname: peer::hostname(), ..settings }
}
