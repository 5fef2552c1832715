//! A store in memory with the file-system effects of the real ones, for tests: what users do to it, what its mailbox log then
//! says, and how it carries out a plan.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::mail::{
    Body, Capabilities, Changes, Class, Committed, Deletion, DeletionKey, Edit, Error, Existence, Facts, Floors, Identity, Mail,
    MailGuid, Mailbox, MailboxGuid, MailboxName, ModSeq, NameHash, NameRules, NamespaceRules, NewMail, Node, Original, Rebuild,
    Result, SaveError, Selection, Since, Status, Store, Timestamp, Tree, Uid, UidValidity,
};

use super::disk::Disk;

/// A store whose state an opened mailbox shares.
#[derive(Debug, Clone)]
pub(super) struct Model(Arc<Mutex<State>>);

#[derive(Debug, Clone)]
pub(super) struct State {
    pub disk: Disk,
    pub rules: NameRules,
    /// Parents go with the last mailbox that is deleted below them, as with some layouts.
    pub tidy: bool,
    pub identities: HashMap<MailboxGuid, Identity>,
    log: Vec<Record>,
}

#[derive(Debug, Clone, Copy)]
enum Record {
    Removed(DeletionKey, u32),
    Renamed(NameHash, u32),
    Subscribed(NameHash, u32),
}

/// How the names of a store lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Directories that stay until they are removed.
    Dbox,
    /// Directories that vanish when their last mailbox is deleted.
    Tidy,
    /// Maildir++.
    Flat,
}

impl Model {
    pub fn new(layout: Layout) -> Self {
        let flat = layout == Layout::Flat;
        let space = NamespaceRules {
            storage_separator: if flat { '.' } else { '/' },
            flat,
            reserved: if flat { Vec::new() } else { vec!["dbox-Mails".into()] },
            ..NamespaceRules::default()
        };
        let rules = NameRules {
            no_directories: flat,
            inbox_moves: layout == Layout::Dbox,
            namespaces: vec![space],
            ..NameRules::default()
        };
        let disk = Disk { flat, ..Disk::default() };
        let state = State { disk, rules, tidy: layout == Layout::Tidy, identities: HashMap::new(), log: Vec::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test thread panics with it")
    }

    /// A copy that is independent of this one.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    pub fn tree(&self) -> Tree {
        self.state().tree()
    }

    /// Mailboxes, or all names, with what is there.
    pub fn names(&self, directories: bool) -> BTreeMap<String, Option<MailboxGuid>> {
        let state = self.state();
        let all = state.disk.names.iter().map(|(n, g)| (n.to_string(), *g));
        all.filter(|(_, g)| directories || g.is_some()).collect()
    }

    pub fn subscriptions(&self) -> Vec<String> {
        self.state().disk.subscribed.iter().map(ToString::to_string).collect()
    }

    /// A mailbox's GUID changes behind everybody's back.
    pub fn put(&self, name: &MailboxName, identity: Identity) -> Result<()> {
        let mut state = self.state();
        if state.disk.create(name, identity.guid).is_err() {
            return Err(Error::new(Class::Exists, "Mailbox already exists"));
        }
        state.identities.insert(identity.guid, identity);
        Ok(())
    }
}

