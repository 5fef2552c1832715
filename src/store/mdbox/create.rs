//! Mailboxes come, go and change their names.
//!
//! Creating: the storage's directories, the map, then the mailbox's log, each complete before it has its name. A kill in
//! between leaves an empty directory, which gets its index at the next look ([`identity`]).

use super::commit::MDBOX_HDR_EXT;
use super::edit;
use super::mailbox::{MdboxMailbox, check_header};
use super::map::CURE;
use super::recover;
use super::storage::{Shared, Storage, bad_index, index_files};
use super::view;
use crate::index::{Bits, Created, Durability, ExtSpec, Field, Index, State, Transaction};
use crate::mail::{Class, Error, Identity, MailboxGuid, Result, Timestamp, UidValidity};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::dbox::IndexHeader;
use crate::store::format::Place;

/// Header extension with the mailbox's name, its levels divided by NUL (`LAYOUT=index`).
pub(super) const BOX_NAME: &str = "box-name";
/// Header extension with the time of the last rename.
pub(super) const RENAME_STAMP: &str = "last-rename-stamp";

/// The map, made if this is a new storage.
fn map_of(storage: &mut Storage, place: &Place) -> Result<()> {
    if storage.refresh_map()? {
        return Ok(());
    }
    recover::refuse_lost_map(storage, &[])?;
    storage.create_dirs(&place.modes)?;
    storage.map.create()
}

/// Makes an empty mailbox in directories that are there.
pub(super) fn create(shared: &Shared, place: &Place, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
    let mut held = shared.get();
    let storage = &mut *held;
    map_of(storage, place)?;
    fs::mkdir_all(&place.mailbox, &place.modes)?;
    fs::mkdir_all(&place.index, &place.modes)?;
    let first = first_content(storage.map.uid_validity(), place, guid, uidvalidity);
    let created = Index::create(index_files(place), storage.index_options(place), &first)?;
    if storage.settings.index.fsync != Fsync::Never {
        fs::fsync_dir(&place.index)?;
    }
    if let Created::Found(mut index) = created {
        if index.state().is_half_made() {
            let mut locked = index.lock()?;
            if locked.state().is_half_made() {
                locked.commit_all(&first, Durability::Mail)?;
            }
        }
        let found = view::identity(index.state()).map_err(|e| bad_index(place, e))?;
        if (found.guid, found.uidvalidity) != (guid, uidvalidity) {
            return Err(Error::new(Class::Exists, format!("{}: there is a mailbox already", place.index.display())));
        }
    }
    Ok(())
}

fn first_content(map_uid_validity: u32, place: &Place, guid: MailboxGuid, uidvalidity: UidValidity) -> Vec<Transaction> {
    let mut t = Transaction::new(Bits::EXTERNAL);
    if place.names_in_index {
        write_name(&mut t, place);
    }
    if place.inbox {
        t.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &[0; 4]);
    }
    let header = IndexHeader { number: map_uid_validity, guid: Some(guid), ..IndexHeader::default() };
    t.ext_header(MDBOX_HDR_EXT, 0, &header.encode());
    t.uid_validity(uidvalidity);
    t.header(Field::LOG2_ROTATE_TIME, &u32::MAX.to_le_bytes());
    let mut modseqs = Transaction::new(Bits::INTERNAL);
    modseqs.keep_modseqs();
    modseqs.storage_is_synced();
    vec![t, modseqs]
}

fn write_name(t: &mut Transaction, place: &Place) {
    let name = index_name(place);
    let size = u32::try_from(name.len()).unwrap_or(u32::MAX);
    t.ext_header(ExtSpec { exact: true, ..ExtSpec::header(BOX_NAME, size) }, 0, name.as_bytes());
}

/// The storage name with NUL between its levels. The separator is the layout's own affair: it is what divides the storage
/// name into the last levels of the full name.
fn index_name(place: &Place) -> String {
    // On disk a level may be in modified UTF-7: an ampersand stands where the first character beyond ASCII was.
    let same = |(level, part): (&String, &str)| {
        let plain = level.find(|c: char| !c.is_ascii() || c == '&').map(|at| &level[..at]);
        level == part || plain.and_then(|plain| part.strip_prefix(plain)).is_some_and(|rest| rest.starts_with('&'))
    };
    let levels = place.name.levels();
    let divides = |parts: &[&str]| {
        let last = levels.len().checked_sub(parts.len()).map(|from| &levels[from..]);
        last.is_some_and(|last| last.iter().zip(parts.iter().copied()).all(same))
    };
    if divides(&[&place.storage_name]) {
        return place.storage_name.clone();
    }
    let found = place.storage_name.chars().filter(|c| c.is_ascii_punctuation()).find_map(|separator| {
        let parts: Vec<&str> = place.storage_name.split(separator).collect();
        divides(&parts).then(|| parts.join("\0"))
    });
    found.unwrap_or_else(|| place.storage_name.replace('/', "\0"))
}

