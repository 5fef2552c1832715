//! Changing mails that are there: flags, expunges, counters, identity (dbox.md 2.5, 8).
//!
//! Flags, keywords and counters live in the index alone: one transaction each, marked as external, for there is nothing left
//! to be done in the storage.
//!
//! Expunging: 1. external expunge records with the GUIDs, synced; 2. log unlocked; 3. files removed; 4. external attachments
//! removed. A kill after 1 leaves files below UIDNEXT that no index knows, which nobody looks at; after 3 attachments without
//! mail.

use std::collections::{HashMap, HashSet};

use super::create::DBOX_HDR;
use super::files::OpenError;
use super::mailbox::{SdboxMailbox, check_writable};
use super::view::View;
use crate::index::{self, Bits, Durability, Locked, Request, State, Transaction, plan_edits};
use crate::mail::{Edit, EditKind, Floors, Guid128, MailGuid, MailboxGuid, Result, Uid, UidValidity};
use crate::os::fs;
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
    for edit in edits.iter().filter(|e| e.expect.is_some()) {
        if let Some(row) = mailbox.view.row(edit.uid) {
            mailbox.look_up(row);
        }
    }
    let learned: HashMap<Uid, Guid128> = victims.iter().map(|v| (v.uid, v.guid)).filter(|v| !v.1.is_zero()).collect();

    let SdboxMailbox { index, view, place, .. } = &mut *mailbox;
    let mut locked = index.lock()?;
    check_writable(locked.state(), view.status.identity, place)?;
    keep_modseqs(&mut locked)?;
    let guid = |row: usize| {
        let uid = locked.state().uid(row);
        learned.get(&uid).copied().or_else(|| cheap_guid(view, uid))
    };
    let plan = plan_edits(locked.state(), edits, Bits::EXTERNAL_SYNC, guid);
    locked.commit_all(&plan.changes, Durability::Lazy)?;
    locked.commit_all(&plan.expunge_transactions(Bits::EXTERNAL_SYNC), Durability::Mail)?;
    super::commit::maintain(&mut locked);
    drop(locked);
    let gone: HashSet<Uid> = plan.expunges.iter().map(|e| e.0).collect();
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

/// What is known of a mail's GUID without opening it.
fn cheap_guid(view: &View, uid: Uid) -> Option<Guid128> {
    view.slots[view.row(uid)?].guid.as_ref().map(MailGuid::to_128)
}

/// Learns what will be needed of mails that are to go: their GUIDs for the log, their attachments.
pub(super) fn victims(mailbox: &mut SdboxMailbox, uids: impl Iterator<Item = Uid>) -> Result<Vec<Victim>> {
    let has_attachments = mailbox.settings.attachment_dir.is_some();
    let mut victims = Vec::new();
    for uid in uids {
        if let Some(row) = mailbox.view.row(uid) {
            mailbox.look_up(row);
        }
        let known = cheap_guid(&mailbox.view, uid);
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
    let victims: Vec<Victim> = victims.into_iter().collect();
    let uids: Vec<Uid> = victims.iter().map(|v| v.uid).collect();
    fs::each(&uids, |&uid| mailbox.files.remove(uid))?;
    for victim in victims {
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
            uids.extend(state.rows_between(first, last).map(|row| state.uid(row)));
        }
    }
    uids.sort_unstable();
    uids.dedup();
    uids
}

pub(super) fn raise(mailbox: &mut SdboxMailbox, floors: &Floors) -> Result<()> {
    mailbox.index.refresh()?;
    if index::raise(mailbox.index.state(), floors, Bits::EXTERNAL).is_empty() {
        return Ok(());
    }
    let mut locked = mailbox.lock_index()?;
    if floors.highest_modseq > locked.state().highest_modseq() {
        keep_modseqs(&mut locked)?;
    }
    let transaction = index::raise(locked.state(), floors, Bits::EXTERNAL);
    locked.commit(&transaction, Durability::Lazy)?;
    Ok(())
}

/// Remembers which UIDs a sync held back.
pub(super) fn hold_back(mailbox: &mut SdboxMailbox, ranges: &[(Uid, Uid)]) -> Result<()> {
    if mailbox.index.state().hold_back(ranges, Bits::EXTERNAL).is_none() {
        return Ok(());
    }
    let mut locked = mailbox.lock_index()?;
    if let Some(transaction) = locked.state().hold_back(ranges, Bits::EXTERNAL) {
        locked.commit(&transaction, Durability::Lazy)?;
    }
    Ok(())
}

/// Changes GUID or UIDVALIDITY. External attachments carry the GUID in their names: they get new names before, and lose the old
/// ones after.
pub(super) fn set_identity(mailbox: &mut SdboxMailbox, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
    let old = mailbox.identity();
    let mut moved = Vec::new();
    if old.guid != guid && mailbox.settings.attachment_dir.is_some() {
        let uids: Vec<_> = mailbox.view.uids().collect();
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
