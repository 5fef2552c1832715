//! A backup to a Dovecot whose mailboxes have changed on their own. What it cannot take back it deletes, one mailbox in a session,
//! and closes (sync.md 4.4, 14): then another session follows, in which the mailbox is sent anew, so that one run suffices.
//!
//! The INBOX of a Maildir cannot be deleted: it is emptied, and every further session would end there again. Then its mails are
//! added as in `sync -1`, which makes them complete, though not under their own UIDs, and the backup leaves it as it is.

use std::collections::{HashMap, HashSet};

use super::Job;
use crate::mail::{MailboxGuid, MailboxName, Selection};
use crate::sync::dovecot::{Closed, Mastered, Settings};
use crate::sync::{Algorithm, MailboxState, Mode, Only, Options, Report, Source};

/// What the next session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The backup.
    Whole,
    /// Only INBOX, one way.
    Inbox,
    /// The backup without INBOX.
    Rest,
}

/// The sessions of a run.
pub(super) struct Revert<'a> {
    job: &'a Job,
    turn: Turn,
    /// For the next session.
    pub options: Options,
    /// For the next session.
    pub settings: Settings,
    begun_anew: HashSet<MailboxName>,
    /// Each session goes on where the one before ended: else many mailboxes would be many times as many.
    done: HashMap<MailboxGuid, Option<MailboxState>>,
    report: Report,
    /// The destination has been left with less than it had.
    unfinished: Option<String>,
}

impl<'a> Revert<'a> {
    pub fn new(job: &'a Job) -> Self {
        Self {
            job,
            turn: Turn::Whole,
            options: job.options.clone(),
            settings: job.stream.clone(),
            begun_anew: HashSet::new(),
            done: HashMap::new(),
            report: Report::default(),
            unfinished: None,
        }
    }

    /// Looks at how a session ended. True if another one shall follow.
    pub fn take(&mut self, mastered: Mastered) -> bool {
        let Mastered { report, closed, done } = mastered;
        self.report = report;
        // What was sent one way is not yet equal.
        if self.turn != Turn::Inbox {
            self.done.extend(done);
        }
        let next = match (self.turn, closed) {
            (Turn::Inbox, _) => self.report.failed.is_none().then_some(Turn::Rest),
            (_, None) => None,
            (turn, Some(Closed::Mailbox(name))) => {
                tracing::warn!("Mailbox {name}: the destination has mails that it cannot take back, and begins it anew");
                let inbox = name == MailboxName::inbox();
                if self.begun_anew.insert(name) { Some(turn) } else { (inbox && turn == Turn::Whole).then_some(Turn::Inbox) }
            }
            // Whatever else may have stopped it there stops it again.
            (Turn::Whole, Some(Closed::Tree)) => Some(Turn::Inbox).filter(|_| self.has_inbox()),
            (Turn::Rest, Some(Closed::Tree)) => None,
        };
        let Some(turn) = next else {
            if let Some(reason) = self.unfinished.take()
                && self.report.failed.is_some()
            {
                tracing::error!("{reason}, and the session that was to follow has failed: run it again");
            }
            if self.turn == Turn::Rest && self.report.failed.is_none() {
                self.report.desync(
                    "INBOX of the destination cannot be made equal, because Dovecot cannot delete it: it has all mails of the source, \
                     but under other UIDs. With dsync-server at that end it can",
                );
            }
            return false;
        };
        self.prepare(turn);
        let emptied = if turn == Turn::Inbox { "; its INBOX may be empty now" } else { "" };
        self.unfinished = Some(format!("The destination has begun to take back its own changes{emptied}"));
        true
    }

    /// INBOX takes part.
    fn has_inbox(&self) -> bool {
        self.job.options.only == Only::All && matches!(self.job.options.namespaces, Selection::Default | Selection::All)
    }

    fn prepare(&mut self, turn: Turn) {
        self.turn = turn;
        // What a state tells is no longer so.
        let algorithm = match &self.job.options.algorithm {
            Algorithm::State(_) => Algorithm::Full,
            other => other.clone(),
        };
        self.options = Options { algorithm, ..self.job.options.clone() };
        self.settings = Settings { leave_inbox: turn == Turn::Rest, done: self.done.clone(), ..self.job.stream.clone() };
        if turn == Turn::Inbox {
            self.settings.refill = true;
            self.settings.done.clear();
            self.options.mode = Mode::OneWay(Source::Master);
            self.options.only = Only::Name("INBOX".into());
            self.options.algorithm = Algorithm::Full;
            self.options.purge = false;
        }
    }

    /// How the run ended.
    pub fn report(mut self) -> Report {
        if let Some(reason) = self.unfinished {
            self.report.failed = None;
            self.report.desync(reason);
        }
        self.report
    }
}
