//! Where the file of each mail of the new content comes from. Done without any lock: files never change.
//!
//! A text whose metadata have to change is written to a temp file, as a save does.

use std::path::PathBuf;

use super::super::files::Opened;
use super::super::mailbox::SdboxMailbox;
use super::super::stage::{Staged, metadata_of, same_metadata};
use crate::mail::{Error, NewMail, Rebuild, RebuildFrom, Result, SaveError, Uid};
use crate::os::Fsync;
use crate::store::dbox::{AppendError, Attachments, External, NewMessage, Temp, Writer};

/// A mail of the new content.
pub(super) struct Item<'p> {
    pub mail: &'p NewMail,
    pub source: Source,
    /// The UID under which the mailbox has it now.
    pub present: Option<Uid>,
    /// It keeps attachments outside, under names that its UID is part of.
    pub external: Option<(Attachments, External)>,
}

/// Where its file is.
pub(super) enum Source {
    /// In the alternative storage, and it stays there: nothing changes but flags.
    StaysInAlt,
    /// To be linked from here.
    Link(PathBuf),
    /// To be linked from a temp file that goes afterwards.
    Temp(Temp),
}

impl Item<'_> {
    /// The file to be linked, if there is one.
    pub fn file(&self) -> Option<&std::path::Path> {
        match &self.source {
            Source::StaysInAlt => None,
            Source::Link(path) => Some(path),
            Source::Temp(temp) => Some(temp.path()),
        }
    }
}

pub(super) fn prepare<'p>(mailbox: &mut SdboxMailbox, plan: &'p Rebuild, staged: &[Staged]) -> Result<Vec<Item<'p>>> {
    plan.mails
        .iter()
        .map(|m| match m.from {
            RebuildFrom::Present(uid) => present(mailbox, &m.mail, uid),
            RebuildFrom::Staged(at) => {
                let staged = staged.get(at).ok_or_else(|| invalid(mailbox, at))?;
                from_staged(mailbox, &m.mail, staged)
            }
        })
        .collect()
}

fn invalid(mailbox: &SdboxMailbox, at: usize) -> Error {
    let text = format!("{}: no staged mail number {at}", mailbox.place.mailbox.display());
    Error::new(crate::mail::Class::InvalidData, text)
}

fn present<'p>(mailbox: &mut SdboxMailbox, mail: &'p NewMail, uid: Uid) -> Result<Item<'p>> {
    mailbox.row(uid)?;
    let opened = mailbox.open_mail(uid)?;
    let external = mailbox.rules.attachments(&opened.file, &opened.message)?;
    let same = same_metadata(mail, &opened.message.metadata);
    if same && opened.in_alt && uid == mail.uid {
        return Ok(Item { mail, source: Source::StaysInAlt, present: Some(uid), external });
    }
    if same && !opened.in_alt {
        let source = Source::Link(opened.file.path().to_owned());
        return Ok(Item { mail, source, present: Some(uid), external });
    }
    let source = Source::Temp(rewritten(mailbox, mail, uid, &opened, external.is_some())?);
    Ok(Item { mail, source, present: Some(uid), external: None })
}

/// A copy of a mail with the metadata that are wanted. External attachments come in again.
fn rewritten(mailbox: &SdboxMailbox, mail: &NewMail, uid: Uid, opened: &Opened, external: bool) -> Result<Temp> {
    let mut writer = Writer::create(mailbox.files.dir(), &mailbox.place.modes)?;
    if external {
        let body = mailbox.rules.text(&opened.file, &opened.message, Some(mailbox.owner(uid)))?;
        let new = NewMessage { metadata: metadata_of(mail), guard_magic: mailbox.rules.plugins().compression };
        writer.append(&new, body).map_err(store_error)?;
    } else {
        let metadata = opened.message.metadata.with(&metadata_of(mail));
        writer.append_stored(&opened.file, &opened.message, &metadata)?;
    }
    finish(mailbox, writer)
}

fn from_staged<'p>(mailbox: &SdboxMailbox, mail: &'p NewMail, staged: &Staged) -> Result<Item<'p>> {
    let missing = || Error::new(crate::mail::Class::Temporary, "a staged mail has no file");
    let path = staged.temp.as_ref().ok_or_else(missing)?.path();
    let was = &staged.mail;
    let same = (&was.guid, was.received, &was.pop3_uidl, was.pop3_order)
        == (&mail.guid, mail.received, &mail.pop3_uidl, mail.pop3_order);
    // What was staged as a link, or for the alternative storage, may lie in another file system, and may have attachments under another UID's name.
    if same && staged.linked.is_none() && !staged.in_alt {
        return Ok(Item { mail, source: Source::Link(path.to_owned()), present: None, external: None });
    }
    let file = crate::store::dbox::DboxFile::open(path)?;
    let message = file.message(0)?;
    let mut writer = Writer::create(mailbox.files.dir(), &mailbox.place.modes)?;
    match &staged.linked {
        Some(linked) if linked.external.is_some() => {
            let body = mailbox.rules.text(&file, &message, Some(mailbox.owner(linked.from)))?;
            let new = NewMessage { metadata: metadata_of(mail), guard_magic: mailbox.rules.plugins().compression };
            writer.append(&new, body).map_err(store_error)?;
        }
        _ => {
            writer.append_stored(&file, &message, &message.metadata.with(&metadata_of(mail)))?;
        }
    }
    Ok(Item { mail, source: Source::Temp(finish(mailbox, writer)?), present: None, external: None })
}

fn finish(mailbox: &SdboxMailbox, mut writer: Writer) -> Result<Temp> {
    if mailbox.settings.index.fsync == Fsync::Never {
        writer.flush()?;
    } else {
        writer.sync()?;
    }
    Ok(writer.close())
}

fn store_error(e: AppendError) -> Error {
    match SaveError::from(e) {
        SaveError::Store(e) => e,
        SaveError::Body(e) => Error::new(crate::mail::Class::Temporary, e),
    }
}
