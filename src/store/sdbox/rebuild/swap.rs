//! A rebuild by exchanging directories. A kill after a step leaves:
//!
//! ```text
//! 1 log locked; the new directory beside: mail files linked in,      the old mailbox, and a directory `.dsync-rebuild.*`
//!   other files linked in, index made, everything synced               in the mail root that the next run removes
//! 2 attachments linked to the names that the new UIDs give them      the same, and attachments under two names
//! 3 directories exchanged, both parents synced                       the new mailbox, and the old one as that directory
//! 4 log unlocked; attachments and files in the alternative           the new mailbox
//!   storage that nobody needs any more, and the old directory, removed
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha1::Digest;

use super::super::files::{file_name, root_of, uid_of};
use super::super::mailbox::SdboxMailbox;
use super::super::{index_files, index_options};
use super::content::{begin, content};
use super::prepare::Item;
use super::{Leftovers, check_present, link_attachments};
use crate::index::{self, Index, State};
use crate::mail::{Rebuild, Result};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::Settings;
use crate::store::dbox::TEMP_PREFIX;
use crate::store::format::Place;
use crate::store::sdbox::Sdbox;

/// What directories of full-text indexes in a mailbox begin with: they speak of UIDs, and are made anew.
const SEARCH_INDEXES: [&str; 3] = ["fts", "xapian", "lucene"];

/// The directory in which the new mailbox is built: on the same file system, and not where mailboxes are looked for.
fn staging(place: &Place) -> PathBuf {
    let root = root_of(&place.mailbox, &place.storage_name);
    let parent = root.as_deref().or_else(|| place.mailbox.parent()).unwrap_or(&place.mailbox);
    parent.join(format!(".dsync-rebuild.{}", hex::encode(sha1::Sha1::digest(place.storage_name.as_bytes()))))
}

/// Removes the directory of a run that was stopped. A run that is at it has the log's lock.
pub(super) fn clean_up(format: &mut Sdbox, place: &Place) {
    let staging = staging(place);
    if !staging.is_dir() {
        return;
    }
    let removed = format.index(place).and_then(|mut index| {
        let _locked = index.lock()?;
        Ok(fs::remove_tree(&staging)?)
    });
    if let Err(e) = removed {
        tracing::warn!("{}: left by an interrupted run, and stays: {e}", staging.display());
    }
}

/// Both lie in one file system, and the mailbox is a directory and no link to one.
fn possible(place: &Place, staging: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let parent = staging.parent().and_then(|p| std::fs::metadata(p).ok());
    let mailbox = std::fs::symlink_metadata(&place.mailbox).ok();
    parent.zip(mailbox).is_some_and(|(parent, mailbox)| mailbox.is_dir() && parent.dev() == mailbox.dev())
}

/// Says whether it was done: `false` where directories cannot be exchanged.
pub(super) fn swap(mailbox: &mut SdboxMailbox, plan: &Rebuild, items: &[Item<'_>], leftovers: &Leftovers) -> Result<bool> {
    let staging = staging(&mailbox.place);
    if !possible(&mailbox.place, &staging) {
        return Ok(false);
    }
    let durable = mailbox.settings.index.fsync != Fsync::Never;
    let SdboxMailbox { index, place, settings, view, .. } = &mut *mailbox;
    let locked = index.lock()?;
    let old = view.status.identity;
    check_present(locked.state(), old, place, items)?;
    if staging.exists() {
        fs::remove_tree(&staging)?;
    }
    fs::mkdir(&staging, &place.modes)?;
    let build = Build { place, staging: &staging, plan, items };
    let built = build.files().and_then(|()| build.index(settings, locked.state())).and_then(|()| {
        link_attachments(items, old.guid, plan)?;
        if durable {
            fs::fsync_dir(&staging)?;
        }
        match fs::exchange(&staging, &place.mailbox) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(false),
            Err(e) => Err(e.into()),
        }
    });
    if !matches!(built, Ok(true)) {
        let _ = fs::remove_tree(&staging);
        return built;
    }
    if durable {
        for dir in [place.mailbox.parent(), staging.parent()].into_iter().flatten() {
            fs::fsync_dir(dir)?;
        }
    }
    move_directories(&staging, &place.mailbox)?;
    drop(locked);
    leftovers.remove(mailbox, plan, items)?;
    let files: Vec<PathBuf> = leftovers.before.iter().map(|&uid| staging.join(file_name(uid))).collect();
    fs::each(&files, |file| fs::unlink_if_there(file).map(drop))?;
    fs::remove_tree(&staging)?;
    Ok(true)
}

