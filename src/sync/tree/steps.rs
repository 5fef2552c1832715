//! From the tree that a side has to the one that it shall have: the changes, in an order that always works.
//!
//! 1. Delete what is doomed, children first.
//! 2. Give mailboxes the GUIDs that they shall have. No GUID is ever in two places.
//! 3. Walk the wanted names, parents before children. Whoever sits where another belongs goes home, or under a temporary name
//!    until his turn comes; then the rightful mailbox comes (with all below it), or is created. As everything above a name
//!    is already in place when it is its turn, nothing that is in place is moved again.
//! 4. Make wanted directories, remove the ones that nobody wants, deepest first.
//! 5. Subscribe and unsubscribe.
//!
//! A directory that has lost its last mailbox may be gone by itself or not, as the layout likes; step 4 settles that.

use std::collections::{HashMap, HashSet};

use crate::mail::{MailboxGuid, MailboxName, NameRules, Timestamp};

use super::arena::{Arena, Hold, Id, Mailbox, ROOT, State};
use super::disk::rebased;
use super::log::Paths;
use super::names::Facts;
use super::target::{Input, Target, Want, derived};
use super::types::{Note, NoteKind, Role, TreeAction};

/// A side on its way.
pub(super) struct Steps<'a> {
    tree: Arena,
    rules: &'a NameRules,
    role: Role,
    target: &'a Target,
    fixed: &'a Paths,
    /// Where own mailboxes belong.
    homes: HashMap<Id, &'a Vec<String>>,
    /// Who belongs at a name.
    owners: HashMap<&'a Vec<String>, Id>,
    /// Directories that may have gone by themselves.
    doubtful: HashSet<Id>,
    touched: HashSet<Id>,
    /// Nodes whose own names have nothing to do with their place.
    strangers: Vec<Id>,
    before: HashMap<Id, MailboxName>,
    actions: Vec<TreeAction>,
    notes: Vec<Note>,
}

/// What a side does and what it has then.
pub(super) struct Done {
    pub actions: Vec<TreeAction>,
    pub notes: Vec<Note>,
    /// Mailboxes by GUID: their own names, and whether they are new, renamed or have a new GUID.
    pub mailboxes: HashMap<MailboxGuid, (MailboxName, bool)>,
}

/// The steps of side `s`.
pub(super) fn steps(input: &Input<'_, '_>, s: usize, role: Role, target: &Target) -> Done {
    let side = &input.facts[s];
    let mut steps = Steps {
        tree: side.tree.clone(),
        rules: side.rules,
        role,
        target,
        fixed: &input.fixed,
        homes: HashMap::new(),
        owners: HashMap::new(),
        doubtful: HashSet::new(),
        touched: HashSet::new(),
        strangers: side.tree.subtree(ROOT).into_iter().filter(|&n| side.tree.node(n).apart.is_some()).collect(),
        before: HashMap::new(),
        actions: Vec::new(),
        notes: Vec::new(),
    };
    for (guid, home) in &target.homes[s] {
        if let Some(id) = side.tree.by_guid(*guid) {
            steps.homes.insert(id, home);
            steps.owners.insert(home, id);
        }
    }
    for id in side.tree.subtree(ROOT) {
        if side.tree.mailbox(id).is_some() {
            steps.before.extend(side.tree.own_name(id).map(|name| (id, name)));
        }
    }
    for id in side.tree.subtree(ROOT) {
        // What is neither wanted elsewhere nor to be deleted stays, as if it were not selected.
        let known = |guid| target.homes[s].contains_key(&guid) || target.doomed[s].contains_key(&guid);
        if side.tree.guid(id).is_some_and(|guid| !known(guid)) && side.tree.node(id).hold == Hold::Free {
            steps.tree.node_mut(id).hold = Hold::Outside;
        }
    }
    steps.delete(&target.doomed[s]);
    steps.set_guids();
    for (path, want) in &target.names {
        steps.place(path, want);
    }
    steps.directories();
    steps.subscriptions(&side.tree);
    steps.done()
}

