//! Bringing uidlist and index up to date with the files (maildir.md 7).
//!
//! Order of writes, all under the uidlist lock. A kill after a step leaves:
//!   1 `dovecot-keywords` with names for unknown letters   entries without use
//!   2 `dovecot-uidlist` with the new files                UIDs that the index does not know yet: the next sync adds them
//!   3 files renamed and removed as the log requests       requests that the next sync finds carried out
//!   4 one or more index transactions, the last one with the `maildir` header and the tail     all of it
//!
//! Nothing is written, and no lock is taken, where the `maildir` header shows that nothing has changed.

use std::time::SystemTime;

use super::core::{Core, ROUNDS};
use super::facts::{DIRTY, file_mails, guid128, index_mails, number, push, requests};
use super::files::{Change, Outcome};
use super::header::{self, ScanHeader, Verdict};
use super::merge::{self, Requests, Step};
use super::record::Batch;
use super::scan::{self, DirTime, Scan};
use super::uidlist::{Header, Taken, Uidlist, UidlistLock};
use crate::index::{Bits, DeletedMark, Durability, ExtSpec, Index, Locked, State, Transaction};
use crate::mail::{Class, Error, MailboxGuid, Result, Uid};

/// The extension of the index header that tells what the last scan saw.
pub(super) const MAILDIR: ExtSpec = ExtSpec::header("maildir", 36);

/// What the last scan saw.
pub(super) fn scanned(state: &State) -> Option<ScanHeader> {
    ScanHeader::parse(state.ext_header(state.ext(MAILDIR.name)?))
}

/// A confirming scan of so many files is worth a write that saves the next one.
const EXPENSIVE: usize = 4096;

/// What a round of the sync came to.
enum Round {
    Done,
    /// Files changed while we looked, or because of what we did.
    Again,
}

impl Core {
    /// Brings everything up to date: by a look at three times and the index's log if nothing has changed.
    ///
    /// # Errors
    /// Damage, locks, I/O. A Maildir that cannot be written is none: then its view lives in memory.
    pub fn sync(&mut self) -> Result<()> {
        self.frozen = None;
        match self.compare()? {
            Verdict::Same => return Ok(()),
            Verdict::Uncertain if self.confirm()? => return Ok(()),
            Verdict::Uncertain | Verdict::Changed => {}
        }
        let locked = self.ensure_dirs().and_then(|()| self.uidlist.lock()).and_then(|mut lock| self.sync_locked(&mut lock));
        match locked {
            Err(e) if e.class() == Class::Permission => self.freeze(&e),
            other => other,
        }
    }

    /// Whether anything has changed since the last scan that the index knows of.
    fn compare(&mut self) -> Result<Verdict> {
        let Some(index) = &mut self.index else { return Ok(Verdict::Changed) };
        index.refresh()?;
        index.cut_off_rest()?;
        let state = index.state();
        if state.deleted() != DeletedMark::None {
            return Err(Error::new(Class::NotFound, format!("{}: Mailbox was deleted under us", self.place.index.display())));
        }
        let Some(scanned) = scanned(state) else { return Ok(Verdict::Changed) };
        let waiting = !state.pending().is_empty() || (0..state.len()).any(|row| state.raw_flags(row) & DIRTY != 0);
        if waiting || !state.keeps_modseqs() {
            return Ok(Verdict::Changed);
        }
        // The GUIDs are in it: whoever opens a Maildir needs all of it.
        if !self.uidlist.refresh()? {
            return Ok(Verdict::Changed);
        }
        let Some(stamp) = self.uidlist.known_stamp() else { return Ok(Verdict::Changed) };
        let Some((header, next)) = self.uidlist.header()?.filter(|(h, _)| h.guid.is_some()) else { return Ok(Verdict::Changed) };
        if Some(header.uidvalidity) != state.uid_validity() {
            return Ok(Verdict::Changed);
        }
        // Dovecot writes the `maildir` header, with the stamps of files and uidlist that have a new mail, one transaction before the
        // mail itself: what has a UID and is not seen would count as expunged.
        if next > state.next_uid().get() {
            return Ok(Verdict::Changed);
        }
        // A Dovecot that found no uidlist writes an empty one first, and knows the old mails until it scans again.
        let shortest = format!("3 V{} N1 G{:32}\n", header.uidvalidity, "").len() + state.len() * "1 :x\n".len();
        if stamp.size < shortest as u64 {
            return Ok(Verdict::Changed);
        }
        let Ok((new, cur)) = scan::times(self.mailbox()) else { return Ok(Verdict::Changed) };
        self.table = self.keywords.read()?;
        self.places = None;
        Ok(scanned.compare(new, cur, stamp, SystemTime::now()))
    }

