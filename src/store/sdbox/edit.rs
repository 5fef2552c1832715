//! Changing mails that are there: flags, expunges, counters, identity (dbox.md 2.5, 8).
//!
//! Flags, keywords and counters live in the index alone: one transaction each, marked as external, for there is nothing left
//! to be done in the storage.
//!
//! Expunging: 1. external expunge records with the GUIDs, synced; 2. log unlocked; 3. files removed; 4. external attachments
//! removed. A kill after 1 leaves files below UIDNEXT that no index knows, which nobody looks at; after 3 attachments without
//! mail.

use std::collections::HashSet;

use super::create::DBOX_HDR;
use super::files::OpenError;
use super::mailbox::{SdboxMailbox, check_writable};
use crate::index::{Bits, Durability, Locked, Request, State, Transaction};
use crate::mail::{Edit, EditKind, Floors, Guid128, MailboxGuid, ModSeq, Result, Uid, UidValidity};
use crate::store::dbox::{Attachments, External, Owner};

/// A mail that is to go.
#[derive(Debug)]
pub(super) struct Victim {
    pub uid: Uid,
    /// Zero if nobody knows it any more.
    pub guid: Guid128,
    pub external: Option<(Attachments, External)>,
}

pub(super) fn edit(mailbox: &mut SdboxMailbox, edits: &[Edit]) -> Result<()> {
    let going = edits.iter().filter(|e| matches!(e.kind, EditKind::Expunge)).map(|e| e.uid);
    let victims = victims(mailbox, going)?;
    // What is known of the others without opening them.
    let expected: Vec<Option<Guid128>> = edits
        .iter()
        .map(|e| {
            e.expect.and_then(|_| victims.iter().find(|v| v.uid == e.uid).map(|v| v.guid).or_else(|| cheap_guid(mailbox, e.uid)))
        })
        .collect();

    let mut gone = HashSet::new();
    let identity = mailbox.identity();
    let mut locked = mailbox.index.lock()?;
    check_writable(locked.state(), identity, &mailbox.place)?;
    keep_modseqs(&mut locked)?;
    let mut batch = Batch::new();
    for (edit, known) in edits.iter().zip(expected) {
        let other = |known: Guid128| !known.is_zero() && edit.expect.is_some_and(|wanted| wanted != known);
        if known.is_some_and(other) {
            continue;
        }
        batch.make_room(&mut locked, edit.uid)?;
        let Some(row) = locked.state().row(edit.uid) else { continue };
        match &edit.kind {
            EditKind::Flags { .. } => change_flags(&mut batch.transaction, locked.state(), row, edit),
            EditKind::Expunge => {
                let guid = victims.iter().find(|v| v.uid == edit.uid).map_or(Guid128::ZERO, |v| v.guid);
                batch.transaction.expunge(edit.uid, guid);
                gone.insert(edit.uid);
            }
        }
    }
    let durability = if gone.is_empty() { Durability::Lazy } else { Durability::Mail };
    locked.commit(&batch.transaction, durability)?;
    drop(locked);
    remove_files(mailbox, victims.into_iter().filter(|v| gone.contains(&v.uid)))
}

/// Modseqs are kept from the first change on that a sync makes.
fn keep_modseqs(locked: &mut Locked<'_>) -> Result<()> {
    if !locked.state().keeps_modseqs() {
        let mut transaction = Transaction::new(Bits::INTERNAL);
        transaction.keep_modseqs();
        locked.commit(&transaction, Durability::Later)?;
    }
    Ok(())
}

/// A transaction that grows, and is written when it is large or when a mail comes up for the second time.
struct Batch {
    transaction: Transaction,
    touched: HashSet<Uid>,
}

impl Batch {
    fn new() -> Self {
        Self { transaction: Transaction::new(Bits::EXTERNAL_SYNC), touched: HashSet::new() }
    }

    fn make_room(&mut self, locked: &mut Locked<'_>, uid: Uid) -> Result<()> {
        if self.transaction.size_hint() > Transaction::ADVISED_SIZE || !self.touched.insert(uid) {
            let full = std::mem::replace(self, Self::new());
            locked.commit(&full.transaction, Durability::Later)?;
            self.touched.insert(uid);
        }
        Ok(())
    }
}

/// Only what changes something is written.
fn change_flags(transaction: &mut Transaction, state: &State, row: usize, edit: &Edit) {
    let EditKind::Flags { add, remove, add_keywords, remove_keywords, modseq } = &edit.kind else { return };
    let (flags, keywords) = (state.flags(row), state.keywords(row));
    let (add, remove) = (add.without(flags), *remove & flags);
    let remove = remove.without(add);
    if !add.is_empty() || !remove.is_empty() {
        transaction.flags(edit.uid, add, remove);
    }
    for keyword in add_keywords.without(keywords).iter() {
        transaction.keyword(edit.uid, keyword, true);
    }
    for keyword in remove_keywords.common(keywords).iter() {
        transaction.keyword(edit.uid, keyword, false);
    }
    if *modseq > ModSeq(0) && *modseq > state.modseq(row) {
        transaction.modseq(edit.uid, *modseq);
    }
}

fn cheap_guid(mailbox: &SdboxMailbox, uid: Uid) -> Option<Guid128> {
    let row = mailbox.view.row(uid)?;
    let known = mailbox.view.known(row).map(|k| k.guid.clone());
    known.or_else(|| mailbox.cache.guid(&uid)).map(|g| g.to_128())
}