/// The mailboxes of a side that changes nothing.
pub(super) fn unchanged(side: &Facts<'_>) -> Done {
    let free = side.tree.subtree(ROOT).into_iter().filter(|&n| side.tree.node(n).hold == Hold::Free);
    let mailboxes = free.filter_map(|n| Some((side.tree.existing_mailbox(n)?.guid, (side.tree.own_name(n)?, false))));
    Done { actions: Vec::new(), notes: Vec::new(), mailboxes: mailboxes.collect() }
}

fn time(seconds: u64) -> Timestamp {
    Timestamp(u32::try_from(seconds).unwrap_or(u32::MAX))
}

impl<'a> Steps<'a> {
    fn find(&self, path: &[String]) -> Option<Id> {
        self.tree.find(path.iter().map(String::as_str))
    }

    /// What the own side calls this name, be it there or not.
    fn own_name(&self, path: &[String]) -> Option<MailboxName> {
        let known = (1..=path.len()).rev().find_map(|end| Some((end, self.find(&path[..end])?)));
        let Some((end, n)) = known else { return MailboxName::new(path.to_vec()) };
        let mut levels = self.tree.own_name(n)?.levels().to_vec();
        levels.extend_from_slice(&path[end..]);
        MailboxName::new(levels)
    }

    /// Something is at this very name.
    fn is_real(&self, n: Id) -> bool {
        self.tree.node(n).state == State::Exists
    }

    fn is_occupied(&self, n: Id) -> bool {
        self.tree.anything_exists(n) || self.tree.subtree(n).iter().any(|d| self.doubtful.contains(d))
    }

    fn is_movable(&self, n: Id) -> bool {
        let path = self.tree.path(n);
        let inbox = matches!(&path[..], [only] if only == "INBOX");
        n != ROOT
            && (!inbox || self.rules.inbox_moves)
            && !self.fixed.contains(&path)
            && self.tree.node(n).hold == Hold::Free
            && self.tree.subtree(n).iter().all(|&d| self.tree.node(d).hold != Hold::Frozen)
    }

    fn delete(&mut self, doomed: &HashMap<MailboxGuid, u64>) {
        let mut nodes = self.tree.subtree(ROOT);
        nodes.reverse();
        for n in nodes {
            let Some(guid) = self.tree.guid(n) else { continue };
            let (Some(&at), Some(name)) = (doomed.get(&guid), self.tree.own_name(n)) else { continue };
            self.actions.push(TreeAction::Delete { name, guid, time: time(at) });
            self.tree.set_mailbox(n, None);
            if !self.tree.anything_exists_below(n) || self.rules.no_directories {
                self.tree.node_mut(n).state = State::Nonexistent;
                // Its directory goes with it, unless one below may still be there.
                if self.tree.subtree(n).iter().any(|d| self.doubtful.contains(d)) {
                    self.doubtful.insert(n);
                }
                self.doubt_above(n);
            }
        }
    }

    /// The directories above may have gone with what was below.
    fn doubt_above(&mut self, n: Id) {
        let mut at = self.tree.above(n);
        while at != ROOT
            && !self.rules.no_directories
            && self.tree.mailbox(at).is_none()
            && self.tree.node(at).hold == Hold::Free
            && !self.tree.anything_exists_below(at)
        {
            if self.is_real(at) {
                self.tree.node_mut(at).state = State::Nonexistent;
                self.doubtful.insert(at);
            }
            at = self.tree.above(at);
        }
    }

    fn set_guids(&mut self) {
        let wanted = |id: Id, home: &Vec<String>| Some((id, self.tree.guid(id)?, self.target.names.get(home)?.mailbox?.guid));
        let mut todo: Vec<_> = self.homes.iter().filter_map(|(id, home)| wanted(*id, home)).filter(|(_, a, b)| a != b).collect();
        todo.sort_by_key(|(id, ..)| *id);
        while !todo.is_empty() {
            if let Some(next) = todo.iter().position(|(_, _, to)| self.tree.by_guid(*to).is_none()) {
                let (id, from, to) = todo.remove(next);
                self.set_guid(id, from, to);
            } else {
                // Two have each other's: one steps aside. If the holder is not one of them, there is no way.
                let (id, from, to) = todo[0];
                if todo.iter().any(|(_, held, _)| *held == to) {
                    let aside = derived(from, &self.tree.path(id));
                    self.set_guid(id, from, aside);
                    todo[0].1 = aside;
                } else {
                    todo.remove(0);
                }
            }
        }
    }