    /// A scan without lock that finds nothing to do.
    fn confirm(&mut self) -> Result<bool> {
        let started = wait_until_settled(self)?;
        let list = self.list()?.clone();
        let scan = scan::scan(self.mailbox(), &list)?;
        let Some(state) = self.index.as_ref().map(Index::state) else { return Ok(false) };
        let steps = self.steps(&scan, &list, state, &Requests::default());
        if !(scan.unknown.is_empty() && scan.duplicates.is_empty() && scan.nameless.is_empty() && steps.is_empty()) {
            return Ok(false);
        }
        if scan.files >= EXPENSIVE
            && let (Some(index), Some(stamp)) = (&mut self.index, self.uidlist.known_stamp())
        {
            let seen = ScanHeader::new(scan.new_time, scan.cur_time, Some(stamp), started);
            let known = index.state().position();
            let mut locked = index.lock()?;
            // What somebody else wrote meanwhile is not what we have compared.
            if locked.state().position() == known {
                let mut tx = Transaction::new(Bits::EXTERNAL);
                tx.ext_header(MAILDIR, 0, &seen.bytes());
                locked.commit(&tx, Durability::Lazy)?;
            }
        }
        self.places = Some(scan.places);
        Ok(true)
    }

    fn steps(&self, scan: &Scan, list: &Uidlist, state: &State, requests: &Requests) -> Vec<Step> {
        let rules = merge::Rules { table: &self.table, index_next: state.next_uid().get(), private_seen: self.private_seen() };
        merge::merge(index_mails(state), file_mails(scan, list), requests, rules)
    }

    /// The same under the uidlist lock, whatever the `maildir` header says.
    ///
    /// # Errors
    /// As [`Core::sync`], [`Class::Permission`] included.
    pub fn sync_locked(&mut self, lock: &mut UidlistLock) -> Result<()> {
        let mut missed = Vec::new();
        for _ in 0..ROUNDS {
            lock.touch()?;
            if let Round::Done = self.round(lock, &mut missed)? {
                return Ok(());
            }
        }
        let text = format!("{}: the files keep changing while they are looked at", self.mailbox().display());
        Err(Error::new(Class::Temporary, text))
    }

    fn round(&mut self, lock: &mut UidlistLock, missed: &mut Vec<u32>) -> Result<Round> {
        let mut taken = self.take_list()?;
        taken.list.drop_duplicates();
        let started = wait_until_settled(self)?;
        let mut scan = scan::scan(self.mailbox(), &taken.list)?;
        if self.mend(&scan)? {
            return Ok(Round::Again);
        }
        let new_from = number(&mut taken.list, &mut scan, self.mailbox())?;
        self.drop_stale_lines(&mut taken, &scan)?;

        let mut table = self.keywords.read()?;
        let before = table.clone();
        for letters in scan.places.letters() {
            table.name_unknown(letters);
        }
        self.table = table;
        if self.table != before {
            self.keywords.write(&self.table)?;
        }
        self.uidlist.write(lock, taken)?;

        self.ensure_index()?;
        let written = Written { started, new_from, new: scan.new_time, cur: scan.cur_time };
        let done = self.sync_index(lock, scan, &written, missed);
        if done.is_err() {
            // Whatever was half done is found by looking again.
            self.places = None;
        }
        done
    }

    /// The uidlist, as it is on the disk or as the first one of a mailbox without.
    fn take_list(&mut self) -> Result<Taken> {
        let state = self.index.as_ref().map(Index::state);
        let mut taken = if self.uidlist.refresh()? {
            self.uidlist.take().expect("holds because a refresh that found the file keeps its list")
        } else {
            if state.is_some_and(|s| !s.is_empty() || s.next_uid() > Uid::FIRST) {
                let text = format!(
                    "{} is missing, but the index knows mails (opening the mailbox once with Dovecot makes a new one, with new UIDs)",
                    self.uidlist.path().display()
                );
                return Err(Error::new(Class::Temporary, text));
            }
            let uidvalidity = match state.and_then(State::uid_validity) {
                Some(v) => v,
                None => (self.next_uidvalidity)(&self.place.control_root, &self.place.modes)?,
            };
            Taken::new(Uidlist::new(Header::new(uidvalidity, MailboxGuid::generate())))
        };
        let header = &mut taken.list.header;
        if header.guid.is_none() {
            header.guid = Some(MailboxGuid::generate());
        }
        if let Some(state) = state.filter(|s| s.uid_validity() == Some(header.uidvalidity)) {
            header.next = header.next.max(state.next_uid().get());
        }
        Ok(taken)
    }

