//! mdbox: several mails per `storage/m.N`, found through the map index (dbox.md 3).
//!
//! A mailbox is an index whose records name records of the map; the map says in which file a mail lies and how many
//! mailboxes have it. What is written in which order stands at the top of `commit`, `edit`, `rebuild`, `create`, `recover`
//! and `purge`. Locks, outermost first: map log, vsize lock, mailbox log (dbox.md 5.3); never two mailboxes.

mod commit;
mod create;
mod edit;
mod facts;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod mailbox;
mod map;
mod plan;
mod purge;
mod read;
mod rebuild;
mod record;
mod recover;
mod save;
mod storage;
mod view;

use crate::mail::{Identity, Mailbox, MailboxGuid, Result, UidValidity};
use crate::store::Settings;
use crate::store::format::{Format, Place};

pub use files::Location;

use storage::{Shared, Storage};

/// The mdbox storage of one mail root.
#[derive(Debug)]
pub struct Mdbox {
    storage: Shared,
    all: Vec<Place>,
}

impl Mdbox {
    /// The storage at a location. Nothing is opened yet.
    #[must_use]
    pub fn new(location: Location, settings: Settings) -> Self {
        Self { storage: Shared::new(Storage::new(location, settings)), all: Vec::new() }
    }
}

impl Format for Mdbox {
    fn driver(&self) -> &'static str {
        "mdbox"
    }

    fn begin(&mut self, all: &[Place]) -> Result<()> {
        self.all = all.to_vec();
        recover::begin(&mut self.storage.get(), all)
    }

    fn exists(&self, place: &Place) -> bool {
        place.mailbox.is_dir()
    }

    fn identity(&mut self, place: &Place) -> Result<Identity> {
        create::identity(&self.storage, place, &self.all)
    }

    fn open(&mut self, place: &Place) -> Result<Box<dyn Mailbox>> {
        Ok(Box::new(mailbox::MdboxMailbox::open(&self.storage, place)?))
    }

    fn create(&mut self, place: &Place, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        create::create(&self.storage, place, guid, uidvalidity)
    }

    fn empty(&mut self, place: &Place) -> Result<()> {
        create::empty(&self.storage, place)
    }

    fn renamed(&mut self, place: &Place) -> Result<()> {
        create::renamed(&self.storage, place)
    }

    fn purge(&mut self) -> Result<()> {
        purge::purge(&mut self.storage.get())
    }

    fn reserved(&self) -> &'static [&'static str] {
        &["dbox-Mails"]
    }
}