/// GUID, UIDVALIDITY and UIDNEXT. A directory without any index gets one if it is certain that no mail was ever in it.
pub(super) fn identity(shared: &Shared, place: &Place, all: &[Place]) -> Result<Identity> {
    let mut held = shared.get();
    let storage = &mut *held;
    let there = storage.refresh_map()?;
    match Index::open(index_files(place), storage.index_options(place)) {
        Ok(index) if there && index.state().is_half_made() && !recover::has_uncounted(storage, all)? => {
            let text = format!("{}: the mailbox is being created", place.index.display());
            Err(Error::new(Class::NotFound, text))
        }
        Ok(index) if there => {
            check_header(index.state(), storage.map.uid_validity()).map_err(|e| bad_index(place, e))?;
            let identity = view::identity(index.state()).map_err(|e| bad_index(place, e))?;
            storage.parking.put(index);
            Ok(identity)
        }
        Ok(_) => Err(bad_index(place, format!("{} is not there", storage.map.path().display()))),
        Err(e) if e.is_missing() => {
            if there && recover::has_uncounted(storage, all)? {
                let text = format!("{}: the mailbox has lost its index; {CURE}", place.index.display());
                return Err(Error::new(Class::Temporary, text));
            }
            drop(held);
            let now = Timestamp::now().0.max(1);
            let uidvalidity = UidValidity::new(now).ok_or_else(|| bad_index(place, "no UIDVALIDITY"))?;
            let guid = MailboxGuid::generate();
            create(shared, place, guid, uidvalidity)?;
            Ok(Identity { guid, uidvalidity, uid_next: crate::mail::Uid::FIRST })
        }
        Err(e) => Err(e.into()),
    }
}

/// Expunges all mails and marks the index as deleted.
///
/// Order: expunges (see [`edit`]) until none is left, then the mark as a request and as done, under one lock. A kill leaves
/// a mailbox with fewer mails, or one that is marked: Dovecot takes the mark back if nobody comes to complete the deletion.
pub(super) fn empty(shared: &Shared, place: &Place) -> Result<()> {
    let options = {
        let mut held = shared.get();
        held.refresh_map()?;
        crate::index::Options { even_deleted: true, ..held.index_options(place) }
    };
    let index = Index::open(index_files(place), options)?;
    if index.state().deleted() != crate::index::DeletedMark::None {
        return Ok(());
    }
    drop(index);
    let mut mailbox = MdboxMailbox::open(shared, place)?;
    loop {
        while !mailbox.index.state().is_empty() {
            let some = |state: &State| (0..state.len().min(edit::BATCH)).map(|row| state.uid(row)).collect();
            edit::expunge(&mut mailbox, &some, false)?;
        }
        let mut locked = mailbox.index.lock()?;
        // Somebody may have delivered a mail in between.
        if !locked.state().is_empty() {
            continue;
        }
        for bits in [Bits::INTERNAL, Bits::EXTERNAL] {
            let mut t = Transaction::new(bits);
            t.mark_deleted();
            locked.commit(&t, Durability::Mail)?;
        }
        return Ok(());
    }
}

/// Notes that the mailbox has got another name.
pub(super) fn renamed(shared: &Shared, place: &Place) -> Result<()> {
    let options = shared.get().index_options(place);
    let mut index = Index::open(index_files(place), options)?;
    let mut locked = index.lock()?;
    let mut t = Transaction::new(Bits::EXTERNAL);
    t.ext_header(ExtSpec::header(RENAME_STAMP, 4), 0, &Timestamp::now().0.to_le_bytes());
    if place.names_in_index {
        write_name(&mut t, place);
    }
    locked.commit(&t, Durability::Mail)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::MailboxName;
    use crate::os::fs::Modes;

    #[test]
    fn names_in_the_index_are_divided_by_nul() {
        let name = |levels: &[&str], storage_name: &str| {
            let place = Place {
                name: MailboxName::new(levels.iter().map(|l| (*l).to_owned()).collect()).expect("a name"),
                storage_name: storage_name.into(),
                inbox: false,
                mailbox: "m".into(),
                index: "i".into(),
                cache: "i".into(),
                control: "i".into(),
                alt: None,
                control_root: "c".into(),
                volatile: None,
                names_in_index: true,
                modes: Modes::default(),
            };
            index_name(&place)
        };
        assert_eq!(name(&["INBOX"], "INBOX"), "INBOX");
        // As Dovecot 2.3.19.1 writes them.
        assert_eq!(name(&["Work", "Ünter"], "Work/&ANw-nter"), "Work\0&ANw-nter");
        assert_eq!(name(&["Work", "Ünter"], "Work.&ANw-nter"), "Work\0&ANw-nter");
        assert_eq!(name(&["Public", "a.b", "c"], "a.b/c"), "a.b\0c");
        assert_eq!(name(&["Public", "R&D"], "R&-D"), "R&-D");
        assert_eq!(name(&["a", "b^c"], "a^b|c"), "a^b|c");
    }
}
