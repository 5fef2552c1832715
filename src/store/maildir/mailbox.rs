//! A Maildir as [`Mailbox`].

use std::fs::Metadata;
use std::sync::Arc;
use std::time::Duration;

use super::commit::{NamesTaken, Source, Staged};
use super::core::Core;
use super::name;
use super::stage::{self, Rules, Stage, Text};
use super::uidlist::Stamp;
use crate::index::{Mails, Position, Scan, Version};
use crate::mail::{
    Body, Capabilities, Changes, Class, Committed, Edit, Error, Facts, FileRange, Floors, Guid128, Identity, Mail, MailGuid,
    MailList, Mailbox, MailboxGuid, ModSeq, NewMail, Original, Rebuild, Result, SaveError, Since, Status, Timestamp, Uid,
    UidValidity,
};
use crate::os::lock::LockFile;
use crate::store::decode::{self, Decoded, Plugins, Stored};
use crate::store::format::RUN_LOCK;

/// An opened Maildir.
pub(super) struct MaildirMailbox {
    pub core: Core,
    pub stage: Stage,
    pub staged: Vec<Staged>,
    pub names_taken: Option<NamesTaken>,
    /// Mails that got another link, which moves their ctime: the saved dates that they had by it.
    pub linked: Vec<(Uid, Timestamp)>,
    // The mail whose file was opened last, as it was then.
    opened: Option<(Uid, Metadata)>,
    // Cached saved dates of the view's mails, 0 = none; read when the first one is wanted.
    saved: Option<Vec<u32>>,
    mails: Arc<dyn MailList>,
    status: Status,
    views: u64,
    // What the view is a view of.
    taken: Option<(Version, Option<Stamp>)>,
    // Up to where the log is in the view.
    end: Position,
    plugins: Plugins,
    lock: Option<LockFile>,
}

impl MaildirMailbox {
    /// Opens it and takes a view.
    ///
    /// # Errors
    /// Damage, locks, I/O.
    pub fn open(core: Core) -> Result<Self> {
        let rules = Rules::of(&core.settings);
        let empty = Identity { guid: MailboxGuid::generate(), uidvalidity: ONE, uid_next: Uid::FIRST };
        let mut mailbox = Self {
            stage: Stage::new(core.mailbox(), core.place.modes, rules),
            staged: Vec::new(),
            names_taken: None,
            linked: Vec::new(),
            saved: None,
            opened: None,
            mails: Arc::new(Vec::new()),
            status: Status {
                identity: empty,
                messages: 0,
                first_recent: Uid::FIRST,
                highest_modseq: ModSeq(0),
                highest_private_modseq: ModSeq(0),
            },
            views: 0,
            taken: None,
            end: Position::default(),
            plugins: Plugins::of(&core.settings),
            lock: None,
            core,
        };
        mailbox.refresh()?;
        Ok(mailbox)
    }

    fn take_view(&mut self) -> Result<()> {
        self.saved = None;
        self.opened = None;
        if let Some(frozen) = &mut self.core.frozen {
            self.mails = Arc::new(std::mem::take(&mut frozen.mails));
            self.views += 1;
            self.taken = None;
            self.status = frozen.status;
            self.end = self.core.index.as_ref().map_or_else(Position::default, |i| i.state().position());
            return Ok(());
        }
        let gone = || Error::new(Class::Temporary, format!("{} vanished", self.core.uidlist.path().display()));
        let (header, next) = self.core.uidlist.header()?.ok_or_else(gone)?;
        let index = self.core.index.as_ref().ok_or_else(gone)?;
        let state = index.state();
        let now = (index.version(), self.core.uidlist.known_stamp());
        if self.taken.is_none_or(|taken| taken.0 != now.0) {
            self.mails = Arc::new(Mails::of(state));
        }
        let before = self.taken.replace(now);
        if now.1.is_none() || before != Some(now) {
            self.views += 1;
        }
        self.status = state.status(Identity {
            guid: header.guid.ok_or_else(gone)?,
            uidvalidity: header.uidvalidity,
            uid_next: Uid::new(next).unwrap_or(Uid::FIRST).max(state.next_uid()),
        });
        self.end = state.position();
        Ok(())
    }

