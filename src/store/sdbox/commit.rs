//! Saving (dbox.md 2.4, hardened). A kill after a step leaves:
//!
//! ```text
//! 1 temp files written and synced            `.temp.*` files that Dovecot removes by itself
//! 2 log locked, UIDs assigned                the same
//! 3 saved dates and GUIDs into the cache     cache records that nothing refers to
//! 4 temp files renamed to u.UID              files at UIDNEXT and above that no index knows: the next save adopts them (6.2)
//! 5 directory synced                         the same
//! 6 one transaction to the log, synced       the mails; those that they replace are gone
//! 7 log unlocked, replaced files removed     nothing
//! ```
//!
//! Many mails are several transactions under one lock; each is complete by itself.
//!
//! A Dovecot that saves after a kill at 4 or 5 finds the next name taken, complains, and rebuilds the index from the files: new
//! mails are there then, and mails that were to change their UID are there under both. Its own saves have the same gap; here
//! nothing stands between 4 and 6 that could stand elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cache::{self, NewRecord};
use super::create::DBOX_HDR;
use super::edit::Victim;
use super::files::Files;
use super::mailbox::{SdboxMailbox, check_writable};
use super::stage::{Staged, same_metadata};
use super::view::{self, IN_ALT};
use crate::index::{Bits, Durability, ExtSpec, Locked, Transaction, assign_uids};
use crate::mail::{Class, Committed, Error, NewMail, Result, Saved, Timestamp, Uid};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::dbox::{DboxFile, Owner, Pop3, temp_name};

/// A mail that has its file under its final name.
struct Published {
    /// Which staged mail; none for a stranger's file that was adopted.
    mail: Option<usize>,
    /// The file, if it would have to go again.
    ours: Option<PathBuf>,
    in_alt: bool,
}

pub(super) fn commit(mailbox: &mut SdboxMailbox, seen: Uid) -> Result<Committed> {
    mailbox.stage.sync()?;
    let mut staged = mailbox.stage.take();
    if staged.is_empty() {
        return Ok(Committed::default());
    }
    let mut published = BTreeMap::new();
    let done = publish_and_log(mailbox, seen, &mut staged, &mut published);
    if done.is_err() {
        take_back(mailbox, &mut staged, &published);
    }
    let others = done?;
    super::edit::remove_files(mailbox, staged.iter_mut().filter_map(|s| s.replaces.take()))?;
    let mut saved: Vec<Option<Saved>> = vec![None; staged.len()];
    for (&got, entry) in &published {
        if let Some(at) = entry.mail {
            saved[at] = Some(Saved { wanted: staged[at].mail.uid, got });
        }
    }
    Ok(Committed { saved: saved.into_iter().flatten().collect(), others })
}

