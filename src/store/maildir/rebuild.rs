//! Giving a mailbox a complete new content (sync.md 14, third row).
//!
//! The texts are the files; the uidlist says which of them are mails, with which UID and GUID. Under the uidlist lock, a kill
//! after a step leaves:
//!   1 `dovecot-keywords` with new letters             the old mailbox
//!   2 old uidlist + lines of the texts that are to come   the old mailbox; UIDs are used up
//!   3 these texts renamed into `cur/`, directory synced   the old mailbox, and new mails in it, with their true GUIDs
//!   4 the index begun anew, empty                      the same; modseqs and saved dates are forgotten
//!   5 `dovecot-uidlist` with the new content           **the new mailbox**; what is not in it has lost its UID
//!   6 files renamed to their flags, dated, foreign ones removed    the new mailbox. Before that a foreign file would come
//!     back as a new mail with its file name as GUID, and the next run would remove it again
//!   7 index transactions with the new content          all of it
//!
//! Sessions that have the mailbox open end with "IMAP session state is inconsistent". One trap remains: a session that has
//! read a higher `N` in the uidlist's first line, with the same UIDVALIDITY, takes the list for broken (5.2) and makes a new
//! one, with new UIDs. Deliveries do not write `N`, so this needs a rewrite of the list between the foreign change and us.
//! The next run finds the mailbox changed and puts it right.
//!
//! The index goes before the uidlist: it and its cache speak of UIDs, and those mean other mails afterwards. Without it both
//! the old and the new uidlist are complete.

use std::collections::HashSet;

use super::commit::{Names, Placed, Source, Staged, adopt, choose_base, extensions};
use super::facts::push;
use super::files::vanished;
use super::mailbox::MaildirMailbox;
use super::name;
use super::record;
use super::scan::{self, Dir, Places};
use super::stage::Text;
use super::uidlist::{Header, Taken, Uidlist, UidlistLock};
use crate::index::{Bits, Durability, Transaction, raise};
use crate::mail::{
    Class, Error, Floors, Identity, Mailbox, ModSeq, NewMail, Original, Rebuild, RebuildFrom, Result, SaveError, Uid,
};
use crate::os::Fsync;
use crate::os::fs;

/// A mail of the new content.
struct Planned {
    mail: NewMail,
    text: Planning,
    base: Vec<u8>,
}

enum Planning {
    /// The file that has this UID in the old content.
    Present(Uid),
    /// A new file.
    New(Text),
}

impl MaildirMailbox {
    /// Gives the mailbox this content.
    pub(super) fn rebuild_as(&mut self, plan: Rebuild) -> Result<()> {
        let Rebuild { identity, first_recent, highest_modseq, mails } = plan;
        let ascending = mails.windows(2).all(|w| w[0].mail.uid < w[1].mail.uid);
        if !ascending || mails.last().is_some_and(|m| m.mail.uid >= identity.uid_next) {
            return Err(Error::new(Class::Params, "the UIDs of a rebuilt mailbox must ascend and stay below its UIDNEXT"));
        }
        let mut planned = self.gather(mails)?;
        self.stage.sync(planned.iter_mut().filter_map(|p| if let Planning::New(t) = &mut p.text { Some(t) } else { None }))?;
        let mut lock = self.core.lock_for_change()?;
        self.core.sync_locked(&mut lock)?;
        let done = self.replace(&mut planned, identity, &mut lock).and_then(|()| {
            let tail = Tail { first_recent, highest_modseq, identity };
            self.fill_index(&planned, &tail)
        });
        // Everything known is about the old content.
        self.core.uidlist.forget();
        self.core.places = None;
        self.names_taken = None;
        done
    }

    /// Texts for all mails: a present file serves once as it is, and is copied for everybody else.
    fn gather(&mut self, mails: Vec<crate::mail::RebuildMail>) -> Result<Vec<Planned>> {
        let mut staged: Vec<Option<Staged>> = std::mem::take(&mut self.staged).into_iter().map(Some).collect();
        let mut present = HashSet::new();
        let mut planned = Vec::with_capacity(mails.len());
        for wanted in mails {
            let mail = wanted.mail;
            let text = match wanted.from {
                RebuildFrom::Present(uid) if present.insert(uid) => Planning::Present(uid),
                RebuildFrom::Present(uid) => {
                    self.stage_copy(mail.clone(), uid, Original::Keep).map_err(of_save)?;
                    Planning::New(self.last_text()?)
                }
                RebuildFrom::Staged(n) => match staged.get_mut(n).and_then(Option::take) {
                    Some(Staged { source: Source::Text(text), .. }) => Planning::New(text),
                    _ => return Err(Error::new(Class::Params, format!("there is no staged text number {n}"))),
                },
            };
            planned.push(Planned { mail, text, base: Vec::new() });
        }
        Ok(planned)
    }

    fn last_text(&mut self) -> Result<Text> {
        match self.staged.pop() {
            Some(Staged { source: Source::Text(text), .. }) => Ok(text),
            _ => Err(Error::new(Class::Temporary, "a copy was not staged")),
        }
    }