impl State {
    fn tree(&self) -> Tree {
        let mut nodes: BTreeMap<MailboxName, Node> = BTreeMap::new();
        let node = |name: &MailboxName, existence, identity| Node {
            name: name.clone(),
            existence,
            identity,
            renamed: Timestamp(0),
            subscribed: false,
            subscription_changed: Timestamp(0),
            special_use: Vec::new(),
        };
        for (name, content) in &self.disk.names {
            let identity = content.and_then(|guid| self.identities.get(&guid).copied());
            nodes.insert(name.clone(), node(name, Existence::Exists, identity));
        }
        for name in self.disk.names.keys() {
            let mut above = name.parent();
            while let Some(parent) = above {
                above = parent.parent();
                nodes.entry(parent.clone()).or_insert_with(|| node(&parent, Existence::Nonexistent, None));
            }
        }
        for name in &self.disk.subscribed {
            nodes.entry(name.clone()).or_insert_with(|| node(name, Existence::Nonexistent, None)).subscribed = true;
        }
        let mut by_hash: HashMap<NameHash, &mut Node> =
            nodes.iter_mut().map(|(name, node)| (NameHash::of(&name.join(self.rules.separator)), node)).collect();
        let mut deletions = Vec::new();
        for record in &self.log {
            match *record {
                Record::Renamed(hash, time) => {
                    if let Some(node) = by_hash.get_mut(&hash) {
                        node.renamed = Timestamp(time);
                    }
                }
                Record::Subscribed(hash, time) => {
                    if let Some(node) = by_hash.get_mut(&hash) {
                        node.subscription_changed = Timestamp(time);
                    }
                }
                Record::Removed(key, time) => {
                    let back = match key {
                        DeletionKey::Mailbox(guid) => self.disk.names.values().any(|g| *g == Some(guid)),
                        DeletionKey::Directory(hash) => by_hash.get(&hash).is_some_and(|n| n.existence == Existence::Exists),
                        DeletionKey::Subscription(hash) => by_hash.get_mut(&hash).is_some_and(|node| {
                            node.subscription_changed = Timestamp(time);
                            true
                        }),
                    };
                    if !back {
                        deletions.push(Deletion { key, time: Timestamp(time) });
                    }
                }
            }
        }
        Tree { nodes: nodes.into_values().collect(), deletions, rules: self.rules.clone(), problems: Vec::new() }
    }

    fn hash(&self, name: &MailboxName) -> NameHash {
        NameHash::of(&name.join(self.rules.separator))
    }

    fn drop_parents(&mut self, name: &MailboxName) {
        let mut above = name.parent();
        while let Some(parent) = above.filter(|p| self.tidy && self.disk.delete_dir(p).is_ok()) {
            above = parent.parent();
        }
    }
}

fn refused(class: Class, text: &str) -> Error {
    Error::new(class, text.to_owned())
}

impl Store for Model {
    fn scan(&mut self, _: &Selection) -> Result<Tree> {
        Ok(self.tree())
    }

    fn open(&mut self, name: &MailboxName) -> Result<Box<dyn Mailbox>> {
        match self.state().disk.names.get(name) {
            Some(Some(guid)) => Ok(Box::new(Opened { store: self.clone(), name: name.clone(), guid: *guid })),
            _ => Err(refused(Class::NotFound, "Mailbox doesn't exist")),
        }
    }

    fn create(&mut self, name: &MailboxName, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        let twice = self.state().disk.names.values().any(|g| *g == Some(guid));
        assert!(!twice, "two mailboxes with GUID {guid}");
        self.put(name, Identity { guid, uidvalidity, uid_next: Uid::FIRST })
    }

    fn create_dir(&mut self, name: &MailboxName) -> Result<()> {
        if self.state().rules.no_directories {
            let uidvalidity = UidValidity::new(1).expect("not zero");
            return self.create(name, MailboxGuid::generate(), uidvalidity);
        }
        self.state().disk.create_dir(name);
        Ok(())
    }

    fn delete(&mut self, name: &MailboxName, guid: MailboxGuid, time: Timestamp) -> Result<()> {
        let mut state = self.state();
        if name.is_inbox() {
            return Err(refused(Class::NotPossible, "INBOX can't be deleted."));
        }
        if state.disk.names.get(name) != Some(&Some(guid)) || state.disk.delete(guid).is_err() {
            return Err(refused(Class::NotFound, "Mailbox doesn't exist"));
        }
        state.log.push(Record::Removed(DeletionKey::Mailbox(guid), time.0));
        if !state.disk.names.contains_key(name) {
            let record = Record::Removed(DeletionKey::Directory(state.hash(name)), time.0);
            state.log.push(record);
            state.drop_parents(name);
        }
        Ok(())
    }

    fn delete_dir(&mut self, name: &MailboxName, time: Timestamp) -> Result<()> {
        let mut state = self.state();
        if !state.disk.names.contains_key(name) {
            return Err(refused(Class::NotFound, "Mailbox doesn't exist"));
        }
        state.disk.delete_dir(name).map_err(|_| refused(Class::Exists, "Mailbox has children"))?;
        let record = Record::Removed(DeletionKey::Directory(state.hash(name)), time.0);
        state.log.push(record);
        Ok(())
    }

