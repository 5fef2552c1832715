//! Saving into mdbox (dbox.md 3.8, the hardened order). A kill after a step leaves:
//!
//! ```text
//! H1 texts in .temp.* files, each synced              temp files that Dovecot removes by itself
//! H3 map locked                                       the same
//! H4 file ids reserved: one write                     the same, and ids that are never given out again
//! H5 files renamed to m.N, directory synced           m.N without map records
//! H6 mailbox locked, UIDs chosen                      the same
//! H7 map records and references: one write, synced    references too high, and the tail behind: recovery counts anew
//! H8 mailbox records, synced; mailbox unlocked        the mails; the tail behind: recovery finds nothing to do
//! H9 references lowered, tail; map unlocked           the mails
//! ```
//!
//! A reference is counted before a mailbox shows it and uncounted after it has gone, so no kill leaves a count too low.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use super::files::Files;
use super::mailbox::{MdboxMailbox, check_writable, vsize_highest_uid, vsize_lock};
use super::map::{Locked as LockedMap, RefChanges};
use super::record::{GUID, MDBOX, MailRecord, MapRecord};
use super::save::{Staged, Text};
use super::storage::Storage;
use super::view;
use crate::index::{self, Bits, Durability, ExtSpec, State, Transaction};
use crate::mail::{Class, Committed, Error, Guid128, NewMail, Result, Saved, Timestamp, Uid};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::dbox::{IndexHeader, Pop3, Temp};

const MDBOX_EXT: ExtSpec = ExtSpec::new(MDBOX, 0, 8, 4);
const GUID_EXT: ExtSpec = ExtSpec::new(GUID, 0, 16, 1);
/// The header extension of a mailbox.
pub(super) const MDBOX_HDR_EXT: ExtSpec = ExtSpec::header(IndexHeader::MDBOX, 24);
/// Where in it the flags are.
const FLAGS_AT: u32 = 20;

/// Files that have got their names. Unless they are kept they go with this value.
pub(super) struct Published {
    ids: HashMap<usize, u32>,
    paths: Vec<PathBuf>,
}

impl Published {
    /// The map has them now.
    pub fn keep(&mut self) {
        self.paths.clear();
    }

    /// Where a text lies; `None` for a reference.
    pub fn place(&self, text: &Text) -> Option<MapRecord> {
        match *text {
            Text::New { file, offset, size } => Some(MapRecord { file_id: *self.ids.get(&file)?, offset, size }),
            Text::Reference(_) => None,
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(e) = fs::unlink_if_there(path) {
                tracing::warn!("{e}");
            }
        }
    }
}

/// H4 and H5.
pub(super) fn publish(map: &mut LockedMap<'_>, files: &Files, temps: HashMap<usize, Temp>, fsync: Fsync) -> Result<Published> {
    let mut published = Published { ids: HashMap::new(), paths: Vec::new() };
    if temps.is_empty() {
        return Ok(published);
    }
    let count = u32::try_from(temps.len()).map_err(|e| Error::new(Class::Limit, e))?;
    let first = map.reserve(files, count)?;
    let mut temps: Vec<_> = temps.into_iter().collect();
    temps.sort_unstable_by_key(|(at, _)| *at);
    let mut dirs = BTreeSet::new();
    for (id, (at, mut temp)) in (first..).zip(temps) {
        // In the primary or in the alternative storage, as it was begun.
        let path = temp.path().with_file_name(Files::name(id));
        dirs.extend(path.parent().map(ToOwned::to_owned));
        temp.publish(&path)?;
        published.paths.push(path);
        published.ids.insert(at, id);
    }
    if fsync != Fsync::Never {
        dirs.iter().try_for_each(|dir| fs::fsync_dir(dir))?;
    }
    Ok(published)
}

/// References of a mailbox that change, summed up by mail.
#[derive(Debug, Default, Clone)]
pub(super) struct Sums(BTreeMap<u32, i32>);

impl Sums {
    /// Adds to the references of a mail.
    pub fn add(&mut self, map_uid: u32, by: i32) {
        *self.0.entry(map_uid).or_default() += by;
    }

    /// Those that rise: to be written before the mailbox.
    pub fn rising(&self) -> RefChanges {
        self.0.iter().filter(|(_, by)| **by > 0).map(|(&uid, &by)| (uid, by)).collect()
    }

    /// What is still to be done after these changes were made.
    pub fn after(mut self, made: &RefChanges) -> Self {
        for &(uid, by) in made {
            self.add(uid, -by);
        }
        self.0.retain(|_, by| *by != 0);
        self
    }

