//! Changing mails that are there. Flags, keywords and counters live in the mailbox index only: one write.
//!
//! Expunges (dbox.md 3.9). A kill after a step leaves:
//!
//! ```text
//! 1 map locked, mailbox locked
//! 2 references lowered: one write             counts too low, and the tail behind: recovery counts anew
//! 3 mailbox records, synced; unlocked         the expunge; the tail behind: recovery finds nothing to do
//! 4 tail of the map; unlocked                 the expunge
//! ```
//!
//! The count goes first, as with Dovecot: a mail that is on its way out is the one that may be lost early.

use std::collections::BTreeSet;

use super::commit::{MDBOX_HDR_EXT, Sums};
use super::mailbox::{MdboxMailbox, check_identity, check_writable, vsize_highest_uid, vsize_lock};
use super::storage::Storage;
use super::view;
use crate::index::{self, Bits, Durability, EditPlan, ExtSpec, Request, State, Transaction};
use crate::mail::{Edit, EditKind, Floors, MailboxGuid, ModSeq, Result, Uid, UidValidity};

/// Expunges under one lock: others want it, too.
pub(super) const BATCH: usize = 1000;

/// Which mails are to go, decided under the lock.
type Choice<'c> = &'c dyn Fn(&State) -> BTreeSet<Uid>;

/// Flags first, then expunges.
pub(super) fn edit(mailbox: &mut MdboxMailbox, edits: &[Edit]) -> Result<()> {
    if edits.iter().any(|e| matches!(e.kind, EditKind::Flags { .. })) {
        edit_flags(mailbox, edits)?;
    }
    let expunges: Vec<Edit> = edits.iter().filter(|e| matches!(e.kind, EditKind::Expunge)).cloned().collect();
    for batch in expunges.chunks(BATCH) {
        let choice = |state: &State| plan(state, batch).expunges.into_iter().map(|(uid, _)| uid).collect();
        expunge(mailbox, &choice, false)?;
    }
    Ok(())
}

fn plan(state: &State, edits: &[Edit]) -> EditPlan {
    let guid = |row| Some(view::reference(state, row).guid).filter(|g| !g.is_zero());
    index::plan_edits(state, edits, Bits::EXTERNAL_SYNC, guid)
}

fn edit_flags(mailbox: &mut MdboxMailbox, edits: &[Edit]) -> Result<()> {
    let opened = mailbox.identity();
    let mut locked = mailbox.index.lock()?;
    check_identity(locked.state(), opened, &mailbox.place)?;
    let wants_modseq = |e: &Edit| matches!(e.kind, EditKind::Flags { modseq, .. } if modseq > ModSeq(1));
    if !locked.state().keeps_modseqs() && edits.iter().any(wants_modseq) {
        let mut t = Transaction::new(Bits::INTERNAL);
        t.keep_modseqs();
        locked.commit(&t, Durability::Later)?;
    }
    let changes = plan(locked.state(), edits).changes;
    locked.commit_all(&changes, Durability::Lazy)?;
    if let Err(e) = locked.maintain() {
        tracing::warn!("{e}");
    }
    Ok(())
}

/// Expunges that others have requested and nobody has carried out.
fn requested(state: &State) -> BTreeSet<Uid> {
    let mut uids = BTreeSet::new();
    for pending in state.pending() {
        let Request::Expunge { uids: (first, last), guid } = &pending.request else { continue };
        for row in state.rows_between(*first, *last) {
            // A request for another mail is ignored, as 2.4 does (dbox.md 3.9).
            let own = view::reference(state, row).guid;
            if guid.is_none_or(|g| g.is_zero() || own.is_zero() || g == own) {
                uids.insert(state.uid(row));
            }
        }
    }
    uids
}

/// Does what sessions have requested and left to the next one.
pub(super) fn carry_out_requests(mailbox: &mut MdboxMailbox) -> Result<()> {
    match expunge(mailbox, &requested, true) {
        // Reading a mailbox that we may not write to: they stay requests.
        Err(e) if e.class() == crate::mail::Class::Permission => Ok(()),
        other => other,
    }
}

