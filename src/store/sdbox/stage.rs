//! Mails written to temp files, before anybody sees them (dbox.md 2.4 steps 1 to 3).
//!
//! A kill leaves `.temp.*` files, which nobody reads and which Dovecot removes when they are 36 hours old. Data is made durable
//! in groups: when enough files are open, and by the commit.

use std::path::Path;

use super::edit::Victim;
use super::files::{Files, Opened};
use crate::mail::{Body, Class, Error, Guid128, NewMail, Original, SaveError, Timestamp, Uid};
use crate::os::Fsync;
use crate::os::fs::{self, Modes};
use crate::store::dbox::{Attachments, External, Metadata, NewMessage, NewMetadata, Owner, Temp, TextRules, Writer, temp_name};

/// So many files stay open until they are synced together.
const GROUP: usize = 128;

/// A mail that waits for its commit.
#[derive(Debug)]
pub(super) struct Staged {
    pub mail: NewMail,
    pub temp: Option<Temp>,
    /// It is a further link to a mail of this mailbox.
    pub linked: Option<Linked>,
    /// The mail that goes when this one appears.
    pub replaces: Option<Victim>,
    /// Size of the plain text with LF and with CRLF line ends.
    pub sizes: (u64, u64),
    /// Its file is in the alternative storage.
    pub in_alt: bool,
}

/// Where a linked mail came from.
#[derive(Debug)]
pub(super) struct Linked {
    /// The mail in this mailbox.
    pub from: Uid,
    /// When that was saved, if only its file's ctime told: the link has changed it.
    pub saved: Option<Timestamp>,
    /// Its external attachments, which need names for the new UID.
    pub external: Option<(Attachments, External)>,
}

/// The mails that were staged since the last commit.
#[derive(Debug)]
pub(super) struct Stage {
    mails: Vec<Staged>,
    /// Not synced yet, with the position of their mail.
    open: Vec<(usize, Writer)>,
    fsync: bool,
    rules: TextRules,
}

impl Stage {
    pub const fn new(rules: TextRules, fsync: Fsync) -> Self {
        Self { mails: Vec::new(), open: Vec::new(), fsync: !matches!(fsync, Fsync::Never), rules }
    }

    /// Writes a mail's text to a temp file.
    pub fn add(&mut self, files: &Files, modes: &Modes, mail: NewMail, body: Body) -> Result<(), SaveError> {
        let plugins = self.rules.plugins();
        if plugins.encrypts {
            let text = "mail_crypt is configured to encrypt saved mails, which is not supported";
            return Err(Error::new(Class::NotPossible, text).into());
        }
        let (dir, in_alt) = directory(files, modes, &mail)?;
        let mut writer = Writer::create(dir, modes).map_err(Error::io)?;
        let written = {
            let new = NewMessage { metadata: metadata_of(&mail), guard_magic: plugins.compression };
            writer.append(&new, body)?
        };
        writer.flush().map_err(Error::io)?;
        let sizes = (written.plain_size, written.virtual_size);
        self.push(Staged { mail, temp: None, linked: None, replaces: None, sizes, in_alt }, writer)
    }