fn publish_and_log(
    mailbox: &mut SdboxMailbox,
    seen: Uid,
    staged: &mut [Staged],
    published: &mut BTreeMap<Uid, Published>,
) -> Result<Option<(Uid, Uid)>> {
    let SdboxMailbox { index, files, place, settings, view, .. } = mailbox;
    let identity = view.status.identity;
    let mut locked = index.lock()?;
    check_writable(locked.state(), identity, place)?;
    let wanted: Vec<Uid> = staged.iter().map(|s| s.mail.uid).collect();
    let no_uid = || Error::new(Class::Limit, format!("{}: the mailbox has no free UID left", place.mailbox.display()));
    let uids = assign_uids(locked.state().next_uid(), &wanted).ok_or_else(no_uid)?;
    let others = locked.hold_back_others(seen)?;

    // Who expunges the original at this moment, or moves it to another mailbox, was faster: it must not come back.
    for staged in staged.iter_mut().filter(|s| s.replaces.as_ref().is_some_and(|r| !locked.state().keeps(r.uid))) {
        (staged.replaces, staged.temp) = (None, None);
    }
    let there = |(_, at): &(Uid, usize)| staged[*at].temp.is_some();
    let offsets = cache::write(&mut locked, &cache_records(staged, &uids))?;
    let mut queue: BTreeMap<Uid, usize> = uids.iter().copied().zip(0..).filter(there).collect();
    let mut last = uids.iter().copied().max().unwrap_or(Uid::FIRST);
    while let Some((uid, at)) = queue.pop_first() {
        let owner = Owner { mailbox: identity.guid, uid };
        match publish(files, &mut staged[at], owner)? {
            Outcome::Published { ours, in_alt } => {
                published.insert(uid, Published { mail: Some(at), ours, in_alt });
            }
            Outcome::Taken => {
                tracing::warn!("{}: a mail that no index knew is in the mailbox now", files.primary(uid).display());
                published.insert(uid, Published { mail: None, ours: None, in_alt: false });
                last = last.next();
                if last.get() == u32::MAX {
                    return Err(no_uid());
                }
                queue.insert(last, at);
            }
        }
    }
    if settings.index.fsync != Fsync::Never {
        fs::fsync_dir(files.dir())?;
        if published.values().any(|p| p.in_alt)
            && let Some(alt) = files.alt()
        {
            fs::fsync_dir(alt)?;
        }
    }

    let pop3 = view::header(locked.state()).map(|header| view::pop3(locked.state(), &header));
    let pop3 = pop3.map_err(|e| super::bad_index(place, e))?;
    let mut log = Log::new(locked.state().keeps_modseqs(), pop3);
    for (&uid, entry) in published.iter() {
        match entry.mail {
            None => log.stranger(uid),
            Some(at) => {
                if let Some(original) = &staged[at].replaces {
                    log.open.expunge(original.uid, original.guid);
                }
                let extra = if entry.in_alt { IN_ALT } else { 0 };
                log.mail(&staged[at].mail, uid, extra, offsets.get(&uids[at]).copied());
            }
        }
    }
    for linked in staged.iter().filter_map(|s| s.linked.as_ref()) {
        if let Some(&offset) = offsets.get(&linked.from) {
            log.cached(linked.from, offset);
        }
    }
    locked.commit_all(&log.finish(), Durability::Mail)?;
    maintain(&mut locked);
    Ok(others)
}

/// Keeps the index files small. A mailbox that lives in its log alone would be lost with it (index.md 4.7).
pub(super) fn maintain(locked: &mut Locked<'_>) {
    if let Err(e) = locked.maintain() {
        tracing::warn!("{e}");
    }
}

/// Saved dates, and GUIDs: with them the next run opens no files.
fn cache_records(staged: &[Staged], uids: &[Uid]) -> Vec<NewRecord> {
    let mut records = Vec::new();
    for (staged, &uid) in staged.iter().zip(uids).filter(|(staged, _)| staged.temp.is_some()) {
        let mail = &staged.mail;
        let saved = if mail.saved.0 == 0 { Timestamp::now() } else { mail.saved };
        records.push(NewRecord { uid, saved, guid: Some(mail.guid.clone()) });
        // The link has changed the ctime of the mail it was made from, which told its saved date.
        if let Some(linked) = &staged.linked
            && let Some(saved) = linked.saved
        {
            records.push(NewRecord { uid: linked.from, saved, guid: None });
        }
    }
    records
}

/// The records of new mails, in transactions of a good size.
pub(super) struct Log {
    done: Vec<Transaction>,
    open: Transaction,
    /// What the index has once `done` and `open` are written.
    pop3: Pop3,
    /// What it has once `done` is written.
    written: Pop3,
}

impl Log {
    /// For an index with these POP3 values, which keeps modseqs already or will from now on.
    pub fn new(keeps_modseqs: bool, pop3: Pop3) -> Self {
        let mut done = Vec::new();
        if !keeps_modseqs {
            let mut transaction = Transaction::new(Bits::INTERNAL);
            transaction.keep_modseqs();
            done.push(transaction);
        }
        Self { done, open: Transaction::new(Bits::EXTERNAL_SYNC), pop3, written: pop3 }
    }

    /// A mail that gets this UID. `extra` are further bits of its flags byte, `cached` is where its cached values are.
    pub fn mail(&mut self, mail: &NewMail, uid: Uid, extra: u8, cached: Option<u32>) {
        self.open.save(uid, mail, extra);
        let has_uidl = mail.pop3_uidl.as_ref().is_some_and(|u| !u.is_empty());
        self.pop3 = self.pop3.after_save(uid, has_uidl, mail.pop3_order);
        if let Some(offset) = cached {
            self.cached(uid, offset);
        }
        self.end_of_mail();
    }

