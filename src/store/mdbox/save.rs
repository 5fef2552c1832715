//! Staging: the texts of new mails go into `.temp.*` files of `storage/`, many to a file (dbox.md 3.8 H1, 3.6). No lock is
//! held. A kill leaves temp files, which Dovecot removes by itself; `commit` says what comes then.

use std::collections::{HashMap, HashSet};

use super::facts::Known;
use super::mailbox::MdboxMailbox;
use super::record::MAX_REFS;
use super::storage::Storage;
use crate::mail::{Body, Class, Error, Guid128, MailList, NewMail, Original, Result, SaveError, Uid};
use crate::os::Fsync;
use crate::store::dbox::{DboxFile, Message, NewMessage, NewMetadata, Temp, Writer, Written};

/// Bytes that are compared at once.
const COMPARED: usize = 64 * 1024;

/// Where a staged mail's text is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text {
    /// In a file of this transaction.
    New {
        /// Which one.
        file: usize,
        offset: u32,
        size: u32,
    },
    /// In the storage already.
    Reference(u32),
}

impl Text {
    /// The file of this transaction that it is in.
    pub const fn file(&self) -> Option<usize> {
        match self {
            Self::New { file, .. } => Some(*file),
            Self::Reference(_) => None,
        }
    }
}

/// A staged mail.
#[derive(Debug)]
pub(super) struct Staged {
    pub mail: NewMail,
    pub text: Text,
    /// The mail that goes when this one comes.
    pub original: Option<Uid>,
}

/// A file of the transaction: open, or complete.
#[derive(Debug)]
struct Filling {
    open: Option<Writer>,
    complete: Option<Temp>,
}

impl Filling {
    const fn new(writer: Writer) -> Self {
        Self { open: Some(writer), complete: None }
    }

    /// Nothing more will be written to it. Also if that fails: then it does not become a file of the storage.
    fn complete(&mut self, fsync: Fsync) -> Result<()> {
        if let Some(mut writer) = self.open.take() {
            complete(&mut writer, fsync)?;
            self.complete = Some(writer.close());
        }
        Ok(())
    }
}

/// What is staged. Dropping it removes the temp files.
#[derive(Debug, Default)]
pub(super) struct Staging {
    pub mails: Vec<Staged>,
    files: Vec<Filling>,
    /// Which of the files are being filled: in the primary and in the alternative storage.
    current: [Option<usize>; 2],
}

impl Staging {
    /// The file for a further mail of about this size.
    fn writer(&mut self, size: u64, in_alt: bool, storage: &Storage) -> Result<(usize, &mut Writer)> {
        let current = usize::from(in_alt);
        if let Some(at) = self.current[current]
            && let Some(writer) = self.files[at].open.as_ref()
            && writer.size().saturating_add(size) > storage.settings.mdbox_rotate_size
        {
            self.close(current, storage.settings.index.fsync)?;
        }
        let at = match self.current[current] {
            Some(at) => at,
            None => {
                let writer = storage.files.writer(&storage.modes, in_alt)?;
                self.files.push(Filling::new(writer));
                *self.current[current].insert(self.files.len() - 1)
            }
        };
        let closed = || Error::new(Class::Temporary, "the file that is being filled is closed");
        Ok((at, self.files[at].open.as_mut().ok_or_else(closed)?))
    }

    /// Completes a current file.
    fn close(&mut self, current: usize, fsync: Fsync) -> Result<()> {
        self.current[current].take().map_or(Ok(()), |at| self.files[at].complete(fsync))
    }

    /// Adds a complete file of one mail.
    fn push_whole(&mut self, writer: Writer, fsync: Fsync) -> Result<usize> {
        let mut file = Filling::new(writer);
        file.complete(fsync)?;
        self.files.push(file);
        Ok(self.files.len() - 1)
    }

    /// H1: all texts are complete and durable.
    pub fn complete(&mut self, fsync: Fsync) -> Result<()> {
        self.close(0, fsync)?;
        self.close(1, fsync)
    }

