//! A store in memory, for tests of the engine: what a perfect storage would do, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::index::{assign_uids, given_since};
use crate::mail::{
    Body, Capabilities, Changes, Class, Committed, Deletion, DeletionKey, Edit, EditKind, Error, Existence, Facts, Flags, Floors,
    Guid128, Identity, Keywords, LogChange, Mail, MailGuid, Mailbox, MailboxGuid, MailboxName, ModSeq, NameRules, NewMail, Node,
    Original, Rebuild, RebuildFrom, Renumbered, Result, SaveError, Saved, Selection, Since, Status, Store, Timestamp, Tree, Uid,
    UidValidity, union_of_uids,
};

/// One side.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub boxes: BTreeMap<MailboxName, ModelBox>,
    pub deletions: Vec<Deletion>,
    pub renamed: BTreeMap<MailboxName, Timestamp>,
    pub subscribed: BTreeMap<MailboxName, (bool, Timestamp)>,
    /// Changes to the store, of any kind.
    pub writes: u32,
    /// After this many changes the disk is full.
    pub room: Option<u32>,
    /// Mails that users get right before the n-th change from now.
    pub arriving: Vec<(u32, ModelMail)>,
    /// The n-th text from now is not to be found, although it is there: somebody gives its file another name in this moment.
    pub elusive: Option<u32>,
    /// How long it takes to find the GUID of a mail.
    pub slow: Duration,
    /// Mails the GUID of which cannot be read.
    pub nameless: Vec<Uid>,
}

