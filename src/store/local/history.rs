//! The mailbox log: reading what was done (sync.md 3.5), writing what we do.

use std::collections::{HashMap, HashSet};

use super::LocalStore;
use super::scan::Draft;
use crate::index::mailbox_log::{self, Event, Record};
use crate::mail::{Deletion, DeletionKey, Existence, MailboxName, NameHash, Result, Timestamp};

impl LocalStore {
    /// Replays the logs of all namespaces that take part. A namespace's subscriptions may be logged by another one.
    pub(super) fn replay_history(&self, draft: &mut Draft) -> Result<Vec<Deletion>> {
        let separator = self.rules().separator;
        let by_hash: HashMap<NameHash, usize> =
            draft.nodes.iter().enumerate().map(|(at, n)| (NameHash::of(&n.name.join(separator)), at)).collect();
        let between = names_between(draft, separator);
        let present: HashSet<_> = draft.nodes.iter().filter_map(|n| n.identity.map(|i| i.guid)).collect();
        let mut dirs = Vec::new();
        for &space in &self.selected {
            let owner = self.subscription_owner(space).unwrap_or(space);
            for s in [owner, space] {
                dirs.extend(self.list(s)?.location.index_root().filter(|d| !dirs.contains(d)));
            }
        }
        let mut deletions = Vec::new();
        for dir in dirs {
            let log = mailbox_log::read(&dir)?;
            for damage in &log.damage {
                tracing::warn!("{damage}");
            }
            for Record { event, time } in log.records {
                let node = |hash| by_hash.get(&hash).copied();
                let mut deleted = |key| deletions.push(Deletion { key, time });
                match event {
                    Event::DeleteMailbox(guid) if present.contains(&guid) => {}
                    Event::DeleteMailbox(guid) => deleted(DeletionKey::Mailbox(guid)),
                    Event::DeleteDir(hash) => match node(hash) {
                        Some(at) if draft.nodes[at].existence != Existence::Nonexistent => {}
                        _ => deleted(DeletionKey::Directory(hash)),
                    },
                    Event::Rename(hash) | Event::CreateDir(hash) => {
                        if let Some(at) = node(hash) {
                            draft.nodes[at].renamed = time;
                        } else if let Some(name) = between.get(&hash) {
                            draft.node(name).renamed = time;
                        }
                    }
                    Event::Subscribe(hash) => {
                        if let Some(at) = node(hash) {
                            draft.nodes[at].subscription_changed = time;
                        }
                    }
                    Event::Unsubscribe(hash) => match node(hash) {
                        Some(at) => draft.nodes[at].subscription_changed = time,
                        None => deleted(DeletionKey::Subscription(hash)),
                    },
                }
            }
        }
        Ok(deletions)
    }

    /// Writes down what was done, with the time it was decided. 0 is "now".
    pub(super) fn remember(&self, space: usize, event: Event, time: Timestamp) -> Result<()> {
        let list = self.list(space)?;
        let Some(root) = list.location.index_root() else { return Ok(()) };
        let time = if time == Timestamp::default() { Timestamp::now() } else { time };
        list.make_root(&root)?;
        Ok(mailbox_log::append(&root, &[Record { event, time }], &list.root_modes())?)
    }

    /// The hash of a full name as this side logs it.
    pub(super) fn hash(&self, space: usize, name: &MailboxName) -> Result<NameHash> {
        Ok(NameHash::of(&self.list(space)?.names.vname(name)))
    }
}

/// Names above mailboxes that are nothing themselves: a Maildir's rename of a parent is logged under such a name.
fn names_between(draft: &Draft, separator: char) -> HashMap<NameHash, MailboxName> {
    let known: HashSet<&MailboxName> = draft.nodes.iter().map(|n| &n.name).collect();
    let mut out = HashMap::new();
    for node in &draft.nodes {
        let mut above = node.name.parent();
        while let Some(name) = above.filter(|name| !known.contains(name)) {
            above = name.parent();
            out.insert(NameHash::of(&name.join(separator)), name);
        }
    }
    out
}