    /// Takes the files that are not named any more away.
    pub fn keep_files(&mut self, used: &HashSet<usize>) -> HashMap<usize, Temp> {
        std::mem::take(&mut self.files)
            .into_iter()
            .enumerate()
            .filter(|(i, _)| used.contains(i))
            .filter_map(|(i, f)| Some((i, f.complete?)))
            .collect()
    }
}

fn complete(writer: &mut Writer, fsync: Fsync) -> Result<()> {
    if fsync == Fsync::Never {
        writer.flush()?;
    } else {
        writer.sync()?;
    }
    Ok(())
}

fn place_of(file: usize, written: &Written) -> std::result::Result<Text, SaveError> {
    let (Ok(offset), Ok(size)) = (u32::try_from(written.offset), u32::try_from(written.size)) else {
        let e = std::io::Error::new(std::io::ErrorKind::FileTooLarge, "mdbox cannot hold a mail of 4 GiB");
        return Err(SaveError::Body(e));
    };
    Ok(Text::New { file, offset, size })
}

fn metadata<'m>(mail: &'m NewMail, mailbox: &'m str) -> NewMetadata<'m> {
    NewMetadata {
        received: mail.received,
        guid: &mail.guid,
        pop3_uidl: mail.pop3_uidl.as_deref(),
        pop3_order: mail.pop3_order,
        mailbox: Some(mailbox),
    }
}

/// The stored metadata is what a save of this mail would write.
fn same_metadata(mail: &NewMail, message: &Message) -> bool {
    let m = &message.metadata;
    m.guid().is_ok_and(|g| g == mail.guid)
        && m.received().is_ok_and(|r| r == mail.received)
        && m.pop3_uidl().as_deref().unwrap_or("") == mail.pop3_uidl.as_deref().unwrap_or("")
        && m.pop3_order() == mail.pop3_order
}

