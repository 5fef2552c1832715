//! Making a mailbox, and what happens to its index when it is deleted or renamed (dbox.md 8, 9; index.md 4.5, 4.6).
//!
//! Creating: the log is written under another name, complete with identity, and renamed; then the directory is synced. A kill
//! before the rename leaves directories without an index, which the next creation fills; after it, the mailbox.
//!
//! An index that another program has only begun is completed.
//!
//! Emptying: external expunges durable, files removed, then the marks of the deletion. A kill leaves an emptier or an empty
//! mailbox, or files that no index knows; the next deletion goes on.

use super::files::Files;
use super::mailbox::{SdboxMailbox, check_writable};
use super::{index_files, index_options, view};
use crate::index::{Bits, Created, DeletedMark, Durability, ExtSpec, Field, Index, Transaction};
use crate::mail::{Class, Edit, EditKind, Error, MailboxGuid, Result, Timestamp, UidValidity};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::Settings;
use crate::store::dbox::{IndexHeader, Pop3};
use crate::store::format::Place;

/// The extension that has the mailbox GUID.
pub(super) const DBOX_HDR: ExtSpec = ExtSpec::header(IndexHeader::SDBOX, 24);
const LAST_RENAME_STAMP: ExtSpec = ExtSpec::header("last-rename-stamp", 4);

/// The first content of an index: who it is.
pub(super) fn first_content(place: &Place, header: &IndexHeader, uidvalidity: UidValidity) -> Vec<Transaction> {
    let mut first = Transaction::new(Bits::INTERNAL);
    first.ext_header(DBOX_HDR, 0, &header.encode());
    let mut second = Transaction::new(Bits::EXTERNAL);
    if place.inbox {
        second.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &[0; Pop3::SIZE]);
    }
    if place.names_in_index {
        name(&mut second, place);
    }
    second.uid_validity(uidvalidity);
    second.header(Field::LOG2_ROTATE_TIME, &u32::MAX.to_le_bytes());
    second.header(Field::LAST_TEMP_FILE_SCAN, &Timestamp::now().0.to_le_bytes());
    let mut third = Transaction::new(Bits::INTERNAL);
    third.keep_modseqs();
    vec![first, second, third]
}

pub(super) fn create(place: &Place, settings: &Settings, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
    let header = IndexHeader { guid: Some(guid), ..IndexHeader::default() };
    let content = first_content(place, &header, uidvalidity);
    match Index::create(index_files(place), index_options(settings, place), &content)? {
        Created::New(_) => {}
        Created::Found(mut index) if index.state().is_half_made() && !Files::new(place).any() => {
            let mut locked = index.lock()?;
            if !locked.state().is_half_made() {
                return Err(Error::new(Class::Exists, format!("{}: there is a mailbox now", place.mailbox.display())));
            }
            locked.commit_all(&content, Durability::Mail)?;
        }
        Created::Found(index) => {
            let found = view::identity(index.state()).map_err(|e| super::bad_index(place, e))?;
            if (found.guid, found.uidvalidity) != (guid, uidvalidity) {
                let text = format!("{}: there is a mailbox already, with GUID {}", place.mailbox.display(), found.guid);
                return Err(Error::new(Class::Exists, text));
            }
        }
    }
    if settings.index.fsync != Fsync::Never {
        fs::fsync_dir(&place.index)?;
    }
    Ok(())
}

pub(super) fn empty(place: &Place, settings: &Settings) -> Result<()> {
    let options = crate::index::Options { even_deleted: true, ..index_options(settings, place) };
    let index = Index::open(index_files(place), options)?;
    let mut mailbox = SdboxMailbox::open(place.clone(), settings.clone(), index)?;
    if mailbox.index.state().deleted() == DeletedMark::None {
        let edits: Vec<_> = mailbox.view.uids().map(|uid| Edit { uid, expect: None, kind: EditKind::Expunge }).collect();
        super::edit::edit(&mut mailbox, &edits)?;
    }
    let mut locked = mailbox.index.lock()?;
    if !locked.state().is_empty() {
        let text = format!("{}: new mails came while the mailbox was being deleted", place.mailbox.display());
        return Err(Error::new(Class::InUse, text));
    }
    for (mark, bits) in [(DeletedMark::Requested, Bits::INTERNAL), (DeletedMark::Done, Bits::EXTERNAL)] {
        if locked.state().deleted() < mark {
            let mut transaction = Transaction::new(bits);
            transaction.mark_deleted();
            locked.commit(&transaction, Durability::Mail)?;
        }
    }
    Ok(())
}

pub(super) fn renamed(place: &Place, settings: &Settings) -> Result<()> {
    let mut index = Index::open(index_files(place), index_options(settings, place))?;
    let mut locked = index.lock()?;
    let identity = view::identity(locked.state()).map_err(|e| super::bad_index(place, e))?;
    check_writable(locked.state(), identity, place)?;
    let mut transaction = Transaction::new(Bits::EXTERNAL);
    transaction.ext_header(LAST_RENAME_STAMP, 0, &Timestamp::now().0.to_le_bytes());
    if place.names_in_index {
        name(&mut transaction, place);
    }
    locked.commit(&transaction, Durability::Lazy)?;
    Ok(())
}

/// `box-name`: the levels of the storage name with NUL in between (LAYOUT=index).
fn name(transaction: &mut Transaction, place: &Place) {
    let name = place.storage_name.replace('/', "\0");
    let size = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let spec = ExtSpec { exact: true, ..ExtSpec::header("box-name", size) };
    transaction.ext_header(spec, 0, name.as_bytes());
}
