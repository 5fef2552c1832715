//! One brain: the whole run as its side sees it (sync.md 2).
//!
//! 1. Both send their trees. Each plans the same outcome and changes its own tree.
//! 2. Mailbox by mailbox, in the same order on both sides: [`super::round`].
//! 3. The slave purges if that was asked for; both say how it went.
//!
//! A mailbox that cannot be used is left out on both sides, and the others go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::message::{Attributes, Failure, Finish, Link, LinkError, Message, Offer};
use super::report::Report;
use super::round::{Round, RoundError, offer};
use super::tree::{self, Paired, Plan, Side, TreeOptions};
use super::{Algorithm, Only, Options, State};
use super::{attributes, facts};
use crate::mail::{self, Attribute, Class, Existence, Mailbox, MailboxGuid, Since, Store, Tree};
use crate::os::stop::Stop;

/// How long the lock of one mailbox is waited for where `-l` says nothing (sync.md 10.1).
const MAILBOX_LOCK: Duration = Duration::from_secs(30);

/// Runs one side to the end.
pub fn run(side: Side, options: &Options, store: &mut dyn Store, link: &mut dyn Link, stop: &Stop) -> Report {
    let mut brain = Brain { side, options, store, link: Boxed(link), stop, report: Report::default(), saved: State::default() };
    let algorithm = brain.read_state();
    let options = Options { algorithm, ..options.clone() };
    Brain { options: &options, ..brain }.run()
}

/// A link behind a reference, so that rounds need not know which.
struct Boxed<'a>(&'a mut dyn Link);

impl Link for Boxed<'_> {
    fn send(&mut self, message: Message) -> Result<(), LinkError> {
        self.0.send(message)
    }

    fn recv(&mut self) -> Result<Message, LinkError> {
        self.0.recv()
    }
}

struct Brain<'a> {
    side: Side,
    options: &'a Options,
    store: &'a mut dyn Store,
    link: Boxed<'a>,
    stop: &'a Stop,
    report: Report,
    saved: State,
}

