//! The map index (dbox.md 3.2, 3.3): where each mail of the storage lies, and how many mailboxes have it.
//!
//! Whoever changes the map holds its log's lock until the *tail* stands behind all that was written. A tail that is behind
//! tells the next one that a writer died in between; `recover` then counts the references anew. All records but the last
//! one of a commit are therefore internal ones, which do not move the tail by themselves.

use std::path::{Path, PathBuf};

use super::files::{Files, Location};
use super::plan::Listed;
use super::record::{MAP, MAX_REFS, MapRecord, REF, refs, u32_at};
use crate::index::{self, Bits, Created, Durability, ExtSpec, Field, Index, Options, State, Transaction};
use crate::mail::{Class, Error, Result, Timestamp, Uid, UidValidity};
use crate::os::Fsync;
use crate::os::fs::{self, Modes};

const MAP_EXT: ExtSpec = ExtSpec::new(MAP, 8, 12, 4);
const REF_EXT: ExtSpec = ExtSpec::new(REF, 0, 2, 2);

/// What is said of a storage that only Dovecot can repair (dbox.md 6.4).
pub(super) const CURE: &str = "the storage needs `doveadm force-resync`";

/// The map of a storage; open since somebody first asked for it.
#[derive(Debug)]
pub(super) struct Map {
    files: index::Files,
    options: Options,
    index: Option<Index>,
    rebuilds: u32,
}

impl Map {
    pub fn new(location: &Location, settings: &index::Settings, modes: Modes) -> Self {
        let files = index::Files::new(location.index_root.join("storage"), index::Files::MAP);
        Self { files, options: Options::new(settings.clone(), modes), index: None, rebuilds: 0 }
    }

    /// Modes of new files, once the mail root is there.
    pub fn set_modes(&mut self, modes: Modes) {
        self.options.modes = modes;
    }

    /// The map's log, for messages.
    pub fn path(&self) -> PathBuf {
        self.files.log()
    }

    /// Where the map's files are.
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    /// Opens the map, or takes in what others have written to it. `false`: there is none.
    pub fn refresh(&mut self) -> Result<bool> {
        if let Some(index) = &mut self.index {
            index.refresh()?;
            return Ok(true);
        }
        match Index::open(self.files.clone(), self.options.clone()) {
            Ok(index) => {
                self.index = Some(index);
                Ok(true)
            }
            Err(e) if e.is_missing() => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes an empty map where there is none. The directory must be there, and no mail in it.
    pub fn create(&mut self) -> Result<()> {
        if self.refresh()? {
            return Ok(());
        }
        let mut first = Transaction::new(Bits::EXTERNAL);
        let now = UidValidity::new(Timestamp::now().0).ok_or_else(|| Error::new(Class::Temporary, "the clock is at 0"))?;
        first.uid_validity(now);
        first.header(Field::LOG2_ROTATE_TIME, &u32::MAX.to_le_bytes());
        first.storage_is_synced();
        let created = Index::create(self.files.clone(), self.options.clone(), &[first])?;
        if self.options.settings.fsync != Fsync::Never {
            let dir = self.files.dir();
            fs::fsync_dir(dir)?;
            dir.parent().map_or(Ok(()), fs::fsync_dir)?;
        }
        self.index = Some(match created {
            Created::New(index) | Created::Found(index) => index,
        });
        Ok(())
    }

    /// UIDVALIDITY of the map, which the mailboxes remember. 0 without a map.
    pub fn uid_validity(&self) -> u32 {
        self.state().and_then(State::uid_validity).map_or(0, UidValidity::get)
    }

    /// An earlier writer died in the middle.
    pub fn is_behind(&self) -> bool {
        self.state().is_some_and(|s| !s.is_synced())
    }

    /// See [`Index::cut_off_rest`].
    pub fn cut_off_rest(&mut self) -> Result<()> {
        Ok(self.index.as_mut().map_or(Ok(()), Index::cut_off_rest)?)
    }

    /// Dovecot has rebuilt the storage since the last call: files may have been rewritten under their names.
    pub fn was_rebuilt(&mut self) -> bool {
        let now = self.state().and_then(|s| u32_at(s.ext_header(s.ext(MAP)?), 4)).unwrap_or(0);
        std::mem::replace(&mut self.rebuilds, now) != now
    }

    /// See [`Index::expect`].
    pub fn expect(&mut self, mails: usize) {
        if let Some(index) = &mut self.index {
            index.expect(mails);
        }
    }

    /// See [`Index::settle`].
    pub fn settle(&mut self) -> Result<()> {
        self.index.as_mut().map_or(Ok(()), |index| Ok(index.settle()?))
    }

    fn state(&self) -> Option<&State> {
        self.index.as_ref().map(Index::state)
    }

    /// The record of a map uid, as of the last refresh.
    pub fn lookup(&self, map_uid: u32) -> Option<Listed> {
        lookup(self.state()?, map_uid)
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = Listed> {
        self.state().into_iter().flat_map(records)
    }

    /// The records of one file, in its order.
    pub fn records_of(&self, file_id: u32) -> Vec<Listed> {
        self.state().map(|s| records_of(s, file_id)).unwrap_or_default()
    }

    /// Locks the map for a change. Dropping the lock without [`Locked::finish`] leaves the tail where it is.
    ///
    /// # Errors
    /// The lock, and a map that may not be written to: an earlier writer died in the middle, or Dovecot wants a rebuild.
    pub fn lock(&mut self) -> Result<Locked<'_>> {
        let path = self.files.log();
        let locked = self.lock_to_mend()?;
        if !locked.inner.state().is_synced() {
            let text = "another program was stopped while it changed the map; the next run, or Dovecot, completes its work";
            return Err(Error::new(Class::Temporary, format!("{}: {text}", path.display())));
        }
        Ok(locked)
    }

    /// As [`Map::lock`], whatever an earlier writer left.
    pub fn lock_to_mend(&mut self) -> Result<Locked<'_>> {
        let path = self.files.log();
        let Some(index) = &mut self.index else {
            return Err(Error::new(Class::Temporary, format!("{} is not there; {CURE}", path.display())));
        };
        let inner = index.lock()?;
        if inner.state().fsckd() {
            return Err(Error::new(Class::Temporary, format!("{}: Dovecot has found damage; {CURE}", path.display())));
        }
        Ok(Locked { inner })
    }
}

fn map_uid(state: &State, row: usize) -> u32 {
    state.uid(row).get()
}

fn listed(state: &State, row: usize) -> Option<Listed> {
    let place = MapRecord::parse(state.ext_record(state.ext(MAP)?, row))?;
    let refs = state.ext(REF).and_then(|ext| refs(state.ext_record(ext, row))).unwrap_or(0);
    Some(Listed { uid: map_uid(state, row), place, refs })
}

fn lookup(state: &State, map_uid: u32) -> Option<Listed> {
    listed(state, state.row(Uid::new(map_uid)?)?)
}

fn records(state: &State) -> impl Iterator<Item = Listed> {
    (0..state.len()).filter_map(|row| listed(state, row))
}

fn records_of(state: &State, file_id: u32) -> Vec<Listed> {
    let mut of: Vec<_> = records(state).filter(|r| r.place.file_id == file_id).collect();
    of.sort_unstable_by_key(|r| (r.place.offset, r.uid));
    of
}

/// How reference counts change.
pub(super) type RefChanges = Vec<(u32, i32)>;

/// What purge does to the map in one step.
#[derive(Debug)]
pub(super) struct Switch<'a> {
    /// Mails that lie elsewhere now.
    pub moved: &'a [(u32, MapRecord)],
    /// Mails that are no more.
    pub gone: &'a [u32],
}

