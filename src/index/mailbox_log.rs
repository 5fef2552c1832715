//! `dovecot.mailbox.log`: the memory of deleted, renamed, subscribed and unsubscribed names (index.md 10,
//! mailbox-list.md 10). Knows neither names nor mailboxes, only their hashes and GUIDs.
//!
//! One record is one `write` of 24 bytes at the end of the file, without a lock. A kill in the middle leaves a fragment
//! that readers ignore and the next writer cuts off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::mail::{MailboxGuid, NameHash, Timestamp};
use crate::os::fs::{self, Modes};

const NAME: &str = "dovecot.mailbox.log";
const OLD_NAME: &str = "dovecot.mailbox.log.2";
const RECORD: usize = 24;
/// From this size on the file becomes `.log.2` (mailbox-list.md 10).
const ROTATE_AT: u64 = 4096;
/// Dovecot rotates at 4 kB. What is a thousand times larger is not read to its end.
const READ_LIMIT: u64 = 4 << 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A mailbox was deleted.
    DeleteMailbox(MailboxGuid),
    /// A directory was removed; by the hash of its full name.
    DeleteDir(NameHash),
    /// Something got this name.
    Rename(NameHash),
    /// This name was subscribed.
    Subscribe(NameHash),
    /// This name was unsubscribed.
    Unsubscribe(NameHash),
    /// A directory was made. Newer versions of Dovecot write it; we never do, because 2.3 then deletes the log.
    CreateDir(NameHash),
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// When.
    pub time: Timestamp,
}

/// What a log holds, oldest file first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The records in file order.
    pub records: Vec<Record>,
    /// Records that cannot be understood, as a sentence that names the file; what stands behind them in that file is not used.
    pub damage: Vec<String>,
}

/// Reads the rotated log and the present one of an index root. Files that are not there are empty.
///
/// # Errors
/// A file is there and cannot be read.
pub fn read(index_root: &Path) -> fs::Result<Contents> {
    let mut out = Contents::default();
    for name in [OLD_NAME, NAME] {
        let path = index_root.join(name);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|f| f.take(READ_LIMIT).read_to_end(&mut bytes)) {
            Ok(n) if n as u64 == READ_LIMIT => out.damage.push(format!("Corrupted mailbox log {}: too large", path.display())),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(fs::Error::new("read", path, e)),
        }
        for (i, chunk) in bytes.chunks_exact(RECORD).enumerate() {
            match decode(chunk) {
                Ok(record) => out.records.push(record),
                Err(what) => {
                    out.damage.push(format!("Corrupted mailbox log {}: offset {}: {what}", path.display(), i * RECORD));
                    break;
                }
            }
        }
    }
    Ok(out)
}

fn decode(bytes: &[u8]) -> Result<Record, String> {
    let Some((&[kind, _, _, _], rest)) = bytes.split_first_chunk::<4>() else { return Err("too short".into()) };
    let Some((key, time)) = rest.split_first_chunk::<16>() else { return Err("too short".into()) };
    let time: [u8; 4] = time.try_into().map_err(|_| "wrong length")?;
    let hash = NameHash(*key);
    let event = match kind {
        1 => Event::DeleteMailbox(MailboxGuid::new(*key).ok_or("deleted mailbox without GUID")?),
        2 => Event::DeleteDir(hash),
        3 => Event::Rename(hash),
        4 => Event::Subscribe(hash),
        5 => Event::Unsubscribe(hash),
        6 => Event::CreateDir(hash),
        other => return Err(format!("unknown record type {other}")),
    };
    Ok(Record { event, time: Timestamp(u32::from_be_bytes(time)) })
}

fn encode(record: &Record) -> Option<[u8; RECORD]> {
    let (kind, key) = match &record.event {
        Event::DeleteMailbox(guid) => (1, *guid.bytes()),
        Event::DeleteDir(h) => (2, h.0),
        Event::Rename(h) => (3, h.0),
        Event::Subscribe(h) => (4, h.0),
        Event::Unsubscribe(h) => (5, h.0),
        Event::CreateDir(_) => return None,
    };
    let mut out = [0; RECORD];
    out[0] = kind;
    out[4..20].copy_from_slice(&key);
    out[20..].copy_from_slice(&record.time.0.to_be_bytes());
    Some(out)
}

