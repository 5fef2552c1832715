//! Changing the names of mail files: flags, expunges (maildir.md 7.6), and what makes a directory ambiguous (7.4).
//!
//! No step here needs another one: each is one rename or unlink, and a kill between two of them leaves requests in the
//! index's log that the next sync carries out, or files that the next scan mends.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use super::core::{Core, ROUNDS};
use super::name;
use super::scan::{self, Dir, Found, Places, Scan};
use super::uidlist::UidlistLock;
use crate::mail::{Class, Error, Flags, Keywords, Result};
use crate::os::fs;

/// What becomes of a mail's file.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Its name gets these flags.
    Flags { flags: Flags, keywords: Keywords, dirty: bool },
    /// It is removed.
    Unlink,
}

/// What [`Core::carry_out`] came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Mails whose name could not be changed.
    pub dirty: HashSet<u32>,
    /// Mails that could not be removed.
    pub kept: HashSet<u32>,
    /// Why the first of them could not.
    pub failed: Option<Error>,
    /// Something in the directories is not as it was.
    pub touched: bool,
    scanned: bool,
}

impl Core {
    /// Renames and removes files. Letters for new keywords are written down first.
    ///
    /// # Errors
    /// I/O other than what the outcome tells; what was done before stays done.
    pub fn carry_out(&mut self, changes: &[(u32, Change)], places: &mut Places, lock: &mut UidlistLock) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let before = self.table.clone();
        for (_, change) in changes {
            if let Change::Flags { keywords, .. } = change {
                self.table.letters_or_new(keywords);
            }
        }
        if self.table != before {
            self.keywords.write(&self.table)?;
        }
        let private_seen = self.private_seen();
        for (uid, change) in changes {
            lock.touch()?;
            match change {
                Change::Unlink => self.unlink(*uid, places, &mut outcome)?,
                Change::Flags { flags, keywords, .. } => {
                    let letters = self.table.letters(keywords);
                    self.rename(*uid, places, &mut outcome, |name| {
                        let seen = if private_seen { name::flags(name).0 & Flags::SEEN } else { *flags & Flags::SEEN };
                        name::with_flags(name, flags.without(Flags::SEEN) | seen, letters)
                    })?;
                }
            }
        }
        if outcome.touched && changes.iter().any(|(_, change)| matches!(change, Change::Unlink)) {
            self.forget_quota();
        }
        Ok(outcome)
    }

    /// The present name of a mail; a scan helps if the known one is not there. `None`: its file is gone.
    fn find(&mut self, uid: u32, places: &mut Places, round: usize, scanned: &mut bool) -> Result<Option<Found>> {
        // One scan shows for all mails which are gone.
        if round > 0 || places.get(uid).is_none() && !*scanned {
            let list = self.list()?.clone();
            *places = scan::scan(self.mailbox(), &list)?.places;
            *scanned = true;
        }
        let Some(base) = self.list()?.find(uid).map(|e| e.base.to_vec()) else { return Ok(None) };
        Ok(places.get(uid).map(|(dir, info)| Found { dir, name: [&base, info].concat() }))
    }

    fn unlink(&mut self, uid: u32, places: &mut Places, outcome: &mut Outcome) -> Result<()> {
        for round in 0..ROUNDS {
            let Some(found) = self.find(uid, places, round, &mut outcome.scanned)? else { return Ok(()) };
            match fs::unlink(&found.path(self.mailbox())) {
                Ok(()) => {
                    outcome.touched = true;
                    places.remove(uid);
                    return Ok(());
                }
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    tracing::error!("UID {uid} cannot be expunged: {e}");
                    outcome.kept.insert(uid);
                    outcome.failed.get_or_insert_with(|| e.into());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn rename(&mut self, uid: u32, places: &mut Places, outcome: &mut Outcome, target: impl Fn(&[u8]) -> Vec<u8>) -> Result<()> {
        for round in 0..ROUNDS {
            let Some(found) = self.find(uid, places, round, &mut outcome.scanned)? else { return Ok(()) };
            let name = target(&found.name);
            // A mail in new/ without flags stays there (7.6).
            let plain = name == name::with_flags(found.base(), Flags::NONE, name::Letters::default());
            if found.name == name || found.dir == Dir::New && plain && found.base() == found.name {
                return Ok(());
            }
            let to = scan::path_of(self.mailbox(), Dir::Cur, &name);
            match fs::rename_new(&found.path(self.mailbox()), &to) {
                Ok(()) => {
                    outcome.touched = true;
                    places.set(uid, Dir::Cur, &name[found.base().len()..]);
                    return Ok(());
                }
                Err(e) if e.is_not_found() => {}
                Err(e) if cannot_now(e.kind()) => {
                    tracing::warn!("UID {uid} keeps its flags in the index: {e}");
                    outcome.dirty.insert(uid);
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Mends what makes a scan ambiguous. Says whether it changed anything; then the scan is worth nothing any more.
    ///
    /// # Errors
    /// I/O.
    pub fn mend(&self, scan: &Scan) -> Result<bool> {
        let mut mended = false;
        for found in &scan.nameless {
            self.move_to_new(found, b"")?;
            tracing::warn!("{}: Fixed broken filename", found.path(self.mailbox()).display());
            mended = true;
        }
        for found in &scan.duplicates {
            mended |= self.mend_duplicate(found, scan)?;
        }
        Ok(mended)
    }

    fn mend_duplicate(&self, second: &Found, scan: &Scan) -> Result<bool> {
        let known = self.first_of(second, scan);
        let stat = |found: &Found| std::fs::symlink_metadata(found.path(self.mailbox()));
        let Some(first) = known.filter(|first| first != second) else { return Ok(false) };
        let (Ok(a), Ok(b)) = (stat(&first), stat(second)) else {
            // One of the names vanished: it was renamed while we looked, and the other name is the new one.
            return Ok(true);
        };
        if (a.dev(), a.ino()) != (b.dev(), b.ino()) {
            let sizes = second.base().iter().position(|&c| c == b',').map_or(&b""[..], |at| &second.base()[at..]);
            self.move_to_new(second, sizes)?;
            tracing::warn!("{}: Fixed a duplicate", second.path(self.mailbox()).display());
            return Ok(true);
        }
        let ctime = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(b.ctime()).unwrap_or(0));
        let old = ctime.elapsed().is_ok_and(|age| age > Duration::from_secs(30));
        if b.nlink() > 1 && a.ctime() == b.ctime() && old {
            fs::unlink_if_there(&second.path(self.mailbox()))?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The file with the same BASE that the scan found first.
    fn first_of(&self, second: &Found, scan: &Scan) -> Option<Found> {
        let base = second.base();
        if let Some(found) = scan.unknown.iter().find(|f| f.base() == base) {
            return Some(found.clone());
        }
        let uid = scan.duplicate_of.get(base)?;
        let (dir, info) = scan.places.get(*uid)?;
        Some(Found { dir, name: [base, info].concat() })
    }

    /// Makes a file a new mail of its own. Only sizes can be kept of its BASE.
    fn move_to_new(&self, found: &Found, base: &[u8]) -> Result<()> {
        let mut name = name::generate().to_string().into_bytes();
        for key in [b'S', b'W'] {
            if let Some(size) = name::size(base, key) {
                name.extend_from_slice(format!(",{}={size}", char::from(key)).as_bytes());
            }
        }
        match fs::rename_new(&found.path(self.mailbox()), &scan::path_of(self.mailbox(), Dir::New, &name)) {
            Err(e) if e.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Errors that leave a name as it is, to be tried again at each sync (7.6).
fn cannot_now(kind: ErrorKind) -> bool {
    use ErrorKind as K;
    matches!(kind, K::StorageFull | K::QuotaExceeded | K::PermissionDenied | K::ReadOnlyFilesystem)
}

/// The error of a mail that vanished while something was to be done with it.
pub(super) fn vanished(uid: u32) -> Error {
    Error::new(Class::Expunged, format!("UID {uid} vanished meanwhile"))
}
