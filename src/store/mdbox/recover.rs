//! What an interrupted writer left in the map (dbox.md 6.1).
//!
//! All changes of references happen under the map's lock, together with those of the mailboxes. With the lock held the
//! state is frozen: every reference in every mailbox is counted, and counts that differ are set, in one write with the tail.
//! A kill before that write leaves everything as it was, except that half-written transactions at the end of logs are cut
//! off.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::map::CURE;
use super::plan::{Counts, corrections};
use super::storage::{Storage, index_files, index_options};
use super::view;
use crate::index::{self, Index, Options};
use crate::mail::{Class, Error, Result};
use crate::os::fs::{self, Modes};
use crate::store::Settings;
use crate::store::dbox::IndexHeader;
use crate::store::format::Place;

/// How deep mailbox directories may lie.
const MAX_DEPTH: usize = 64;

/// Completes what an interrupted writer left; refuses a storage that only Dovecot can repair.
pub(super) fn begin(storage: &mut Storage, all: &[Place]) -> Result<()> {
    if !storage.refresh_map()? {
        return refuse_lost_map(storage, all);
    }
    storage.map.cut_off_rest()?;
    if !storage.map.is_behind() {
        return Ok(());
    }
    let Storage { map, settings, location, .. } = &mut *storage;
    let path = map.path();
    let mut locked = map.lock_to_mend()?;
    // It was behind because somebody was at work.
    if !locked.is_behind() {
        return Ok(());
    }
    let give_up = |e: &dyn std::fmt::Display| {
        let text = format!("{}: an interrupted change cannot be completed: {e}; {CURE}", path.display());
        Error::new(Class::Temporary, text)
    };
    let counts = count(settings, &location.index_root, all, locked.uid_validity()).map_err(|e| give_up(&e))?;
    let records: Vec<(u32, u16)> = locked.records().map(|r| (r.uid, r.refs)).collect();
    let wrong = corrections(&records, &counts).map_err(|e| give_up(&e))?;
    tracing::warn!("{}: completing an interrupted change ({} reference counts corrected)", path.display(), wrong.len());
    locked.mend(&wrong)
}

/// Without a map there must be no mails: an empty map would hide them (dbox.md 6.4).
pub(super) fn refuse_lost_map(storage: &Storage, all: &[Place]) -> Result<()> {
    let lost = |what: String| {
        let text = format!("{} is missing, but {what}; {CURE}", storage.map.path().display());
        Err(Error::new(Class::Temporary, text))
    };
    let highest = storage.files.highest_id()?;
    if highest > 0 {
        return lost(format!("there is {}", storage.files.path(highest).display()));
    }
    for place in all {
        match Index::open(index_files(place), index_options(&storage.settings, place)) {
            Ok(index) if !index.state().is_empty() => return lost(format!("there are mails in {}", place.index.display())),
            Ok(_) => {}
            Err(e) if e.is_missing() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Mails of the storage that no mailbox refers to, though their reference counts say so: then an index is lost.
pub(super) fn has_uncounted(storage: &Storage, all: &[Place]) -> Result<bool> {
    let counts = count(&storage.settings, &storage.location.index_root, all, storage.map.uid_validity())?;
    Ok(storage.map.records().any(|r| u32::from(r.refs) > counts.get(&r.uid).copied().unwrap_or(0)))
}

/// Counts the references to each mail in all mailboxes: those of the list, and those that lie below the root without being
/// in the list (made since, or of another namespace).
fn count(settings: &Settings, root: &Path, all: &[Place], map_uid_validity: u32) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut seen = HashSet::new();
    let known = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    for place in all {
        if !seen.insert(known(&place.index)) {
            continue;
        }
        let options = Options { even_deleted: true, ..index_options(settings, place) };
        count_one(index_files(place), options, map_uid_validity, &mut counts)?;
    }
    let mut dirs = Vec::new();
    find_indexes(root, 0, &mut dirs)?;
    for dir in dirs {
        if seen.insert(known(&dir)) {
            let options = Options { even_deleted: true, ..Options::new(settings.index.clone(), Modes::default()) };
            count_one(index::Files::new(dir, index::Files::MAILBOX), options, map_uid_validity, &mut counts)?;
        }
    }
    Ok(counts)
}

fn count_one(files: index::Files, options: Options, map_uid_validity: u32, counts: &mut Counts) -> Result<()> {
    let mut index = match Index::open(files, options) {
        Ok(index) => index,
        Err(e) if e.is_missing() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    index.cut_off_rest()?;
    let state = index.state();
    // Another format's mailbox, or one of another storage's.
    let Some(header) = state.ext(IndexHeader::MDBOX).and_then(|ext| IndexHeader::parse(state.ext_header(ext))) else {
        return Ok(());
    };
    if header.number != map_uid_validity {
        let text = format!("map uidvalidity mismatch ({} vs {map_uid_validity})", header.number);
        return Err(Error::new(Class::Temporary, format!("{}: {text}", index.files().log().display())));
    }
    for row in 0..state.len() {
        if let Some(record) = view::reference(state, row).record {
            *counts.entry(record.map_uid).or_default() += 1;
        }
    }
    Ok(())
}

/// Directories below `dir` that have a mailbox's index. Symbolic links are not followed.
fn find_indexes(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fs::Error::new("read", dir, e).into()),
    };
    let mut has_index = false;
    let mut below = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| fs::Error::new("read", dir, e))?;
        let kind = entry.file_type().map_err(|e| fs::Error::new("stat", entry.path(), e))?;
        let name = entry.file_name();
        if kind.is_dir() && !(depth == 0 && name == "storage") {
            below.push(entry.path());
        }
        has_index |= name == index::Files::MAILBOX || name == "dovecot.index.log";
    }
    if has_index {
        found.push(dir.to_owned());
    }
    if depth >= MAX_DEPTH && !below.is_empty() {
        return Err(Error::new(Class::Limit, format!("{}: directories are nested too deeply", dir.display())));
    }
    below.iter().try_for_each(|dir| find_indexes(dir, depth + 1, found))
}
