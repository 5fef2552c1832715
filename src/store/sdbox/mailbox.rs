//! An opened sdbox mailbox: reading, and where the writing calls go.

use std::sync::Arc;
use std::time::Duration;

use super::files::{Files, OpenError, Opened};
use super::stage::{Source, Stage};
use super::view::{self, View};
use crate::index::{Index, Locked, Request, Scan, State, Version};
use crate::mail::{
    Body, Capabilities, Changes, Class, Committed, Edit, Error, Facts, Floors, Identity, Mail, MailGuid, MailList, Mailbox,
    MailboxGuid, NewMail, Original, Rebuild, Result, SaveError, Since, Status, Uid, UidValidity,
};
use crate::os::lock::LockFile;
use crate::store::Settings;
use crate::store::dbox::{Damage, Owner, TextRules};
use crate::store::format::{Place, RUN_LOCK};

/// A mailbox, opened.
pub(super) struct SdboxMailbox {
    pub place: Place,
    pub settings: Settings,
    pub files: Files,
    pub rules: TextRules,
    pub index: Index,
    pub view: View,
    /// What the view is a view of, and how many there were.
    taken: (Version, u64),
    pub stage: Stage,
    /// Keeps other dsync runs away.
    run_lock: Option<LockFile>,
}

impl SdboxMailbox {
    pub fn open(place: Place, settings: Settings, mut index: Index) -> Result<Self> {
        index.cut_off_rest()?;
        let view = View::of(index.state(), None).map_err(|e| super::bad_index(&place, e))?;
        let rules = TextRules::of(&settings);
        Ok(Self {
            files: Files::new(&place),
            stage: Stage::new(rules.clone(), settings.index.fsync),
            rules,
            place,
            settings,
            taken: (index.version(), 1),
            index,
            view,
            run_lock: None,
        })
    }

    /// Takes a new view of what the index has now.
    pub fn renew_view(&mut self) -> Result<()> {
        if self.index.version() == self.taken.0 {
            return Ok(());
        }
        self.taken = (self.index.version(), self.taken.1 + 1);
        let empty = View::empty_of(&self.view);
        let old = std::mem::replace(&mut self.view, empty);
        self.view = View::of(self.index.state(), Some(old)).map_err(|e| super::bad_index(&self.place, e))?;
        Ok(())
    }

    pub const fn identity(&self) -> Identity {
        self.view.status.identity
    }

    pub fn row(&self, uid: Uid) -> Result<usize> {
        self.view.row(uid).ok_or_else(|| self.expunged(uid))
    }

    fn expunged(&self, uid: Uid) -> Error {
        Error::new(Class::Expunged, format!("{}: the mail is gone", self.files.primary(uid).display()))
    }

    /// Opens a mail's file. If it is not there, the index tells whether it was expunged meanwhile or is lost.
    pub fn open_mail(&mut self, uid: Uid) -> Result<Opened> {
        match self.files.open(uid) {
            Ok(opened) => Ok(opened),
            Err(OpenError::Failed(e)) => Err(e),
            Err(OpenError::Missing(path)) => {
                self.index.refresh()?;
                if self.index.state().row(uid).is_none() {
                    return Err(self.expunged(uid));
                }
                // It may have been moved to or from the alternative storage while we looked.
                match self.files.open(uid) {
                    Ok(opened) => Ok(opened),
                    Err(OpenError::Failed(e)) => Err(e),
                    Err(OpenError::Missing(_)) => {
                        let text = format!("{}: the mail is lost: the index has it, but the file is not there", path.display());
                        Err(Error::new(Class::Temporary, text))
                    }
                }
            }
        }
    }

    /// Asks the cache for a mail, unless that was done before.
    pub fn look_up(&mut self, row: usize) {
        if !self.view.slots[row].looked_up {
            super::cache::look_up(&self.index, &mut self.view, row);
        }
    }

    /// Remembers what a mail's file says.
    fn learn(&mut self, row: usize, uid: Uid, opened: &Opened) -> Result<()> {
        self.look_up(row);
        let bad = |damage: Damage| Error::from(opened.file.damaged(opened.message.offset, damage));
        let metadata = &opened.message.metadata;
        let pop3 = self.view.pop3;
        let facts = Facts {
            received: metadata.received().map_err(bad)?,
            saved: Some(self.view.slots[row].saved).filter(|t| t.0 != 0).unwrap_or(opened.changed),
            pop3_uidl: metadata.pop3_uidl().filter(|_| pop3.shows_uidl(uid)),
            pop3_order: if pop3.shows_order(uid) { metadata.pop3_order() } else { 0 },
            virtual_size: metadata.virtual_size(),
            in_alt: opened.in_alt,
        };
        let guid = metadata.guid().map_err(bad)?;
        let slot = &mut self.view.slots[row];
        slot.guid = Some(guid);
        slot.facts = Some(Box::new(facts));
        Ok(())
    }

    pub const fn owner(&self, uid: Uid) -> Owner {
        Owner { mailbox: self.identity().guid, uid }
    }

    /// Locks the log and makes sure that this still is the mailbox that was opened, and a sound one (dbox.md 6.4).
    pub fn lock_index(&mut self) -> Result<Locked<'_>> {
        let opened = self.view.status.identity;
        let place = &self.place;
        let locked = self.index.lock()?;
        check_writable(locked.state(), opened, place)?;
        Ok(locked)
    }

    /// Carries out what others have requested and not done: expunges.
    ///
    /// Order: external records durable, then the files. A kill in between leaves files that no index knows, which nobody
    /// looks at (dbox.md 2.5).
    fn carry_out_requests(&mut self) -> Result<()> {
        let asks = |state: &State| state.pending().iter().any(|p| matches!(p.request, Request::Expunge { .. }));
        if !asks(self.index.state()) {
            return Ok(());
        }
        super::edit::finish_requests(self)
    }
}