    /// When a mail was saved, if the cache knows it.
    fn cached_save_date(&mut self, uid: Uid) -> Result<Option<Timestamp>> {
        if self.saved.is_none() {
            let dates = match &self.core.index {
                Some(index) => {
                    let by_row = index.cached_save_dates()?;
                    let date = |at| index.state().row(self.mails.uid(at)).map_or(0, |row| by_row[row]);
                    (0..self.mails.len()).map(date).collect()
                }
                None => vec![0; self.mails.len()],
            };
            self.saved = Some(dates);
        }
        let row = self.mails.position(uid);
        let date = row.and_then(|row| self.saved.as_ref()?.get(row).copied());
        Ok(date.filter(|d| *d > 0).map(Timestamp))
    }

    fn texts(staged: &mut [Staged]) -> impl Iterator<Item = &mut Text> {
        staged.iter_mut().filter_map(|s| if let Source::Text(text) = &mut s.source { Some(text) } else { None })
    }

    /// Another name for a mail's file, where the settings and the two dates allow it (8.4).
    fn link(&mut self, mail: &NewMail, from: Uid) -> Result<Option<Text>> {
        use std::os::unix::fs::MetadataExt;
        if !self.core.settings.maildir_copy_with_hardlinks {
            return Ok(None);
        }
        let base = self.core.entry(from)?.base.to_vec();
        let (_, path, meta) = self.core.open_mail(from)?;
        let size = meta.len();
        let same_date = mail.received == stage::seconds(meta.mtime());
        // What the name says counts only as far as it is true; what it does not say has to be counted.
        let with_crlf = name::size(&base, b'W').filter(|w| *w >= size);
        let plain = name::size(&base, b'S').is_none_or(|s| s == size);
        if !same_date || !plain || with_crlf.is_none() {
            return Ok(None);
        }
        // EXDEV, EMLINK, EACCES, EPERM: an ordinary copy does it as well.
        let Ok(text) = self.stage.link(&path, size, with_crlf) else { return Ok(None) };
        if self.cached_save_date(from)?.is_none() {
            self.linked.push((from, stage::seconds(meta.ctime())));
        }
        Ok(Some(text))
    }
}

const ONE: UidValidity = UidValidity::new(1).expect("1 is not 0");

impl Mailbox for MaildirMailbox {
    fn lock(&mut self, timeout: Duration) -> Result<()> {
        self.lock = Some(self.core.place.lock_file(RUN_LOCK, &self.core.settings, timeout)?);
        Ok(())
    }

    fn refresh(&mut self) -> Result<()> {
        self.core.sync()?;
        self.take_view()
    }

    /// The directories are not looked at: their times have changed by what we did, so that the next run, or Dovecot, does.
    fn renew(&mut self) -> Result<()> {
        let written = self.core.frozen.is_none() && self.core.index.is_some() && self.core.uidlist.refresh()?;
        if !written {
            return self.refresh();
        }
        if let Some(index) = &mut self.core.index {
            index.refresh()?;
        }
        self.take_view()
    }

    fn tidy(&mut self) {
        if let Some(Err(e)) = self.core.index.as_mut().map(crate::index::Index::settle) {
            tracing::debug!("{e}");
        }
    }

    fn view_number(&self) -> Option<u64> {
        Some(self.views)
    }

    fn status(&self) -> Status {
        self.status
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { has_guids: true, saves_guids: true, keeps_modseqs: true }
    }

    fn mails(&self) -> &[Mail] {
        self.mails.all()
    }

    fn list(&self) -> Arc<dyn MailList> {
        self.mails.clone()
    }

    fn guid(&mut self, uid: Uid) -> Result<MailGuid> {
        self.core.guid(uid)
    }

    fn guid128(&mut self, uid: Uid) -> Result<Guid128> {
        self.guid(uid).map(|guid| guid.to_128())
    }

    fn facts(&mut self, uid: Uid) -> Result<Facts> {
        use std::os::unix::fs::MetadataExt;
        // The answer to the question before this one, if that was for the text.
        let meta = match self.opened.take() {
            Some((opened, meta)) if opened == uid => meta,
            _ => self.core.stat(uid)?,
        };
        if !meta.is_file() {
            return Err(Error::new(Class::Temporary, format!("UID {uid}: its file is a directory")));
        }
        let saved = self.cached_save_date(uid)?.unwrap_or_else(|| stage::seconds(meta.ctime()));
        let entry = self.core.entry(uid)?;
        let with_crlf = name::size(entry.base, b'W').or_else(|| entry.get(b'W').and_then(name::number));
        let uidl = entry.get(b'P').map(|uidl| if uidl.is_empty() { entry.base } else { uidl });
        Ok(Facts {
            received: stage::seconds(meta.mtime()),
            saved,
            pop3_uidl: uidl.map(|u| String::from_utf8_lossy(u).into_owned()),
            pop3_order: entry.get(b'O').and_then(name::number).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            // A size below that of the file cannot be true.
            virtual_size: with_crlf.filter(|w| *w >= meta.len()),
            in_alt: false,
        })
    }

