//! A rebuild by exchanging directories. A kill after a step leaves:
//!
//! ```text
//! 1 log locked; the new directory beside: mail files linked in,      the old mailbox, and a directory `.dsync-rebuild.*`
//!   other files linked in, index made, everything synced               in the mail root that the next run removes
//! 2 attachments linked to the names that the new UIDs give them      the same, and attachments under two names
//! 3 directories exchanged, both parents synced                       the new mailbox, and the old one as that directory
//! 4 log unlocked; old attachments, old files in the alternative      the new mailbox
//!   storage and the old directory removed
//! ```

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sha1::Digest;

use super::super::files::{file_name, root_of, uid_of};
use super::super::mailbox::{SdboxMailbox, check_writable};
use super::content::{Cached, content, counters};
use super::prepare::{Item, Source};
use crate::index::{self, Durability, Index, State};
use crate::mail::{Class, Error, Rebuild, Result, Uid};
use crate::os::Fsync;
use crate::os::fs;
use crate::store::dbox::{Owner, TEMP_PREFIX};
use crate::store::format::Place;
use crate::store::sdbox::Sdbox;

/// What directories of full-text indexes in a mailbox begin with: they are made anew, for they speak of UIDs.
const SEARCH_INDEXES: [&str; 3] = ["fts", "xapian", "lucene"];

/// The directory in which the new mailbox is built: on the same file system, and not where mailboxes are looked for.
fn staging(place: &Place) -> Option<PathBuf> {
    let parent = root_of(&place.mailbox, &place.storage_name).or_else(|| place.mailbox.parent().map(Path::to_owned))?;
    Some(parent.join(format!(".dsync-rebuild.{}", hex::encode(sha1::Sha1::digest(place.storage_name.as_bytes())))))
}

/// This file system cannot exchange two names.
pub(super) fn impossible(mailbox: &SdboxMailbox) -> bool {
    let Some(staging) = staging(&mailbox.place) else { return true };
    let (a, b) = (staging.with_extension("a"), staging.with_extension("b"));
    let tried = (|| {
        fs::create(&a, &mailbox.place.modes)?;
        fs::create(&b, &mailbox.place.modes)?;
        fs::exchange(&a, &b)
    })();
    let _ = fs::unlink_if_there(&a);
    let _ = fs::unlink_if_there(&b);
    tried.is_err()
}

/// Removes the directory of a run that was stopped. A run that is at it has the log's lock.
pub(super) fn clean_up(format: &Sdbox, place: &Place) {
    let Some(staging) = staging(place).filter(|s| s.is_dir()) else { return };
    let removed = format.index(place).and_then(|mut index| {
        let _locked = index.lock()?;
        Ok(fs::remove_tree(&staging)?)
    });
    if let Err(e) = removed {
        tracing::warn!("{}: left by an interrupted run, and stays: {e}", staging.display());
    }
}

pub(super) fn swap(mailbox: &mut SdboxMailbox, plan: &Rebuild, items: &[Item<'_>]) -> Result<()> {
    let staging = staging(&mailbox.place).ok_or_else(|| Error::new(Class::NotPossible, "no place for a new directory"))?;
    let mut locked = mailbox.index.lock()?;
    let old = mailbox.view.status.identity;
    let place = &mailbox.place;
    check_writable(locked.state(), old, place)?;
    for item in items {
        if let Some(uid) = item.present.filter(|&uid| locked.state().row(uid).is_none()) {
            let text = format!("{}: the mail was expunged meanwhile", mailbox.files.primary(uid).display());
            return Err(Error::new(Class::Expunged, text));
        }
    }
    let cached = mailbox.cache.carry_over(&mut locked, items_of(items))?;
    let durable = mailbox.settings.index.fsync != Fsync::Never;
    let before: Vec<Uid> = locked.state().uids().iter().filter_map(|&u| Uid::new(u)).collect();

    if staging.exists() {
        fs::remove_tree(&staging)?;
    }
    fs::mkdir(&staging, &place.modes)?;
    let build = Build { place, staging: &staging, plan, items };
    let built = build.files().and_then(|()| build.index(&mailbox.settings, locked.state(), &cached)).and_then(|()| {
        link_attachments(items, old.guid, plan)?;
        if durable {
            fs::fsync_dir(&staging)?;
        }
        fs::exchange(&staging, &place.mailbox)?;
        Ok(())
    });
    if let Err(e) = built {
        let _ = fs::remove_tree(&staging);
        return Err(e);
    }
    if durable {
        for dir in [place.mailbox.parent(), staging.parent()].into_iter().flatten() {
            fs::fsync_dir(dir)?;
        }
    }
    move_directories(&staging, &place.mailbox)?;
    drop(locked);
    remove_leftovers(mailbox, &before, items, plan, &staging)?;
    fs::remove_tree(&staging)?;
    Ok(())
}
