//! A rebuild in the directory itself. A kill after a step leaves:
//!
//! ```text
//! 1 log locked; mail files linked to temp names                   `.temp.*` files
//! 2 mails whose UID another mail gets expunged, synced            the old mailbox without them: the one case in which it is
//!                                                                 neither old nor new. The next run completes it
//! 3 attachments linked, temp files renamed, directory synced      the same, and files that no index knows
//! 4 log and history begun anew                                    the new mailbox, and files that no index knows
//! 5 saved dates into cache and log                                the same
//! 6 log unlocked; what is left of the old mails removed           the new mailbox
//! ```

use super::super::mailbox::SdboxMailbox;
use super::content::{begin, content};
use super::prepare::{Item, Source};
use super::{Leftovers, check_present, link_attachments};
use crate::index::{Bits, Durability, Transaction};
use crate::mail::{Guid128, MailGuid, Rebuild, Result, Uid};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::dbox::{Temp, temp_name};

pub(super) fn in_place(mailbox: &mut SdboxMailbox, plan: &Rebuild, items: &[Item<'_>], leftovers: &Leftovers) -> Result<()> {
    let SdboxMailbox { index, place, settings, view, files, .. } = &mut *mailbox;
    let mut locked = index.lock()?;
    let old = view.status.identity;
    check_present(locked.state(), old, place, items)?;

    let mut renames: Vec<(Temp, &Item<'_>)> = Vec::new();
    let mut expunged = Transaction::new(Bits::EXTERNAL_SYNC);
    for item in items {
        let target = files.primary(item.mail.uid);
        let Some(file) = item.file().filter(|file| *file != target) else { continue };
        let temp = Temp::new(files.dir().join(temp_name()));
        fs::link(file, temp.path())?;
        renames.push((temp, item));
        if locked.state().row(item.mail.uid).is_some() {
            let known = view.row(item.mail.uid).and_then(|row| view.slots[row].guid.as_ref().map(MailGuid::to_128));
            expunged.expunge(item.mail.uid, known.unwrap_or(Guid128::ZERO));
        }
    }
    let content = content(place, locked.state(), plan, items);
    locked.commit(&expunged, Durability::Mail)?;
    link_attachments(items, old.guid, plan)?;
    for (temp, item) in renames {
        temp.replace(&files.primary(item.mail.uid))?;
    }
    if settings.index.fsync != Fsync::Never {
        fs::fsync_dir(files.dir())?;
    }
    begin(&mut locked, &content, items)?;
    drop(locked);
    let wanted = |uid| items.binary_search_by_key(&uid, |i| i.mail.uid).ok().map(|at| &items[at].source);
    let gone = |uid: &Uid| wanted(*uid).is_none_or(|source| matches!(source, Source::StaysInAlt));
    let gone: Vec<Uid> = leftovers.before.iter().copied().filter(gone).collect();
    fs::each(&gone, |&uid| fs::unlink_if_there(&mailbox.files.primary(uid)).map(drop))?;
    leftovers.remove(mailbox, plan, items)
}