/// Steps 1 to 4. With `synced` nothing else is requested: the mailbox's tail moves, too.
pub(super) fn expunge(mailbox: &mut MdboxMailbox, choice: Choice<'_>, synced: bool) -> Result<()> {
    let opened = mailbox.identity();
    let mut held = mailbox.storage.get();
    let Storage { map, settings, .. } = &mut *held;
    let mut map = map.lock()?;
    let vsize = vsize_lock(mailbox.index.state(), &mailbox.place, settings);
    let mut locked = mailbox.index.lock()?;
    check_writable(locked.state(), opened, &map, &mailbox.place)?;

    let state = locked.state();
    let mut t = Transaction::new(Bits::EXTERNAL);
    let mut sums = Sums::default();
    let highest = vsize_highest_uid(state);
    let mut vsize_is_wrong = false;
    for uid in choice(state) {
        let Some(row) = state.row(uid) else { continue };
        let reference = view::reference(state, row);
        if let Some(record) = reference.record {
            sums.add(record.map_uid, -1);
        }
        vsize_is_wrong |= uid.get() <= highest;
        t.expunge(uid, reference.guid);
    }
    if vsize_is_wrong {
        t.ext_header(ExtSpec::HDR_VSIZE, 0, &[0; 16]);
    }
    if synced && !locked.state().is_synced() {
        t.storage_is_synced();
    }
    if t.is_empty() {
        return Ok(());
    }
    let lowered = map.possible(sums.changes());
    if !lowered.is_empty() {
        map.lower(&lowered)?;
    }
    let written = locked.commit(&t, Durability::Mail);
    if written.is_ok()
        && let Err(e) = locked.maintain()
    {
        tracing::warn!("{e}");
    }
    drop(locked);
    drop(vsize);
    let undo = match written {
        Ok(_) => Vec::new(),
        Err(_) => lowered.iter().map(|&(uid, by)| (uid, -by)).collect(),
    };
    let finished = map.finish(&undo);
    map.maintain();
    written?;
    finished
}

/// Raises counters that are too low.
pub(super) fn raise(mailbox: &mut MdboxMailbox, floors: &Floors) -> Result<()> {
    let opened = mailbox.identity();
    mailbox.index.refresh()?;
    if index::raise(mailbox.index.state(), floors, Bits::EXTERNAL).is_empty() {
        return Ok(());
    }
    let mut locked = mailbox.index.lock()?;
    check_identity(locked.state(), opened, &mailbox.place)?;
    let t = index::raise(locked.state(), floors, Bits::EXTERNAL);
    locked.commit(&t, Durability::Lazy)?;
    Ok(())
}

/// Remembers which UIDs a sync held back.
pub(super) fn hold_back(mailbox: &mut MdboxMailbox, ranges: &[(Uid, Uid)]) -> Result<()> {
    let opened = mailbox.identity();
    mailbox.index.refresh()?;
    if mailbox.index.state().hold_back(ranges, Bits::EXTERNAL).is_none() {
        return Ok(());
    }
    let mut locked = mailbox.index.lock()?;
    check_identity(locked.state(), opened, &mailbox.place)?;
    if let Some(t) = locked.state().hold_back(ranges, Bits::EXTERNAL) {
        locked.commit(&t, Durability::Lazy)?;
    }
    Ok(())
}

/// Writes GUID and UIDVALIDITY; mails, UIDs and modseqs stay (index.md 4.6).
pub(super) fn set_identity(mailbox: &mut MdboxMailbox, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
    let opened = mailbox.identity();
    let mut locked = mailbox.index.lock()?;
    check_identity(locked.state(), opened, &mailbox.place)?;
    let mut t = Transaction::new(Bits::EXTERNAL);
    if guid != opened.guid {
        t.ext_header(MDBOX_HDR_EXT, 4, guid.bytes());
    }
    if uidvalidity != opened.uidvalidity {
        t.uid_validity(uidvalidity);
    }
    locked.commit(&t, Durability::Mail)?;
    drop(locked);
    mailbox.renew_view()
}
