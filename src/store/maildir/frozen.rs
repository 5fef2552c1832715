//! A Maildir that cannot be written: a backup's mounted snapshot, or another user's mail (maildir.md 9.3). Everything a sync
//! would write is done in memory only. Nothing here changes a file.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::core::{Core, Frozen};
use super::facts::{file_mails, index_mails, number, push, requests};
use super::keywords::Table;
use super::merge::{self, Requests, Step};
use super::scan;
use super::uidlist::{Header, Uidlist};
use crate::index::{Index, State};
use crate::mail::{Error, Identity, Mail, MailboxGuid, ModSeq, Result, Status, Uid, UidValidity};

impl Core {
    /// Makes the view in memory. `why` nothing can be written is told once, at debug level: reading is all that is wanted.
    ///
    /// # Errors
    /// The Maildir cannot be read, or is damaged.
    pub fn freeze(&mut self, why: &Error) -> Result<()> {
        tracing::debug!("{}: read-only view: {why}", self.mailbox().display());
        let mut list = match self.uidlist.refresh()? {
            true => self.uidlist.list().cloned().expect("holds because a refresh that found the file keeps its list"),
            false => Uidlist::new(self.synthetic_header()),
        };
        if list.header.guid.is_none() {
            list.header.guid = self.synthetic_header().guid;
        }
        list.drop_duplicates();
        if let Some(index) = &mut self.index {
            index.refresh()?;
        }
        let state = self.index.as_ref().map(Index::state).filter(|s| s.uid_validity() == Some(list.header.uidvalidity));
        let index_next = state.map_or(1, |s| s.next_uid().get());
        list.header.next = list.header.next.max(index_next);

        let mut scan = scan::scan(&self.place.mailbox, &list)?;
        number(&mut list, &mut scan, &self.place.mailbox)?;
        let mut table: Table = self.keywords.read()?;
        for letters in scan.places.letters() {
            table.name_unknown(letters);
        }
        let requests = state.map_or_else(Requests::default, requests);
        let rules = merge::Rules { table: &table, index_next, private_seen: self.private_seen() };
        let steps = match state {
            Some(state) => merge::merge(index_mails(state), file_mails(&scan, &list), &requests, rules),
            None => merge::merge([], file_mails(&scan, &list), &requests, rules),
        };
        let highest = state.map_or(ModSeq(0), State::highest_modseq);
        let mut mails: BTreeMap<u32, Mail> =
            state.into_iter().flat_map(State::mails).map(|mail| (mail.uid.get(), mail)).collect();
        for step in steps {
            let (uid, flags, keywords) = match step {
                Step::Forget { uid } | Step::Unlink { uid } => {
                    mails.remove(&uid);
                    continue;
                }
                Step::Adopt { uid, add, remove, add_keywords, remove_keywords } => {
                    if let Some(mail) = mails.get_mut(&uid) {
                        mail.flags = mail.flags.without(remove) | add;
                        mail.keywords = mail.keywords.without(&remove_keywords).union(&add_keywords);
                    }
                    continue;
                }
                Step::Rename { .. } => continue,
                Step::Append { uid, flags, keywords } => (uid, flags, keywords),
                Step::Reappeared { uid } => {
                    let Some((ext, base)) = list.find(uid).map(|e| (e.ext.to_vec(), e.base.to_vec())) else { continue };
                    let Some((dir, info)) = scan.places.get(uid).map(|(dir, info)| (dir, info.to_vec())) else { continue };
                    let (flags, letters) = super::name::flags(&info);
                    let new = list.next_uid();
                    push(&mut list, new, &ext, &base, &self.place.mailbox)?;
                    scan.places.set(new, dir, &info);
                    (new, flags, table.keywords(letters))
                }
            };
            if let Some(uid) = Uid::new(uid) {
                mails.insert(uid.get(), Mail { uid, flags, keywords, modseq: highest });
            }
        }
        let header = &list.header;
        let identity = Identity {
            guid: header.guid.expect("holds because it was set above"),
            uidvalidity: header.uidvalidity,
            uid_next: Uid::new(list.next_uid()).unwrap_or(Uid::FIRST),
        };
        let status = Status {
            identity,
            messages: u32::try_from(mails.len()).unwrap_or(u32::MAX),
            first_recent: state.map_or(Uid::FIRST, State::first_recent),
            highest_modseq: highest,
            highest_private_modseq: ModSeq(0),
        };
        self.table = table;
        self.places = Some(scan.places);
        self.frozen = Some(Frozen { list, mails: mails.into_values().collect(), status });
        Ok(())
    }

    /// An identity for a mailbox that has none and can be given none: the same in every run, as long as the mailbox keeps
    /// its name and its directory.
    fn synthetic_header(&self) -> Header {
        use std::os::unix::fs::MetadataExt;
        let inode = std::fs::metadata(self.mailbox()).map_or(0, |m| m.ino());
        let mut hash = Sha1::new();
        hash.update(self.place.storage_name.as_bytes());
        hash.update(inode.to_le_bytes());
        let hash: [u8; 20] = hash.finalize().into();
        let mut guid = [0; 16];
        guid.copy_from_slice(&hash[..16]);
        let number = u32::from_le_bytes([hash[16], hash[17], hash[18], hash[19]]) >> 1 | 1;
        let state = self.index.as_ref().map(Index::state);
        Header::new(
            state
                .and_then(State::uid_validity)
                .or_else(|| UidValidity::new(number))
                .expect("holds because the lowest bit is set"),
            MailboxGuid::new(guid).unwrap_or_else(MailboxGuid::generate),
        )
    }
}
