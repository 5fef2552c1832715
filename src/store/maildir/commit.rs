//! Making staged mails visible (maildir.md 8).
//!
//! The texts lie in `tmp/`, synced. Then, under the uidlist lock, a kill after a step leaves:
//!   1 `dovecot-keywords` with new letters        entries without use
//!   2 the new UIDs among those held back          the next run does not take a mail that did not come for an expunged one
//!   3 `dovecot-uidlist` with all new lines       lines without files, which Dovecot ignores and drops later; their UIDs are used up
//!   4 texts renamed into `cur/`, directory synced   the mails, with UID, GUID, flags, dates, UIDLs; their modseqs are new
//!   5 index cache and transactions (append, keywords, modseqs, saved dates)   all of it; the end of the run says what was held back
//!
//! A mail that only changes its UID keeps its file: step 3 rewrites the uidlist, which gives the file its new UID and takes
//! the old one away in one rename; before it the mail has its old UID, after it the new one. Its name and date follow in
//! step 4, and step 5 expunges the old UID in the transaction that appends the new one.

use std::collections::HashSet;
use std::path::Path;

use super::core::{Core, LOOKS};
use super::facts::{guid128, no_uids, push};
use super::files::vanished;
use super::mailbox::MaildirMailbox;
use super::name::{self, Letters};
use super::record;
use super::scan::{self, Dir};
use super::stage::{Text, seconds, time_of};
use super::uidlist::{Entry, Stamp, Uidlist, UidlistLock};
use crate::index::{Index, assign_uids, given_since};
use crate::mail::{Class, Committed, Error, Guid128, MailGuid, NewMail, Result, Saved, Uid, union_of_uids};
use crate::os::Fsync;
use crate::os::fs;

/// A mail that waits for the commit.
pub(super) struct Staged {
    pub mail: NewMail,
    pub source: Source,
}

/// Where the text of a staged mail is.
pub(super) enum Source {
    /// In `tmp/`.
    Text(Text),
    /// The mail that has this UID now gets another one.
    Present(Uid),
}

/// A mail whose UID and name are decided.
pub(super) struct Placed {
    /// Its number among the staged ones.
    pub nth: usize,
    pub uid: Uid,
    pub base: Vec<u8>,
    pub letters: Letters,
}

impl Placed {
    pub fn file_name(&self, mail: &NewMail) -> Vec<u8> {
        name::with_flags(&self.base, mail.flags, self.letters)
    }
}

/// The names that are taken, by their hashes: 8 bytes a mail. Two names with one hash only cost a generated name.
#[derive(Default)]
pub(super) struct Names(HashSet<u64>);

/// The names that were taken when the uidlist was as its stamp says.
pub(super) struct NamesTaken {
    stamp: Stamp,
    names: Names,
}

impl Names {
    pub fn of(list: &Uidlist) -> Self {
        Self(list.iter().map(|e| Self::hash(e.base)).collect())
    }

    fn hash(base: &[u8]) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        base.hash(&mut hasher);
        hasher.finish()
    }

    fn take(&mut self, base: &[u8]) -> bool {
        self.0.insert(Self::hash(base))
    }
}

/// The BASE that a text gets, and its `G` field if its GUID is another (8.3).
pub(super) fn choose_base(guid: &MailGuid, text: &Text, taken: &mut Names) -> Vec<u8> {
    let wanted = guid.text();
    let sizes_are_right = name::size(&wanted, b'S') == Some(text.physical)
        && text.with_crlf.is_some()
        && name::size(&wanted, b'W') == text.with_crlf;
    if sizes_are_right && name::fits_as_base(&wanted) && taken.take(&wanted) {
        return wanted;
    }
    text.name.with_sizes(text.physical, text.with_crlf)
}

