//! What the mailbox logs tell of removals, applied to the trees before they are merged (sync.md 3.8).
//!
//! A removal is looked up in the tree of the side that still has the thing, and written into the tree of the side that
//! removed it, unless the name has come back there.

use crate::mail::MailboxGuid;

use super::arena::{Arena, Id, State};
use super::merge::{L, R};

/// A removal whose name hash has been resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub what: Removed,
    pub time: u64,
}

/// What was removed; names are canonical levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Removed {
    Mailbox(MailboxGuid),
    Directory(Vec<String>),
    Subscription(Vec<String>),
}

/// Applies the removals of both sides, the remote ones first.
pub(super) fn apply(trees: &mut [Arena; 2], local: &[Removal], remote: &[Removal]) {
    for (by, removals) in [(R, remote), (L, local)] {
        for removal in removals {
            apply_one(trees, by, removal);
        }
    }
}

fn apply_one(trees: &mut [Arena; 2], by: usize, removal: &Removal) -> Option<()> {
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
