//! Creating, renaming and deleting nodes of a `LAYOUT=index` list (index.md 9.3, 9.5).

use std::collections::HashSet;

use super::super::{Bits, Durability, ExtSpec, Locked, Transaction};
use super::names::NameTable;
use super::{LIST, ListIndex, Node, RECORD, damage, fields, flag, read, record};
use crate::index::error::Error;
use crate::mail::{self, Class, Guid128, MailboxGuid, Uid, UidValidity};

/// Why a node could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The index.
    #[error(transparent)]
    Index(#[from] Error),
    /// Something has this name.
    #[error("Mailbox already exists")]
    Exists,
    /// Nothing has this name.
    #[error("Mailbox doesn't exist")]
    NotFound,
    /// A name inside itself.
    #[error("Can't rename a mailbox to itself or into itself")]
    IntoItself,
    /// There are nodes below it.
    #[error("Mailbox has children, delete them first")]
    HasChildren,
}

impl From<NodeError> for mail::Error {
    fn from(e: NodeError) -> Self {
        let class = match e {
            NodeError::Index(e) => return e.into(),
            NodeError::Exists | NodeError::HasChildren => Class::Exists,
            NodeError::NotFound => Class::NotFound,
            NodeError::IntoItself => Class::NotPossible,
        };
        Self::new(class, e)
    }
}

/// What the list looks like under the lock, and what is to be changed.
struct Change<'l, 'i> {
    locked: &'l mut Locked<'i>,
    nodes: Vec<Node>,
    names: NameTable,
    next: Uid,
    t: Transaction,
    /// Records written by this change, so that a name's number is known to be in use.
    written: Vec<(Uid, [u8; RECORD])>,
    gone: HashSet<Uid>,
}

impl<'l, 'i> Change<'l, 'i> {
    fn new(locked: &'l mut Locked<'i>) -> Result<Self, Error> {
        let nodes = read(locked.index())?;
        let state = locked.state();
        let header = state.ext(LIST).map_or(&[][..], |e| state.ext_header(e));
        let names = NameTable::parse(header).map_err(|what| damage(locked.index(), what))?;
        let next = state.next_uid();
        Ok(Self { locked, nodes, names, next, t: Transaction::new(Bits::EXTERNAL), written: Vec::new(), gone: HashSet::new() })
    }

    fn child(&self, parent: Option<Uid>, name: &[u8]) -> Option<&Node> {
        self.nodes.iter().find(|n| n.parent == parent && n.name == name)
    }

    fn find(&self, path: &[&[u8]]) -> Option<&Node> {
        let mut found: Option<&Node> = None;
        for level in path {
            found = Some(self.child(found.map(|n| n.uid), level)?);
        }
        found
    }

    fn has_children(&self, uid: Uid) -> bool {
        self.nodes.iter().any(|n| n.parent == Some(uid))
    }

    fn put(&mut self, uid: Uid, record: [u8; RECORD]) {
        self.written.push((uid, record));
    }

    /// A new node; its parents are made where they are missing.
    fn append(&mut self, path: &[&[u8]], mailbox: Option<(MailboxGuid, UidValidity)>) -> Option<Uid> {
        let mut parent = None;
        for (i, level) in path.iter().enumerate() {
            if let Some(node) = self.child(parent, level) {
                parent = Some(node.uid);
                continue;
            }
            let mailbox = mailbox.filter(|_| i + 1 == path.len());
            let uid = self.next;
            self.next = uid.next();
            self.t.append(uid, if mailbox.is_some() { flag::MARKED } else { flag::MARKED | flag::NOSELECT });
            let name_id = self.names.add(level);
            self.put(uid, record(name_id, parent, mailbox.map(|m| m.0), mailbox.map(|m| m.1)));
            self.nodes.push(Node {
                uid,
                parent,
                name: level.to_vec(),
                guid: mailbox.map(|m| m.0),
                uidvalidity: mailbox.map(|m| m.1),
                selectable: mailbox.is_some(),
            });
            parent = Some(uid);
        }
        parent
    }

    /// Writes the header with the names that are in use, and the records.
    fn commit(mut self) -> Result<(), Error> {
        let mut used = HashSet::new();
        let state = self.locked.state();
        if let Some(ext) = state.ext(LIST) {
            for row in 0..state.len() {
                let rewritten = self.written.iter().any(|(uid, _)| *uid == state.uid(row));
                if !rewritten
                    && !self.gone.contains(&state.uid(row))
                    && let Some((_, [name_id, ..])) = fields(state.ext_record(ext, row))
                {
                    used.insert(name_id);
                }
            }
        }
        used.extend(self.written.iter().filter_map(|(_, r)| fields(r)).map(|(_, [name_id, ..])| name_id));
        self.names.keep(&used);
        let bytes = self.names.bytes();
        let size = u32::try_from(bytes.len().next_power_of_two()).unwrap_or(u32::MAX);
        let spec = ExtSpec { exact: true, ..ExtSpec::new(LIST, size, RECORD as u16, 4) };
        self.t.ext_header(spec, 0, &bytes);
        for (uid, record) in &self.written {
            self.t.ext_record(spec, *uid, record);
        }
        self.t.storage_is_synced();
        self.locked.commit(&self.t, Durability::Mail).map(|_| ())
    }
}

