//! A mailbox tree that can be rearranged: nodes in one vector, children sorted by name, mailboxes found by GUID.
//!
//! A node's place is all its name says: moving a node moves everything below it.

use std::collections::HashMap;

use crate::mail::{MailboxGuid, MailboxName, Uid, UidValidity};

/// The node above all names.
pub(super) const ROOT: Id = Id(0);

/// A node of one arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(usize);

/// Whether there is anything at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    /// A placeholder: a parent that is not there, or a mere subscription.
    #[default]
    Nonexistent,
    /// A mailbox, or a directory.
    Exists,
    /// It was there and has been deleted. Unlike a placeholder it is not made again.
    Deleted,
}

/// The mailbox at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub guid: MailboxGuid,
    pub uidvalidity: UidValidity,
    pub uid_next: Uid,
}

/// A node.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    parent: Option<Id>,
    children: Vec<Id>,
    name: String,
    pub state: State,
    mailbox: Option<Mailbox>,
    /// When it got its name, seconds; 0 unknown.
    pub time: u64,
    pub subscribed: bool,
    pub subscription_time: u64,
    /// Its name is to be replaced before the end.
    pub temporary: bool,
    /// What its own side calls this level, where that is not the name.
    pub label: Option<String>,
    /// Its whole name at its own side, where that has nothing to do with its place here.
    pub apart: Option<MailboxName>,
    /// Whether it takes part.
    pub hold: Hold,
}

/// Whether a node takes part in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Hold {
    /// It does.
    #[default]
    Free,
    /// Not selected: it is neither created, deleted nor renamed, but may move along with its parent.
    Outside,
    /// Nobody may touch the name.
    Frozen,
}

/// A tree.
#[derive(Debug, Clone)]
pub(super) struct Arena {
    nodes: Vec<Node>,
    guids: HashMap<MailboxGuid, Id>,
}