struct Build<'b> {
    place: &'b Place,
    staging: &'b Path,
    plan: &'b Rebuild,
    items: &'b [Item<'b>],
}

impl Build<'_> {
    /// The mails, and what else lies in the directory: ACLs, lock files, temp files of saves that are going on.
    fn files(&self) -> Result<()> {
        for item in self.items {
            if let Some(file) = item.file() {
                fs::link(file, &self.staging.join(file_name(item.mail.uid)))?;
            }
        }
        let own = format!(".P{}Q", std::process::id());
        let dir = &self.place.mailbox;
        let bad = |e| fs::Error::new("read", dir, e);
        for entry in std::fs::read_dir(dir).map_err(bad)? {
            let entry = entry.map_err(bad)?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let made_anew = text.starts_with(index::Files::MAILBOX) || uid_of(&text).is_some();
            let ours = text.starts_with(TEMP_PREFIX) && text.contains(&own);
            if made_anew || ours || entry.file_type().map_err(bad)?.is_dir() {
                continue;
            }
            match fs::link(&entry.path(), &self.staging.join(&name)) {
                // A save that was going on has ended.
                Err(e) if e.is_not_found() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// An index that goes on where the old one ends, with a new history.
    fn index(&self, settings: &Settings, old: &State) -> Result<()> {
        let theirs = index_files(self.place);
        let cache_beside = self.place.cache == self.place.index;
        let cache_dir = if cache_beside { self.staging } else { &self.place.cache };
        let files = index::Files::new(self.staging, index::Files::MAILBOX).with_cache_dir(cache_dir);
        // Snapshot, older log and cache are shared: they are replaced or appended to, never changed. The log is locked.
        for (from, to) in [(theirs.snapshot(), files.snapshot()), (theirs.log2(), files.log2())] {
            link_if_there(&from, &to)?;
        }
        if cache_beside {
            link_if_there(theirs.cache(), files.cache())?;
        }
        self.copy(&theirs.log(), &files.log())?;
        let options = index::Options { backup: false, ..index_options(settings, self.place) };
        let mut index = Index::open(files, options)?;
        let mut locked = index.lock()?;
        begin(&mut locked, &content(self.place, old, self.plan, self.items), self.items)?;
        locked.write_snapshot()?;
        fs::unlink_if_there(&locked.index().files().log2())?;
        Ok(())
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let source = std::fs::File::open(from).map_err(|e| fs::Error::new("open", from, e))?;
        let len = source.metadata().map_err(|e| fs::Error::new("stat", from, e))?.len();
        let mut target = fs::create_new(to, &self.place.modes)?;
        fs::copy_range(&source, 0, len, &mut target, to)?;
        Ok(())
    }
}

fn link_if_there(from: &Path, to: &Path) -> Result<()> {
    match fs::link(from, to) {
        Err(e) if e.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}

/// Directories cannot be linked: they change places after the exchange.
fn move_directories(from: &Path, to: &Path) -> Result<()> {
    let bad = |e| fs::Error::new("read", from, e);
    for entry in std::fs::read_dir(from).map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let name = entry.file_name();
        let search_index = SEARCH_INDEXES.iter().any(|s| name.to_string_lossy().starts_with(s));
        if entry.file_type().map_err(bad)?.is_dir() && !search_index {
            fs::rename(&entry.path(), &to.join(&name))?;
        }
    }
    Ok(())
}
