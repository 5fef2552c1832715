//! Giving a mailbox exactly the content of another one, whatever it had (sync.md 7.8, 14).
//!
//! The texts that are there are linked, not copied. The new index has the old one's id and the next log sequence number, and
//! begins a new history, as after a rebuild by Dovecot: sessions that have the mailbox open are told to open it again, and
//! nothing is logged. Two ways:
//!
//! - [`swap`], where index and mails lie in one directory: the complete new directory is built beside and exchanged with the old
//!   one in one step.
//! - [`in_place`], where the index lies elsewhere (`INDEX=`), or the file system cannot exchange directories (NFS): files
//!   first, then the log.
//!
//! New mails that shall lie in the alternative storage go there at the end ([`super::alt`]).

mod content;
mod in_place;
mod prepare;
mod swap;

use super::edit::{Victim, victims};
use super::mailbox::{SdboxMailbox, check_writable};
use crate::index::State;
use crate::mail::{Class, Error, Identity, MailboxGuid, Rebuild, Result, Uid};
use crate::os::fs;
use crate::store::dbox::Owner;
use crate::store::format::Place;
use crate::store::sdbox::Sdbox;
use prepare::{Item, Source};

pub(super) fn rebuild(mailbox: &mut SdboxMailbox, plan: &Rebuild) -> Result<()> {
    check_plan(plan, &mailbox.place)?;
    mailbox.stage.sync()?;
    // They are thrown away at the end, however this goes: what is used of them is linked.
    let staged = mailbox.stage.take();
    let items = prepare::prepare(mailbox, plan, &staged)?;
    let leftovers = Leftovers::of(mailbox)?;
    let one_directory = mailbox.place.index == mailbox.place.mailbox;
    if !one_directory || !swap::swap(mailbox, plan, &items, &leftovers)? {
        in_place::in_place(mailbox, plan, &items, &leftovers)?;
    }
    let alt: Vec<Uid> =
        items.iter().filter(|i| i.mail.in_alt && !matches!(i.source, Source::StaysInAlt)).map(|i| i.mail.uid).collect();
    drop(items);
    mailbox.index.refresh()?;
    super::alt::move_there(mailbox, &alt)?;
    mailbox.renew_view()
}

/// UIDs ascend and lie below UIDNEXT.
fn check_plan(plan: &Rebuild, place: &Place) -> Result<()> {
    let uids = plan.mails.iter().map(|m| m.mail.uid);
    let ends = std::iter::once(plan.identity.uid_next);
    if uids.clone().zip(uids.skip(1).chain(ends)).all(|(a, b)| a < b) {
        return Ok(());
    }
    let text = format!("{}: the wanted UIDs do not ascend to UIDNEXT", place.mailbox.display());
    Err(Error::new(Class::InvalidData, text))
}

/// The mailbox still is the one that was opened, and all mails that are to be used are there.
fn check_present(state: &State, opened: Identity, place: &Place, items: &[Item<'_>]) -> Result<()> {
    check_writable(state, opened, place)?;
    match items.iter().filter_map(|i| i.present).find(|&uid| state.row(uid).is_none()) {
        None => Ok(()),
        Some(uid) => {
            let text = format!("{}: UID {uid} was expunged meanwhile", place.mailbox.display());
            Err(Error::new(Class::Expunged, text))
        }
    }
}

/// External attachments have the mailbox GUID and the UID in their names.
fn link_attachments(items: &[Item<'_>], old: MailboxGuid, plan: &Rebuild) -> Result<()> {
    for item in items {
        if let (Some(uid), Some((attachments, parts))) = (item.present, &item.external) {
            let (from, to) = (Owner { mailbox: old, uid }, Owner { mailbox: plan.identity.guid, uid: item.mail.uid });
            if from != to {
                attachments.link(parts, from, to)?;
            }
        }
    }
    Ok(())
}

/// What the old mails have outside of the mailbox directory.
struct Leftovers {
    old: MailboxGuid,
    before: Vec<Uid>,
    attachments: Vec<Victim>,
}

impl Leftovers {
    fn of(mailbox: &mut SdboxMailbox) -> Result<Self> {
        let before: Vec<Uid> = mailbox.view.uids().collect();
        let mut attachments = Vec::new();
        if mailbox.settings.attachment_dir.is_some() {
            attachments = victims(mailbox, before.iter().copied())?;
            attachments.retain(|v| v.external.is_some());
        }
        Ok(Self { old: mailbox.identity().guid, before, attachments })
    }

    /// Removes what the new mails do not need.
    fn remove(&self, mailbox: &SdboxMailbox, plan: &Rebuild, items: &[Item<'_>]) -> Result<()> {
        let same_guid = self.old == plan.identity.guid;
        let item = |uid: Uid| items.binary_search_by_key(&uid, |i| i.mail.uid).ok().map(|at| &items[at]);
        for victim in &self.attachments {
            let kept = same_guid && item(victim.uid).is_some_and(|i| i.present == Some(victim.uid) && i.external.is_some());
            if let Some((attachments, parts)) = victim.external.as_ref().filter(|_| !kept) {
                attachments.delete(parts, Some(Owner { mailbox: self.old, uid: victim.uid }))?;
            }
        }
        for &uid in &self.before {
            if let Some(path) = mailbox.files.in_alt(uid)
                && !item(uid).is_some_and(|i| matches!(i.source, Source::StaysInAlt))
            {
                fs::unlink_if_there(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes what a rebuild that was stopped has left.
pub(super) fn clean_up(format: &mut Sdbox, place: &Place) {
    swap::clean_up(format, place);
}