/// The fields of a new line, in the order `G`, `P`, `O` (5.1).
pub(super) fn extensions(mail: &NewMail, base: &[u8]) -> Vec<u8> {
    let mut ext = Vec::new();
    let mut field = |key: u8, value: &[u8]| {
        if !ext.is_empty() {
            ext.push(b' ');
        }
        ext.push(key);
        ext.extend_from_slice(value);
    };
    let guid = mail.guid.text();
    if guid != base {
        if is_value(&guid) {
            field(b'G', &guid);
        } else {
            let short = mail.guid.to_128().to_string();
            tracing::warn!("GUID {} cannot be kept in a uidlist, using {short}", mail.guid);
            field(b'G', short.as_bytes());
        }
    }
    if let Some(uidl) = &mail.pop3_uidl {
        if is_value(uidl.as_bytes()) {
            field(b'P', uidl.as_bytes());
        } else {
            tracing::warn!("GUID {}: POP3 UIDL {uidl:?} cannot be kept in a uidlist", mail.guid);
        }
    }
    if mail.pop3_order > 0 {
        field(b'O', mail.pop3_order.to_string().as_bytes());
    }
    ext
}

/// It can be the value of a field: what has blanks or line ends would be read as something else.
fn is_value(value: &[u8]) -> bool {
    value.len() <= 1000 && !value.iter().any(|c| matches!(c, b' ' | b'\n' | b'\r' | 0))
}

impl MaildirMailbox {
    /// Makes the staged mails visible. Returns them in the order of staging.
    pub(super) fn commit_staged(&mut self, seen: Uid) -> Result<Committed> {
        let mut staged = std::mem::take(&mut self.staged);
        if staged.is_empty() {
            return Ok(Committed::default());
        }
        self.stage.sync(staged.iter_mut().filter_map(|s| if let Source::Text(t) = &mut s.source { Some(t) } else { None }))?;
        let mut lock = self.core.lock_for_change()?;
        self.core.read_up_to_date(&mut lock)?;
        let done = self.save(&mut staged, seen, &lock);
        if done.is_err() {
            // What was written and what was not is found by looking.
            self.core.uidlist.forget();
            self.core.places = None;
            self.names_taken = None;
        }
        done
    }