    /// As pairs.
    pub fn changes(&self) -> impl Iterator<Item = (u32, i32)> {
        self.0.iter().map(|(&uid, &by)| (uid, by))
    }
}

/// A mail that is about to appear in a mailbox.
#[derive(Debug)]
pub(super) struct Arrival<'s> {
    pub mail: &'s NewMail,
    pub uid: Uid,
    pub map_uid: u32,
    /// Position in staging order.
    staged: usize,
    is_new: bool,
    /// The mail that goes with it: UID, map uid, GUID.
    gone: Option<(Uid, u32, Guid128)>,
}

/// A new map record with its references.
pub(super) type NewPlace = (MapRecord, u16);

/// Chooses UIDs and map uids, and orders the mails by UID.
fn arrivals<'s>(
    state: &State,
    staged: &'s [Staged],
    published: &Published,
    first_map_uid: u32,
) -> Result<(Vec<Arrival<'s>>, Vec<NewPlace>)> {
    let wanted: Vec<Uid> = staged.iter().map(|s| s.mail.uid).collect();
    let full = || Error::new(Class::Limit, "the mailbox has no UIDs left");
    let uids = index::assign_uids(state.next_uid(), &wanted).ok_or_else(full)?;
    let mut order: Vec<usize> = (0..staged.len()).collect();
    order.sort_unstable_by_key(|&i| uids[i]);

    let mut places = Vec::new();
    let mut arrivals = Vec::with_capacity(staged.len());
    for i in order {
        let s = &staged[i];
        // Who expunges the original at this moment, or moves it to another mailbox, was faster: it must not come back.
        if s.original.is_some_and(|uid| !state.keeps(uid)) {
            continue;
        }
        let map_uid = match (s.text, published.place(&s.text)) {
            (Text::Reference(map_uid), _) => map_uid,
            (Text::New { .. }, Some(place)) => {
                let n = u32::try_from(places.len()).map_err(|_| full())?;
                places.push((place, 1));
                first_map_uid.checked_add(n).ok_or_else(full)?
            }
            (Text::New { .. }, None) => return Err(Error::new(Class::Temporary, "a staged mail has lost its file")),
        };
        let gone = s.original.and_then(|uid| {
            let reference = view::reference(state, state.row(uid)?);
            Some((uid, reference.record?.map_uid, reference.guid))
        });
        let uid = uids[i];
        let is_new = s.text.file().is_some();
        arrivals.push(Arrival { mail: &s.mail, uid, map_uid, staged: i, is_new, gone });
    }
    Ok((arrivals, places))
}

