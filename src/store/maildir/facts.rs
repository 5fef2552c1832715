//! From index, uidlist and scan to the plain facts that `merge` decides from. No I/O.

use std::path::Path;

use super::merge::{FileMail, IndexMail, Requests};
use super::name;
use super::scan::Scan;
use super::uidlist::{Entry, MAX_UID, Uidlist};
use crate::index::{Request, State};
use crate::mail::{Class, Error, Guid128, MailGuid, Result, Uid};

/// The index flag of mails whose rename failed (index.md 2.4).
pub(super) const DIRTY: u8 = 0x80;

/// The requests of the log, for mails that are there.
pub(super) fn requests(state: &State) -> Requests {
    let mut out = Requests::default();
    let rows = |&(first, last): &(u32, u32)| state.rows_between(first, last).map(|row| state.uid(row).get());
    for pending in state.pending() {
        match &pending.request {
            Request::Flags { uids, .. } => out.flags.extend(rows(uids)),
            Request::Keyword { uids, .. } | Request::KeywordReset { uids } => out.flags.extend(uids.iter().flat_map(rows)),
            Request::Expunge { uids, .. } => out.expunges.extend(rows(uids)),
        }
    }
    out
}

/// The mails of the index.
pub(super) fn index_mails(state: &State) -> impl Iterator<Item = IndexMail> + '_ {
    (0..state.len()).map(|row| IndexMail {
        uid: state.uid(row).get(),
        flags: state.flags(row),
        keywords: state.keywords(row).clone(),
        dirty: state.raw_flags(row) & DIRTY != 0,
    })
}

/// The mails of a scan.
pub(super) fn file_mails<'a>(scan: &'a Scan, list: &'a Uidlist) -> impl Iterator<Item = FileMail> + 'a {
    list.iter().filter_map(|entry| {
        let (_, info) = scan.places.get(entry.uid)?;
        let (flags, letters) = name::flags(info);
        Some(FileMail { uid: entry.uid, flags, letters })
    })
}

/// The GUID of a line in its short form.
pub(super) fn guid128(list: &Uidlist, uid: Uid) -> Guid128 {
    list.find(uid.get()).and_then(|e| MailGuid::new(e.guid())).map_or(Guid128::ZERO, |guid| guid.to_128())
}

/// Gives UIDs to the unknown files of a scan, in their order. Returns from which one on.
pub(super) fn number(list: &mut Uidlist, scan: &mut Scan, mailbox: &Path) -> Result<u32> {
    let first = list.next_uid();
    for found in std::mem::take(&mut scan.unknown) {
        let uid = list.next_uid();
        push(list, uid, b"", found.base(), mailbox)?;
        scan.places.set(uid, found.dir, &found.name[found.base().len()..]);
    }
    Ok(first)
}

/// Adds a line.
pub(super) fn push(list: &mut Uidlist, uid: u32, ext: &[u8], base: &[u8], mailbox: &Path) -> Result<()> {
    if uid <= MAX_UID && list.push(Entry { uid, ext, base }) {
        return Ok(());
    }
    Err(no_uids(mailbox))
}

/// UIDs are 32 bits.
pub(super) fn no_uids(mailbox: &Path) -> Error {
    Error::new(Class::Limit, format!("{}: there are no UIDs left", mailbox.display()))
}
