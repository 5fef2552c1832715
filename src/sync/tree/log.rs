//! What the mailbox logs tell of removals, applied to the trees before they are merged (sync.md 3.8).
//!
//! A removal is looked up in the tree of the side that still has the thing, and written into the tree of the side that
//! removed it, unless the name has come back there.

use std::collections::{HashMap, HashSet};

use base64::Engine;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

use crate::mail::{Deletion, DeletionKey, MailboxGuid, MailboxName, NameHash};

use super::arena::{Arena, Hold, Id, ROOT, State};
use super::merge::{L, R};
use super::names::Facts;

/// Names as common levels.
pub(super) type Paths = HashSet<Vec<String>>;

/// A removal whose name hash has been resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub what: Removed,
    pub time: u64,
    /// A directory of a layout that has none: it writes this with every mailbox that it deletes. Only a Dovecot heeds that.
    pub by_the_way: bool,
}

/// What was removed; names are canonical levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Removed {
    Mailbox(MailboxGuid),
    Directory(Vec<String>),
    Subscription(Vec<String>),
}

/// Applies the removals of both sides, the remote ones first. Gives the names of the directories that were removed.
///
/// A name that has come back protects what the other side has there, because it may be the same mailbox made anew. A Dovecot
/// takes it for that also when the other side knows the mailbox that is there now by another name; `as_dovecot` does so, too.
pub(super) fn apply(trees: &mut [Arena; 2], local: &[Removal], remote: &[Removal], as_dovecot: bool) -> Paths {
    let mut directories = Paths::new();
    for (by, removals) in [(R, remote), (L, local)] {
        for removal in removals.iter().filter(|r| as_dovecot || !r.by_the_way) {
            if apply_one(trees, by, removal, as_dovecot).is_some()
                && let Removed::Directory(path) = &removal.what
            {
                directories.insert(path.clone());
            }
        }
    }
    directories
}

/// Finds out which names the hashes stand for: `by` removed them, so only the other side may still have them.
pub(super) fn resolve(deletions: &[Deletion], by: &Facts<'_>, seen_by: &Facts<'_>) -> Vec<Removal> {
    let hashes = if deletions.iter().all(|d| matches!(d.key, DeletionKey::Mailbox(_))) {
        Hashes::default()
    } else {
        Hashes::of(by, seen_by)
    };
    let resolved = deletions.iter().filter_map(|deletion| {
        let what = match deletion.key {
            DeletionKey::Mailbox(guid) => Removed::Mailbox(guid),
            DeletionKey::Directory(hash) => {
                let id = hashes.names.get(&hash).or_else(|| hashes.storage_names.get(&hash))?;
                Removed::Directory(seen_by.tree.path(*id))
            }
            DeletionKey::Subscription(hash) => Removed::Subscription(seen_by.tree.path(*hashes.names.get(&hash)?)),
        };
        let by_the_way = by.rules.no_directories && matches!(what, Removed::Directory(_));
        Some(Removal { what, time: deletion.time.0.into(), by_the_way })
    });
    resolved.collect()
}

/// Hashes of the names that one side's nodes have, or would have, at the other side.
#[derive(Default)]
struct Hashes {
    names: HashMap<NameHash, Id>,
    /// Directory records of layouts with directories hash the storage name, without the namespace prefix (sync.md 3.5).
    storage_names: HashMap<NameHash, Id>,
}

impl Hashes {
    fn of(by: &Facts<'_>, seen_by: &Facts<'_>) -> Self {
        let mut out = Self::default();
        for id in seen_by.tree.subtree(ROOT).into_iter().skip(1) {
            if seen_by.tree.node(id).hold == Hold::Frozen {
                continue;
            }
            let Some(name) = called_by(by, &seen_by.tree, id) else { continue };
            out.names.insert(NameHash::of(&name.join(by.rules.separator)), id);
            for space in by.rules.namespaces.iter().filter(|space| name.levels().starts_with(&space.prefix)) {
                let levels = name.levels()[space.prefix.len()..].iter();
                let stored = levels.map(|l| if space.utf8 { l.clone() } else { mutf7(l) }).collect();
                let Some(stored) = MailboxName::new(stored) else { continue };
                for separator in [space.storage_separator, by.rules.separator] {
                    out.storage_names.entry(NameHash::of(&stored.join(separator))).or_insert(id);
                }
            }
        }
        out
    }
}

/// What side `by` calls, or would call, the other side's node.
fn called_by(by: &Facts<'_>, tree: &Arena, id: Id) -> Option<MailboxName> {
    let path = tree.path(id);
    match by.tree.find(path.iter().map(String::as_str)) {
        Some(n) => by.tree.own_name(n),
        None => Some(by.rules.nearest(&tree.own_name(id)?)),
    }
}

/// Modified UTF-7 (RFC 3501 5.1.3).
fn mutf7(level: &str) -> String {
    const CODE: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);
    let mut out = String::new();
    let mut wide: Vec<u8> = Vec::new();
    let flush = |out: &mut String, wide: &mut Vec<u8>| {
        if !wide.is_empty() {
            out.push('&');
            out.push_str(&CODE.encode(&wide));
            out.push('-');
            wide.clear();
        }
    };
    for c in level.chars() {
        if (' '..='~').contains(&c) {
            flush(&mut out, &mut wide);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            wide.extend(c.encode_utf16(&mut [0; 2]).iter().flat_map(|u| u.to_be_bytes()));
        }
    }
    flush(&mut out, &mut wide);
    out
}

fn apply_one(trees: &mut [Arena; 2], by: usize, removal: &Removal, as_dovecot: bool) -> Option<()> {
    let here = &trees[1 - by];
    let n = find(here, &removal.what)?;
    let node = here.node(n);
    let mailbox = here.mailbox(n);
    match removal.what {
        Removed::Directory(_) if removal.time <= node.time => return None,
        Removed::Subscription(_) if removal.time <= node.subscription_time => return None,
        _ => {}
    }
    let path = here.path(n);
    let other = &mut trees[by];
    let o = other.make(path.iter().map(String::as_str));
    let is_mailbox = matches!(removal.what, Removed::Mailbox(_));
    if other.node(o).state == State::Exists && (other.mailbox(o).is_some() || !is_mailbox) {
        let moved_here = other.guid(o).is_some_and(|guid| trees[1 - by].by_guid(guid).is_some_and(|m| m != n));
        if is_mailbox && moved_here && !as_dovecot {
            trees[1 - by].set_mailbox(n, None);
            trees[1 - by].node_mut(n).state = State::Nonexistent;
        }
        return None;
    }
    if is_mailbox {
        if mailbox.is_some_and(|m| other.by_guid(m.guid).is_some_and(|at| at != o)) {
            return None;
        }
        other.set_mailbox(o, mailbox);
    }
    let gone = other.node_mut(o);
    if matches!(removal.what, Removed::Subscription(_)) {
        gone.subscribed = false;
        gone.subscription_time = removal.time;
    } else {
        gone.state = State::Deleted;
    }
    Some(())
}

fn find(tree: &Arena, what: &Removed) -> Option<Id> {
    match what {
        Removed::Mailbox(guid) => tree.by_guid(*guid),
        Removed::Directory(path) | Removed::Subscription(path) => tree.find(path.iter().map(String::as_str)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modified_utf7_as_in_the_rfc() {
        // RFC 3501 5.1.3
        assert_eq!(mutf7("~peter/mail/台北/日本語"), "~peter/mail/&U,BTFw-/&ZeVnLIqe-");
        assert_eq!(mutf7("a&b"), "a&-b");
    }
}