    /// Lines of files that are long gone (5.3). A line that the index still needs stays.
    fn drop_stale_lines(&self, taken: &mut Taken, scan: &Scan) -> Result<()> {
        let (lines, live) = (taken.list.len(), scan.places.len());
        if lines == live || !(taken.list.needs_rewrite() || lines * 75 / 100 >= live) {
            return Ok(());
        }
        // A file can be hidden from one look by being renamed in that moment.
        let again = scan::scan(self.mailbox(), &taken.list)?;
        let there = |uid: u32| scan.places.get(uid).is_some() || again.places.get(uid).is_some();
        let state = self.index.as_ref().map(Index::state);
        let indexed = |uid: u32| Uid::new(uid).is_some_and(|uid| state.is_some_and(|s| s.row(uid).is_some()));
        taken.list.retain(|_, entry| there(entry.uid) || indexed(entry.uid));
        Ok(())
    }

    /// Makes the index if there is none.
    pub fn ensure_index(&mut self) -> Result<()> {
        if self.index.is_none() {
            let uidvalidity = self.list()?.header.uidvalidity;
            let mut tx = Transaction::new(Bits::EXTERNAL);
            tx.uid_validity(uidvalidity);
            self.index = Some(Index::create(self.index_files(), self.index_options(), &[tx])?.index());
        }
        Ok(())
    }

    fn sync_index(&mut self, lock: &mut UidlistLock, scan: Scan, written: &Written, missed: &mut Vec<u32>) -> Result<Round> {
        let mut index = self.index.take().expect("holds because ensure_index was called");
        let mut locked = match index.lock() {
            Ok(locked) => locked,
            Err(e) => {
                self.index = Some(index);
                return Err(e.into());
            }
        };
        let done = self.sync_locked_index(lock, &mut locked, scan, written, missed);
        drop(locked);
        self.index = Some(index);
        done
    }

    fn sync_locked_index(
        &mut self,
        lock: &mut UidlistLock,
        locked: &mut Locked<'_>,
        scan: Scan,
        written: &Written,
        missed: &mut Vec<u32>,
    ) -> Result<Round> {
        self.agree_on_uidvalidity(locked)?;
        if !locked.state().keeps_modseqs() {
            let mut tx = Transaction::new(Bits::INTERNAL);
            tx.keep_modseqs();
            locked.commit(&tx, Durability::Later)?;
        }
        let requests = requests(locked.state());
        let list = self.uidlist.list().expect("holds because it was just written");
        let steps = self.steps(&scan, list, locked.state(), &requests);

        // A file can be hidden from a look at the directory by being renamed in that moment. Two looks must miss it.
        let forgotten: Vec<u32> =
            steps.iter().filter_map(|s| if let Step::Forget { uid } = s { Some(*uid) } else { None }).collect();
        if !forgotten.iter().all(|uid| missed.binary_search(uid).is_ok()) {
            *missed = forgotten;
            return Ok(Round::Again);
        }
        let reappeared: Vec<u32> =
            steps.iter().filter_map(|s| if let Step::Reappeared { uid } = s { Some(*uid) } else { None }).collect();
        if !reappeared.is_empty() {
            self.renumber(lock, &reappeared, locked.state().next_uid().get())?;
            return Ok(Round::Again);
        }

        let mut places = scan.places;
        let changes = steps.iter().filter_map(|step| match step {
            Step::Rename { uid, flags, keywords, dirty } => {
                Some((*uid, Change::Flags { flags: *flags, keywords: keywords.clone(), dirty: *dirty }))
            }
            Step::Unlink { uid } => Some((*uid, Change::Unlink)),
            _ => None,
        });
        let changes: Vec<_> = changes.collect();
        let outcome = self.carry_out(&changes, &mut places, lock)?;
        let done = self.write_index(locked, &steps, &outcome, written);
        self.places = Some(places);
        done?;
        Ok(if outcome.touched { Round::Again } else { Round::Done })
    }

    /// The uidlist's UIDVALIDITY is the true one: an index with another is about other mails.
    fn agree_on_uidvalidity(&self, locked: &mut Locked<'_>) -> Result<()> {
        let list = self.uidlist.list().expect("holds because it was just written");
        let uidvalidity = list.header.uidvalidity;
        let mut tx = Transaction::new(Bits::EXTERNAL);
        tx.uid_validity(uidvalidity);
        match locked.state().uid_validity() {
            Some(v) if v == uidvalidity => {}
            None if locked.state().is_empty() => {
                locked.commit(&tx, Durability::Later)?;
            }
            other => {
                tracing::warn!(
                    "{}: UIDVALIDITY of the index ({}) is not that of the uidlist ({uidvalidity}), resetting the index",
                    self.place.index.display(),
                    other.map_or(0, |v| v.get())
                );
                locked.reset(&[tx])?;
            }
        }
        Ok(())
    }

