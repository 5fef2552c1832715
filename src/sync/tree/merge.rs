//! Dovecot's tree merge (sync.md 4), as exact as we know it: what its brain does to its own side, and the tree that it
//! believes both sides have in the end.
//!
//! That tree is what our own sides make true (`target`); the list of changes tells what a Dovecot at the other side will do.

use std::collections::HashSet;

use crate::mail::{MailboxGuid, MailboxName, UidValidity};

use super::arena::{Arena, Id, Mailbox, ROOT, State};

/// Dovecot's patience.
pub(super) const PATIENCE: usize = 3;

/// The own tree's place in a [`Merge`].
pub(super) const L: usize = 0;
/// The other tree's.
pub(super) const R: usize = 1;

/// Who may not be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Two-way and one-way.
    Both,
    /// A backup whose source is the own side.
    Local,
    /// A backup whose destination is the own side.
    Remote,
}

/// A change to the own side as Dovecot makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Rename {
        from: MailboxName,
        to: MailboxName,
    },
    /// By GUID, wherever it is.
    DeleteBox {
        guid: MailboxGuid,
    },
    DeleteDir {
        name: MailboxName,
    },
    CreateDir {
        name: MailboxName,
    },
    /// Create, or give the mailbox that is there this GUID (4.7).
    CreateBox {
        name: MailboxName,
        guid: MailboxGuid,
        uidvalidity: UidValidity,
    },
    Subscribe {
        name: MailboxName,
    },
    Unsubscribe {
        name: MailboxName,
    },
}

/// The renames found no end; Dovecot fails with `BUG: Mailbox renaming algorithm ...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stuck;

/// Two trees on their way to become one.
#[derive(Debug, Clone)]
pub(super) struct Merge {
    pub trees: [Arena; 2],
    pub keep: Keep,
    /// What the own side does.
    pub changes: Vec<Change>,
    /// Names that do not move, beside INBOX.
    pub fixed: HashSet<Vec<String>>,
    /// To the letter. Otherwise directories never stand in the way: a Dovecot moves them about as if they had an identity,
    /// which is where its temporary names mostly come from, after quite ordinary renames of one side.
    pub as_dovecot: bool,
    /// How often every node may be moved before the renames count as endless.
    pub patience: usize,
    /// Mailboxes are renamed.
    pub settle: bool,
    /// How often something may still be moved before the renames count as endless.
    pub moves_left: usize,
}

impl Merge {
    pub fn new(local: Arena, remote: Arena, keep: Keep) -> Self {
        Self {
            trees: [local, remote],
            keep,
            changes: Vec::new(),
            fixed: HashSet::new(),
            as_dovecot: true,
            patience: PATIENCE,
            settle: true,
            moves_left: 0,
        }
    }

    /// Runs to the end (4.1).
    pub fn run(&mut self) -> Result<(), Stuck> {
        let mut round = 0;
        loop {
            let count = self.trees[L].len() + self.trees[R].len();
            for t in [R, L] {
                self.take_deletions(t);
            }
            for t in [L, R] {
                self.inherit_times(t);
            }
            if self.settle {
                self.settle_names(count)?;
            }
            let mut renamed = false;
            for t in [L, R] {
                renamed |= self.final_names(t);
            }
            match self.keep {
                Keep::Local => self.remove_wrong(R, L),
                Keep::Remote => self.remove_wrong(L, R),
                Keep::Both => {}
            }
            if self.keep != Keep::Local {
                self.create_missing(R, L);
            }
            if self.keep != Keep::Remote {
                self.create_missing(L, R);
            }
            if !renamed || round > PATIENCE * count {
                break;
            }
            round += 1;
        }
        self.directories(ROOT, ROOT);
        Ok(())
    }

    pub(super) fn is_fixed(&self, t: usize, n: Id) -> bool {
        let tree = &self.trees[t];
        n == ROOT
            || tree.parent(n) == Some(ROOT) && tree.name(n) == "INBOX"
            || !self.fixed.is_empty() && self.fixed.contains(&tree.path(n))
    }

    /// Breadth first, so that the changes come in Dovecot's order.
    fn take_deletions(&mut self, t: usize) {
        let mut level = vec![ROOT];
        while !level.is_empty() {
            level = level.iter().flat_map(|&n| self.trees[t].children(n).to_vec()).collect();
            for &n in &level {
                let Some(mailbox) = self.trees[t].mailbox(n).filter(|_| self.trees[t].node(n).state == State::Deleted) else {
                    continue;
                };
                if self.keep == Keep::Both
                    && let Some(other) = self.trees[1 - t].by_guid(mailbox.guid)
                {
                    self.delete(1 - t, other);
                }
                self.trees[t].set_mailbox(n, None);
            }
        }
    }

    fn delete(&mut self, t: usize, n: Id) {
        if t == L
            && let Some(mailbox) = self.trees[t].existing_mailbox(n)
        {
            self.changes.push(Change::DeleteBox { guid: mailbox.guid });
        }
        self.trees[t].set_mailbox(n, None);
        self.trees[t].node_mut(n).state = State::Deleted;
    }

