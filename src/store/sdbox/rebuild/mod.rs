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

mod content;
mod in_place;
mod prepare;
mod swap;

use super::mailbox::SdboxMailbox;
use super::stage::Staged;
use crate::mail::{Class, Error, Rebuild, Result};
use crate::store::format::Place;
use crate::store::sdbox::Sdbox;

pub(super) fn rebuild(mailbox: &mut SdboxMailbox, plan: Rebuild) -> Result<()> {
    check(&plan, &mailbox.place)?;
    mailbox.stage.sync()?;
    // They are thrown away at the end, however this goes: what is used of them is linked.
    let staged: Vec<Staged> = mailbox.stage.take();
    let items = prepare::prepare(mailbox, &plan, &staged)?;
    let done = if mailbox.place.index == mailbox.place.mailbox && !swap::impossible(mailbox) {
        swap::swap(mailbox, &plan, &items)
    } else {
        in_place::in_place(mailbox, &plan, &items)
    };
    done?;
    drop(staged);
    mailbox.index.refresh()?;
    mailbox.renew_view()
}

/// UIDs ascend and lie below UIDNEXT.
fn check(plan: &Rebuild, place: &Place) -> Result<()> {
    let uids = plan.mails.iter().map(|m| m.mail.uid);
    let ends = std::iter::once(plan.identity.uid_next);
    if uids.clone().zip(uids.skip(1).chain(ends)).all(|(a, b)| a < b) {
        return Ok(());
    }
    let text = format!("{}: the wanted UIDs do not ascend to UIDNEXT", place.mailbox.display());
    Err(Error::new(Class::InvalidData, text))
}

/// Removes what a rebuild that was stopped has left.
pub(super) fn clean_up(format: &Sdbox, place: &Place) {
    swap::clean_up(format, place);
}