impl Brain<'_> {
    fn read_state(&mut self) -> Algorithm {
        let Algorithm::State(text) = &self.options.algorithm else { return self.options.algorithm.clone() };
        match State::decode(text) {
            Ok(state) => {
                self.saved = state;
                self.options.algorithm.clone()
            }
            Err(e) => {
                if self.side == Side::Master {
                    tracing::error!("Saved sync state is invalid, falling back to full sync: {e}");
                }
                Algorithm::Full
            }
        }
    }

    fn run(mut self) -> Report {
        match self.sync() {
            Ok(()) => {}
            Err(End::Own(e)) => {
                // A signal ends both sides, and is told once by whoever waits for it.
                if self.stop.requested().is_none() {
                    tracing::error!("{e}");
                }
                self.report.fail(e.class());
            }
            // The other side has reported it.
            Err(End::Peer(f)) => self.report.fail(f.class),
        }
        self.report
    }

    fn sync(&mut self) -> Result<(), End> {
        let scanned = self.store.scan(&self.options.namespaces).map(Arc::new);
        let own = match scanned {
            Ok(tree) => {
                self.link.send(Message::Tree(Ok(Arc::clone(&tree))))?;
                tree
            }
            Err(e) => {
                self.link.send(Message::Tree(Err(Failure::from(&e))))?;
                return Err(End::Own(e));
            }
        };
        let peer = match self.link.recv()? {
            Message::Tree(Ok(tree)) => tree,
            Message::Tree(Err(f)) => return Err(End::Peer(f)),
            other => return Err(unexpected(&other, "a mailbox tree")),
        };
        let plan = self.sync_tree(&own, &peer)?;
        if self.options.only != Only::TreeOnly {
            let guids = (tree_guids(&own), tree_guids(&peer));
            for pair in &plan.mailboxes {
                if let Some(signal) = self.stop.requested() {
                    return Err(End::Own(mail::Error::new(Class::Temporary, format!("Killed with signal {signal}"))));
                }
                let unified = !(guids.0.contains(&pair.guid) && guids.1.contains(&pair.guid));
                self.mailbox(pair, unified)?;
            }
        }
        self.finish()
    }

    fn sync_tree(&mut self, own: &Tree, peer: &Tree) -> Result<Plan, End> {
        for (name, error) in &own.problems {
            tracing::error!("Failed to access mailbox {name}: {error}");
            self.report.fail(error.class());
        }
        let options = TreeOptions {
            only: self.options.only.clone(),
            exclude: self.options.exclude.clone(),
            allow_empty_source: self.options.allow_empty_source,
            ..TreeOptions::new(self.options.mode, self.side)
        };
        // Both sides come to the same plan or the same refusal; one voice is enough.
        let plan = match tree::plan(own, peer, &options) {
            Ok(plan) => plan,
            Err(e) if self.side == Side::Master => return Err(End::Own(mail::Error::new(e.class(), e))),
            Err(e) => return Err(End::Peer(Failure { class: e.class(), text: String::new() })),
        };
        for note in &plan.notes {
            if note.is_problem() {
                self.report.skipped += 1;
            }
            if self.side == Side::Master {
                tracing::warn!("{note}");
            }
        }
        let outcome = tree::execute(self.store, &plan.actions);
        self.report.done.tree += u32::try_from(plan.actions.len()).unwrap_or(u32::MAX);
        self.link.send(Message::TreeDone(outcome.as_ref().map(|_| ()).map_err(Failure::from)))?;
        let outcome = outcome.map_err(End::Own)?;
        for error in outcome.impossible {
            tracing::error!("{error}; it is left out, the others go on");
            self.report.fail(error.class());
        }
        for reason in outcome.desync {
            tracing::warn!("{reason}");
            self.report.desync(reason);
        }
        match self.link.recv()? {
            Message::TreeDone(Ok(())) => Ok(plan),
            Message::TreeDone(Err(f)) => Err(End::Peer(f)),
            other => Err(unexpected(&other, "the end of the tree sync")),
        }
    }

    fn mailbox(&mut self, pair: &Paired, unified: bool) -> Result<(), End> {
        let name = &pair.local;
        let opened = self.open_in_turn(pair)?;
        let attributes = opened.is_ok().then(|| self.attributes(pair)).flatten();
        let said = match &opened {
            Ok((mailbox, guids)) => {
                let attributes = attributes.as_deref().map(attributes::digest);
                Ok(Box::new(Offer { attributes, ..offer(&**mailbox, guids) }))
            }
            Err(e) => Err(Failure::from(e)),
        };
        self.link.send(Message::Offer(said.clone()))?;
        let theirs = loop {
            match self.link.recv()? {
                Message::Offer(o) => break o,
                Message::Credit(_) => {}
                other => return Err(unexpected(&other, "a mailbox")),
            }
        };
        let (mut mailbox, guids) = match opened {
            Ok(o) => o,
            Err(e) => {
                self.lost(pair, &e);
                return Ok(());
            }
        };
        let (Ok(mine), Ok(theirs)) = (said, theirs) else {
            // The other side has said why.
            return Ok(());
        };
        if let (Some(present), Some(a), Some(b)) = (attributes, mine.attributes, theirs.attributes)
            && a != b
        {
            self.sync_attributes(pair, &mut *mailbox, present)?;
        }
        let mut sent_done = false;
        let saved = self.saved.0.get(&pair.guid).copied();
        let mut round = Round {
            side: self.side,
            options: self.options,
            link: &mut self.link,
            mailbox: &mut *mailbox,
            name,
            saved,
            fresh: pair.fresh,
            unified,
            stop: self.stop,
            report: super::round::RoundReport::default(),
        };
        let result = round.run((*mine, *theirs), guids, &mut sent_done);
        let report = round.report;
        for bad in report.bad {
            tracing::error!("Mailbox {name}: UID {}: {}; the mail is left out, the others go on", bad.uid, bad.error);
            self.report.skipped += 1;
        }
        let (all, new) = (&mut self.report.done, report.done);
        all.saved += new.saved;
        all.moved += new.moved;
        all.expunged += new.expunged;
        all.flags += new.flags;
        all.identity += new.identity;
        all.rebuilt += new.rebuilt;
        if report.unsettled {
            self.report.desync(format!("Mailbox {name} keeps changing"));
        }
        if let Some(state) = report.state {
            self.report.state.0.insert(pair.guid, state);
        }
        match result {
            Ok(()) => Ok(()),
            Err(RoundError::End(e)) => Err(End::Own(e)),
            Err(RoundError::Own(e)) => {
                if e.class() == Class::Expunged {
                    // Somebody was at work here; the next run sees to it.
                    self.report.desync(format!("Mailbox {name}: {e}"));
                } else {
                    tracing::error!("Mailbox {name}: {e}");
                    self.report.fail(e.class());
                }
                let failure = Failure::from(&e);
                if sent_done {
                    // The round was over for the other side; it will wait for the next mailbox.
                    return Ok(());
                }
                self.link.send(Message::Done(Err(failure)))?;
                self.drain()
            }
            Err(RoundError::Peer(f)) => {
                if !sent_done {
                    self.link.send(Message::Done(Err(f)))?;
                }
                Ok(())
            }
        }
    }

    /// Opens the own mailbox when it is this side's turn. Only the locks are taken one after the other.
    fn open_in_turn(&mut self, pair: &Paired) -> Result<mail::Result<Opened>, End> {
        let is_first = self.side == self.options.locks_first;
        if !is_first {
            loop {
                match self.link.recv()? {
                    Message::Locked => break,
                    Message::Credit(_) => {}
                    other => return Err(unexpected(&other, "a lock")),
                }
            }
        }
        let locked = self.lock(pair);
        if is_first {
            self.link.send(Message::Locked)?;
        }
        Ok(locked.and_then(|mailbox| Self::look(mailbox, pair)))
    }

    fn lock(&mut self, pair: &Paired) -> mail::Result<Box<dyn Mailbox>> {
        let mut mailbox = self.store.open(&pair.local)?;
        match mailbox.lock(self.options.lock_timeout.unwrap_or(MAILBOX_LOCK)) {
            // A source that cannot be written to is a source like any other: nothing will be changed there.
            Err(e) if e.class() == Class::Permission && self.options.mode.is_source(self.side) => {
                tracing::debug!("Mailbox {}: used without a lock: {e}", pair.local);
            }
            result => result?,
        }
        Ok(mailbox)
    }

    fn look(mut mailbox: Box<dyn Mailbox>, pair: &Paired) -> mail::Result<Opened> {
        mailbox.refresh()?;
        if mailbox.status().identity.guid != pair.guid {
            return Err(mail::Error::new(Class::NotFound, format!("Mailbox GUID {} was lost", pair.guid)));
        }
        let guids = facts::guids(&mut *mailbox);
        Ok((mailbox, guids))
    }

    fn attributes(&mut self, pair: &Paired) -> Option<Vec<Attribute>> {
        match self.store.attributes(&pair.local, pair.guid) {
            Ok(attributes) => attributes,
            // A side without a dictionary has nothing to say; that is no reason to leave the mails alone.
            Err(e) if e.class() == Class::NotPossible => None,
            Err(e) => {
                tracing::error!("Mailbox {}: Failed to get attributes: {e}", pair.local);
                self.report.fail(e.class());
                None
            }
        }
    }

    fn sync_attributes(&mut self, pair: &Paired, mailbox: &mut dyn Mailbox, present: Vec<Attribute>) -> Result<(), End> {
        let changes = mailbox.changes(Since::Everything).map(|c| c.attributes).unwrap_or_default();
        let own = Attributes { present, changes };
        self.link.send(Message::Attributes(Box::new(own.clone())))?;
        let peer = match self.link.recv()? {
            Message::Attributes(a) => a,
            other => return Err(unexpected(&other, "attributes")),
        };
        for attribute in attributes::to_change(&own, &peer, self.options.mode, self.options.mode.is_source(self.side)) {
            match self.store.set_attribute(&pair.local, pair.guid, &attribute) {
                Ok(()) => {}
                // This side has no place for it, and never will have: no reason to fail again and again.
                Err(e) if e.class() == Class::NotPossible => {
                    tracing::warn!("Mailbox {}: Attribute {} is left out: {e}", pair.local, attribute.key.key);
                }
                Err(e) => {
                    tracing::error!("Mailbox {}: Failed to set attribute {}: {e}", pair.local, attribute.key.key);
                    self.report.skipped += 1;
                }
            }
        }
        Ok(())
    }

    /// A mailbox that the own side cannot use. Where it went away in the meantime, another run will see to it.
    fn lost(&mut self, pair: &Paired, error: &mail::Error) {
        if error.class() == Class::NotFound {
            self.report.desync(format!("Mailbox GUID {} was lost", pair.guid));
        } else {
            tracing::error!("Can't open mailbox {}: {error}", pair.local);
            self.report.fail(error.class());
        }
    }

    /// Reads until the other side has given the mailbox up as well.
    fn drain(&mut self) -> Result<(), End> {
        loop {
            if let Message::Done(_) = self.link.recv()? {
                return Ok(());
            }
        }
    }

    fn finish(&mut self) -> Result<(), End> {
        if self.options.purge
            && self.side == Side::Slave
            && self.report.failed.is_none()
            && let Err(e) = self.store.purge()
        {
            tracing::error!("Purging failed: {e}");
        }
        let incomplete = self.report.desync.is_some() || self.report.skipped > 0;
        self.link.send(Message::Finish(Finish { failed: self.report.failed, incomplete }))?;
        loop {
            match self.link.recv()? {
                Message::Finish(f) => {
                    if let Some(class) = f.failed {
                        self.report.fail(class);
                    }
                    return Ok(());
                }
                Message::Credit(_) => {}
                other => return Err(unexpected(&other, "the end of the run")),
            }
        }
    }
}

/// A mailbox that is ready for its round.
type Opened = (Box<dyn Mailbox>, facts::Guids);

enum End {
    Own(mail::Error),
    Peer(Failure),
}

impl From<LinkError> for End {
    fn from(e: LinkError) -> Self {
        Self::Own(mail::Error::new(Class::Temporary, e))
    }
}

fn unexpected(got: &Message, wanted: &'static str) -> End {
    LinkError::Unexpected { got: got.kind(), wanted }.into()
}

fn tree_guids(tree: &Tree) -> HashSet<MailboxGuid> {
    tree.nodes.iter().filter(|n| n.existence == Existence::Exists).filter_map(|n| n.identity.map(|i| i.guid)).collect()
}