/// Nothing is written to an index that Dovecot would rebuild, or that is another mailbox's by now.
pub(super) fn check_writable(state: &State, opened: Identity, place: &Place) -> Result<()> {
    let now = view::identity(state).map_err(|e| super::bad_index(place, e))?;
    let refuse = |class, text: &str| Err(Error::new(class, format!("{}: {text}", place.index.display())));
    if state.deleted() != crate::index::DeletedMark::None {
        return refuse(Class::NotFound, "Mailbox was deleted under us");
    }
    if (now.guid, now.uidvalidity) != (opened.guid, opened.uidvalidity) {
        return refuse(Class::Temporary, "the mailbox was replaced by another one meanwhile");
    }
    if state.fsckd() {
        return refuse(Class::Temporary, "the index was repaired by Dovecot; the mailbox needs `doveadm force-resync`");
    }
    Ok(())
}

impl Mailbox for SdboxMailbox {
    fn lock(&mut self, timeout: Duration) -> Result<()> {
        self.run_lock = Some(self.place.lock_file(RUN_LOCK, &self.settings, timeout)?);
        Ok(())
    }

    fn refresh(&mut self) -> Result<()> {
        self.index.refresh()?;
        self.index.cut_off_rest()?;
        self.carry_out_requests()?;
        self.renew_view()
    }

    fn expect(&mut self, mails: usize) {
        self.index.expect(mails);
    }

    fn tidy(&mut self) {
        if let Err(e) = self.index.settle() {
            tracing::debug!("{e}");
        }
    }

    fn view_number(&self) -> Option<u64> {
        Some(self.taken.1)
    }

    fn status(&self) -> Status {
        self.view.status
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { has_guids: true, saves_guids: true, keeps_modseqs: true }
    }

    fn mails(&self) -> &[Mail] {
        self.view.mails.all()
    }

    fn list(&self) -> Arc<dyn MailList> {
        self.view.mails.clone()
    }

    fn guid(&mut self, uid: Uid) -> Result<MailGuid> {
        let row = self.row(uid)?;
        self.look_up(row);
        if let Some(guid) = &self.view.slots[row].guid {
            return Ok(guid.clone());
        }
        let opened = self.open_mail(uid)?;
        let guid = opened.message.metadata.guid();
        // A date that cannot be read is an error of whoever asks for it.
        let _ = self.learn(row, uid, &opened);
        guid.map_err(|damage| opened.file.damaged(opened.message.offset, damage).into())
    }

    fn facts(&mut self, uid: Uid) -> Result<Facts> {
        let row = self.row(uid)?;
        if self.view.slots[row].facts.is_none() {
            let opened = self.open_mail(uid)?;
            self.learn(row, uid, &opened)?;
        }
        self.view.slots[row].facts.as_deref().cloned().ok_or_else(|| self.expunged(uid))
    }

    fn body(&mut self, uid: Uid) -> Result<Body> {
        let row = self.row(uid)?;
        let opened = self.open_mail(uid)?;
        if self.view.slots[row].facts.is_none() {
            let _ = self.learn(row, uid, &opened);
        }
        Ok(self.rules.text(&opened.file, &opened.message, Some(self.owner(uid)))?)
    }

    fn changes(&mut self, since: Since) -> Result<Changes> {
        let View { end, mails, status, .. } = &self.view;
        Ok(self.index.changes(&Scan { since, end: *end, mails: &**mails, status })?)
    }

    fn stage(&mut self, mail: NewMail, body: Body) -> std::result::Result<(), SaveError> {
        self.stage.add(&self.files, &self.place.modes, mail, body)
    }

    fn stage_copy(&mut self, mail: NewMail, from: Uid, original: Original) -> std::result::Result<(), SaveError> {
        let row = self.row(from)?;
        let opened = self.open_mail(from)?;
        if self.view.slots[row].facts.is_none() {
            let _ = self.learn(row, from, &opened);
        }
        let saved = (self.view.slots[row].saved.0 == 0).then_some(opened.changed);
        let source = Source { uid: from, opened: &opened, saved, owner: self.owner(from), original };
        self.stage.add_copy(&self.files, &self.place.modes, mail, &source)
    }

    fn commit(&mut self, seen: Uid) -> Result<Committed> {
        super::commit::commit(self, seen)
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        super::edit::edit(self, edits)
    }

    fn raise(&mut self, floors: &Floors) -> Result<()> {
        super::edit::raise(self, floors)
    }

    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        super::edit::set_identity(self, guid, uidvalidity)
    }

    fn rebuild(&mut self, plan: Rebuild) -> Result<()> {
        super::rebuild::rebuild(self, &plan)
    }

    fn held_back(&self) -> Vec<(Uid, Uid)> {
        self.index.state().held_back()
    }

    fn hold_back(&mut self, ranges: &[(Uid, Uid)]) -> Result<()> {
        super::edit::hold_back(self, ranges)
    }
}

impl Drop for SdboxMailbox {
    fn drop(&mut self) {
        // The lock file goes last: until then nobody else may start on this mailbox.
        drop(self.run_lock.take());
    }
}