    fn inherit_times(&mut self, t: usize) {
        let tree = &mut self.trees[t];
        for n in tree.subtree(ROOT) {
            let above = tree.node(tree.above(n)).time;
            let node = tree.node_mut(n);
            node.time = node.time.max(above);
        }
    }

    /// Backup (4.4): what is in tree `t` but not so in `wanted` goes.
    fn remove_wrong(&mut self, t: usize, wanted: usize) {
        let mut nodes = self.trees[t].subtree(ROOT);
        nodes.reverse();
        for n in nodes {
            let Some(have) = self.trees[t].existing_mailbox(n) else { continue };
            let path = self.trees[t].path(n);
            let want =
                self.trees[wanted].find(path.iter().map(String::as_str)).and_then(|w| self.trees[wanted].existing_mailbox(w));
            let right =
                want.is_some_and(|w| w.guid == have.guid && w.uidvalidity == have.uidvalidity && have.uid_next <= w.uid_next);
            if !right {
                self.delete(t, n);
            }
        }
    }

    /// Mailboxes of tree `from` that tree `to` lacks (4.5).
    fn create_missing(&mut self, from: usize, to: usize) {
        for n in self.trees[from].subtree(ROOT) {
            let Some(source) = self.trees[from].existing_mailbox(n) else { continue };
            let path = self.trees[from].path(n);
            let other = match self.trees[to].by_guid(source.guid) {
                Some(other) => other,
                None => self.trees[to].make(path.iter().map(String::as_str)),
            };
            match self.trees[to].mailbox(other) {
                Some(there) if there.guid == source.guid => continue,
                Some(_) => {}
                None => {
                    self.trees[to].set_mailbox(other, Some(Mailbox { uid_next: crate::mail::Uid::FIRST, ..source }));
                    self.trees[to].node_mut(other).state = State::Exists;
                }
            }
            if to == L
                && let Some(name) = self.trees[to].full_name(other)
            {
                self.changes.push(Change::CreateBox { name, guid: source.guid, uidvalidity: source.uidvalidity });
            }
        }
    }

    /// Directories and subscriptions (4.6).
    fn directories(&mut self, lp: Id, rp: Id) {
        let mut names: Vec<String> = Vec::new();
        for (t, p) in [(L, lp), (R, rp)] {
            names.extend(self.trees[t].children(p).iter().map(|&c| self.trees[t].name(c).to_owned()));
        }
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (l, r) = (self.trees[L].child(lp, &name), self.trees[R].child(rp, &name));
            let l = l.unwrap_or_else(|| self.trees[L].insert(lp, &name));
            let r = r.unwrap_or_else(|| self.trees[R].insert(rp, &name));
            self.directory(l, r);
        }
    }

    fn directory(&mut self, l: Id, r: Id) {
        let Some(name) = self.trees[L].full_name(l) else { return };
        let exists = |m: &Self, t: usize, n: Id| m.trees[t].node(n).state;
        if exists(self, L, l) == State::Exists && exists(self, R, r) == State::Nonexistent && self.keep != Keep::Remote {
            self.trees[R].node_mut(r).state = State::Exists;
        } else if exists(self, R, r) == State::Exists && exists(self, L, l) == State::Nonexistent && self.keep != Keep::Local {
            self.trees[L].node_mut(l).state = State::Exists;
            self.changes.push(Change::CreateDir { name: name.clone() });
        }
        self.directories(l, r);
        self.subscription(l, r, &name);

        let (ls, rs) = (exists(self, L, l), exists(self, R, r));
        if ls == State::Deleted && rs == State::Exists && !self.trees[L].anything_exists_below(l) && self.keep != Keep::Remote {
            self.trees[R].node_mut(r).state = State::Deleted;
        } else if rs == State::Deleted
            && ls == State::Exists
            && !self.trees[R].anything_exists_below(r)
            && self.keep != Keep::Local
        {
            self.trees[L].node_mut(l).state = State::Deleted;
            self.changes.push(Change::DeleteDir { name });
        }
    }

    fn subscription(&mut self, l: Id, r: Id, name: &MailboxName) {
        let (ln, rn) = (self.trees[L].node(l), self.trees[R].node(r));
        let (local, remote) = (ln.subscribed, rn.subscribed);
        if local == remote {
            return;
        }
        let local_wins = match self.keep {
            Keep::Local => true,
            Keep::Remote => false,
            Keep::Both if ln.subscription_time != rn.subscription_time => ln.subscription_time > rn.subscription_time,
            Keep::Both => local,
        };
        if local_wins {
            self.trees[R].node_mut(r).subscribed = local;
        } else {
            self.trees[L].node_mut(l).subscribed = remote;
            let name = name.clone();
            self.changes.push(if remote { Change::Subscribe { name } } else { Change::Unsubscribe { name } });
        }
    }
}