/// Learns what will be needed of mails that are to go: their GUIDs for the log, their attachments.
fn victims(mailbox: &mut SdboxMailbox, uids: impl Iterator<Item = Uid>) -> Result<Vec<Victim>> {
    let has_attachments = mailbox.settings.attachment_dir.is_some();
    let mut victims = Vec::new();
    for uid in uids {
        let known = cheap_guid(mailbox, uid);
        let mut victim = Victim { uid, guid: known.unwrap_or(Guid128::ZERO), external: None };
        if known.is_none() || has_attachments {
            match mailbox.files.open(uid) {
                Ok(opened) => {
                    victim.guid = opened.message.metadata.guid().map_or(victim.guid, |g| g.to_128());
                    victim.external = mailbox.rules.attachments(&opened.file, &opened.message).unwrap_or_else(|e| {
                        tracing::warn!("{e}; its attachments stay");
                        None
                    });
                }
                // Gone already, or nothing that could be read: it can be expunged all the same.
                Err(OpenError::Missing(_)) => {}
                Err(OpenError::Failed(e)) if mailbox.files.primary(uid).exists() => tracing::warn!("{e}"),
                Err(OpenError::Failed(e)) => return Err(e),
            }
        }
        victims.push(victim);
    }
    Ok(victims)
}

/// Removes the files of mails that the index does not have any more.
pub(super) fn remove_files(mailbox: &SdboxMailbox, victims: impl IntoIterator<Item = Victim>) -> Result<()> {
    for victim in victims {
        mailbox.files.remove(victim.uid)?;
        if let Some((attachments, parts)) = victim.external {
            attachments.delete(&parts, Some(mailbox.owner(victim.uid)))?;
        }
    }
    Ok(())
}

/// Carries out the expunges that other programs have requested.
pub(super) fn finish_requests(mailbox: &mut SdboxMailbox) -> Result<()> {
    let uids = requested(mailbox.index.state());
    let victims = victims(mailbox, uids.into_iter())?;
    let identity = mailbox.identity();
    let mut locked = match mailbox.index.lock() {
        Ok(locked) => locked,
        // Who may only read sees the mails until somebody else removes them.
        Err(crate::index::Error::Io(e)) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    check_writable(locked.state(), identity, &mailbox.place)?;
    let still = requested(locked.state());
    let all = still.iter().all(|uid| victims.iter().any(|v| v.uid == *uid));
    let victims: Vec<_> = victims.into_iter().filter(|v| still.contains(&v.uid)).collect();
    let mut transaction = Transaction::new(Bits::EXTERNAL);
    for victim in &victims {
        transaction.expunge(victim.uid, victim.guid);
    }
    // Others may have come in between: then the requests stay in front of the tail, and are void where they are done.
    if all {
        transaction.storage_is_synced();
    }
    locked.commit(&transaction, Durability::Mail)?;
    drop(locked);
    remove_files(mailbox, victims)
}

/// The mails that are there and that somebody has asked to expunge.
fn requested(state: &State) -> Vec<Uid> {
    let mut uids = Vec::new();
    for pending in state.pending() {
        if let Request::Expunge { uids: (first, last), .. } = pending.request {
            let from = state.uids().partition_point(|&u| u < first);
            uids.extend(state.uids()[from..].iter().take_while(|&&u| u <= last).filter_map(|&u| Uid::new(u)));
        }
    }
    uids.sort_unstable();
    uids.dedup();
    uids
}

pub(super) fn raise(mailbox: &mut SdboxMailbox, floors: &Floors) -> Result<()> {
    mailbox.index.refresh()?;
    if raising(mailbox.index.state(), floors).is_empty() {
        return Ok(());
    }
    let mut locked = mailbox.lock_index()?;
    if floors.highest_modseq > locked.state().highest_modseq() {
        keep_modseqs(&mut locked)?;
    }
    let transaction = raising(locked.state(), floors);
    locked.commit(&transaction, Durability::Lazy)?;
    Ok(())
}

fn raising(state: &State, floors: &Floors) -> Transaction {
    let mut transaction = Transaction::new(Bits::EXTERNAL);
    let mut next = state.next_uid();
    if let Some(uid) = floors.uid_next.filter(|&uid| uid > next) {
        transaction.next_uid(uid);
        next = uid;
    }
    // Beyond UIDNEXT it would be damage.
    if let Some(uid) = floors.first_recent.map(|uid| uid.min(next)).filter(|&uid| uid > state.first_recent()) {
        transaction.first_recent(uid);
    }
    if floors.highest_modseq > state.highest_modseq() {
        transaction.raise_modseq(floors.highest_modseq);
    }
    transaction
}

/// Changes GUID or UIDVALIDITY. External attachments carry the GUID in their names: they get new names before, and lose the old
/// ones after.
pub(super) fn set_identity(mailbox: &mut SdboxMailbox, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
    let old = mailbox.identity();
    let mut moved = Vec::new();
    if old.guid != guid && mailbox.settings.attachment_dir.is_some() {
        let uids: Vec<_> = mailbox.view.mails.iter().map(|m| m.uid).collect();
        for victim in victims(mailbox, uids.into_iter())? {
            let Some((attachments, parts)) = victim.external else { continue };
            attachments.link(&parts, mailbox.owner(victim.uid), Owner { mailbox: guid, uid: victim.uid })?;
            moved.push((attachments, parts, mailbox.owner(victim.uid)));
        }
    }
    let mut locked = mailbox.lock_index()?;
    let mut transaction = Transaction::new(Bits::EXTERNAL);
    if old.guid != guid {
        transaction.ext_header(DBOX_HDR, 4, guid.bytes());
    }
    if old.uidvalidity != uidvalidity {
        transaction.uid_validity(uidvalidity);
    }
    locked.commit(&transaction, Durability::Mail)?;
    drop(locked);
    mailbox.view.status.identity.guid = guid;
    mailbox.view.status.identity.uidvalidity = uidvalidity;
    for (attachments, parts, owner) in moved {
        attachments.delete(&parts, Some(owner))?;
    }
    Ok(())
}
