//! What tree changes do to names on disk, as a plain value: the effects that changes have beyond what they say.
//!
//! Two kinds of layout (sync.md 4.7, mailbox-list.md 8): in trees of directories a mailbox is a directory, so deleting one with
//! children leaves a directory and moving the last child away may remove its parent; in Maildir++ every name stands for itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::mail::{MailboxGuid, MailboxName};

use super::merge::Change;

/// Names and what is there: a mailbox, or a directory (`None`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Disk {
    pub names: BTreeMap<MailboxName, Option<MailboxGuid>>,
    pub subscribed: BTreeSet<MailboxName>,
    /// Maildir++: no directories, names independent of each other.
    pub flat: bool,
}

/// The storage refuses: the name is taken, or not there, or not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

impl Disk {
    /// Whether there is anything below the name.
    pub fn has_children(&self, name: &MailboxName) -> bool {
        self.below(name).next().is_some()
    }

    fn below<'a>(&'a self, name: &'a MailboxName) -> impl Iterator<Item = &'a MailboxName> + 'a {
        // Names that begin with these levels follow the name at once.
        self.names.range(name..).map(|(n, _)| n).take_while(move |n| n.is_inside(name)).filter(move |n| *n != name)
    }

    pub fn rename(&mut self, from: &MailboxName, to: &MailboxName) -> Result<(), Refused> {
        let there = self.names.contains_key(from) || self.flat && self.has_children(from);
        // Parents of the new name are made first and stay even when there is nothing to be renamed.
        self.make_parents(to);
        if !there || to.is_inside(from) || self.names.contains_key(to) {
            return Err(Refused);
        }
        let moved: Vec<MailboxName> = self.names.keys().filter(|n| n.is_inside(from)).cloned().collect();
        if self.flat && moved.iter().any(|n| self.names.contains_key(&rebased(n, from, to))) {
            return Err(Refused);
        }
        for name in &moved {
            if let Some(content) = self.names.remove(name) {
                self.names.insert(rebased(name, from, to), content);
            }
        }
        self.drop_empty_parents(from);
        Ok(())
    }

    fn drop_empty_parents(&mut self, name: &MailboxName) {
        let mut above = name.parent();
        while let Some(parent) = above.filter(|p| self.names.get(p) == Some(&None) && !self.has_children(p)) {
            self.names.remove(&parent);
            above = parent.parent();
        }
    }

    pub fn delete(&mut self, guid: MailboxGuid) -> Result<(), Refused> {
        let name = self.names.iter().find(|(_, g)| **g == Some(guid)).map(|(n, _)| n.clone()).ok_or(Refused)?;
        if !self.flat && self.has_children(&name) {
            self.names.insert(name, None);
        } else {
            self.names.remove(&name);
        }
        Ok(())
    }

    pub fn delete_dir(&mut self, name: &MailboxName) -> Result<(), Refused> {
        if self.names.get(name) != Some(&None) || self.has_children(name) {
            return Err(Refused);
        }
        self.names.remove(name);
        Ok(())
    }

    pub fn create_dir(&mut self, name: &MailboxName) {
        if !self.flat {
            self.make_parents(name);
            self.names.entry(name.clone()).or_insert(None);
        }
    }

    /// Creates; a mailbox that is there stays.
    pub fn create(&mut self, name: &MailboxName, guid: MailboxGuid) -> Result<(), Refused> {
        self.make_parents(name);
        let there = self.names.entry(name.clone()).or_insert(None);
        if there.is_some() {
            return Err(Refused);
        }
        *there = Some(guid);
        Ok(())
    }

    fn make_parents(&mut self, name: &MailboxName) {
        if self.flat {
            return;
        }
        let mut above = name.parent();
        while let Some(parent) = above {
            above = parent.parent();
            self.names.entry(parent).or_insert(None);
        }
    }

    /// What a Dovecot does for this change (4.7). A refused change is left out.
    pub fn apply(&mut self, change: &Change, receives: bool) -> Result<(), Refused> {
        match change {
            Change::Rename { from, to } => self.rename(from, to),
            Change::DeleteBox { guid } => self.delete(*guid),
            Change::DeleteDir { name } => self.delete_dir(name),
            Change::CreateDir { name } => {
                self.create_dir(name);
                Ok(())
            }
            Change::CreateBox { name, guid, .. } => {
                if self.create(name, *guid).is_err()
                    && let Some(Some(present)) = self.names.get_mut(name)
                    && (receives || *guid > *present)
                {
                    *present = *guid;
                }
                Ok(())
            }
            Change::Subscribe { name } => {
                self.subscribed.insert(name.clone());
                Ok(())
            }
            Change::Unsubscribe { name } => {
                self.subscribed.remove(name);
                Ok(())
            }
        }
    }
}

/// The name with its beginning replaced.
pub(super) fn rebased(name: &MailboxName, from: &MailboxName, to: &MailboxName) -> MailboxName {
    let mut levels = to.levels().to_vec();
    levels.extend_from_slice(&name.levels()[from.levels().len()..]);
    MailboxName::new(levels).expect("holds because `to` has levels, none of them empty")
}