    fn body(&mut self, uid: Uid) -> Result<Body> {
        let (file, path, meta) = self.core.open_mail(uid)?;
        let len = meta.len();
        self.opened = Some((uid, meta));
        let broken_names = self.core.settings.maildir_broken_filename_sizes;
        let entry = self.core.entry(uid)?;
        let named = name::size(entry.base, b'S').filter(|_| !broken_names);
        let recorded = named.or_else(|| entry.get(b'S').and_then(name::number));
        let with_crlf = name::size(entry.base, b'W').or_else(|| entry.get(b'W').and_then(name::number));
        let range = FileRange { file: Arc::new(file), offset: 0, len };
        let place = || format!("UID {uid}: {}", path.display());
        let whole = range.small().map_err(|e| Error::io(crate::os::fs::Error::new("read", &path, e)).at(format!("UID {uid}")))?;
        let stored = Stored { range: &range, whole: whole.as_ref() };
        let decoded = decode::decode(stored, recorded, self.plugins, false).map_err(|e| Error::new(e.class(), e).at(place()))?;
        match decoded {
            Decoded::Text(reader) => Ok(Body::from_reader(reader, recorded, with_crlf)),
            Decoded::Plain => {
                if let Some(recorded) = recorded.filter(|r| *r != len) {
                    tracing::warn!("{}: the size in the name ({recorded}) is wrong, the file has {len} bytes", place());
                }
                let with_crlf = with_crlf.filter(|w| *w >= len);
                Ok(whole.map_or_else(|| Body::from_range(range, with_crlf), |piece| Body::from_piece(piece, with_crlf)))
            }
        }
    }

    fn changes(&mut self, since: Since) -> Result<Changes> {
        // Without an index nothing was ever written down.
        let Some(index) = &self.core.index else { return Ok(Changes::default()) };
        Ok(index.changes(&Scan { since, end: self.end, mails: &*self.mails, status: &self.status })?)
    }

    fn stage(&mut self, mail: NewMail, body: Body) -> std::result::Result<(), SaveError> {
        if self.staged.is_empty() {
            self.core.ensure_dirs()?;
        }
        let text = self.stage.write(body, mail.received, Self::texts(&mut self.staged))?;
        self.staged.push(Staged { mail, source: Source::Text(text) });
        Ok(())
    }

    fn stage_copy(&mut self, mail: NewMail, from: Uid, original: Original) -> std::result::Result<(), SaveError> {
        let taken = self.staged.iter().any(|s| matches!(s.source, Source::Present(uid) if uid == from));
        if original == Original::Expunge && !taken {
            self.core.stat(from)?;
            self.staged.push(Staged { mail, source: Source::Present(from) });
            return Ok(());
        }
        match self.link(&mail, from)? {
            Some(text) => {
                self.staged.push(Staged { mail, source: Source::Text(text) });
                Ok(())
            }
            None => {
                let body = self.body(from)?;
                self.stage(mail, body)
            }
        }
    }

    fn commit(&mut self, seen: Uid) -> Result<Committed> {
        self.commit_staged(seen)
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<()> {
        self.core.edit(edits)
    }

    fn raise(&mut self, floors: &Floors) -> Result<()> {
        self.core.raise(floors)
    }

    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        self.core.set_identity(guid, uidvalidity)
    }

    fn rebuild(&mut self, plan: Rebuild) -> Result<()> {
        self.rebuild_as(plan)
    }

    fn held_back(&self) -> Vec<(Uid, Uid)> {
        self.core.held_back()
    }

    fn hold_back(&mut self, ranges: &[(Uid, Uid)]) -> Result<()> {
        if !ranges.is_empty() && !self.core.settings.index.lasts {
            let text = "mails that are held back have to be remembered, and with INDEX=MEMORY there is no place for that";
            return Err(Error::new(Class::NotPossible, text));
        }
        self.core.hold_back(ranges)
    }
}