    /// Steps 1 to 6.
    fn replace(&mut self, planned: &mut [Planned], identity: Identity, lock: &mut UidlistLock) -> Result<()> {
        let mailbox = self.core.place.mailbox.clone();
        let mut taken = self.core.uidlist.take().expect("holds because a sync reads it");
        let old = taken.list.clone();
        let mut names = Names::of(&taken.list);
        for p in planned.iter_mut() {
            p.base = match &p.text {
                Planning::Present(uid) => taken.list.find(uid.get()).ok_or_else(|| vanished(uid.get()))?.base.to_vec(),
                Planning::New(text) => choose_base(&p.mail.guid, text, &mut names),
            };
        }

        // 1
        let before = self.core.table.clone();
        let letters: Vec<_> = planned.iter().map(|p| self.core.table.letters_or_new(&p.mail.keywords)).collect();
        if self.core.table != before {
            self.core.keywords.write(&self.core.table)?;
        }

        // 2
        let other = taken.list.header.other.clone();
        for p in planned.iter().filter(|p| matches!(p.text, Planning::New(_))) {
            let uid = taken.list.next_uid();
            push(&mut taken.list, uid, &extensions(&p.mail, &p.base), &p.base, &mailbox)?;
        }
        self.core.uidlist.write(lock, taken)?;

        // 3
        for (p, letters) in planned.iter_mut().zip(&letters) {
            if let Planning::New(text) = &mut p.text {
                let name = name::with_flags(&p.base, p.mail.flags, *letters);
                fs::rename_new(&text.path, &scan::path_of(&mailbox, Dir::Cur, &name))?;
                text.published();
            }
        }
        if self.core.settings.index.fsync != Fsync::Never {
            fs::fsync_dir(&mailbox.join(Dir::Cur.name()))?;
        }
        lock.touch()?;

        // 4
        let index = self.core.index.as_mut().expect("holds because a sync makes it");
        let held: Vec<Transaction> = index.state().hold_on(Bits::EXTERNAL).into_iter().collect();
        index.lock()?.reset(&held)?;

        // 5
        let mut header = Header::new(identity.uidvalidity, identity.guid);
        header.next = identity.uid_next.get();
        header.other = other;
        let mut list = Uidlist::new(header);
        for p in planned.iter() {
            push(&mut list, p.mail.uid.get(), &extensions(&p.mail, &p.base), &p.base, &mailbox)?;
        }
        self.core.uidlist.write(lock, Taken::new(list.clone()))?;

        // 6
        let scan = scan::scan(&mailbox, &list)?;
        for (p, letters) in planned.iter().zip(&letters) {
            lock.touch()?;
            let placed = Placed { nth: 0, uid: p.mail.uid, base: p.base.clone(), letters: *letters };
            self.settle(p, &placed, &scan.places)?;
        }
        let old_names = old.by_base();
        for found in scan.unknown.iter().chain(&scan.duplicates) {
            // What was delivered while we worked was never part of what is being replaced: it is a new mail.
            if old_names.contains_key(found.base()) {
                fs::unlink_if_there(&found.path(&mailbox))?;
            }
        }
        self.core.forget_quota();
        Ok(())
    }

    /// Gives a file of the old content the name and the date that it shall have.
    fn settle(&self, p: &Planned, placed: &Placed, places: &Places) -> Result<()> {
        let mailbox = &self.core.place.mailbox;
        let (dir, info) = places.get(placed.uid.get()).ok_or_else(|| vanished(placed.uid.get()))?;
        let found = (dir, [&p.base, info].concat());
        let path = scan::path_of(mailbox, dir, &found.1);
        adopt(&path, mailbox, &found, &placed.file_name(&p.mail), &p.mail)
    }

    /// Step 7.
    fn fill_index(&mut self, planned: &[Planned], tail: &Tail) -> Result<()> {
        let index = self.core.index.as_mut().expect("holds because a sync makes it");
        let mut locked = index.lock()?;
        let mut first = Transaction::new(Bits::EXTERNAL);
        first.uid_validity(tail.identity.uidvalidity);
        locked.commit(&first, Durability::Later)?;
        let mut modseqs = Transaction::new(Bits::INTERNAL);
        modseqs.keep_modseqs();
        locked.commit(&modseqs, Durability::Later)?;
        let mails: Vec<_> = planned.iter().map(|p| record::Entry { uid: p.mail.uid, mail: &p.mail, base: &p.base }).collect();
        record::Record { mails: &mails, expunged: &[], saved: &[] }.write(&mut locked)?;
        let floors = Floors {
            uid_next: Some(tail.identity.uid_next),
            first_recent: Some(tail.first_recent),
            highest_modseq: tail.highest_modseq,
        };
        let tx = raise(locked.state(), &floors, Bits::EXTERNAL);
        locked.commit(&tx, Durability::Lazy)?;
        Ok(())
    }
}

struct Tail {
    first_recent: Uid,
    highest_modseq: ModSeq,
    identity: Identity,
}

fn of_save(e: SaveError) -> Error {
    match e {
        SaveError::Store(e) => e,
        SaveError::Body(e) => Error::new(Class::Temporary, e),
    }
}