/// Appends records, creating the file if needed, and rotates it when it has grown enough.
///
/// # Errors
/// What the system says. Nothing half-written is left behind unless the process is killed.
pub fn append(index_root: &Path, records: &[Record], modes: &Modes) -> fs::Result<()> {
    let path = index_root.join(NAME);
    for record in records {
        let Some(bytes) = encode(record) else { continue };
        let mut file = open_append(&path, modes)?;
        let len = file.metadata().map_err(|e| fs::Error::new("stat", &path, e))?.len();
        let whole = len - len % RECORD as u64;
        if whole != len {
            fs::truncate(&file, &path, whole)?;
        }
        if let Err(e) = fs::write_all(&mut file, &path, &bytes) {
            let _ = fs::truncate(&file, &path, whole);
            return Err(e);
        }
        if whole + RECORD as u64 >= ROTATE_AT {
            rotate(&path, index_root.join(OLD_NAME))?;
        }
    }
    Ok(())
}

fn open_append(path: &Path, modes: &Modes) -> fs::Result<File> {
    let open = || OpenOptions::new().read(true).append(true).open(path);
    let not_there = match open() {
        Ok(file) => return Ok(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_new(path, modes),
        Err(e) => return Err(fs::Error::new("open", path, e)),
    };
    match not_there {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        // Made by us or, at the same moment, by somebody else.
        _ => open().map_err(|e| fs::Error::new("open", path, e)),
    }
}

fn rotate(path: &Path, old: PathBuf) -> fs::Result<()> {
    match fs::rename(path, &old) {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(name: &str) -> NameHash {
        NameHash::of(name)
    }

    #[test]
    fn dovecot_s_own_log() {
        let dir = tempfile::tempdir().expect("scratch");
        let bytes = include_bytes!("../../tests/fixtures/list/dovecot.mailbox.log");
        std::fs::write(dir.path().join(NAME), bytes).expect("write");
        let log = read(dir.path()).expect("read");
        assert!(log.damage.is_empty());
        let events: Vec<_> = log.records.iter().map(|r| r.event).collect();
        let Event::DeleteMailbox(guid) = events[4] else { panic!("{events:?}") };
        assert_eq!(guid.to_string(), hex::encode(&bytes[4 * 24 + 4..4 * 24 + 20]));
        assert_eq!(
            events[..4],
            [
                Event::Subscribe(hash("Foo")),
                Event::Rename(hash("Ärger")),
                Event::Subscribe(hash("INBOX/Sub")),
                Event::Unsubscribe(hash("Foo"))
            ]
        );
        assert_eq!(events[5], Event::DeleteDir(hash("Ärger/Kid")));
        assert!(matches!(events[6], Event::DeleteMailbox(_)));
        assert_eq!(events[7], Event::DeleteDir(hash("Ärger")));

        // Written again it is the same, byte by byte.
        let again = tempfile::tempdir().expect("scratch");
        append(again.path(), &log.records, &Modes::default()).expect("append");
        assert_eq!(std::fs::read(again.path().join(NAME)).expect("read"), bytes);
    }

    #[test]
    fn a_fragment_is_cut_off_and_a_full_log_rotates() {
        let dir = tempfile::tempdir().expect("scratch");
        let record = Record { event: Event::Subscribe(hash("x")), time: Timestamp(7) };
        std::fs::write(dir.path().join(NAME), b"torn").expect("write");
        append(dir.path(), &[record], &Modes::default()).expect("append");
        assert_eq!(read(dir.path()).expect("read").records, [record]);
        append(dir.path(), &[record; 200], &Modes::default()).expect("append");
        assert!(dir.path().join(OLD_NAME).exists());
        assert_eq!(read(dir.path()).expect("read").records.len(), 201);
    }

    #[test]
    fn unknown_types_end_the_reading_of_that_file() {
        let dir = tempfile::tempdir().expect("scratch");
        let good = Record { event: Event::Rename(hash("x")), time: Timestamp(7) };
        append(dir.path(), &[good], &Modes::default()).expect("append");
        let mut bytes = std::fs::read(dir.path().join(NAME)).expect("read");
        bytes.extend([9; 24]);
        std::fs::write(dir.path().join(OLD_NAME), &bytes).expect("write");
        let log = read(dir.path()).expect("read");
        assert_eq!(log.records, [good, good]);
        assert_eq!(log.damage.len(), 1);
    }
}