    fn set_guid(&mut self, id: Id, from: MailboxGuid, to: MailboxGuid) {
        let (Some(name), Some(mailbox)) = (self.tree.own_name(id), self.tree.mailbox(id)) else { return };
        self.actions.push(TreeAction::SetGuid { name, from, to });
        self.tree.set_mailbox(id, Some(Mailbox { guid: to, ..mailbox }));
        self.touched.insert(id);
    }

    fn place(&mut self, path: &'a Vec<String>, want: &Want) {
        let here = self.find(path);
        match (want.mailbox, self.owners.get(path).copied()) {
            (Some(_), Some(owner)) if here == Some(owner) => {}
            (Some(_), Some(owner)) => {
                if !(self.is_movable(owner) && self.clear(path, Some(owner)) && self.rename(owner, path, want.time)) {
                    self.note_stays(owner, path);
                }
            }
            (Some(mailbox), None) => {
                let in_the_way = here.filter(|&n| self.tree.mailbox(n).is_some() || self.tree.node(n).hold == Hold::Frozen);
                if in_the_way.is_some() && !self.clear(path, None) || self.tree.by_guid(mailbox.guid).is_some() {
                    if let Some(n) = in_the_way {
                        self.note_stays(n, path);
                    }
                } else {
                    self.create(path, mailbox);
                }
            }
            (None, _) => {
                let leaver = here.filter(|n| self.tree.mailbox(*n).is_some() && self.homes.contains_key(n));
                if leaver.is_some() && !self.clear(path, None) {
                    self.note_stays(leaver.unwrap_or(ROOT), path);
                }
                self.bring_directory(path);
            }
        }
    }

    fn note_stays(&mut self, n: Id, path: &[String]) {
        if let (Some(name), Some(to)) = (self.tree.own_name(n), self.own_name(path)) {
            self.notes.push(Note { name, kind: NoteKind::CannotMove(to) });
        }
    }

    /// Makes room at a name for `comer`; false when that cannot be.
    fn clear(&mut self, path: &[String], comer: Option<Id>) -> bool {
        let Some(there) = self.find(path).filter(|&n| self.is_occupied(n)) else { return true };
        if self.rules.no_directories && !self.is_real(there) {
            return comer.is_none_or(|comer| self.part_from_children(comer));
        }
        let below = self.tree.anything_exists_below(there);
        if self.tree.mailbox(there).is_none() && !below {
            if self.tree.node(there).hold != Hold::Free {
                return false;
            }
            self.drop_directory(there);
            return true;
        }
        // What stays in a directory cannot be brought back after it; a mailbox takes it along to its own place.
        let takes_along =
            self.tree.mailbox(there).is_none() && self.tree.subtree(there).iter().any(|&n| self.tree.node(n).hold != Hold::Free);
        if !self.is_movable(there) || takes_along {
            return false;
        }
        if let Some(&home) = self.homes.get(&there)
            && home != path
            && !home.starts_with(path)
            && self.find(home).is_none_or(|n| !self.is_occupied(n))
        {
            let when = self.target.names.get(home).map_or(0, |w| w.time);
            return self.rename(there, home, when);
        }
        self.rename_aside(there)
    }

    /// Removes all directories at and below a node.
    fn drop_directory(&mut self, n: Id) {
        let mut nodes = self.tree.subtree(n);
        nodes.reverse();
        for d in nodes {
            if (self.is_real(d) || self.doubtful.contains(&d))
                && let Some(name) = self.tree.own_name(d)
            {
                let when = self.target.removed.get(&self.tree.path(d)).copied().unwrap_or(0);
                self.actions.push(TreeAction::DeleteDir { name, time: time(when) });
            }
            self.tree.node_mut(d).state = State::Nonexistent;
            self.doubtful.remove(&d);
        }
    }

