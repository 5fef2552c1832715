//! An opened mailbox: its view, and what it passes on to reading, saving, editing and rebuilding.

use std::sync::Arc;
use std::time::Duration;

use super::edit;
use super::facts::FactTable;
use super::map::Locked as LockedMap;
use super::save::Staging;
use super::storage::{Shared, bad_index};
use super::view::{self, BadIndex, View};
use crate::index::{self, DeletedMark, Index, Request, Scan, State, Version};
use crate::mail::{
    Body, Capabilities, Changes, Class, Committed, Edit, Error, Facts, Floors, Guid128, Identity, Mail, MailGuid, MailList,
    Mailbox, MailboxGuid, NewMail, Original, Rebuild, Result, SaveError, Since, Status, Uid, UidValidity,
};
use crate::os::lock::LockFile;
use crate::store::Settings;
use crate::store::format::{Place, RUN_LOCK};

/// A mailbox of an mdbox storage.
#[derive(Debug)]
pub(super) struct MdboxMailbox {
    pub(super) storage: Shared,
    pub(super) place: Place,
    pub(super) index: Index,
    pub(super) view: Arc<View>,
    /// What the view is a view of, and how many there were.
    taken: (Version, u64),
    pub(super) facts: FactTable,
    pub(super) staging: Staging,
    run_lock: Option<LockFile>,
}

impl MdboxMailbox {
    /// Opens it and carries out what others have requested.
    pub fn open(storage: &Shared, place: &Place) -> Result<Self> {
        let (index, view) = {
            let mut held = storage.get();
            let storage = &mut *held;
            if !storage.refresh_map()? {
                let text = format!("{} is not there; {}", storage.map.path().display(), super::map::CURE);
                return Err(Error::new(Class::Temporary, text));
            }
            let mut index = storage.open_index(place)?;
            index.cut_off_rest()?;
            let view = Arc::new(view_of(&index, storage.map.uid_validity(), place)?);
            (index, view)
        };
        let (storage, place) = (storage.clone(), place.clone());
        let mut facts = FactTable::default();
        facts.renew(view.len(), std::iter::empty());
        let taken = (index.version(), 1);
        let mut opened = Self { storage, place, index, view, taken, facts, staging: Staging::default(), run_lock: None };
        if opened.has_requests() {
            edit::carry_out_requests(&mut opened)?;
            opened.renew_view()?;
        }
        Ok(opened)
    }

    pub fn identity(&self) -> Identity {
        self.view.status.identity
    }

    fn has_requests(&self) -> bool {
        self.index.state().pending().iter().any(|p| matches!(p.request, Request::Expunge { .. }))
    }

    /// A view of the index as it is now. Metadata that was read stays known.
    pub fn renew_view(&mut self) -> Result<()> {
        let map = self.storage.get().map.uid_validity();
        if self.index.version() == self.taken.0 {
            // Only the map can be another one.
            return check_header(self.index.state(), map).map_err(|e| bad_index(&self.place, e));
        }
        let new = view_of(&self.index, map, &self.place)?;
        let same = new.status.identity.uidvalidity == self.view.status.identity.uidvalidity
            && new.status.identity.guid == self.view.status.identity.guid;
        let kept = (0..new.len()).map(|row| {
            let at = self.view.position(new.uid(row))?;
            (same && self.view.reference(at) == new.reference(row)).then_some(at)
        });
        if self.facts.is_empty() {
            self.facts.renew(new.len(), std::iter::empty());
        } else {
            let kept: Vec<_> = kept.collect();
            self.facts.renew(new.len(), kept.into_iter());
        }
        self.view = Arc::new(new);
        self.taken = (self.index.version(), self.taken.1 + 1);
        Ok(())
    }

    /// The position of a mail of the view.
    pub fn position(&self, uid: Uid) -> Result<usize> {
        self.view.position(uid).ok_or_else(|| Error::new(Class::Expunged, format!("UID {uid}: no such mail")))
    }
}

fn view_of(index: &Index, map_uid_validity: u32, place: &Place) -> Result<View> {
    check_header(index.state(), map_uid_validity).map_err(|e| bad_index(place, e))?;
    if index.state().deleted() != DeletedMark::None {
        return Err(deleted(place));
    }
    View::of(index.state()).map_err(|e| bad_index(place, e))
}

/// The mailbox belongs to this map: else its map uids mean nothing (dbox.md 3.4).
pub(super) fn check_header(state: &State, map_uid_validity: u32) -> std::result::Result<(), BadIndex> {
    let header = view::header(state)?;
    if header.number != map_uid_validity {
        return Err(BadIndex::OtherMap { mailbox: header.number, map: map_uid_validity });
    }
    Ok(())
}

fn deleted(place: &Place) -> Error {
    Error::new(Class::NotFound, format!("{}: Mailbox was deleted under us", place.index.display()))
}

/// Nothing is written to an index that Dovecot would rebuild, or that is another mailbox's by now (dbox.md 6.4).
pub(super) fn check_writable(state: &State, opened: Identity, map: &LockedMap<'_>, place: &Place) -> Result<()> {
    check_identity(state, opened, place)?;
    check_header(state, map.uid_validity()).map_err(|e| bad_index(place, e))
}

