//! Flag changes and expunges (maildir.md 7.6), and raised counters.
//!
//! All under the uidlist lock and then the index's log lock. A kill after a step leaves:
//!   1 requests in the log (internal, with the mails' GUIDs)   they stand: the next sync, Dovecot's or ours, carries them out
//!   2 `dovecot-keywords` with new letters                      the same
//!   3 files renamed and removed                                 requests that the next sync finds carried out
//!   4 external expunges and the tail                            all of it

use super::core::Core;
use super::facts::{DIRTY, guid128, requests};
use super::files::Change;
use super::record::Batch;
use super::scan::Places;
use super::uidlist::UidlistLock;
use crate::index::{Bits, Durability, Index, Locked, State, plan_edits, raise};
use crate::mail::{Edit, Error, Floors, MailGuid, Result, Uid};

/// Beyond so many edits one look at the directories is cheaper than a look at each file.
const GUESSED: usize = 200;

impl Core {
    /// Carries out edits. Those whose mail is gone, or is another one than expected, are left out.
    ///
    /// # Errors
    /// Locks, I/O.
    pub fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        if edits.is_empty() {
            return Ok(());
        }
        let mut lock = self.lock_for_change()?;
        self.read_up_to_date(&mut lock)?;
        let mut index = self.index.take().expect("holds because read_up_to_date has made it");
        let done = match index.lock() {
            Ok(mut locked) => self.edit_locked(edits, &mut lock, &mut locked),
            Err(e) => Err(e.into()),
        };
        self.index = Some(index);
        if done.is_err() {
            self.places = None;
        }
        done
    }

    fn edit_locked(&mut self, edits: &[Edit], lock: &mut UidlistLock, locked: &mut Locked<'_>) -> Result<()> {
        let list = self.list()?;
        let guid = |row| {
            let uid = locked.state().uid(row);
            list.find(uid.get()).and_then(|e| MailGuid::new(e.guid())).map(|guid| guid.to_128())
        };
        let plan = plan_edits(locked.state(), edits, Bits::INTERNAL_SYNC, guid);
        if plan.is_empty() {
            return Ok(());
        }
        if self.places.is_none() && edits.len() <= GUESSED {
            self.places = Some(self.guess_places(edits.iter().map(|e| e.uid), locked.state())?);
        }
        locked.commit_all(&plan.changes, Durability::Later)?;
        locked.commit_all(&plan.expunge_transactions(Bits::INTERNAL_SYNC), Durability::Lazy)?;
        self.carry_out_requests(lock, locked)?.map_or(Ok(()), Err)
    }

    /// The places of these mails, where the index's flags tell their names.
    fn guess_places(&mut self, uids: impl Iterator<Item = Uid>, state: &State) -> Result<Places> {
        let mut places = Places::default();
        for uid in uids {
            let (Some(row), Some(base)) = (state.row(uid), self.list()?.find(uid.get()).map(|e| e.base.to_vec())) else {
                continue;
            };
            for found in self.likely_names(&base, state, row) {
                if found.path(self.mailbox()).exists() {
                    places.set(uid.get(), found.dir, &found.name[base.len()..]);
                    break;
                }
            }
        }
        Ok(places)
    }

    /// Carries out all that the log requests. Gives the reason why a mail could not be removed; that has been logged.
    pub(super) fn carry_out_requests(&mut self, lock: &mut UidlistLock, locked: &mut Locked<'_>) -> Result<Option<Error>> {
        let waiting = requests(locked.state());
        if waiting.is_empty() && locked.state().pending().is_empty() {
            return Ok(None);
        }
        let state = locked.state();
        let mut changes = Vec::new();
        for row in 0..state.len() {
            let uid = state.uid(row).get();
            if waiting.expunges.contains(&uid) {
                changes.push((uid, Change::Unlink));
            } else if waiting.flags.contains(&uid) {
                let dirty = state.raw_flags(row) & DIRTY != 0;
                changes.push((uid, Change::Flags { flags: state.flags(row), keywords: state.keywords(row).clone(), dirty }));
            }
        }
        let mut places = self.places.take().unwrap_or_default();
        let outcome = self.carry_out(&changes, &mut places, lock);
        self.places = (places.len() > 0).then_some(places);
        let outcome = outcome?;

        let list = self.list()?.clone();
        let mut batch = Batch::new(locked);
        for (uid, change) in &changes {
            let Some(id) = Uid::new(*uid) else { continue };
            match change {
                Change::Unlink if !outcome.kept.contains(uid) => batch.tx.expunge(id, guid128(&list, id)),
                Change::Unlink => {}
                Change::Flags { dirty, .. } => match (outcome.dirty.contains(uid), *dirty) {
                    (true, false) => batch.tx.raw_flags(id, DIRTY, 0),
                    (false, true) => batch.tx.raw_flags(id, 0, DIRTY),
                    _ => {}
                },
            }
            batch.spill()?;
        }
        if outcome.kept.is_empty() {
            batch.tx.storage_is_synced();
        }
        batch.finish(Durability::Lazy)?;
        locked.maintain()?;
        Ok(outcome.failed)
    }

    /// UIDs that a sync held back, as the index remembers them.
    pub fn held_back(&self) -> Vec<(Uid, Uid)> {
        self.index.as_ref().map(|i| i.state().held_back()).unwrap_or_default()
    }

    /// Remembers which UIDs a sync held back.
    pub fn hold_back(&mut self, ranges: &[(Uid, Uid)]) -> Result<()> {
        let Some(index) = self.index.as_mut() else { return Ok(()) };
        if index.state().hold_back(ranges, Bits::EXTERNAL).is_none() {
            return Ok(());
        }
        let mut locked = index.lock()?;
        if let Some(tx) = locked.state().hold_back(ranges, Bits::EXTERNAL) {
            locked.commit(&tx, Durability::Lazy)?;
        }
        Ok(())
    }

    /// Raises counters (sync.md 7.12, point 3).
    ///
    /// # Errors
    /// Locks, I/O.
    pub fn raise(&mut self, floors: &Floors) -> Result<()> {
        if self.is_high_enough(floors)? {
            return Ok(());
        }
        let mut lock = self.lock_for_change()?;
        self.read_up_to_date(&mut lock)?;
        if let Some(next) = floors.uid_next
            && self.list()?.next_uid() < next.get()
        {
            let mut taken = self.uidlist.take().expect("holds because list has read it");
            taken.list.header.next = next.get();
            taken.list.set_needs_rewrite(true);
            self.uidlist.write(&lock, taken)?;
        }
        let list_next = Uid::new(self.list()?.next_uid());
        let index = self.index.as_mut().expect("holds because read_up_to_date has made it");
        let mut locked = index.lock()?;
        let floors = Floors { uid_next: floors.uid_next.max(list_next), ..*floors };
        let tx = raise(locked.state(), &floors, Bits::EXTERNAL);
        locked.commit(&tx, Durability::Lazy)?;
        Ok(())
    }

    fn is_high_enough(&mut self, floors: &Floors) -> Result<bool> {
        let Some(index) = &mut self.index else { return Ok(false) };
        index.refresh()?;
        if !raise(index.state(), floors, Bits::EXTERNAL).is_empty() {
            return Ok(false);
        }
        let next = self.uidlist.header()?.map_or(0, |(_, next)| next);
        Ok(floors.uid_next.is_none_or(|wanted| wanted.get() <= next))
    }

    /// Uidlist, keywords and index are those of the moment. If they do not fit together they are synced first.
    ///
    /// # Errors
    /// Damage, locks, I/O.
    pub fn read_up_to_date(&mut self, lock: &mut UidlistLock) -> Result<()> {
        let there = self.uidlist.refresh()?;
        if let Some(index) = &mut self.index {
            index.refresh()?;
        }
        let agree = match (self.uidlist.list(), self.index.as_ref().map(Index::state)) {
            (Some(list), Some(state)) if there => {
                let last = list.len().checked_sub(1).and_then(|n| list.get(n)).map_or(0, |e| e.uid);
                list.header.guid.is_some()
                    && state.uid_validity() == Some(list.header.uidvalidity)
                    && last < state.next_uid().get()
                    && state.keeps_modseqs()
            }
            _ => false,
        };
        if !agree {
            self.sync_locked(lock)?;
        }
        self.table = self.keywords.read()?;
        let next = self.index.as_ref().map_or(1, |i| i.state().next_uid().get());
        self.uidlist.raise_next(next);
        Ok(())
    }
}