/// How the references change if these mails appear.
fn sums(arrivals: &[Arrival<'_>]) -> Sums {
    let mut sums = Sums::default();
    for a in arrivals {
        sums.add(a.map_uid, 1);
        if let Some((_, map_uid, _)) = a.gone {
            sums.add(map_uid, -1);
        }
    }
    sums
}

/// References of a transaction whose mails have vanished from the map meanwhile, or are full.
fn refuse_lost_references(map: &LockedMap<'_>, staged: &[Staged]) -> Result<()> {
    let mut wanted = Sums::default();
    for s in staged {
        if let Text::Reference(map_uid) = s.text {
            wanted.add(map_uid, 1);
        }
    }
    for (map_uid, count) in wanted.changes() {
        if !map.can_refer(map_uid, count.unsigned_abs()) {
            // Somebody was at work here, and nothing is wrong; unless it is full.
            let (class, why) = match map.lookup(map_uid) {
                Some(_) => (Class::Temporary, "has too many references"),
                None => (Class::Expunged, "was purged"),
            };
            return Err(Error::new(class, format!("map uid {map_uid} {why} meanwhile; the next run saves it anew")));
        }
    }
    Ok(())
}

impl MdboxMailbox {
    /// H1 to H9.
    pub(super) fn commit_staged(&mut self, seen: Uid) -> Result<Committed> {
        let mut staging = std::mem::take(&mut self.staging);
        if staging.mails.is_empty() {
            return Ok(Committed::default());
        }
        let opened = self.identity();
        let mut held = self.storage.get();
        let storage = &mut *held;
        staging.complete(storage.settings.index.fsync)?;
        let used = staging.mails.iter().filter_map(|m| m.text.file()).collect();
        let temps = staging.keep_files(&used);

        let Storage { map, files, settings, .. } = &mut *storage;
        let mut map = map.lock()?;
        refuse_lost_references(&map, &staging.mails)?;
        let mut published = publish(&mut map, files, temps, settings.index.fsync)?;
        let moves = staging.mails.iter().any(|m| m.original.is_some());
        let vsize = if moves { vsize_lock(self.index.state(), &self.place, settings) } else { None };
        let mut locked = self.index.lock()?;
        check_writable(locked.state(), opened, &map, &self.place)?;

        let others = locked.hold_back_others(seen)?;
        let (arrivals, places) = arrivals(locked.state(), &staging.mails, &published, map.next_uid())?;
        let mut made: RefChanges = sums(&arrivals).rising().into_iter().filter(|(uid, _)| *uid < map.next_uid()).collect();
        if !places.is_empty() || !made.is_empty() {
            let first = map.add(&places, &made)?;
            published.keep();
            made.extend((first..).zip(&places).map(|(uid, _)| (uid, 1)));
        }
        let (done, result) = write(&mut locked, &arrivals);
        if result.is_ok()
            && let Err(e) = locked.maintain()
        {
            tracing::warn!("{e}");
        }
        drop(locked);
        drop(vsize);
        let rest = sums(&arrivals[..done]).after(&made);
        let rest = map.possible(rest.changes());
        let finished = map.finish(&rest);
        map.maintain();
        drop(map);
        result?;
        finished?;

        for a in arrivals.iter().filter(|a| a.is_new) {
            storage.remember(a.mail.guid.to_128(), a.map_uid);
        }
        let mut saved: Vec<_> = arrivals.iter().map(|a| (a.staged, Saved { wanted: a.mail.uid, got: a.uid })).collect();
        saved.sort_unstable_by_key(|(at, _)| *at);
        Ok(Committed { saved: saved.into_iter().map(|(_, s)| s).collect(), others })
    }
}

/// H8: the mailbox's records. Says how many of the mails got into the index.
fn write(locked: &mut index::Locked<'_>, arrivals: &[Arrival<'_>]) -> (usize, Result<()>) {
    let mut done = 0;
    let result = (|| {
        if !locked.state().keeps_modseqs() {
            let mut t = Transaction::new(Bits::INTERNAL);
            t.keep_modseqs();
            locked.commit(&t, Durability::Later)?;
        }
        let mut t = Transaction::new(Bits::EXTERNAL_SYNC);
        raise_pop3(&mut t, locked.state(), arrivals)?;
        let vsize = vsize_highest_uid(locked.state());
        let mut vsize_reset = false;
        for (i, a) in arrivals.iter().enumerate() {
            append(&mut t, a.mail, a.uid, a.map_uid);
            if let Some((uid, _, guid)) = a.gone {
                t.expunge(uid, guid);
                if uid.get() <= vsize && !std::mem::replace(&mut vsize_reset, true) {
                    t.ext_header(ExtSpec::HDR_VSIZE, 0, &[0; 16]);
                }
            }
            if t.size_hint() >= Transaction::ADVISED_SIZE || i + 1 == arrivals.len() {
                let last = i + 1 == arrivals.len();
                locked.commit(&t, if last { Durability::Mail } else { Durability::Later })?;
                done = i + 1;
                t = Transaction::new(Bits::EXTERNAL_SYNC);
            }
        }
        Ok(())
    })();
    (done, result)
}

/// The records of one new mail.
pub(super) fn append(t: &mut Transaction, mail: &NewMail, uid: Uid, map_uid: u32) {
    let saved = if mail.saved.0 == 0 { Timestamp::now() } else { mail.saved };
    t.save(uid, mail, 0);
    t.ext_record(MDBOX_EXT, uid, &MailRecord { map_uid, saved }.to_bytes());
    t.ext_record(GUID_EXT, uid, &mail.guid.to_128().0);
}

/// What the headers must say so that the POP3 values of these mails show (dbox.md 2.3).
fn raise_pop3(t: &mut Transaction, state: &State, arrivals: &[Arrival<'_>]) -> Result<()> {
    let header = view::header(state).map_err(|e| Error::new(Class::Temporary, e))?;
    let before = view::pop3(state, &header);
    let after = pop3_after(before, arrivals.iter().map(|a| (a.mail, a.uid)));
    if after.flags != before.flags {
        t.ext_header(MDBOX_HDR_EXT, FLAGS_AT, &[after.flags]);
    }
    if let Some(max) = after.max_uid.filter(|_| after.max_uid != before.max_uid) {
        t.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &max.to_le_bytes());
    }
    Ok(())
}

/// The rules of [`Pop3`] after these mails were saved.
pub(super) fn pop3_after<'m>(before: Pop3, mails: impl Iterator<Item = (&'m NewMail, Uid)>) -> Pop3 {
    mails.fold(before, |pop3, (mail, uid)| {
        let has_uidl = mail.pop3_uidl.as_deref().is_some_and(|u| !u.is_empty());
        pop3.after_save(uid, has_uidl, mail.pop3_order)
    })
}
