//! Purge: frees the bytes of mails that nobody refers to (dbox.md 7). A kill after a step leaves:
//!
//! ```text
//! P5 survivors copied to .temp.*, synced       temp files that Dovecot removes by itself
//! P7 ids reserved, files renamed               m.N without map records, ids never given out again
//! P8 map switched: one write, synced           the new state; the old file is garbage
//! P9 old file unlinked, directory synced       attachments without mail
//! P10 attachments removed                      nothing
//! ```
//!
//! Map uids stay, so no mailbox is touched. Nobody waits for us: the old file is locked against appending only while it
//! is copied, and the map for P6 to P8.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::map::{Locked, Switch};
use super::plan::{Found, Listed, PurgePlan, purge_plan, split_by_size};
use super::record::MapRecord;
use super::storage::Storage;
use crate::mail::{Class, Error, Result};
use crate::os::fs::{self, Modes};
use crate::os::lock::{self, Deadline, How, Lock};
use crate::os::{Fsync, LockMethod};
use crate::store::dbox::{DboxFile, Message, Temp, Writer};

/// Purges every file that has a mail without references. Files that somebody appends to are left for another time.
///
/// # Errors
/// The first file that could not be purged; the others are done.
pub(super) fn purge(storage: &mut Storage) -> Result<()> {
    if !storage.map.refresh()? {
        return Ok(());
    }
    let ids: BTreeSet<u32> = storage.map.records().filter(|r| r.refs == 0).map(|r| r.place.file_id).collect();
    let mut first_error = None;
    for id in ids {
        if let Err(e) = purge_file(storage, id) {
            let e = e.at("Purging");
            tracing::error!("{e}");
            first_error.get_or_insert(e);
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// A file that is being purged, locked against appending.
struct Source {
    path: PathBuf,
    file: DboxFile,
    _lock: Lock,
}

/// P1 and P2. `Ok(None)`: somebody uses it, or has removed it.
fn open_source(path: &Path) -> Result<Option<Source>> {
    let file = match File::open(path) {
        Ok(file) => Arc::new(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fs::Error::new("open", path, e).into()),
    };
    // These files are always locked by flock, whatever lock_method says (dbox.md 5.1).
    let how = How { method: LockMethod::Flock, stale: Duration::MAX, use_excl: true, modes: Modes::default() };
    let lock = match Lock::acquire(&file, path, &how, Deadline::after(Duration::ZERO)) {
        Ok(lock) => lock,
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if !lock::is_still(path, &file).map_err(|e| fs::Error::new("stat", path, e))? {
        return Ok(None);
    }
    Ok(Some(Source { path: path.to_owned(), file: DboxFile::new(file, path)?, _lock: lock }))
}

fn purge_file(storage: &mut Storage, id: u32) -> Result<()> {
    storage.files.forget_one(id);
    let Some(path) = storage.files.paths(id).find(|p| p.exists()) else { return drop_records_of_missing(storage, id) };
    let Some(source) = open_source(&path)? else { return Ok(()) };

    storage.map.refresh()?;
    let records = storage.map.records_of(id);
    let messages = source.file.messages().collect::<std::result::Result<Vec<Message>, _>>()?;
    let found: Vec<Found> = messages.iter().map(|m| Found { offset: m.offset, size: m.size() }).collect();
    let plan = purge_plan(&records, &found)
        .map_err(|e| Error::new(Class::Temporary, format!("{}: {e}; nothing was changed in it", path.display())))?;
    if plan.drop.is_empty() {
        return Ok(());
    }
    let gone: BTreeSet<u32> = plan.drop.iter().map(|l| l.place.offset).collect();
    let is_gone = |m: &Message| u32::try_from(m.offset).is_ok_and(|o| gone.contains(&o));
    let (drop, keep): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_gone);

    let outputs = copy_survivors(storage, &source, &plan, &keep)?;
    if !switch(storage, id, &plan, outputs)? {
        return Ok(());
    }
    fs::unlink(&source.path)?;
    if storage.settings.index.fsync != Fsync::Never
        && let Some(dir) = source.path.parent()
    {
        fs::fsync_dir(dir)?;
    }
    remove_attachments(storage, &source.file, &drop)
}

/// P10.
fn remove_attachments(storage: &Storage, file: &DboxFile, messages: &[Message]) -> Result<()> {
    for message in messages {
        if let Some((attachments, parts)) = storage.rules.attachments(file, message)? {
            attachments.delete(&parts, None)?;
        }
    }
    Ok(())
}

/// The records without references of a file that is nowhere (P1).
fn drop_records_of_missing(storage: &mut Storage, id: u32) -> Result<()> {
    if let Some(e) = storage.files.unmounted_alt() {
        return Err(e);
    }
    let mut locked = storage.map.lock()?;
    let (gone, lost): (Vec<_>, Vec<_>) = locked.records_of(id).into_iter().partition(|r| r.refs == 0);
    // Somebody may have purged it between our look and the lock.
    if !gone.is_empty() && !storage.files.paths(id).any(|p| p.exists()) {
        locked.switch(&Switch { moved: &[], gone: &gone.iter().map(|r| r.uid).collect::<Vec<_>>() })?;
    }
    match lost.first() {
        Some(r) if !storage.files.paths(id).any(|p| p.exists()) => Err(Error::new(
            Class::Temporary,
            format!("{} is lost, map uid {} was in it", storage.files.path(id).display(), r.uid),
        )),
        _ => Ok(()),
    }
}

/// A file with survivors, and what is in it.
struct Output {
    temp: Temp,
    moved: Vec<(u32, u32, u32)>,
}

/// P4 and P5.
fn copy_survivors(storage: &Storage, source: &Source, plan: &PurgePlan, keep: &[Message]) -> Result<Vec<Output>> {
    let dir = source.path.parent().unwrap_or(storage.files.storage());
    let sizes: Vec<u64> = plan.keep.iter().map(|(_, size)| *size).collect();
    let mut outputs = Vec::new();
    for range in split_by_size(&sizes, 32, storage.settings.mdbox_rotate_size) {
        let mut writer = Writer::create(dir, &storage.modes)?;
        let mut moved = Vec::with_capacity(range.len());
        for ((listed, _), message) in plan.keep[range.clone()].iter().zip(&keep[range]) {
            let written = writer.append_stored(&source.file, message, &message.metadata)?;
            let place = (u32::try_from(written.offset), u32::try_from(written.size));
            let (Ok(offset), Ok(size)) = place else {
                return Err(Error::new(Class::Limit, format!("{}: a mail of 4 GiB cannot be moved", source.path.display())));
            };
            moved.push((listed.uid, offset, size));
        }
        if storage.settings.index.fsync == Fsync::Never {
            writer.flush()?;
        } else {
            writer.sync()?;
        }
        outputs.push(Output { temp: writer.close(), moved });
    }
    Ok(outputs)
}

/// P6 to P8. `false`: somebody has changed the file's records meanwhile, nothing was done.
fn switch(storage: &mut Storage, id: u32, plan: &PurgePlan, mut outputs: Vec<Output>) -> Result<bool> {
    let mut locked = storage.map.lock()?;
    if !still_as_planned(&locked, id, plan) {
        return Ok(false);
    }
    let mut moved = Vec::with_capacity(plan.keep.len());
    if !outputs.is_empty() {
        let count = u32::try_from(outputs.len()).map_err(|e| Error::new(Class::Limit, e))?;
        let first = locked.reserve(&storage.files, count)?;
        let mut dirs = BTreeSet::new();
        for (file_id, output) in (first..).zip(&mut outputs) {
            let dir = output.temp.path().parent().unwrap_or(Path::new(".")).to_owned();
            output.temp.publish(&dir.join(format!("m.{file_id}")))?;
            moved.extend(output.moved.iter().map(|&(uid, offset, size)| (uid, MapRecord { file_id, offset, size })));
            dirs.insert(dir);
        }
        if storage.settings.index.fsync != Fsync::Never {
            for dir in dirs {
                fs::fsync_dir(&dir)?;
            }
        }
    }
    moved.sort_unstable_by_key(|(uid, _)| *uid);
    let mut gone: Vec<u32> = plan.drop.iter().map(|l| l.uid).collect();
    gone.sort_unstable();
    locked.switch(&Switch { moved: &moved, gone: &gone })?;
    Ok(true)
}

fn still_as_planned(locked: &Locked<'_>, id: u32, plan: &PurgePlan) -> bool {
    let mut now = locked.records_of(id);
    let mut then: Vec<Listed> = plan.keep.iter().map(|(l, _)| *l).chain(plan.drop.iter().copied()).collect();
    now.sort_unstable_by_key(|l| l.uid);
    then.sort_unstable_by_key(|l| l.uid);
    let dropped: BTreeSet<u32> = plan.drop.iter().map(|l| l.uid).collect();
    now.len() == then.len()
        && now.iter().zip(&then).all(|(n, t)| (n.uid, n.place) == (t.uid, t.place) && (n.refs == 0 || !dropped.contains(&n.uid)))
}