    fn save(&mut self, staged: &mut [Staged], seen: Uid, lock: &UidlistLock) -> Result<Committed> {
        let moved: HashSet<u32> =
            staged.iter().filter_map(|s| if let Source::Present(uid) = s.source { Some(uid.get()) } else { None }).collect();
        let stamp = self.core.uidlist.known_stamp();
        let mut taken = self.core.uidlist.take().expect("holds because read_up_to_date has read it");
        let mut names = match self.names_taken.take().filter(|known| Some(known.stamp) == stamp) {
            Some(known) => known.names,
            None => Names::of(&taken.list),
        };

        // Decided for all of them before anything is written.
        let wanted: Vec<Uid> = staged.iter().map(|s| s.mail.uid).collect();
        let next = Uid::new(taken.list.next_uid());
        let others = next.and_then(|next| given_since(seen, next));
        let got = next.and_then(|next| assign_uids(next, &wanted)).ok_or_else(|| no_uids(&self.core.place.mailbox))?;
        let before = self.core.table.clone();
        let mut placed = Vec::with_capacity(staged.len());
        for (nth, (Staged { mail, source }, uid)) in staged.iter().zip(&got).enumerate() {
            let base = match source {
                Source::Text(text) => choose_base(&mail.guid, text, &mut names),
                Source::Present(uid) => match taken.list.find(uid.get()) {
                    Some(entry) => entry.base.to_vec(),
                    None => continue,
                },
            };
            placed.push(Placed { nth, uid: *uid, base, letters: self.core.table.letters_or_new(&mail.keywords) });
        }
        placed.sort_unstable_by_key(|p| p.uid);
        if self.core.table != before {
            self.core.keywords.write(&self.core.table)?;
        }
        let expunged: Vec<(Uid, Guid128)> =
            moved.iter().filter_map(|&uid| Some((Uid::new(uid)?, guid128(&taken.list, Uid::new(uid)?)))).collect();
        for p in &placed {
            push(&mut taken.list, p.uid.get(), &extensions(&staged[p.nth].mail, &p.base), &p.base, &self.core.place.mailbox)?;
        }
        if !moved.is_empty() {
            taken.list.retain(|_, entry| !moved.contains(&entry.uid));
            // The index speaks of the old UIDs until step 4: a Dovecot that comes in between must see that it has to look.
            let cur = self.core.mailbox().join(Dir::Cur.name());
            let dir = std::fs::File::open(&cur).map_err(|e| fs::Error::new("open", &cur, e))?;
            fs::set_mtime(&dir, &cur, std::time::SystemTime::now())?;
        }
        self.expect_uids(&placed, others)?;
        self.core.uidlist.write(lock, taken)?;
        // A mail that somebody expunges right now must not keep the others from arriving.
        let mut present = Vec::with_capacity(placed.len());
        for mut p in placed {
            let mail = &mut staged[p.nth];
            match self.put_in_place(&mut p, mail, lock) {
                Ok(()) => present.push(p),
                Err(e) if e.class() == Class::Expunged => {}
                Err(e) => return Err(e),
            }
        }
        let placed = present;
        if self.core.settings.index.fsync != Fsync::Never {
            fs::fsync_dir(&self.core.mailbox().join(Dir::Cur.name()))?;
        }
        self.names_taken = self.core.uidlist.known_stamp().map(|stamp| NamesTaken { stamp, names });
        self.core.forget_quota();
        self.append_to_index(staged, &placed, &expunged)?;

        let there: HashSet<usize> = placed.iter().map(|p| p.nth).collect();
        let all = wanted.into_iter().zip(got).enumerate().filter(|(n, _)| there.contains(n));
        Ok(Committed { saved: all.map(|(_, (wanted, got))| Saved { wanted, got }).collect(), others })
    }

    /// Step 2.
    fn expect_uids(&mut self, placed: &[Placed], others: Option<(Uid, Uid)>) -> Result<()> {
        let placed = placed.iter().map(|p| (p.uid, p.uid));
        let ranges = union_of_uids(placed.chain(self.core.held_back()).chain(others));
        self.core.hold_back(&ranges)
    }

    /// Step 4 for one mail. Class `Expunged` when the mail that was to get another UID is gone.
    fn put_in_place(&mut self, p: &mut Placed, staged: &mut Staged, lock: &UidlistLock) -> Result<()> {
        let mailbox = self.core.place.mailbox.clone();
        let mut name = p.file_name(&staged.mail);
        match &mut staged.source {
            Source::Text(text) => {
                match fs::rename_new(&text.path, &scan::path_of(&mailbox, Dir::Cur, &name)) {
                    // Somebody put a file of this name there and the uidlist does not know it yet: it keeps its name.
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                        p.base = text.name.with_sizes(text.physical, text.with_crlf);
                        self.core.rename_line(lock, p.uid.get(), &extensions(&staged.mail, &p.base), &p.base)?;
                        name = p.file_name(&staged.mail);
                        fs::rename_new(&text.path, &scan::path_of(&mailbox, Dir::Cur, &name))?;
                    }
                    other => other?,
                }
                text.published();
            }
            Source::Present(old) => {
                let (path, found) = self.core.file_of(*old, &p.base)?;
                if let Err(e) = adopt(&path, &mailbox, &found, &name, &staged.mail) {
                    if path.exists() {
                        return Err(e);
                    }
                    // Renamed by somebody a moment ago, or gone.
                    let (path, found) = self.core.search(*old, &p.base)?;
                    adopt(&path, &mailbox, &found, &name, &staged.mail)?;
                }
            }
        }
        if let Some(places) = &mut self.core.places {
            if let Source::Present(old) = staged.source {
                places.remove(old.get());
            }
            places.set(p.uid.get(), Dir::Cur, &name[p.base.len()..]);
        }
        Ok(())
    }

    /// Step 5.
    fn append_to_index(&mut self, staged: &[Staged], placed: &[Placed], expunged: &[(Uid, Guid128)]) -> Result<()> {
        let mails: Vec<_> =
            placed.iter().map(|p| record::Entry { uid: p.uid, mail: &staged[p.nth].mail, base: &p.base }).collect();
        let saved = std::mem::take(&mut self.linked);
        let index = self.core.index.as_mut().expect("holds because read_up_to_date has made it");
        let mut locked = index.lock()?;
        record::Record { mails: &mails, expunged, saved: &saved }.write(&mut locked)
    }
}

