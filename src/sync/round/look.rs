//! What a round knows of the own side: all mails, or what has happened since a saved state.

use std::sync::Arc;

use super::{Look, Round};
use crate::mail::{self, Since};
use crate::sync::facts;
use crate::sync::merge::{self, Context, Facts, Missing};
use crate::sync::{Algorithm, Mode};

impl Round<'_> {
    /// Looks at the own side. The facts may be partial where the other side is near and the first round of a two-way run
    /// begins with a saved state.
    pub(super) fn begin(&mut self, again: bool, near: bool) -> mail::Result<Arc<Facts>> {
        if again {
            self.report.bad.clear();
            self.report.unsettled = false;
            self.start.unified = false;
            self.mailbox.refresh()?;
        }
        let mailbox = &mut *self.mailbox;
        let mut look = match self.look.take() {
            Some(look) => look.again(mailbox),
            None => Look::of(mailbox),
        };
        self.report.bad.append(&mut look.guids.bad);
        let since = match (self.mode(), &self.start.options.algorithm, self.start.saved) {
            (Mode::Backup(_), _, _) => None,
            (_, Algorithm::State(_), Some(s)) => Some(Since::State { modseq: s.modseq, uid: s.last_common }),
            _ => Some(Since::Everything),
        };
        let options = self.start.options;
        let changes = since.map(|s| self.mailbox.changes(s)).transpose()?.unwrap_or_default();
        let plain = self.mode() == Mode::TwoWay && options.filter.is_empty() && !self.start.unified;
        let saved = self.start.saved.filter(|_| near && !again && plain && self.start.has_state(&self.mailbox.status()));
        let partial = saved.and_then(|saved| facts::since_state(&*self.mailbox, &look.guids, &changes, &saved));
        let mut now = match partial {
            Some(facts) => {
                self.look = Some(look);
                facts
            }
            None => facts::with_changes(&mut *self.mailbox, &look.guids, changes, &options.filter),
        };
        remember_expunged(&mut now, self.before.as_deref(), self.seen.as_ref());
        let now = Arc::new(now);
        // A backup asks no log.
        self.before = (!matches!(self.mode(), Mode::Backup(_))).then(|| Arc::clone(&now));
        Ok(now)
    }

    /// Partial facts with what the other side's want to know. All facts, if those are not partial.
    pub(super) fn complete(&mut self, own: Arc<Facts>, peer: &Facts) -> mail::Result<Arc<Facts>> {
        if !own.partial {
            return Ok(own);
        }
        let Some(look) = self.look.as_ref().filter(|_| peer.partial) else { return self.begin(false, false) };
        let now = Arc::new(facts::add_those_of(&own, peer, &*self.mailbox, &look.guids));
        self.before = Some(Arc::clone(&now));
        Ok(now)
    }

    /// What both sides have left out of their facts makes no difference.
    pub(super) fn suffice(&self, own: &Facts, peer: &Facts) -> bool {
        let (master, slave) = self.in_order(own, peer);
        !merge::find_common(master, slave, &self.context(own, peer)).doubtful
    }

    pub(super) fn context(&self, own: &Facts, peer: &Facts) -> Context {
        Context {
            last_common: self.start.saved.filter(|_| matches!(self.start.options.algorithm, Algorithm::State(_))).and_then(|s| {
                let fits = |f: &Facts| {
                    Some(f.status.identity.uidvalidity) == s.uidvalidity && s.last_common < Some(f.status.identity.uid_next)
                };
                (fits(own) && fits(peer)).then_some(s.last_common).flatten()
            }),
            missing: match self.mode() {
                Mode::TwoWay if self.start.unified => Missing::IfKnown,
                Mode::TwoWay if self.start.options.filter.is_empty() => Missing::Expunged,
                Mode::TwoWay => Missing::IfLogged,
                Mode::OneWay(_) if !self.start.unified => Missing::IfProved,
                Mode::OneWay(_) | Mode::Backup(_) => Missing::IfKnown,
            },
        }
    }
}

/// A log may tell an expunge without the GUID of the mail, which was there a moment ago.
fn remember_expunged(now: &mut Facts, before: Option<&Facts>, seen: Option<&facts::Guids>) {
    for gone in now.expunged.iter_mut().filter(|e| e.guid.is_none()) {
        let known = before.and_then(|b| b.item(gone.uid)).and_then(|i| i.guid);
        gone.guid = known.or_else(|| seen?.of(gone.uid));
    }
}