impl ListIndex {
    /// Adds a mailbox and the directories above it. Its own directory must be ready.
    ///
    /// # Errors
    /// [`NodeError::Exists`] if there is a mailbox of this name; the index.
    pub fn create(&mut self, path: &[&[u8]], guid: MailboxGuid, uidvalidity: UidValidity) -> Result<(), NodeError> {
        let mut locked = self.index.lock()?;
        let mut change = Change::new(&mut locked)?;
        match change.find(path).cloned() {
            Some(node) if node.guid.is_some() => return Err(NodeError::Exists),
            // A directory becomes a mailbox.
            Some(node) => {
                let name_id = change.names.add(&node.name);
                change.put(node.uid, record(name_id, node.parent, Some(guid), Some(uidvalidity)));
                change.t.raw_flags(node.uid, flag::MARKED, 0x1f & !flag::MARKED);
            }
            None => {
                change.append(path, Some((guid, uidvalidity)));
            }
        }
        Ok(change.commit()?)
    }

    /// Adds a directory and those above it. Fine if it is there.
    ///
    /// # Errors
    /// The index.
    pub fn create_dir(&mut self, path: &[&[u8]]) -> Result<(), NodeError> {
        let mut locked = self.index.lock()?;
        let mut change = Change::new(&mut locked)?;
        if change.find(path).is_some() {
            return Ok(());
        }
        change.append(path, None);
        Ok(change.commit()?)
    }

    /// Gives a mailbox another identity in the list.
    ///
    /// # Errors
    /// [`NodeError::NotFound`]; the index.
    pub fn set_identity(&mut self, path: &[&[u8]], guid: MailboxGuid, uidvalidity: UidValidity) -> Result<(), NodeError> {
        let mut locked = self.index.lock()?;
        let mut change = Change::new(&mut locked)?;
        let node = change.find(path).cloned().ok_or(NodeError::NotFound)?;
        let name_id = change.names.add(&node.name);
        change.put(node.uid, record(name_id, node.parent, Some(guid), Some(uidvalidity)));
        Ok(change.commit()?)
    }

    /// Removes a mailbox whose directory is gone; it stays as a directory if it has children. With no GUID removes a
    /// directory, which must have none. Says whether nothing is left of the name.
    ///
    /// # Errors
    /// [`NodeError::NotFound`], also when another mailbox has the name; [`NodeError::HasChildren`]; the index.
    pub fn delete(&mut self, path: &[&[u8]], guid: Option<MailboxGuid>) -> Result<bool, NodeError> {
        let mut locked = self.index.lock()?;
        let mut change = Change::new(&mut locked)?;
        let node = change.find(path).cloned().filter(|n| n.guid == guid).ok_or(NodeError::NotFound)?;
        let children = change.has_children(node.uid);
        if children && guid.is_none() {
            return Err(NodeError::HasChildren);
        }
        if children {
            let name_id = change.names.add(&node.name);
            change.put(node.uid, record(name_id, node.parent, None, None));
            change.t.raw_flags(node.uid, flag::NOSELECT, 0x0f);
        } else {
            change.gone.insert(node.uid);
            change.t.expunge(node.uid, Guid128::ZERO);
        }
        change.commit()?;
        Ok(!children)
    }

    /// Beside a tree of directories: takes back what the list says of a mailbox that is gone, so that no session shows its
    /// GUID and counters any more. Its node stays if it has children. `directory`: there is a directory left of it.
    ///
    /// # Errors
    /// The index.
    pub fn forget(&mut self, path: &[&[u8]], directory: bool) -> Result<(), NodeError> {
        let mut locked = self.index.lock()?;
        let mut change = Change::new(&mut locked)?;
        let Some(node) = change.find(path).cloned() else { return Ok(()) };
        if directory || change.has_children(node.uid) {
            let name_id = change.names.add(&node.name);
            change.put(node.uid, record(name_id, node.parent, None, None));
            change.t.raw_flags(node.uid, if directory { flag::NOSELECT } else { flag::NONEXISTENT }, 0x1f);
        } else {
            change.gone.insert(node.uid);
            change.t.expunge(node.uid, Guid128::ZERO);
        }
        Ok(change.commit()?)
    }

    /// Gives a node, and with it all below it, another name. The parents of the new name are made; those of the old one that
    /// are left without anything go.
    ///
    /// # Errors
    /// [`NodeError::Exists`], [`NodeError::NotFound`], [`NodeError::IntoItself`]; the index.
    pub fn rename(&mut self, from: &[&[u8]], to: &[&[u8]]) -> Result<(), NodeError> {
        let mut locked = self.index.lock()?;
        let mut change = Change::new(&mut locked)?;
        let node = change.find(from).cloned().ok_or(NodeError::NotFound)?;
        if to.starts_with(from) {
            return Err(NodeError::IntoItself);
        }
        if change.find(to).is_some() {
            return Err(NodeError::Exists);
        }
        let Some((leaf, above)) = to.split_last() else { return Err(NodeError::Exists) };
        let parent = change.append(above, None);
        let name_id = change.names.add(leaf);
        change.put(node.uid, record(name_id, parent, node.guid, node.uidvalidity));
        change.nodes.iter_mut().filter(|n| n.uid == node.uid).for_each(|n| n.parent = parent);
        let mut above = node.parent;
        while let Some(uid) = above
            && let Some(dir) = change.nodes.iter().find(|n| n.uid == uid && n.guid.is_none()).cloned()
            && !change.has_children(uid)
        {
            change.gone.insert(uid);
            change.nodes.retain(|n| n.uid != uid);
            change.t.expunge(uid, Guid128::ZERO);
            above = dir.parent;
        }
        Ok(change.commit()?)
    }
}