/// The map, locked.
#[derive(Debug)]
#[must_use = "the lock is gone when this value is dropped"]
pub(super) struct Locked<'m> {
    inner: index::Locked<'m>,
}

impl Locked<'_> {
    pub fn uid_validity(&self) -> u32 {
        self.inner.state().uid_validity().map_or(0, UidValidity::get)
    }

    /// The map uid that the next new record gets.
    pub fn next_uid(&self) -> u32 {
        self.inner.state().next_uid().get()
    }

    pub fn is_behind(&self) -> bool {
        !self.inner.state().is_synced()
    }

    pub fn lookup(&self, map_uid: u32) -> Option<Listed> {
        lookup(self.inner.state(), map_uid)
    }

    pub fn records(&self) -> impl Iterator<Item = Listed> {
        records(self.inner.state())
    }

    pub fn records_of(&self, file_id: u32) -> Vec<Listed> {
        records_of(self.inner.state(), file_id)
    }

    /// Whether so many further references can be counted.
    pub fn can_refer(&self, map_uid: u32, more: u32) -> bool {
        self.lookup(map_uid).is_some_and(|l| u32::from(l.refs).saturating_add(more) < u32::from(MAX_REFS))
    }

    /// Takes so many new file ids and gives the first one: they are never given out again, whatever happens to us.
    pub fn reserve(&mut self, files: &Files, count: u32) -> Result<u32> {
        let state = self.inner.state();
        let highest = state.ext(MAP).and_then(|ext| u32_at(state.ext_header(ext), 0)).unwrap_or(0);
        let mut first = highest.checked_add(1);
        let taken = |first: u32| (first..first.saturating_add(count)).any(|id| files.paths(id).any(|p| p.exists()));
        if first.is_some_and(taken) {
            // A writer died between giving a file its name and telling the map (Dovecot's order, dbox.md 3.7).
            first = files.highest_id()?.max(highest).checked_add(1);
        }
        let last = first.and_then(|f| f.checked_add(count.checked_sub(1)?));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(Error::new(Class::Limit, format!("{}: no file ids are left", files.storage().display())));
        };
        let mut t = Transaction::new(Bits::EXTERNAL);
        t.ext_header(MAP_EXT, 0, &last.to_le_bytes());
        t.storage_is_synced();
        // On the disk with the records of the mails at the latest. If the power fails before, a file has a name that the map does
        // not know, as when a writer died.
        self.inner.commit(&t, Durability::Later)?;
        Ok(first)
    }

    /// Adds records with so many references, and changes the references of others, all in one write. Gives the first new
    /// map uid; the others follow it. The tail stays behind.
    pub fn add(&mut self, places: &[(MapRecord, u16)], changes: &RefChanges) -> Result<u32> {
        let first = self.inner.state().next_uid().get();
        let full = || Error::new(Class::Limit, "the map has no uids left");
        let mut t = Transaction::new(Bits::INTERNAL);
        for (n, (place, refs)) in (0u32..).zip(places) {
            let uid = first.checked_add(n).filter(|&n| n < u32::MAX).and_then(Uid::new).ok_or_else(full)?;
            t.append(uid, 0);
            t.ext_record(MAP_EXT, uid, &place.to_bytes());
            t.ext_record(REF_EXT, uid, &refs.to_le_bytes());
        }
        for &(uid, by) in changes {
            if let Some(uid) = Uid::new(uid) {
                t.ext_increment(REF_EXT, uid, by);
            }
        }
        self.inner.commit(&t, Durability::Mail)?;
        Ok(first)
    }

    fn next_if_large(t: &mut Transaction, all: &mut Vec<Transaction>) {
        if t.size_hint() >= Transaction::ADVISED_SIZE {
            all.push(std::mem::replace(t, Transaction::new(Bits::INTERNAL)));
        }
    }

    /// Before a power failure this need not be on the disk: then counts are too high, as with Dovecot, and the tail is lost with
    /// what stands before it.
    fn change(&mut self, changes: &RefChanges, finish: bool) -> Result<()> {
        let mut all = Vec::new();
        let mut t = Transaction::new(Bits::INTERNAL);
        for &(uid, by) in changes {
            if let Some(uid) = Uid::new(uid) {
                t.ext_increment(REF_EXT, uid, by);
                Self::next_if_large(&mut t, &mut all);
            }
        }
        if finish {
            t.storage_is_synced();
        }
        all.push(t);
        self.inner.commit_all(&all, Durability::Lazy)?;
        Ok(())
    }

    /// Lowers references (or nothing) and moves the tail behind all that was written.
    pub fn finish(&mut self, changes: &RefChanges) -> Result<()> {
        self.change(changes, true)
    }

    /// Lowers references. The tail stays behind.
    pub fn lower(&mut self, changes: &RefChanges) -> Result<()> {
        self.change(changes, false)
    }

    /// Makes the tail stand behind without changing anything, so that whoever comes after a crash counts anew.
    pub fn mark(&mut self, map_uid: u32) -> Result<()> {
        self.change(&vec![(map_uid, 0)], false)
    }

    /// Makes the numbers fit the changes: a reference count cannot fall below 0, and what is gone is not counted.
    pub fn possible(&self, changes: impl IntoIterator<Item = (u32, i32)>) -> RefChanges {
        let possible = |(uid, by): (u32, i32)| {
            let refs = i32::from(self.lookup(uid)?.refs);
            if by < -refs {
                tracing::warn!("map uid {uid}: refcount too low ({refs}{by:+}); {CURE}");
            }
            Some((uid, by.max(-refs))).filter(|(_, by)| *by != 0)
        };
        changes.into_iter().filter_map(possible).collect()
    }

    /// Sets reference counts and the tail (dbox.md 6.1, step 4).
    pub fn mend(&mut self, corrections: &[(u32, u16)]) -> Result<()> {
        let mut all = Vec::new();
        let mut t = Transaction::new(Bits::INTERNAL);
        for &(uid, refs) in corrections {
            if let Some(uid) = Uid::new(uid) {
                t.ext_record(REF_EXT, uid, &refs.to_le_bytes());
                Self::next_if_large(&mut t, &mut all);
            }
        }
        t.storage_is_synced();
        all.push(t);
        self.inner.commit_all(&all, Durability::Mail)?;
        Ok(())
    }

    /// Carries out what a purge has prepared, in one write (dbox.md 7, P8).
    pub fn switch(&mut self, switch: &Switch<'_>) -> Result<()> {
        let mut t = Transaction::new(Bits::EXTERNAL);
        for (uid, place) in switch.moved {
            if let Some(uid) = Uid::new(*uid) {
                t.ext_record(MAP_EXT, uid, &place.to_bytes());
            }
        }
        for uid in switch.gone.iter().copied().filter_map(Uid::new) {
            t.expunge(uid, crate::mail::Guid128::ZERO);
        }
        t.storage_is_synced();
        self.inner.commit(&t, Durability::Mail)?;
        Ok(())
    }

    /// Keeps the map's files small. A failure changes nothing.
    pub fn maintain(&mut self) {
        if let Err(e) = self.inner.maintain() {
            tracing::warn!("{e}");
        }
    }
}
