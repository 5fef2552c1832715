//! One brain: the whole run as its side sees it (sync.md 2).
//!
//! 1. Both send their trees. Each plans the same outcome and changes its own tree.
//! 2. Both look at their mailboxes and tell what they have: [`survey`]. Those that need work are locked, one side after the
//!    other, and carried through, several together and in the same order on both sides: [`work`].
//! 3. The slave purges if that was asked for; both say how it went.
//!
//! Nothing waits for the other side that need not: however many mailboxes there are, a run in which nothing is to be done
//! takes three messages' time. A mailbox that cannot be used is left out on both sides, and the others go on.

mod foresee;
mod survey;
mod work;

use std::collections::HashSet;
use std::sync::Arc;

use super::at_hand::AtHand;
use super::flow::Flow;
use super::message::{Failure, Finish, Link, LinkError, Message};
use super::report::Report;
use super::tree::{self, Paired, Plan, Side, TreeOptions};
use super::{Algorithm, Only, Options, State};
use crate::mail::{self, Attribute, Class, MailboxGuid, Store, Tree};
use crate::os::stop::Stop;

/// Runs one side to the end.
pub fn run(side: Side, options: &Options, store: &mut dyn Store, link: &mut dyn Link, stop: &Stop) -> Report {
    let flow = Flow::new(link);
    let mut brain = Brain {
        side,
        options,
        store,
        flow,
        stop,
        report: Report::default(),
        saved: State::default(),
        at_hand: AtHand::default(),
        unusable: HashSet::new(),
    };
    let algorithm = brain.read_state();
    let options = Options { algorithm, ..options.clone() };
    Brain { options: &options, ..brain }.run()
}

struct Brain<'a> {
    side: Side,
    options: &'a Options,
    store: &'a mut dyn Store,
    flow: Flow<'a>,
    stop: &'a Stop,
    report: Report,
    saved: State,
    at_hand: AtHand,
    /// Mailboxes that a side cannot use in this run.
    unusable: HashSet<MailboxGuid>,
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
                self.flow.send(Message::Tree(Ok(Arc::clone(&tree))))?;
                tree
            }
            Err(e) => {
                self.flow.send(Message::Tree(Err(Failure::from(&e))))?;
                return Err(End::Own(e));
            }
        };
        let peer = match self.flow.recv()? {
            Message::Tree(Ok(tree)) => tree,
            Message::Tree(Err(f)) => return Err(End::Peer(f)),
            other => return Err(unexpected(&other, "a mailbox tree")),
        };
        let plan = self.sync_tree(&own, &peer)?;
        self.at_hand = AtHand::new(self.options.all_mailbox.as_ref(), &own);
        // What this side has of the mailboxes follows at once: the other side's word is waited for only then.
        let mailboxes = if self.options.only == Only::TreeOnly { &[][..] } else { &plan.mailboxes };
        let seen = self.look_at(mailboxes)?;
        match self.flow.recv()? {
            Message::TreeDone(Ok(())) => {}
            Message::TreeDone(Err(f)) => return Err(End::Peer(f)),
            other => return Err(unexpected(&other, "the end of the tree sync")),
        }
        let mut waiting = self.compare(mailboxes, seen)?;
        let guids = (own.guids(), peer.guids());
        let unified = |guid: &MailboxGuid| !(guids.0.contains(guid) && guids.1.contains(guid));
        let mut last = self.foresee(&mut waiting, mailboxes, |pair| unified(&pair.guid))?;
        // What stays in one mailbox must be safe before its copy in another one goes.
        let one_by_one = self.flow.is_near() || !last.is_empty();
        for portion in work::portions(waiting, one_by_one) {
            self.work(portion, &mut last, unified)?;
        }
        self.finish()
    }

    fn check_stop(&self) -> Result<(), End> {
        match self.stop.requested() {
            None => Ok(()),
            Some(signal) => Err(End::Own(mail::Error::new(Class::Temporary, format!("Killed with signal {signal}")))),
        }
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
        self.flow.send(Message::TreeDone(outcome.as_ref().map(|_| ()).map_err(Failure::from)))?;
        self.report.tree(plan.actions.len(), outcome.map_err(End::Own)?);
        Ok(plan)
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

    /// A mailbox that the own side cannot use. Where it went away in the meantime, another run will see to it.
    fn lost(&mut self, pair: &Paired, error: &mail::Error) {
        if error.class() == Class::NotFound {
            self.report.desync(format!("Mailbox GUID {} was lost", pair.guid));
        } else {
            tracing::error!("Can't open mailbox {}: {error}", pair.local);
            self.report.fail(error.class());
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
        self.flow.send(Message::Finish(Finish { failed: self.report.failed, incomplete }))?;
        match self.flow.recv()? {
            Message::Finish(f) => {
                if let Some(class) = f.failed {
                    self.report.fail(class);
                }
                self.report.peer_incomplete = f.incomplete;
                Ok(())
            }
            other => Err(unexpected(&other, "the end of the run")),
        }
    }
}

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