/// As [`check_writable`], for changes that do not concern the map.
pub(super) fn check_identity(state: &State, opened: Identity, place: &Place) -> Result<()> {
    let now = view::identity(state).map_err(|e| bad_index(place, e))?;
    if state.deleted() != DeletedMark::None {
        return Err(deleted(place));
    }
    if (now.guid, now.uidvalidity) != (opened.guid, opened.uidvalidity) {
        let text = "the mailbox was replaced by another one meanwhile";
        return Err(Error::new(Class::Temporary, format!("{}: {text}", place.index.display())));
    }
    if state.fsckd() {
        return Err(bad_index(place, "Dovecot has found damage"));
    }
    Ok(())
}

/// The lock that Dovecot wants around expunges of a mailbox whose sizes it has summed up (dbox.md 3.9). To be taken before
/// the mailbox's log.
pub(super) fn vsize_lock(state: &State, place: &Place, settings: &Settings) -> Option<LockFile> {
    if vsize_highest_uid(state) == 0 {
        return None;
    }
    match place.lock_file("dovecot-vsize.lock", settings, Duration::from_secs(10)) {
        Ok(lock) => Some(lock),
        Err(e) => {
            // Only a sum is at stake, and it is made anew when it does not fit.
            tracing::warn!("{e}");
            None
        }
    }
}

/// Up to which UID the sizes are summed up; 0 = not at all.
pub(super) fn vsize_highest_uid(state: &State) -> u32 {
    let header = state.ext(index::ExtSpec::HDR_VSIZE.name).map(|ext| state.ext_header(ext));
    header.and_then(|h| super::record::u32_at(h, 8)).unwrap_or(0)
}

impl Mailbox for MdboxMailbox {
    fn lock(&mut self, timeout: Duration) -> Result<()> {
        let settings = self.storage.get().settings.clone();
        self.run_lock = Some(self.place.lock_file(RUN_LOCK, &settings, timeout)?);
        Ok(())
    }

    fn refresh(&mut self) -> Result<()> {
        self.storage.get().refresh_map()?;
        self.index.refresh()?;
        if self.has_requests() {
            edit::carry_out_requests(self)?;
        }
        self.renew_view()
    }

    fn expect(&mut self, mails: usize) {
        self.index.expect(mails);
        self.storage.get().map.expect(mails);
    }

    fn tidy(&mut self) {
        let settled = self.index.settle().map_err(Error::from).and_then(|()| self.storage.get().map.settle());
        if let Err(e) = settled {
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
        self.view.all()
    }

    fn list(&self) -> Arc<dyn MailList> {
        self.view.clone()
    }

    fn guid(&mut self, uid: Uid) -> Result<MailGuid> {
        let at = self.position(uid)?;
        let guid128 = self.view.reference(at).guid;
        Ok(self.known(at)?.guid(guid128))
    }

    fn guid128(&mut self, uid: Uid) -> Result<Guid128> {
        let at = self.position(uid)?;
        match self.view.reference(at).guid {
            Guid128::ZERO => Ok(self.guid(uid)?.to_128()),
            guid => Ok(guid),
        }
    }

    fn facts(&mut self, uid: Uid) -> Result<Facts> {
        let at = self.position(uid)?;
        let pop3 = self.view.pop3;
        let saved = self.view.reference(at).record.map(|r| r.saved).unwrap_or_default();
        let in_alt = self.in_alt(at);
        let known = self.known(at)?;
        Ok(Facts {
            received: known.received(),
            saved,
            pop3_uidl: known.pop3_uidl().filter(|_| pop3.shows_uidl(uid)).map(str::to_owned),
            pop3_order: if pop3.shows_order(uid) { known.pop3_order() } else { 0 },
            virtual_size: known.virtual_size(),
            in_alt,
        })
    }

    fn body(&mut self, uid: Uid) -> Result<Body> {
        let at = self.position(uid)?;
        self.text(at)
    }

    fn changes(&mut self, since: Since) -> Result<Changes> {
        let view = &*self.view;
        Ok(self.index.changes(&Scan { since, end: view.end(), mails: view, status: &view.status })?)
    }

    fn stage(&mut self, mail: NewMail, body: Body) -> std::result::Result<(), SaveError> {
        self.stage_new(mail, body)
    }

    fn stage_copy(&mut self, mail: NewMail, from: Uid, original: Original) -> std::result::Result<(), SaveError> {
        self.stage_instance(mail, from, original)
    }

    fn commit(&mut self, seen: Uid) -> Result<Committed> {
        self.commit_staged(seen)
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        edit::edit(self, edits)
    }

    fn raise(&mut self, floors: &Floors) -> Result<()> {
        edit::raise(self, floors)
    }

    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        edit::set_identity(self, guid, uidvalidity)
    }

    fn rebuild(&mut self, plan: Rebuild) -> Result<()> {
        self.rebuild_as(plan)
    }

    fn held_back(&self) -> Vec<(Uid, Uid)> {
        self.index.state().held_back()
    }

    fn hold_back(&mut self, ranges: &[(Uid, Uid)]) -> Result<()> {
        edit::hold_back(self, ranges)
    }
}