/// The mail that was just written is the stored one, byte for byte: one GUID may name different mails.
fn is_same(storage: &mut Storage, map_uid: u32, mail: &NewMail, writer: &mut Writer, written: &Written) -> Result<bool> {
    let Some((listed, old)) = storage.open_mail(map_uid)? else {
        storage.forget(mail.guid.to_128());
        return Ok(false);
    };
    let Ok(message) = old.message(u64::from(listed.place.offset)) else { return Ok(false) };
    let sizes = (message.plain_size(), message.metadata.virtual_size());
    if listed.refs.saturating_add(1) >= MAX_REFS
        || sizes != (written.plain_size, Some(written.virtual_size))
        || !same_metadata(mail, &message)
    {
        return Ok(false);
    }
    writer.flush()?;
    let new = writer.file().try_clone().map_err(|e| crate::os::fs::Error::new("read", writer.path(), e))?;
    let new = DboxFile::new(std::sync::Arc::new(new), writer.path())?;
    let new_message = new.message(written.offset)?;
    let (a, b) = (old.stored_body(&message), new.stored_body(&new_message));
    if a.len != b.len {
        return Ok(false);
    }
    let mut buffers = (vec![0; COMPARED], vec![0; COMPARED]);
    let mut at = 0;
    while at < a.len {
        use std::os::unix::fs::FileExt;
        let n = COMPARED.min(usize::try_from(a.len - at).unwrap_or(COMPARED));
        let (x, y) = (&mut buffers.0[..n], &mut buffers.1[..n]);
        // A text that cannot be read is not known to be the same.
        if a.file.read_exact_at(x, a.offset + at).is_err() || b.file.read_exact_at(y, b.offset + at).is_err() || x != y {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
}

/// As [`same_metadata`], from what is known of a mail of the view.
pub(super) fn same_known(mail: &NewMail, known: &Known, guid128: Guid128) -> bool {
    known.guid(guid128) == mail.guid
        && known.received() == mail.received
        && known.pop3_uidl().unwrap_or("") == mail.pop3_uidl.as_deref().unwrap_or("")
        && known.pop3_order() == mail.pop3_order
}

impl MdboxMailbox {
    /// H1 for a mail that comes from elsewhere.
    pub(super) fn stage_new(&mut self, mail: NewMail, body: Body) -> std::result::Result<(), SaveError> {
        let mut held = self.storage.get();
        let storage = &mut *held;
        let plugins = storage.rules.plugins();
        if plugins.encrypts {
            let text = "mail_crypt is configured: a plain mail must not be saved among encrypted ones";
            return Err(Error::new(Class::NotPossible, text).into());
        }
        let new = NewMessage { metadata: metadata(&mail, &self.place.storage_name), guard_magic: plugins.compression };
        let text = match storage.saved(mail.guid.to_128()) {
            Some(map_uid) => {
                // Perhaps another copy of a mail that was saved a moment ago. It gets a file of its own until that is known.
                let mut writer = storage.files.writer(&storage.modes, mail.in_alt)?;
                let written = writer.append(&new, body)?;
                if is_same(storage, map_uid, &mail, &mut writer, &written)? {
                    Text::Reference(map_uid)
                } else {
                    place_of(self.staging.push_whole(writer, storage.settings.index.fsync)?, &written)?
                }
            }
            None => {
                let (file, writer) = self.staging.writer(body.size.unwrap_or(0), mail.in_alt, storage)?;
                place_of(file, &writer.append(&new, body)?)?
            }
        };
        self.staging.mails.push(Staged { mail, text, original: None });
        Ok(())
    }

    /// H1 for a further instance of a mail of the view: a reference, unless something beside the text differs.
    pub(super) fn stage_instance(&mut self, mail: NewMail, from: Uid, original: Original) -> std::result::Result<(), SaveError> {
        let at = self.position(from)?;
        let text = self.instance(&mail, at)?;
        let original = (original == Original::Expunge).then_some(from);
        self.staging.mails.push(Staged { mail, text, original });
        Ok(())
    }

    /// The text of the mail at a position, for a mail with this metadata.
    pub(super) fn instance(&mut self, mail: &NewMail, at: usize) -> std::result::Result<Text, SaveError> {
        let record = self.map_record(at)?;
        let guid128 = self.view.reference(at).guid;
        // Without the record Dovecot would not count the reference back at the expunge (dbox.md 3.4).
        if !guid128.is_zero() && same_known(mail, self.known(at)?, guid128) {
            let storage = self.storage.get();
            if storage.map.lookup(record.map_uid).is_some_and(|l| l.refs.saturating_add(1) < MAX_REFS) {
                return Ok(Text::Reference(record.map_uid));
            }
        }
        self.copy_of(mail, at)
    }

    /// A new physical copy of the mail at a position.
    fn copy_of(&mut self, mail: &NewMail, at: usize) -> std::result::Result<Text, SaveError> {
        let uid = self.view.uid(at);
        let record = self.map_record(at)?;
        let mut held = self.storage.get();
        let storage = &mut *held;
        let Some((listed, file)) = storage.open_mail(record.map_uid)? else {
            return Err(Error::new(Class::Expunged, format!("UID {uid}: its text is gone")).into());
        };
        let bad = |e: crate::store::dbox::Error| Error::from(e).at(format_args!("UID {uid}"));
        let message = file.message(u64::from(listed.place.offset)).map_err(bad)?;
        let metadata = metadata(mail, &self.place.storage_name);
        if message.metadata.external().is_some() {
            // The attachment files belong to the message that names them: a copy is whole.
            let body = storage.rules.text(&file, &message, None).map_err(bad)?;
            let new = NewMessage { metadata, guard_magic: storage.rules.plugins().compression };
            let (file, writer) = self.staging.writer(body.size.unwrap_or(0), mail.in_alt, storage)?;
            return place_of(file, &writer.append(&new, body)?);
        }
        let (at, writer) = self.staging.writer(message.size(), mail.in_alt, storage)?;
        let written = writer.append_stored(&file, &message, &message.metadata.with(&metadata)).map_err(Error::io)?;
        place_of(at, &written)
    }
}