    /// A further instance of a mail of this mailbox: a link if its metadata are those that are wanted, else a copy of what
    /// is stored.
    pub fn add_copy(&mut self, files: &Files, modes: &Modes, mail: NewMail, from: &Source<'_>) -> Result<(), SaveError> {
        let opened = from.opened;
        let message = &opened.message;
        let sizes = (message.plain_size(), message.metadata.virtual_size().unwrap_or(0));
        let external = self.rules.attachments(&opened.file, message).map_err(Error::from)?;
        let replaces = match from.original {
            Original::Keep => None,
            Original::Expunge => {
                let guid = message.metadata.guid().map_or(Guid128::ZERO, |g| g.to_128());
                Some(Victim { uid: from.uid, guid, external: external.clone() })
            }
        };
        if same_metadata(&mail, &message.metadata) {
            let dir = if opened.in_alt { files.alt().unwrap_or(files.dir()) } else { files.dir() };
            let temp = Temp::new(dir.join(temp_name()));
            match fs::link(opened.file.path(), temp.path()) {
                Ok(()) => {
                    let saved = from.saved.filter(|_| replaces.is_none());
                    let linked = Some(Linked { from: from.uid, saved, external });
                    self.mails.push(Staged { mail, temp: Some(temp), linked, replaces, sizes, in_alt: opened.in_alt });
                    return Ok(());
                }
                // Too many links, or a file system without them.
                Err(e) => tracing::debug!("{e}; copied instead"),
            }
        }
        if external.is_some() {
            // The stored bytes alone are not the mail: its attachments come in again.
            let body = self.rules.text(&opened.file, message, Some(from.owner)).map_err(Error::from)?;
            self.add(files, modes, mail, body)?;
            if let Some(staged) = self.mails.last_mut() {
                staged.replaces = replaces;
            }
            return Ok(());
        }
        let (dir, in_alt) = directory(files, modes, &mail)?;
        let mut writer = Writer::create(dir, modes).map_err(Error::io)?;
        let metadata = message.metadata.with(&metadata_of(&mail));
        writer.append_stored(&opened.file, message, &metadata).and_then(|_| writer.flush()).map_err(Error::io)?;
        self.push(Staged { mail, temp: None, linked: None, replaces, sizes, in_alt }, writer)
    }

    fn push(&mut self, staged: Staged, writer: Writer) -> Result<(), SaveError> {
        self.open.push((self.mails.len(), writer));
        self.mails.push(staged);
        if self.open.len() >= GROUP {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes all texts durable and closes their files.
    pub fn sync(&mut self) -> Result<(), Error> {
        for (_, writer) in &mut self.open {
            writer.flush()?;
        }
        if self.fsync {
            let files: Vec<_> = self.open.iter().map(|(_, writer)| (writer.file(), writer.path())).collect();
            fs::each(&files, |(file, path)| fs::fsync(file, path))?;
        }
        for (at, writer) in self.open.drain(..) {
            self.mails[at].temp = Some(writer.close());
        }
        Ok(())
    }

    /// All staged mails in staging order; call [`Self::sync`] before.
    pub fn take(&mut self) -> Vec<Staged> {
        debug_assert!(self.open.is_empty(), "synced before");
        std::mem::take(&mut self.mails)
    }
}

/// Where a new mail's file goes; whether that is the alternative storage.
fn directory<'f>(files: &'f Files, modes: &Modes, mail: &NewMail) -> Result<(&'f Path, bool), Error> {
    let alt = if mail.in_alt { files.alt_for_new(modes)? } else { None };
    Ok(alt.map_or((files.dir(), false), |alt| (alt, true)))
}

/// The mail that [`Stage::add_copy`] copies.
pub(super) struct Source<'a> {
    pub uid: Uid,
    pub opened: &'a Opened,
    /// When it was saved, if only its file's ctime tells.
    pub saved: Option<Timestamp>,
    pub owner: Owner,
    pub original: Original,
}

pub(super) fn metadata_of(mail: &NewMail) -> NewMetadata<'_> {
    NewMetadata {
        received: mail.received,
        guid: &mail.guid,
        pop3_uidl: mail.pop3_uidl.as_deref(),
        pop3_order: mail.pop3_order,
        mailbox: None,
    }
}

/// The stored metadata are those that this mail shall have.
pub(super) fn same_metadata(mail: &NewMail, metadata: &Metadata) -> bool {
    metadata.guid().is_ok_and(|guid| guid == mail.guid)
        && metadata.received() == Ok(mail.received)
        && metadata.pop3_uidl() == mail.pop3_uidl.clone().filter(|u| !u.is_empty())
        && metadata.pop3_order() == mail.pop3_order
}