    fn rename_aside(&mut self, n: Id) -> bool {
        let parent = self.tree.above(n);
        let mut path = self.tree.path(parent);
        let leaf: String = self.tree.name(n).chars().take(40).collect();
        let free = |name: &String| {
            path.push(name.clone());
            let free = self.tree.child(parent, name).is_none() && !self.target.names.contains_key(&path);
            path.pop();
            free
        };
        let name = (1u32..).map(|i| format!("{leaf}-temp-{i:x}")).find(free);
        path.extend(name);
        self.rename(n, &path, 0)
    }

    /// In layouts where names stand for themselves: what is below a mailbox would meet what is below its new name.
    fn part_from_children(&mut self, n: Id) -> bool {
        let mut todo: Vec<Id> = self.tree.children(n).to_vec();
        while let Some(child) = todo.pop() {
            if !self.is_real(child) {
                todo.extend(self.tree.children(child));
            } else if !self.is_movable(child) {
                return false;
            } else {
                let name = self.tree.name(child).to_owned();
                let parent = self.tree.path(self.tree.above(n));
                let path = (1u32..).map(|i| format!("{name}-temp-{i:x}")).map(|leaf| [&parent[..], &[leaf]].concat());
                let path = path.into_iter().find(|p| self.find(p).is_none() && !self.target.names.contains_key(p));
                if !path.is_some_and(|path| self.rename(child, &path, 0)) {
                    return false;
                }
            }
        }
        true
    }

    /// Renames to a name that has been cleared.
    fn rename(&mut self, n: Id, path: &[String], when: u64) -> bool {
        let Some((leaf, above)) = path.split_last() else { return false };
        if above.starts_with(&self.tree.path(n)) {
            return false;
        }
        let parent = self.make_parents(above);
        let Some(from) = self.tree.own_name(n) else { return false };
        let old_parent = self.tree.above(n);
        let same_level = self.tree.name(n) == leaf;
        let label = self
            .tree
            .node(n)
            .label
            .clone()
            .filter(|label| same_level && self.tree.children(parent).iter().all(|&c| c == n || self.tree.label(c) != label));
        let placeholder = self.tree.child(parent, leaf).filter(|&p| p != n);
        // What lies below the name already says how it is spelt here.
        let spelt = placeholder.filter(|&p| self.tree.anything_exists_below(p));
        let label = spelt.map_or(label, |p| self.tree.node(p).label.clone());
        self.tree.node_mut(n).label = label;
        self.tree.node_mut(n).apart = None;
        self.tree.move_to(n, parent, leaf);
        if let Some(placeholder) = placeholder {
            self.tree.graft(placeholder, n);
        }
        let Some(to) = self.tree.own_name(n) else { return false };
        for stranger in self.strangers.clone() {
            // Its place here does not tell that its parent was renamed.
            if let Some(name) = self.tree.node_mut(stranger).apart.as_mut().filter(|name| name.is_inside(&from)) {
                *name = rebased(name, &from, &to);
            }
        }
        self.actions.push(TreeAction::Rename { from, to, time: time(when) });
        self.touched.insert(n);
        let (state, vanishing) = (self.tree.node(old_parent).state, self.tree.mailbox(old_parent).is_none());
        if old_parent != ROOT && state == State::Exists && vanishing && !self.tree.anything_exists_below(old_parent) {
            // Reached from below, so that the parent itself is looked at, too.
            let probe = self.tree.insert(old_parent, "");
            self.doubt_above(probe);
            self.tree.discard(probe);
        }
        true
    }

    /// The node above a name, made on disk with what is created or renamed there.
    fn make_parents(&mut self, path: &[String]) -> Id {
        let parent = self.tree.make(path.iter().map(String::as_str));
        if !self.rules.no_directories {
            let mut at = parent;
            while at != ROOT {
                self.tree.node_mut(at).state = State::Exists;
                self.doubtful.remove(&at);
                at = self.tree.above(at);
            }
        }
        parent
    }

