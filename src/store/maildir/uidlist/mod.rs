//! `dovecot-uidlist`: which file has which UID, the mailbox's UIDVALIDITY and GUID, and what else no file name can tell
//! (maildir.md 5). `codec` knows the bytes, `file` the file and its lock.

mod codec;
mod file;

pub(super) use codec::{Entry, Header, MAX_UID, Uidlist};
pub(super) use file::{Stamp, Taken, UidlistFile, UidlistLock};
