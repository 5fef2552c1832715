//! A storage format for tests of what lies around it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::mail::{
    Body, Capabilities, Changes, Class, Committed, Edit, Error, Facts, Floors, Identity, Mail, MailGuid, Mailbox, MailboxGuid,
    ModSeq, NewMail, Original, Rebuild, Result, SaveError, Since, Status, Uid, UidValidity,
};
use crate::store::format::{Format, Place};
use crate::store::list::Driver;

/// A storage without mails: a mailbox is a file with its identity in the index directory.
pub struct Fake {
    pub driver: Driver,
    pub calls: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn file(place: &Place) -> PathBuf {
        place.index.join("dovecot.index")
    }

    fn write(place: &Place, identity: Identity) -> Result<()> {
        let text = format!("{} {} {}", identity.guid, identity.uidvalidity, identity.uid_next);
        std::fs::write(Self::file(place), text).map_err(|e| Error::new(Class::Temporary, e))
    }

    fn read(place: &Place) -> Result<Identity> {
        let text = std::fs::read_to_string(Self::file(place)).map_err(|e| Error::new(Class::Temporary, e))?;
        let bad = || Error::new(Class::Temporary, format!("{} is damaged", Self::file(place).display()));
        let mut words = text.split(' ');
        let guid = words.next().and_then(|w| w.parse().ok()).ok_or_else(bad)?;
        let mut number = || words.next().and_then(|w| w.parse().ok());
        let uidvalidity = number().and_then(UidValidity::new).ok_or_else(bad)?;
        let uid_next = number().and_then(Uid::new).ok_or_else(bad)?;
        Ok(Identity { guid, uidvalidity, uid_next })
    }

    fn call(&self, what: &str, place: &Place) {
        self.calls.lock().expect("no panic").push(format!("{what} {}", place.name));
    }
}

impl Format for Fake {
    fn driver(&self) -> &'static str {
        self.driver.name()
    }

    fn exists(&self, place: &Place) -> bool {
        if self.driver == Driver::Maildir { place.mailbox.join("cur").is_dir() } else { place.mailbox.is_dir() }
    }

    fn identity(&mut self, place: &Place) -> Result<Identity> {
        if self.driver == Driver::Maildir && !Self::file(place).exists() && place.mailbox.is_dir() {
            self.create(place, MailboxGuid::generate(), UidValidity::new(1).expect("not zero"))?;
        }
        Self::read(place)
    }

    fn open(&mut self, place: &Place) -> Result<Box<dyn Mailbox>> {
        Ok(Box::new(FakeMailbox { place: place.clone(), identity: Self::read(place)? }))
    }

    fn create(&mut self, place: &Place, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        self.call("create", place);
        assert!(place.mailbox.is_dir() && place.index.is_dir() && place.control.is_dir(), "{place:?}");
        if self.driver == Driver::Maildir {
            for dir in ["cur", "new", "tmp"] {
                let _ = std::fs::create_dir(place.mailbox.join(dir));
            }
        }
        Self::write(place, Identity { guid, uidvalidity, uid_next: Uid::FIRST })
    }

    fn empty(&mut self, place: &Place) -> Result<()> {
        self.call("empty", place);
        Ok(())
    }

    fn renamed(&mut self, place: &Place) -> Result<()> {
        self.call("renamed", place);
        assert!(Self::file(place).exists(), "{place:?}");
        Ok(())
    }

    fn reserved(&self) -> &'static [&'static str] {
        if self.driver == Driver::Maildir { &["cur", "new", "tmp"] } else { &["dbox-Mails"] }
    }
}

struct FakeMailbox {
    place: Place,
    identity: Identity,
}

#[rustfmt::skip]
impl Mailbox for FakeMailbox {
    fn status(&self) -> Status {
        Status {
            identity: self.identity, messages: 0, first_recent: Uid::FIRST, highest_modseq: ModSeq(1),
            highest_private_modseq: ModSeq(0),
        }
    }
    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        self.identity = Identity { guid, uidvalidity, ..self.identity };
        Fake::write(&self.place, self.identity)
    }
    fn lock(&mut self, _: std::time::Duration) -> Result<()> { Ok(()) }
    fn refresh(&mut self) -> Result<()> { Ok(()) }
    fn capabilities(&self) -> Capabilities { Capabilities { has_guids: true, saves_guids: true, keeps_modseqs: true } }
    fn mails(&self) -> &[Mail] { &[] }
    fn guid(&mut self, _: Uid) -> Result<MailGuid> { unreachable!("has no mails") }
    fn facts(&mut self, _: Uid) -> Result<Facts> { unreachable!("has no mails") }
    fn body(&mut self, _: Uid) -> Result<Body> { unreachable!("has no mails") }
    fn changes(&mut self, _: Since) -> Result<Changes> { Ok(Changes::default()) }
    fn stage(&mut self, _: NewMail, _: Body) -> std::result::Result<(), SaveError> { unreachable!("not asked for") }
    fn stage_copy(&mut self, _: NewMail, _: Uid, _: Original) -> std::result::Result<(), SaveError> { unreachable!("not asked for") }
    fn commit(&mut self, _: Uid) -> Result<Committed> { Ok(Committed::default()) }
    fn edit(&mut self, _: &[Edit]) -> Result<()> { Ok(()) }
    fn raise(&mut self, _: &Floors) -> Result<()> { Ok(()) }
    fn rebuild(&mut self, _: Rebuild) -> Result<()> { Ok(()) }
    fn held_back(&self) -> Vec<(Uid, Uid)> { Vec::new() }
    fn hold_back(&mut self, _: &[(Uid, Uid)]) -> Result<()> { Ok(()) }
}