    /// A mail that was found and not saved: as a rebuild would add it.
    fn stranger(&mut self, uid: Uid) {
        self.open.append(uid, 0);
        self.end_of_mail();
    }

    fn cached(&mut self, uid: Uid, offset: u32) {
        self.open.cache_offset(uid, offset);
    }

    fn end_of_mail(&mut self) {
        if self.open.size_hint() > Transaction::ADVISED_SIZE {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.pop3.flags != self.written.flags {
            self.open.ext_header(DBOX_HDR, 20, &[self.pop3.flags]);
        }
        if let Some(max) = self.pop3.max_uid.filter(|_| self.pop3.max_uid != self.written.max_uid) {
            self.open.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &max.to_le_bytes());
        }
        self.written = self.pop3;
        self.done.push(std::mem::replace(&mut self.open, Transaction::new(Bits::EXTERNAL_SYNC)));
    }

    /// All transactions.
    pub fn finish(mut self) -> Vec<Transaction> {
        self.close();
        self.done
    }
}

/// What became of giving a file its final name.
enum Outcome {
    /// The mail is there. `ours`: by our doing.
    Published { ours: Option<PathBuf>, in_alt: bool },
    /// Another mail is there that no index knows.
    Taken,
}

/// Gives a staged mail its final name, under the log's lock. What is there already under that name no index knows (6.2).
fn publish(files: &Files, staged: &mut Staged, owner: Owner) -> Result<Outcome> {
    let missing = || Error::new(Class::Temporary, "a staged mail has no file");
    let mut temp = staged.temp.take().ok_or_else(missing)?;
    let primary = files.primary(owner.uid);
    let alt = if staged.in_alt { files.in_alt(owner.uid) } else { None };
    let path = alt.as_ref().unwrap_or(&primary);
    if let Some(linked) = &staged.linked
        && let Some((attachments, parts)) = &linked.external
    {
        attachments.link(parts, Owner { uid: linked.from, ..owner }, owner)?;
    }
    // Each turn takes away what was in the way, so there are few.
    for _ in 0..8 {
        // Whoever reads a mail looks into the primary storage first.
        let path = if alt.is_some() && primary.exists() { &primary } else { path };
        if alt.as_ref().is_none_or(|alt| alt == path) {
            match temp.publish(path) {
                Ok(()) => return Ok(Outcome::Published { ours: Some(path.clone()), in_alt: alt.is_some() }),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e.into()),
            }
        }
        match DboxFile::open(path).and_then(|file| file.message(0).map(|message| (file, message))) {
            Ok((file, message)) => {
                let same = message.plain_size() == staged.sizes.0 && same_metadata(&staged.mail, &message.metadata);
                if !same {
                    staged.temp = Some(temp);
                    return Ok(Outcome::Taken);
                }
                fs::fsync(file.file(), path)?;
                return Ok(Outcome::Published { ours: None, in_alt: *path != primary });
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => {
                let aside = path.with_file_name(temp_name());
                tracing::warn!("{e}; no index knows this file, it is {} now", aside.display());
                fs::rename_new(path, &aside)?;
            }
        }
    }
    let text = format!("{}: cannot be made, again and again something is there", path.display());
    Err(Error::new(Class::InUse, text))
}

/// After a failure: removes the files whose mails did not get into the index, and those of originals whose copies did.
fn take_back(mailbox: &mut SdboxMailbox, staged: &mut [Staged], published: &BTreeMap<Uid, Published>) {
    // What the log has is not known before it was read again; whoever holds its lock cannot save under these UIDs.
    let Ok(locked) = mailbox.index.lock() else { return };
    let gone = |victim: &Victim| locked.state().row(victim.uid).is_none();
    let replaced: Vec<Victim> = staged.iter_mut().filter_map(|s| s.replaces.take_if(|v| gone(v))).collect();
    for (&uid, entry) in published {
        if let Some(path) = &entry.ours
            && locked.state().row(uid).is_none()
        {
            let _ = fs::unlink_if_there(path);
        }
    }
    drop(locked);
    if let Err(e) = super::edit::remove_files(mailbox, replaced) {
        tracing::warn!("{e}");
    }
}