/// Gives a mail's present file its new name and date.
pub(super) fn adopt(path: &Path, mailbox: &Path, found: &(Dir, Vec<u8>), name: &[u8], mail: &NewMail) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::File::open(path).map_err(|e| Error::io(fs::Error::new("open", path, e)))?;
    let mtime = file.metadata().map_err(|e| Error::io(fs::Error::new("stat", path, e)))?.mtime();
    if seconds(mtime) != mail.received {
        fs::set_mtime(&file, path, time_of(mail.received))?;
    }
    if *found != (Dir::Cur, name.to_vec()) {
        fs::rename_new(path, &scan::path_of(mailbox, Dir::Cur, name))?;
    }
    Ok(())
}

impl Core {
    /// The uidlist lock, for a mailbox that has to be written.
    ///
    /// # Errors
    /// Locks, [`Class::Permission`].
    pub fn lock_for_change(&mut self) -> Result<UidlistLock> {
        if self.private_seen() {
            let text =
                format!("{}: dovecot-shared mailboxes with private \\Seen flags are read only here", self.mailbox().display());
            return Err(Error::new(Class::NotPossible, text));
        }
        self.frozen = None;
        self.ensure_dirs()?;
        self.uidlist.lock()
    }

    /// Gives a mail another BASE.
    fn rename_line(&mut self, lock: &UidlistLock, uid: u32, ext: &[u8], base: &[u8]) -> Result<()> {
        let mut taken = self.uidlist.take().expect("holds because it was just written");
        taken.list.replace(Entry { uid, ext, base });
        self.uidlist.write(lock, taken)
    }

    /// The file that has this BASE, which a line of this UID had so far.
    pub fn file_of(&mut self, uid: Uid, base: &[u8]) -> Result<(std::path::PathBuf, (Dir, Vec<u8>))> {
        if self.places.as_ref().is_none_or(|p| p.get(uid.get()).is_none()) {
            // The index, which still speaks of the old UID, tells most names: a look at one file instead of all.
            let state = self.index.as_ref().map(Index::state);
            let guesses = state.and_then(|state| Some(self.likely_names(base, state, state.row(uid)?)));
            let found = guesses.into_iter().flatten().find(|found| found.path(self.mailbox()).exists());
            return match found {
                Some(found) => Ok((found.path(self.mailbox()), (found.dir, found.name))),
                None => self.search(uid, base),
            };
        }
        let name = self.places.as_ref().and_then(|p| p.get(uid.get())).map(|(dir, info)| (dir, [base, info].concat()));
        let (dir, name) = name.ok_or_else(|| vanished(uid.get()))?;
        let path = scan::path_of(self.mailbox(), dir, &name);
        if path.exists() { Ok((path, (dir, name))) } else { self.search(uid, base) }
    }

    fn search(&self, uid: Uid, base: &[u8]) -> Result<(std::path::PathBuf, (Dir, Vec<u8>))> {
        for _ in 0..LOOKS {
            if let Some(found) = scan::find_base(self.mailbox(), base)? {
                return Ok((found.path(self.mailbox()), (found.dir, found.name)));
            }
        }
        Err(vanished(uid.get()))
    }
}