impl World {
    fn write(&mut self) -> Result<()> {
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(1).ok_or_else(|| Error::new(Class::NoRoom, "no room"))?;
        }
        self.writes += 1;
        let mut arriving = std::mem::take(&mut self.arriving);
        let now: Vec<_> = arriving.extract_if(.., |(n, _)| n.checked_sub(1).map(|left| *n = left).is_none()).collect();
        now.iter().for_each(|(_, mail)| self.deliver(mail));
        self.arriving = arriving;
        Ok(())
    }

    pub fn deliver(&mut self, mail: &ModelMail) {
        for b in self.boxes.values_mut() {
            b.append(None, mail.clone());
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMail {
    pub guid: MailGuid,
    pub flags: Flags,
    pub keywords: Keywords,
    pub modseq: ModSeq,
    pub text: Vec<u8>,
    pub received: Timestamp,
    /// Only its text; what it is, an index knows.
    pub unreadable: bool,
}

#[derive(Debug, Clone)]
pub struct ModelBox {
    pub guid: MailboxGuid,
    pub uidvalidity: UidValidity,
    pub uid_next: Uid,
    pub first_recent: Uid,
    pub highest: ModSeq,
    pub mails: BTreeMap<Uid, ModelMail>,
    pub log: Vec<Record>,
    pub held: Vec<(Uid, Uid)>,
    /// UIDs by who gave them: users, or a sync.
    pub native: Vec<(Uid, Uid)>,
    pub synced: Vec<(Uid, Uid)>,
    pub renumbered: Vec<Renumbered>,
}

#[derive(Debug, Clone)]
pub struct Record {
    modseq: ModSeq,
    sync: bool,
    change: LogChange,
}

impl ModelBox {
    pub fn new(guid: MailboxGuid, uidvalidity: UidValidity) -> Self {
        Self {
            guid,
            uidvalidity,
            uid_next: Uid::FIRST,
            first_recent: Uid::FIRST,
            highest: ModSeq(1),
            mails: BTreeMap::new(),
            log: Vec::new(),
            held: Vec::new(),
            native: Vec::new(),
            synced: Vec::new(),
            renumbered: Vec::new(),
        }
    }

    fn step(&mut self) -> ModSeq {
        self.highest.0 += 1;
        self.highest
    }

    /// The log up to now is rotated away.
    pub fn forget_log(&mut self) {
        self.log.clear();
        self.native.clear();
        self.synced.clear();
        self.renumbered.clear();
    }

    pub fn append(&mut self, uid: Option<Uid>, mut mail: ModelMail) -> Uid {
        let sync = uid.is_some();
        let uid = uid.filter(|u| *u >= self.uid_next).unwrap_or(self.uid_next);
        (if sync { &mut self.synced } else { &mut self.native }).push((uid, uid));
        self.uid_next = uid.next();
        let step = self.step();
        mail.modseq = mail.modseq.max(step);
        self.highest = self.highest.max(mail.modseq);
        self.mails.insert(uid, mail);
        uid
    }

    pub fn expunge(&mut self, uid: Uid, with_guid: bool, sync: bool) {
        if let Some(mail) = self.mails.remove(&uid) {
            let modseq = self.step();
            let guid = with_guid.then(|| mail.guid.to_128());
            self.log.push(Record { modseq, sync, change: LogChange::Expunged { uid, guid } });
        }
    }

    pub fn set_flags(&mut self, uid: Uid, add: Flags, remove: Flags, kw: (&Keywords, &Keywords), least: ModSeq, sync: bool) {
        if !self.mails.contains_key(&uid) {
            return;
        }
        let modseq = self.step().max(least);
        self.highest = modseq;
        if let Some(mail) = self.mails.get_mut(&uid) {
            mail.flags = (mail.flags | add).without(remove);
            mail.keywords = mail.keywords.union(kw.0).without(kw.1);
            mail.modseq = modseq;
        }
        let change =
            LogChange::Flags { uid, added: add, removed: remove, keywords_added: kw.0.clone(), keywords_removed: kw.1.clone() };
        self.log.push(Record { modseq, sync, change });
    }
}

/// A handle on one side.
#[derive(Debug, Clone, Default)]
pub struct ModelStore(pub Arc<Mutex<World>>);

impl ModelStore {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(name: &MailboxName) -> Error {
    Error::new(Class::NotFound, format!("no mailbox {name}"))
}

impl Store for ModelStore {
    fn scan(&mut self, _: &Selection) -> Result<Tree> {
        let w = self.world();
        let mut nodes: Vec<Node> = w
            .boxes
            .iter()
            .map(|(name, b)| Node {
                name: name.clone(),
                existence: Existence::Exists,
                identity: Some(Identity { guid: b.guid, uidvalidity: b.uidvalidity, uid_next: b.uid_next }),
                renamed: w.renamed.get(name).copied().unwrap_or_default(),
                subscribed: false,
                subscription_changed: Timestamp(0),
                special_use: Vec::new(),
            })
            .collect();
        for (name, &(subscribed, at)) in &w.subscribed {
            let found = nodes.iter_mut().find(|n| n.name == *name);
            if let Some(n) = found {
                (n.subscribed, n.subscription_changed) = (subscribed, at);
            }
        }
        let here: Vec<_> = w.boxes.values().map(|b| DeletionKey::Mailbox(b.guid)).collect();
        let deletions = w.deletions.iter().filter(|d| !here.contains(&d.key)).copied().collect();
        Ok(Tree { nodes, deletions, rules: NameRules::default(), problems: Vec::new() })
    }

    fn open(&mut self, name: &MailboxName) -> Result<Box<dyn Mailbox>> {
        let view = self.world().boxes.get(name).cloned().ok_or_else(|| gone(name))?;
        let mut mailbox =
            ModelMailbox { world: Arc::clone(&self.0), name: name.clone(), view, list: Vec::new(), staged: Vec::new() };
        mailbox.refresh()?;
        Ok(Box::new(mailbox))
    }

    fn create(&mut self, name: &MailboxName, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        let mut w = self.world();
        if w.boxes.contains_key(name) {
            return Err(Error::new(Class::Exists, format!("{name} is there")));
        }
        w.writes += 1;
        w.boxes.insert(name.clone(), ModelBox::new(guid, uidvalidity));
        Ok(())
    }

    fn create_dir(&mut self, _: &MailboxName) -> Result<()> {
        Ok(())
    }

    fn delete(&mut self, name: &MailboxName, guid: MailboxGuid, time: Timestamp) -> Result<()> {
        let mut w = self.world();
        if w.boxes.get(name).is_none_or(|b| b.guid != guid) {
            return Err(gone(name));
        }
        w.boxes.remove(name);
        w.writes += 1;
        w.deletions.push(Deletion { key: DeletionKey::Mailbox(guid), time });
        Ok(())
    }

    fn delete_dir(&mut self, name: &MailboxName, _: Timestamp) -> Result<()> {
        Err(gone(name))
    }

    fn rename(&mut self, from: &MailboxName, to: &MailboxName, time: Timestamp) -> Result<()> {
        let mut w = self.world();
        let moving: Vec<_> = w.boxes.keys().filter(|n| n.is_inside(from)).cloned().collect();
        if moving.is_empty() {
            return Err(gone(from));
        }
        for old in moving {
            let levels = to.levels().iter().chain(&old.levels()[from.levels().len()..]).cloned().collect();
            let new = MailboxName::new(levels).ok_or_else(|| gone(to))?;
            if let Some(b) = w.boxes.remove(&old) {
                w.boxes.insert(new.clone(), b);
            }
        }
        w.renamed.insert(to.clone(), time);
        w.writes += 1;
        Ok(())
    }

    fn set_subscribed(&mut self, name: &MailboxName, subscribed: bool, time: Timestamp) -> Result<()> {
        let mut w = self.world();
        w.writes += 1;
        w.subscribed.insert(name.clone(), (subscribed, time));
        Ok(())
    }

    fn purge(&mut self) -> Result<()> {
        Ok(())
    }
}

struct ModelMailbox {
    world: Arc<Mutex<World>>,
    name: MailboxName,
    view: ModelBox,
    list: Vec<Mail>,
    staged: Vec<(NewMail, Vec<u8>, Option<Uid>)>,
}

impl ModelMailbox {
    fn change<T>(&mut self, f: impl FnOnce(&mut ModelBox) -> T) -> Result<T> {
        let mut w = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        w.write()?;
        Ok(f(w.boxes.get_mut(&self.name).ok_or_else(|| gone(&self.name))?))
    }

    fn mail(&self, uid: Uid) -> Result<&ModelMail> {
        match self.view.mails.get(&uid) {
            Some(m) => Ok(m),
            None => Err(Error::new(Class::Expunged, "expunged")),
        }
    }
}

fn model_mail(mail: &NewMail, text: Vec<u8>) -> ModelMail {
    ModelMail {
        guid: mail.guid.clone(),
        flags: mail.flags,
        keywords: mail.keywords.clone(),
        modseq: mail.modseq,
        text,
        received: mail.received,
        unreadable: false,
    }
}

impl Mailbox for ModelMailbox {
    fn lock(&mut self, _: Duration) -> Result<()> {
        Ok(())
    }

    fn refresh(&mut self) -> Result<()> {
        let w = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        self.view = w.boxes.get(&self.name).cloned().ok_or_else(|| gone(&self.name))?;
        self.list = self
            .view
            .mails
            .iter()
            .map(|(&uid, m)| Mail { uid, flags: m.flags, keywords: m.keywords.clone(), modseq: m.modseq })
            .collect();
        Ok(())
    }

    fn status(&self) -> Status {
        let b = &self.view;
        Status {
            identity: Identity { guid: b.guid, uidvalidity: b.uidvalidity, uid_next: b.uid_next },
            messages: u32::try_from(b.mails.len()).expect("tests are small"),
            first_recent: b.first_recent,
            highest_modseq: b.highest,
            highest_private_modseq: ModSeq(0),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { has_guids: true, saves_guids: true, keeps_modseqs: true }
    }

    fn mails(&self) -> &[Mail] {
        &self.list
    }

    fn guid(&mut self, uid: Uid) -> Result<MailGuid> {
        let (slow, nameless) = {
            let w = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            (w.slow, w.nameless.contains(&uid))
        };
        std::thread::sleep(slow);
        if nameless {
            return Err(Error::new(Class::Temporary, "unreadable"));
        }
        Ok(self.mail(uid)?.guid.clone())
    }

    fn guid128(&mut self, uid: Uid) -> Result<Guid128> {
        Ok(self.guid(uid)?.to_128())
    }

    fn facts(&mut self, uid: Uid) -> Result<Facts> {
        Ok(Facts { received: self.mail(uid)?.received, ..Facts::default() })
    }

    fn body(&mut self, uid: Uid) -> Result<Body> {
        let mail = self.mail(uid)?;
        if mail.unreadable {
            return Err(Error::new(Class::Temporary, "unreadable"));
        }
        let elusive = &mut self.world.lock().unwrap_or_else(PoisonError::into_inner).elusive;
        if let Some(n) = elusive.take() {
            *elusive = n.checked_sub(1);
            if elusive.is_none() {
                return Err(Error::new(Class::Expunged, "not found"));
            }
        }
        Ok(Body::from_bytes(mail.text.clone()))
    }

    fn changes(&mut self, since: Since) -> Result<Changes> {
        let modseq = match since {
            Since::Everything => ModSeq(0),
            Since::State { modseq, .. } => modseq,
        };
        let mut by_uid: BTreeMap<Uid, LogChange> = BTreeMap::new();
        for r in self.view.log.iter().filter(|r| r.modseq > modseq) {
            let uid = r.change.uid();
            match (&r.change, by_uid.get_mut(&uid)) {
                (LogChange::Expunged { .. }, _) => {
                    by_uid.insert(uid, r.change.clone());
                }
                (LogChange::Flags { .. }, _) if r.sync => {}
                (
                    LogChange::Flags { added: a, removed: x, keywords_added: ka, keywords_removed: kx, .. },
                    Some(LogChange::Flags { added, removed, keywords_added, keywords_removed, .. }),
                ) => {
                    *added = added.without(*x) | *a;
                    *removed = removed.without(*a) | *x;
                    *keywords_added = keywords_added.without(kx).union(ka);
                    *keywords_removed = keywords_removed.without(ka).union(kx);
                }
                (LogChange::Flags { .. }, None) => {
                    by_uid.insert(uid, r.change.clone());
                }
                (LogChange::Flags { .. }, Some(LogChange::Expunged { .. })) => {}
            }
        }
        let (native, synced, renumbered) = (self.view.native.clone(), self.view.synced.clone(), self.view.renumbered.clone());
        Ok(Changes { mails: by_uid.into_values().collect(), native, synced, renumbered, ..Changes::default() })
    }

    fn stage(&mut self, mail: NewMail, mut body: Body) -> std::result::Result<(), SaveError> {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut body.reader, &mut text).map_err(SaveError::Body)?;
        self.staged.push((mail, text, None));
        Ok(())
    }

    fn stage_copy(&mut self, mail: NewMail, from: Uid, original: Original) -> std::result::Result<(), SaveError> {
        let text = self.mail(from)?.text.clone();
        self.staged.push((mail, text, (original == Original::Expunge).then_some(from)));
        Ok(())
    }

    fn commit(&mut self, seen: Uid) -> Result<Committed> {
        let staged = std::mem::take(&mut self.staged);
        let wanted: Vec<Uid> = staged.iter().map(|s| s.0.uid).collect();
        self.change(|b| {
            let got = assign_uids(b.uid_next, &wanted).expect("tests are small");
            let others = given_since(seen, b.uid_next);
            b.held = union_of_uids(b.held.iter().copied().chain(others));
            let mut order: Vec<usize> = (0..staged.len()).collect();
            order.sort_by_key(|&n| got[n]);
            for n in order {
                let (mail, text, original) = &staged[n];
                b.append(Some(got[n]), model_mail(mail, text.clone()));
                if let Some(uid) = original {
                    b.expunge(*uid, true, true);
                    b.renumbered.push(Renumbered { from: *uid, first: got[n], last: got[n] });
                }
            }
            Committed { saved: wanted.into_iter().zip(got).map(|(wanted, got)| Saved { wanted, got }).collect(), others }
        })
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        self.change(|b| {
            for e in edits {
                if b.mails.get(&e.uid).is_none_or(|m| e.expect.is_some_and(|g| g != m.guid.to_128())) {
                    continue;
                }
                match &e.kind {
                    EditKind::Expunge => b.expunge(e.uid, true, true),
                    EditKind::Flags { add, remove, add_keywords, remove_keywords, modseq } => {
                        b.set_flags(e.uid, *add, *remove, (add_keywords, remove_keywords), *modseq, true);
                    }
                }
            }
        })
    }

    fn raise(&mut self, floors: &Floors) -> Result<()> {
        let b = &self.view;
        if floors.uid_next.is_none_or(|u| u <= b.uid_next)
            && floors.first_recent.is_none_or(|u| u <= b.first_recent)
            && floors.highest_modseq <= b.highest
        {
            return Ok(());
        }
        self.change(|b| {
            b.uid_next = b.uid_next.max(floors.uid_next.unwrap_or(Uid::FIRST));
            b.first_recent = b.first_recent.max(floors.first_recent.unwrap_or(Uid::FIRST));
            b.highest = b.highest.max(floors.highest_modseq);
        })
    }

    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        self.change(|b| (b.guid, b.uidvalidity) = (guid, uidvalidity))
    }

    fn rebuild(&mut self, plan: Rebuild) -> Result<()> {
        let staged = std::mem::take(&mut self.staged);
        let old = self.view.mails.clone();
        self.change(|b| {
            let mut mails = BTreeMap::new();
            for m in &plan.mails {
                let text = match m.from {
                    RebuildFrom::Present(uid) => old.get(&uid).map(|o| o.text.clone()),
                    RebuildFrom::Staged(n) => staged.get(n).map(|s| s.1.clone()),
                };
                mails.insert(m.mail.uid, model_mail(&m.mail, text.expect("the engine names what is there")));
            }
            *b = ModelBox {
                guid: plan.identity.guid,
                uidvalidity: plan.identity.uidvalidity,
                uid_next: plan.identity.uid_next,
                first_recent: plan.first_recent,
                highest: plan.highest_modseq,
                mails,
                log: Vec::new(),
                held: std::mem::take(&mut b.held),
                native: Vec::new(),
                synced: Vec::new(),
                renumbered: Vec::new(),
            };
        })
    }

    fn held_back(&self) -> Vec<(Uid, Uid)> {
        self.view.held.clone()
    }

    fn hold_back(&mut self, ranges: &[(Uid, Uid)]) -> Result<()> {
        if self.view.held == ranges {
            return Ok(());
        }
        let ranges = ranges.to_vec();
        self.change(|b| b.held = ranges)
    }
}
