//! sdbox: one file `u.UID` per mail, everything else in the mailbox's index (dbox.md 2).
//!
//! The index is no cache here: what it has lost is lost. So nothing is ever written to a mailbox whose index is not sound,
//! and every writing module says at its top in which order it writes and what a kill after each step leaves.

mod alt;
mod cache;
mod commit;
mod create;
mod edit;
mod files;
mod mailbox;
mod rebuild;
mod stage;
mod view;

use crate::index::{self, Index, Parking};
use crate::mail::{self, Identity, Mailbox, MailboxGuid, Result, UidValidity};
use crate::store::Settings;
use crate::store::format::{Format, Place};

use mailbox::SdboxMailbox;

/// The sdbox format at one location.
#[derive(Debug)]
pub struct Sdbox {
    settings: Settings,
    /// Indexes of mailboxes that were looked at and will be opened.
    parking: Parking,
}

impl Sdbox {
    /// With these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, parking: Parking::default() }
    }

    fn index(&mut self, place: &Place) -> Result<Index> {
        match self.parking.open(index_files(place), index_options(&self.settings, place)) {
            // Dovecot would make an empty mailbox of it; its mails would seem to be gone (dbox.md 6.3, 6.4).
            Err(e) if e.is_missing() && place.mailbox.is_dir() => {
                let text = format!("{e}, but the mailbox is there; it needs `doveadm force-resync`");
                Err(mail::Error::new(mail::Class::Temporary, text))
            }
            other => Ok(other?),
        }
    }
}

/// The index files of a mailbox.
fn index_files(place: &Place) -> index::Files {
    index::Files::new(&place.index, index::Files::MAILBOX).with_cache_dir(&place.cache)
}

/// How they are opened.
fn index_options(settings: &Settings, place: &Place) -> index::Options {
    index::Options { backup: true, ..index::Options::new(settings.index.clone(), place.modes) }
}

/// A mailbox index that cannot be used, with its place.
fn bad_index(place: &Place, e: view::BadIndex) -> mail::Error {
    mail::Error::new(mail::Class::Temporary, format!("{}: the index {e}", index_files(place).log().display()))
}

impl Format for Sdbox {
    fn driver(&self) -> &'static str {
        "sdbox"
    }

    fn exists(&self, place: &Place) -> bool {
        // A directory with neither is what a creation leaves that was stopped: it can be created.
        place.mailbox.is_dir() && (index_files(place).exist() || files::Files::new(place).any())
    }

    fn identity(&mut self, place: &Place) -> Result<Identity> {
        let index = self.index(place)?;
        if index.state().is_half_made() && !files::Files::new(place).any() {
            let text = format!("{}: the mailbox is being created", place.mailbox.display());
            return Err(mail::Error::new(mail::Class::NotFound, text));
        }
        let identity = view::identity(index.state()).map_err(|e| bad_index(place, e))?;
        self.parking.put(index);
        Ok(identity)
    }

    fn open(&mut self, place: &Place) -> Result<Box<dyn Mailbox>> {
        rebuild::clean_up(self, place);
        let index = self.index(place)?;
        let mailbox = SdboxMailbox::open(place.clone(), self.settings.clone(), index)?;
        Ok(Box::new(mailbox))
    }

    fn create(&mut self, place: &Place, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        create::create(place, &self.settings, guid, uidvalidity)
    }

    fn empty(&mut self, place: &Place) -> Result<()> {
        create::empty(place, &self.settings)
    }

    fn renamed(&mut self, place: &Place) -> Result<()> {
        create::renamed(place, &self.settings)
    }

    fn reserved(&self) -> &'static [&'static str] {
        &["dbox-Mails"]
    }
}