    fn rename(&mut self, from: &MailboxName, to: &MailboxName, time: Timestamp) -> Result<()> {
        let mut state = self.state();
        if from.is_inbox() && !state.rules.inbox_moves || to.is_inbox() {
            return Err(refused(Class::NotPossible, "Renaming INBOX isn't supported."));
        }
        let there = state.disk.names.contains_key(from) || state.disk.flat && state.disk.has_children(from);
        if !there {
            return Err(refused(Class::NotFound, "Mailbox doesn't exist"));
        }
        state.disk.rename(from, to).map_err(|_| refused(Class::Exists, "Target mailbox already exists"))?;
        let record = Record::Renamed(state.hash(to), time.0);
        state.log.push(record);
        Ok(())
    }

    fn set_subscribed(&mut self, name: &MailboxName, subscribed: bool, time: Timestamp) -> Result<()> {
        let mut state = self.state();
        let hash = state.hash(name);
        if subscribed {
            state.disk.subscribed.insert(name.clone());
            state.log.push(Record::Subscribed(hash, time.0));
        } else {
            state.disk.subscribed.remove(name);
            state.log.push(Record::Removed(DeletionKey::Subscription(hash), time.0));
        }
        Ok(())
    }

    fn purge(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A mailbox of a [`Model`]: an identity, no mails.
struct Opened {
    store: Model,
    name: MailboxName,
    guid: MailboxGuid,
}

fn no_mails() -> Error {
    refused(Class::NotPossible, "the model has no mails")
}

impl Mailbox for Opened {
    fn lock(&mut self, _: std::time::Duration) -> Result<()> {
        Ok(())
    }

    fn refresh(&mut self) -> Result<()> {
        match self.store.state().disk.names.get(&self.name) {
            Some(Some(guid)) => self.guid = *guid,
            _ => return Err(refused(Class::NotFound, "Mailbox doesn't exist")),
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            identity: self.store.state().identities[&self.guid],
            messages: 0,
            first_recent: Uid::FIRST,
            highest_modseq: ModSeq(1),
            highest_private_modseq: ModSeq(0),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { has_guids: true, saves_guids: true, keeps_modseqs: true }
    }

    fn mails(&self) -> &[Mail] {
        &[]
    }

    fn guid(&mut self, _: Uid) -> Result<MailGuid> {
        Err(no_mails())
    }

    fn facts(&mut self, _: Uid) -> Result<Facts> {
        Err(no_mails())
    }

    fn body(&mut self, _: Uid) -> Result<Body> {
        Err(no_mails())
    }

    fn changes(&mut self, _: Since) -> Result<Changes> {
        Ok(Changes::default())
    }

    fn stage(&mut self, _: NewMail, _: Body) -> std::result::Result<(), SaveError> {
        Err(no_mails().into())
    }

    fn stage_copy(&mut self, _: NewMail, _: Uid, _: Original) -> std::result::Result<(), SaveError> {
        Err(no_mails().into())
    }

    fn commit(&mut self, _: Uid) -> Result<Committed> {
        Ok(Committed::default())
    }

    fn edit(&mut self, _: &[Edit]) -> Result<()> {
        Ok(())
    }

    fn raise(&mut self, _: &Floors) -> Result<()> {
        Ok(())
    }

    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        let mut state = self.store.state();
        assert!(!state.disk.names.values().any(|g| *g == Some(guid)), "two mailboxes with GUID {guid}");
        let old = state.identities[&self.guid];
        state.identities.insert(guid, Identity { guid, uidvalidity, ..old });
        state.disk.names.insert(self.name.clone(), Some(guid));
        self.guid = guid;
        Ok(())
    }

    fn rebuild(&mut self, _: Rebuild) -> Result<()> {
        Ok(())
    }

    fn held_back(&self) -> Vec<(Uid, Uid)> {
        Vec::new()
    }

    fn hold_back(&mut self, _: &[(Uid, Uid)]) -> Result<()> {
        Ok(())
    }
}
