//! The Maildir storage (maildir.md part A): plain Maildirs, and those that Dovecot works on at the same time.
//!
//! Knows `cur new tmp`, `dovecot-uidlist`, `dovecot-keywords`, and what a Maildir keeps in its index. Never knows where
//! mailboxes lie, nor any other storage.
//!
//! | file | subject |
//! |---|---|
//! | `name`, `lines`, `header`, `keywords`, `uidlist` | the formats |
//! | `scan`, `facts`, `merge` | what is there, and what has to be done about it |
//! | `core`, `sync`, `files`, `frozen` | an opened Maildir, brought up to date |
//! | `stage`, `commit`, `record`, `edit`, `rebuild`, `identity` | changes, each with its order of writes |
//! | `mailbox` | all of it as a mailbox |

mod commit;
mod core;
mod edit;
mod facts;
mod files;
mod frozen;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
mod identity;
mod keywords;
mod lines;
mod mailbox;
mod merge;
mod name;
mod rebuild;
mod record;
mod scan;
mod stage;
mod sync;
mod uidlist;

use std::path::Path;
use std::sync::Arc;

use crate::index::Parking;
use crate::mail::{Class, Error, Identity, Mailbox, MailboxGuid, Result, UidValidity};
use crate::os::fs::Modes;
use crate::store::Settings;
use crate::store::format::{Format, Place};

use self::core::Core;
use self::mailbox::MaildirMailbox;

/// Gives a new UIDVALIDITY from the counter in a control root (mailbox-list.md 11.1).
pub type NextUidValidity = Arc<dyn Fn(&Path, &Modes) -> Result<UidValidity> + Send + Sync>;

/// The Maildir storage at one location.
pub struct Maildir {
    settings: Arc<Settings>,
    next_uidvalidity: NextUidValidity,
    /// Indexes of mailboxes that were looked at and will be opened.
    parking: Parking,
    /// The layout is flat, and every directory a mailbox.
    flat: bool,
}

impl Maildir {
    /// With these settings, in a layout that is flat (Maildir++, imapdir) or not. The counter is asked only for a mailbox that
    /// never had a UIDVALIDITY.
    #[must_use]
    pub fn new(settings: Settings, flat: bool, next_uidvalidity: NextUidValidity) -> Self {
        Self { settings: Arc::new(settings), next_uidvalidity, parking: Parking::default(), flat }
    }

    fn core(&mut self, place: &Place) -> Result<Core> {
        if !self.exists(place) {
            let text = format!("{}: there is no Maildir", place.mailbox.display());
            return Err(Error::new(Class::NotFound, text));
        }
        self.open_core(place)
    }

    fn open_core(&mut self, place: &Place) -> Result<Core> {
        Core::open(place, Arc::clone(&self.settings), Arc::clone(&self.next_uidvalidity), &mut self.parking)
    }
}

impl std::fmt::Debug for Maildir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maildir").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Format for Maildir {
    fn driver(&self) -> &'static str {
        "maildir"
    }

    /// A folder of a flat layout is a mailbox as soon as its directory is there (9.1). The root is one if it has any of the three
    /// directories: an empty one may be the place of a file system that is not mounted. Anything else needs `cur/`, whatever
    /// its name begins with.
    fn exists(&self, place: &Place) -> bool {
        let is_dir = |name: &str| place.mailbox.join(name).is_dir();
        if place.inbox {
            ["cur", "new", "tmp"].into_iter().any(is_dir)
        } else if self.flat {
            place.mailbox.is_dir()
        } else {
            is_dir("cur")
        }
    }

    fn identity(&mut self, place: &Place) -> Result<Identity> {
        let mut core = self.core(place)?;
        match core.quick_identity()? {
            Some(identity) => {
                if let Some(index) = core.index.take() {
                    self.parking.put(index);
                }
                Ok(identity)
            }
            None => Ok(MaildirMailbox::open(core)?.status().identity),
        }
    }

    fn open(&mut self, place: &Place) -> Result<Box<dyn Mailbox>> {
        Ok(Box::new(MaildirMailbox::open(self.core(place)?)?))
    }

    fn create(&mut self, place: &Place, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        self.open_core(place)?.create(guid, uidvalidity)
    }

    fn empty(&mut self, place: &Place) -> Result<()> {
        self.core(place)?.empty()
    }

    fn renamed(&mut self, place: &Place) -> Result<()> {
        self.core(place)?.renamed()
    }

    fn reserved(&self) -> &'static [&'static str] {
        &["cur", "new", "tmp"]
    }
}
