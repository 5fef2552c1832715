//! With `LAYOUT=index` a mailbox's directory is named by its GUID, so that a change of the GUID moves the directory
//! (mailbox-list.md 4.3).
//!
//! Order of writes, under the list lock: 1 the format writes the GUID, 2 the directories are renamed, 3 the list index. A kill
//! in between leaves a node that leads nowhere, which Dovecot mends from the GUID in the index (`box-name`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{LocalStore, Target};
use crate::index;
use crate::index::list_index::ListIndex;
use crate::mail::{
    Body, Capabilities, Changes, Committed, Edit, Facts, Floors, Guid128, Keyword, Mail, MailGuid, MailList, Mailbox,
    MailboxGuid, NewMail, Original, Rebuild, Result, SaveError, Since, Status, Uid, UidValidity,
};
use crate::os::fs;
use crate::store::list::{Layout, List, Stored};

/// A mailbox that takes its directory along when it gets another GUID.
struct InGuidDirectory {
    inner: Box<dyn Mailbox>,
    list: List,
    stored: Stored,
    index: (index::Files, index::Options),
    levels: Vec<Vec<u8>>,
}

impl LocalStore {
    pub(super) fn with_guid_directory(&mut self, mailbox: Box<dyn Mailbox>, target: &Target) -> Result<Box<dyn Mailbox>> {
        let list = self.list(target.space)?;
        if list.location.layout != Layout::Index {
            return Ok(mailbox);
        }
        let Some(index) = super::list_index(list, &self.settings) else { return Ok(mailbox) };
        let wrapped = InGuidDirectory {
            inner: mailbox,
            list: list.clone(),
            stored: target.entry.stored.clone(),
            index,
            levels: self.levels(target.space, &target.entry.stored),
        };
        // The GUID may change while it is open.
        self.target_again(target);
        Ok(Box::new(wrapped))
    }
}

impl InGuidDirectory {
    fn follow(&self, old: MailboxGuid, new: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        let _lock = self.list.lock()?;
        if old != new {
            let (from, to) = (self.list.paths(&self.stored, Some(old)), self.list.paths(&self.stored, Some(new)));
            let mut pairs: Vec<(PathBuf, PathBuf)> = vec![(from.dir, to.dir), (from.control, to.control)];
            pairs.extend(from.index.zip(to.index));
            pairs.extend(from.cache.zip(to.cache));
            pairs.extend(from.alt_dir.zip(to.alt_dir));
            for (from, to) in pairs {
                if from.is_dir() && !to.exists() {
                    fs::rename(&from, &to)?;
                }
            }
        }
        let levels: Vec<&[u8]> = self.levels.iter().map(Vec::as_slice).collect();
        let (files, options) = self.index.clone();
        Ok(ListIndex::open_or_create(files, options)?.set_identity(&levels, new, uidvalidity)?)
    }
}

impl Mailbox for InGuidDirectory {
    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        let old = self.inner.status().identity.guid;
        self.inner.set_identity(guid, uidvalidity)?;
        self.follow(old, guid, uidvalidity)
    }

    fn rebuild(&mut self, plan: Rebuild) -> Result<()> {
        let (old, new) = (self.inner.status().identity, plan.identity);
        self.inner.rebuild(plan)?;
        if (old.guid, old.uidvalidity) == (new.guid, new.uidvalidity) {
            return Ok(());
        }
        self.follow(old.guid, new.guid, new.uidvalidity)
    }

    fn lock(&mut self, timeout: Duration) -> Result<()> {
        self.inner.lock(timeout)
    }

    fn refresh(&mut self) -> Result<()> {
        self.inner.refresh()
    }

    fn expect(&mut self, mails: usize) {
        self.inner.expect(mails);
    }

    fn tidy(&mut self) {
        self.inner.tidy();
    }

    fn list(&self) -> Arc<dyn MailList> {
        self.inner.list()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn renew(&mut self) -> Result<()> {
        self.inner.renew()
    }

    fn view_number(&self) -> Option<u64> {
        self.inner.view_number()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn mails(&self) -> &[Mail] {
        self.inner.mails()
    }

    fn guid(&mut self, uid: Uid) -> Result<MailGuid> {
        self.inner.guid(uid)
    }

    fn guid128(&mut self, uid: Uid) -> Result<Guid128> {
        self.inner.guid128(uid)
    }

    fn facts(&mut self, uid: Uid) -> Result<Facts> {
        self.inner.facts(uid)
    }

    fn body(&mut self, uid: Uid) -> Result<Body> {
        self.inner.body(uid)
    }

    fn changes(&mut self, since: Since) -> Result<Changes> {
        self.inner.changes(since)
    }

    fn stage(&mut self, mail: NewMail, body: Body) -> std::result::Result<(), SaveError> {
        self.inner.stage(mail, body)
    }

    fn stage_copy(&mut self, mail: NewMail, from: Uid, original: Original) -> std::result::Result<(), SaveError> {
        self.inner.stage_copy(mail, from, original)
    }

    fn commit(&mut self, seen: Uid) -> Result<Committed> {
        self.inner.commit(seen)
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        self.inner.edit(edits)
    }

    fn raise(&mut self, floors: &Floors) -> Result<()> {
        self.inner.raise(floors)
    }

    fn held_back(&self) -> Vec<(Uid, Uid)> {
        self.inner.held_back()
    }

    fn hold_back(&mut self, ranges: &[(Uid, Uid)]) -> Result<()> {
        self.inner.hold_back(ranges)
    }

    fn keyword(&self, name: &str) -> Option<Keyword> {
        self.inner.keyword(name)
    }
}