    /// Gives new UIDs to files whose UID the index has expunged (7.3).
    fn renumber(&mut self, lock: &UidlistLock, uids: &[u32], index_next: u32) -> Result<()> {
        let mut taken = self.uidlist.take().expect("holds because it was just written");
        let list = &mut taken.list;
        list.header.next = list.header.next.max(index_next);
        for uid in uids {
            let Some((ext, base)) = list.find(*uid).map(|e| (e.ext.to_vec(), e.base.to_vec())) else { continue };
            let new = list.next_uid();
            tracing::warn!(
                "{}: Expunged message reappeared, giving a new UID ({uid} -> {new}, file {})",
                self.place.mailbox.display(),
                String::from_utf8_lossy(&base)
            );
            push(list, new, &ext, &base, &self.place.mailbox)?;
        }
        list.retain(|_, entry| uids.binary_search(&entry.uid).is_err());
        self.uidlist.write(lock, taken)
    }

    fn write_index(&self, locked: &mut Locked<'_>, steps: &[Step], outcome: &Outcome, written: &Written) -> Result<()> {
        let list = self.uidlist.list().expect("holds because it was just written");
        let mut batch = Batch::new(locked);
        let mut first_recent = 0;
        for step in steps {
            let Some(uid) = Uid::new(step.uid()) else { continue };
            match step {
                Step::Append { flags, keywords, .. } => {
                    batch.tx.append(uid, flags.bits());
                    batch.tx.keywords(uid, keywords);
                    // Mails that the uidlist had before are not \Recent (2.4).
                    if uid.get() < written.new_from {
                        first_recent = uid.next().get();
                    }
                }
                Step::Forget { .. } => batch.tx.expunge(uid, guid128(list, uid)),
                Step::Unlink { .. } if outcome.kept.contains(&uid.get()) => {}
                Step::Unlink { .. } => batch.tx.expunge(uid, guid128(list, uid)),
                Step::Adopt { add, remove, add_keywords, remove_keywords, .. } => {
                    if !(add.is_empty() && remove.is_empty()) {
                        batch.tx.flags(uid, *add, *remove);
                    }
                    batch.tx.keywords(uid, add_keywords);
                    for keyword in remove_keywords {
                        batch.tx.keyword(uid, keyword, false);
                    }
                }
                Step::Rename { dirty, .. } => match (outcome.dirty.contains(&uid.get()), *dirty) {
                    (true, false) => batch.tx.raw_flags(uid, DIRTY, 0),
                    (false, true) => batch.tx.raw_flags(uid, 0, DIRTY),
                    _ => {}
                },
                Step::Reappeared { .. } => {}
            }
            batch.spill()?;
        }
        let state = batch.locked.state();
        let appended = steps.iter().rev().find_map(|s| if let Step::Append { uid, .. } = s { Some(*uid) } else { None });
        let next = state.next_uid().get().max(appended.map_or(0, |uid| uid.saturating_add(1)));
        if let Some(uid) = Uid::new(list.next_uid()).filter(|uid| uid.get() > next) {
            batch.tx.next_uid(uid);
        }
        if let Some(uid) = Uid::new(first_recent).filter(|uid| *uid > state.first_recent()) {
            batch.tx.first_recent(uid);
        }
        if !outcome.touched {
            let seen = ScanHeader::new(written.new, written.cur, self.uidlist.known_stamp(), written.started);
            let old = scanned(state);
            if old.is_none_or(|old| !old.same_times(&seen)) || !batch.tx.is_empty() || self.worth_recording(&seen, old) {
                batch.tx.ext_header(MAILDIR, 0, &seen.bytes());
            }
        }
        if outcome.kept.is_empty() && !(batch.tx.is_empty() && state.pending().is_empty()) {
            batch.tx.storage_is_synced();
        }
        batch.finish(Durability::Lazy)?;
        locked.maintain()?;
        Ok(())
    }

    fn worth_recording(&self, seen: &ScanHeader, old: Option<ScanHeader>) -> bool {
        old != Some(*seen) && self.uidlist.list().is_some_and(|l| l.len() >= EXPENSIVE)
    }
}

/// What a scan saw, and what it led to.
struct Written {
    started: SystemTime,
    // Mails from this UID on are new to the uidlist.
    new_from: u32,
    new: DirTime,
    cur: DirTime,
}

/// Waits a moment if the directories were changed within the present tick of the clock. Returns when the scan begins.
fn wait_until_settled(core: &Core) -> Result<SystemTime> {
    let (new, cur) = scan::times(core.mailbox())?;
    let now = SystemTime::now();
    let wait = header::wait_for(new, now).max(header::wait_for(cur, now));
    if !wait.is_zero() {
        std::thread::sleep(wait);
    }
    Ok(SystemTime::now())
}