    fn create(&mut self, path: &[String], mailbox: Mailbox) {
        let n = self.make_parents(path);
        let Some(name) = self.tree.own_name(n) else { return };
        self.actions.push(TreeAction::Create { name, guid: mailbox.guid, uidvalidity: mailbox.uidvalidity });
        self.tree.node_mut(n).state = State::Exists;
        self.tree.set_mailbox(n, Some(mailbox));
        self.touched.insert(n);
    }

    /// A directory that has moved as a whole is renamed as a whole.
    fn bring_directory(&mut self, path: &[String]) {
        if self.rules.no_directories || self.find(path).is_some_and(|n| self.is_occupied(n)) {
            return;
        }
        let below = self.target.names.range(path.to_vec()..).take_while(|(p, _)| p.starts_with(path));
        let Some((first, owner)) = below.filter_map(|(p, _)| Some((p, *self.owners.get(p)?))).next() else { return };
        let end = &first[path.len()..];
        let now = self.tree.path(owner);
        let Some(old) = now.strip_suffix(end).filter(|old| !old.is_empty() && !self.target.names.contains_key(*old)) else {
            return;
        };
        let Some(dir) = self.find(old) else { return };
        let whole = self.tree.subtree(dir).iter().all(|&n| self.tree.node(n).hold == Hold::Free);
        if whole && self.tree.mailbox(dir).is_none() && self.is_real(dir) && self.is_movable(dir) && !path.starts_with(old) {
            let when = self.target.names.get(first).map_or(0, |w| w.time);
            self.rename(dir, path, when);
        }
    }

    fn directories(&mut self) {
        // Dovecot makes mailboxes of directories where there are none. Two sides would never be equal so; the destination of
        // a one-way run need not be.
        if self.rules.no_directories && self.role != Role::OneWayDestination {
            return;
        }
        for (path, want) in &self.target.names {
            let there = self.find(path);
            if want.explicit && want.mailbox.is_none() && there.is_none_or(|n| !self.is_real(n)) {
                let Some(name) = self.own_name(path) else { continue };
                self.actions.push(TreeAction::CreateDir { name });
                self.make_parents(path);
            }
        }
        if self.rules.no_directories {
            return;
        }
        let mut nodes = self.tree.subtree(ROOT);
        nodes.reverse();
        for n in nodes {
            let there = n != ROOT && (self.is_real(n) || self.doubtful.contains(&n));
            if there
                && self.tree.mailbox(n).is_none()
                && self.tree.node(n).hold == Hold::Free
                && !self.tree.anything_exists_below(n)
                && !self.fixed.contains(&self.tree.path(n))
                && !self.target.names.contains_key(&self.tree.path(n))
            {
                self.drop_directory(n);
            }
        }
    }

    fn subscriptions(&mut self, before: &Arena) {
        for (path, wanted) in &self.target.subscriptions {
            let known = before.find(path.iter().map(String::as_str)).filter(|&n| before.node(n).subscribed);
            let time = time(wanted.time);
            match (known, wanted.subscribed) {
                (None, true) => {
                    let name = self.own_name(path);
                    self.actions.extend(name.map(|name| TreeAction::Subscribe { name, time }));
                }
                // It is in the list under the name that it had.
                (Some(n), false) => {
                    let name = before.own_name(n);
                    self.actions.extend(name.map(|name| TreeAction::Unsubscribe { name, time }));
                }
                _ => {}
            }
        }
    }

    fn done(self) -> Done {
        let mut mailboxes = HashMap::new();
        for n in self.tree.subtree(ROOT) {
            let node = self.tree.node(n);
            if node.hold == Hold::Free
                && let Some(mailbox) = self.tree.existing_mailbox(n)
                && let Some(name) = self.tree.own_name(n)
            {
                let fresh = self.touched.contains(&n) || self.before.get(&n) != Some(&name);
                mailboxes.insert(mailbox.guid, (name, fresh));
            }
        }
        Done { actions: self.actions, notes: self.notes, mailboxes }
    }
}
