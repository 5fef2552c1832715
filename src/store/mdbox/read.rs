//! Reading mails of a view beside purges that move them (dbox.md 3.5).

use super::facts::{Known, Unreadable};
use super::mailbox::MdboxMailbox;
use super::record::MailRecord;
use super::storage::Storage;
use crate::mail::{Body, Class, Error, MailList, Result, Uid};

impl MdboxMailbox {
    /// The metadata of the mail at a position of the view.
    pub(super) fn known(&mut self, at: usize) -> Result<&Known> {
        if self.facts.get(at).is_none() {
            self.read_facts(at)?;
        }
        let uid = self.view.uid(at);
        self.facts.get(at).ok_or_else(|| Error::new(Class::Temporary, format!("UID {uid}: metadata cannot be read")))
    }

    fn read_facts(&mut self, at: usize) -> Result<()> {
        let uid = self.view.uid(at);
        let record = self.map_record(at)?;
        let mut held = self.storage.get();
        let Storage { map, files, .. } = &mut *held;
        let view = &self.view;
        let place = |i: usize| {
            let reference = (i < view.len()).then(|| view.reference(i))?;
            Some((map.lookup(reference.record?.map_uid)?.place, reference.guid))
        };
        match self.facts.read(at, files, place) {
            Ok(_) => return Ok(()),
            Err(Unreadable::Failed(e)) => return Err(e.at(format_args!("UID {uid}"))),
            Err(Unreadable::Missing) => {}
        }
        // The map was not up to date, or a purge has moved the mail.
        held.refresh_map()?;
        let Some((listed, _)) = held.open_mail(record.map_uid).map_err(|e| e.at(format_args!("UID {uid}")))? else {
            drop(held);
            return Err(self.lost(uid, record));
        };
        let guid = self.view.reference(at).guid;
        let only = |i: usize| (i == at).then_some((listed.place, guid));
        match self.facts.read(at, &mut held.files, only) {
            Ok(_) => Ok(()),
            Err(Unreadable::Failed(e)) => Err(e.at(format_args!("UID {uid}"))),
            Err(Unreadable::Missing) => {
                drop(held);
                Err(self.lost(uid, record))
            }
        }
    }

    /// Whether the mail at a position lies in the alternative storage.
    pub(super) fn in_alt(&self, at: usize) -> bool {
        let Some(record) = self.view.reference(at).record else { return false };
        let mut storage = self.storage.get();
        storage.map.lookup(record.map_uid).is_some_and(|listed| storage.files.in_alt(listed.place.file_id))
    }

    /// What the index says of the mail at a position.
    pub(super) fn map_record(&self, at: usize) -> Result<MailRecord> {
        let uid = self.view.uid(at);
        self.view.reference(at).record.ok_or_else(|| {
            let path = super::storage::index_files(&self.place).log();
            Error::new(Class::Temporary, format!("UID {uid}: {}: map uid lost", path.display()))
        })
    }

    /// The text of the mail at a position.
    pub(super) fn text(&mut self, at: usize) -> Result<Body> {
        let uid = self.view.uid(at);
        let record = self.map_record(at)?;
        let mut held = self.storage.get();
        let found = held.open_mail(record.map_uid).map_err(|e| e.at(format_args!("UID {uid}")))?;
        let Some((listed, file)) = found else {
            drop(held);
            return Err(self.lost(uid, record));
        };
        let bad = |e: crate::store::dbox::Error| Error::from(e).at(format_args!("UID {uid}"));
        let offset = u64::from(listed.place.offset);
        let file = file.around(offset, u64::from(listed.place.size)).map_err(bad)?;
        let message = file.message(offset).map_err(bad)?;
        // Whoever wants the text wants to know the rest as well. What is wrong with it shows when it is asked for.
        self.facts.learn(at, &message, self.view.reference(at).guid);
        held.rules.text(&file, &message, None).map_err(bad)
    }

    /// Why a mail that the view has is nowhere: expunged meanwhile, or lost.
    fn lost(&mut self, uid: Uid, record: MailRecord) -> Error {
        if let Err(e) = self.index.refresh() {
            return e.into();
        }
        if self.index.state().row(uid).is_none() {
            return Error::new(Class::Expunged, format!("UID {uid}: expunged meanwhile"));
        }
        let held = self.storage.get();
        let path = held.map.path();
        let file = held.map.lookup(record.map_uid).map(|l| held.files.path(l.place.file_id).display().to_string());
        let what = file.map_or_else(|| "it has no such record".to_owned(), |f| format!("{f} is missing"));
        let text = format!("UID {uid}: {}: Unexpectedly lost map uid {}: {what}", path.display(), record.map_uid);
        Error::new(Class::Temporary, text)
    }
}