impl Arena {
    pub fn new() -> Self {
        Self { nodes: vec![Node { state: State::Exists, ..Node::default() }], guids: HashMap::new() }
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0]
    }

    pub fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0]
    }

    pub fn name(&self, id: Id) -> &str {
        &self.nodes[id.0].name
    }

    pub fn parent(&self, id: Id) -> Option<Id> {
        self.nodes[id.0].parent
    }

    /// The parent; the root is its own.
    pub fn above(&self, id: Id) -> Id {
        self.parent(id).unwrap_or(ROOT)
    }

    /// Sorted by name.
    pub fn children(&self, id: Id) -> &[Id] {
        &self.nodes[id.0].children
    }

    pub fn mailbox(&self, id: Id) -> Option<Mailbox> {
        self.nodes[id.0].mailbox
    }

    pub fn guid(&self, id: Id) -> Option<MailboxGuid> {
        self.mailbox(id).map(|m| m.guid)
    }

    /// A mailbox that is there.
    pub fn existing_mailbox(&self, id: Id) -> Option<Mailbox> {
        (self.node(id).state == State::Exists).then(|| self.mailbox(id)).flatten()
    }

    pub fn by_guid(&self, guid: MailboxGuid) -> Option<Id> {
        self.guids.get(&guid).copied()
    }

    /// Gives the node this mailbox, or makes it a directory. Where two nodes claim a GUID the first keeps the entry.
    pub fn set_mailbox(&mut self, id: Id, mailbox: Option<Mailbox>) {
        if let Some(old) = self.guid(id)
            && self.guids.get(&old) == Some(&id)
        {
            self.guids.remove(&old);
        }
        if let Some(new) = mailbox {
            self.guids.entry(new.guid).or_insert(id);
        }
        self.nodes[id.0].mailbox = mailbox;
    }

    /// The first child of this name.
    pub fn child(&self, parent: Id, name: &str) -> Option<Id> {
        let children = self.children(parent);
        let at = children.partition_point(|&c| self.name(c) < name);
        children.get(at).copied().filter(|&c| self.name(c) == name)
    }

    /// A new placeholder.
    pub fn insert(&mut self, parent: Id, name: &str) -> Id {
        let id = Id(self.nodes.len());
        self.nodes.push(Node { name: name.to_owned(), ..Node::default() });
        self.attach(id, parent);
        id
    }

    /// The node at this path below the root, if there is one.
    pub fn find<'a>(&self, levels: impl IntoIterator<Item = &'a str>) -> Option<Id> {
        levels.into_iter().try_fold(ROOT, |at, level| self.child(at, level))
    }

    /// The node at this path; missing ones are made as placeholders.
    pub fn make<'a>(&mut self, levels: impl IntoIterator<Item = &'a str>) -> Id {
        let mut at = ROOT;
        for level in levels {
            at = self.child(at, level).unwrap_or_else(|| self.insert(at, level));
        }
        at
    }

    fn attach(&mut self, id: Id, parent: Id) {
        let at = self.nodes[parent.0].children.partition_point(|&c| self.name(c) <= self.name(id));
        self.nodes[parent.0].children.insert(at, id);
        self.nodes[id.0].parent = Some(parent);
    }

    pub fn detach(&mut self, id: Id) {
        if let Some(parent) = self.nodes[id.0].parent.take() {
            let start = self.children(parent).partition_point(|&c| self.name(c) < self.name(id));
            // Two nodes of one name can be siblings for a while.
            if let Some(at) = self.children(parent)[start..].iter().position(|&c| c == id) {
                self.nodes[parent.0].children.remove(start + at);
            }
        }
    }

    /// Moves the node, with all below it, to this name below `parent`, which must not lie inside it.
    pub fn move_to(&mut self, id: Id, parent: Id, name: &str) {
        debug_assert!(!self.is_inside(parent, id), "a tree has no rings");
        self.detach(id);
        name.clone_into(&mut self.nodes[id.0].name);
        self.attach(id, parent);
    }

    /// Takes the node, with all below it, out of the tree for good.
    pub fn discard(&mut self, id: Id) {
        for n in self.subtree(id) {
            self.set_mailbox(n, None);
        }
        self.detach(id);
    }

    /// Puts what is below a placeholder below another node, and takes the placeholder out. Where both have a child of one name,
    /// the one that is there takes in what is below the other.
    pub fn graft(&mut self, placeholder: Id, into: Id) {
        self.detach(placeholder);
        let mut todo = vec![(placeholder, into)];
        while let Some((from, into)) = todo.pop() {
            for child in self.children(from).to_vec() {
                let name = self.name(child).to_owned();
                let twin = self.child(into, &name);
                self.detach(child);
                match twin {
                    None => self.attach(child, into),
                    Some(twin) if self.node(child).state == State::Exists => {
                        self.detach(twin);
                        self.attach(child, into);
                        todo.push((twin, child));
                    }
                    Some(twin) => todo.push((child, twin)),
                }
            }
        }
    }

    /// It is this node, or lies below it.
    pub fn is_inside(&self, id: Id, other: Id) -> bool {
        self.chain(id).any(|n| n == other)
    }

    /// The node and all above it up to the root.
    fn chain(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        std::iter::successors(Some(id), |&n| self.parent(n))
    }

    /// The levels of the node's name, outermost first; empty for the root.
    pub fn path(&self, id: Id) -> Vec<String> {
        let mut levels: Vec<String> = self.chain(id).filter(|&n| n != ROOT).map(|n| self.name(n).to_owned()).collect();
        levels.reverse();
        levels
    }

    /// What the node's own side calls this level.
    pub fn label(&self, id: Id) -> &str {
        self.node(id).label.as_deref().unwrap_or_else(|| self.name(id))
    }

    /// What the node's own side calls it; `None` for the root.
    pub fn own_name(&self, id: Id) -> Option<MailboxName> {
        let mut levels: Vec<String> = Vec::new();
        for n in self.chain(id).filter(|&n| n != ROOT) {
            if let Some(apart) = &self.node(n).apart {
                levels.extend(apart.levels().iter().rev().cloned());
                break;
            }
            levels.push(self.label(n).to_owned());
        }
        levels.reverse();
        MailboxName::new(levels)
    }

    /// The node's full name; `None` for the root.
    pub fn full_name(&self, id: Id) -> Option<MailboxName> {
        MailboxName::new(self.path(id))
    }

    /// The node and all below it, parents before their children, in name order.
    pub fn subtree(&self, id: Id) -> Vec<Id> {
        let mut out = Vec::new();
        let mut todo = vec![id];
        while let Some(next) = todo.pop() {
            out.push(next);
            todo.extend(self.children(next).iter().rev());
        }
        out
    }

    /// The node or something below it is there.
    pub fn anything_exists(&self, id: Id) -> bool {
        self.node(id).state == State::Exists || self.anything_exists_below(id)
    }

    /// Something below the node is there.
    pub fn anything_exists_below(&self, id: Id) -> bool {
        let mut todo: Vec<&[Id]> = vec![self.children(id)];
        while let Some(children) = todo.pop() {
            for &c in children {
                if self.node(c).state == State::Exists {
                    return true;
                }
                todo.push(self.children(c));
            }
        }
        false
    }

    /// How many nodes hang in the tree.
    pub fn len(&self) -> usize {
        self.subtree(ROOT).len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_sorted_and_found() {
        let mut tree = Arena::new();
        for name in ["b", "a", "c"] {
            tree.make([name]);
        }
        let names: Vec<&str> = tree.children(ROOT).iter().map(|&c| tree.name(c)).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(tree.find(["d"]), None);
    }

    #[test]
    fn moving_a_node_moves_what_is_below() {
        let mut tree = Arena::new();
        let leaf = tree.make(["a", "b", "c"]);
        let b = tree.make(["a", "b"]);
        tree.move_to(b, ROOT, "z");
        assert_eq!(tree.path(leaf), ["z", "c"]);
        assert!(tree.is_inside(leaf, b));
        assert_eq!(tree.children(tree.find(["a"]).expect("it stays")), []);
    }
}
