//! An opened Maildir: its parts, and where each mail's file is.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keywords::{KeywordsFile, Table};
use super::name;
use super::scan::{self, Dir, Found, Places};
use super::uidlist::{Entry, Uidlist, UidlistFile};
use crate::index::{self, Files, Index, Parking, State};
use crate::mail::{Class, Error, Mail, MailGuid, Result, Status, Uid};
use crate::os::fs;
use crate::store::Settings;
use crate::store::format::Place;

use super::NextUidValidity;

/// So often a mail whose file was renamed meanwhile is looked for (maildir.md 11).
pub(super) const ROUNDS: usize = 10;

/// Looks at the directories that must miss a file before it is gone.
pub(super) const LOOKS: usize = 3;

/// A Maildir.
pub(super) struct Core {
    pub place: Place,
    pub settings: Arc<Settings>,
    pub next_uidvalidity: NextUidValidity,
    pub uidlist: UidlistFile,
    pub keywords: KeywordsFile,
    /// `dovecot-keywords` as it was last read or written.
    pub table: Table,
    /// `None`: there is none yet.
    pub index: Option<Index>,
    /// Where the files are, as far as a scan has shown it.
    pub places: Option<Places>,
    /// The view, where nothing can be written and it therefore lives in memory only.
    pub frozen: Option<Frozen>,
}

/// The view of a Maildir that cannot be written (9.3).
pub(super) struct Frozen {
    pub list: Uidlist,
    pub mails: Vec<Mail>,
    pub status: Status,
}

impl Core {
    /// Reads nothing yet but the index.
    ///
    /// # Errors
    /// Damage of the index, I/O.
    pub fn open(
        place: &Place,
        settings: Arc<Settings>,
        next_uidvalidity: NextUidValidity,
        parking: &mut Parking,
    ) -> Result<Self> {
        let mut core = Self {
            uidlist: UidlistFile::new(&place.control, place.modes, &settings),
            keywords: KeywordsFile::new(&place.control, place.modes),
            table: Table::default(),
            index: None,
            places: None,
            frozen: None,
            place: place.clone(),
            settings,
            next_uidvalidity,
        };
        core.index = match parking.open(core.index_files(), core.index_options()) {
            Ok(index) => Some(index),
            Err(e) if e.is_missing() => None,
            Err(e) => return Err(e.into()),
        };
        Ok(core)
    }

    pub fn index_files(&self) -> Files {
        Files::new(&self.place.index, Files::MAILBOX).with_cache_dir(&self.place.cache)
    }

    pub fn index_options(&self) -> index::Options {
        index::Options::new(self.settings.index.clone(), self.place.modes)
    }

    /// The directory with `cur/` and `new/`.
    pub fn mailbox(&self) -> &Path {
        &self.place.mailbox
    }

    /// Makes the directories of a mailbox that has lost some of them (9.1).
    ///
    /// # Errors
    /// [`Class::NotFound`] when the mailbox itself is gone, I/O.
    pub fn ensure_dirs(&self) -> Result<()> {
        let mailbox = self.mailbox();
        if !mailbox.is_dir() {
            return Err(Error::new(Class::NotFound, format!("{}: no such mailbox", mailbox.display())));
        }
        for dir in ["cur", "new", "tmp"] {
            fs::mkdir_all(&mailbox.join(dir), &self.place.modes)?;
        }
        fs::mkdir_all(&self.place.control, &self.place.modes)?;
        fs::mkdir_all(&self.place.index, &self.place.modes)?;
        Ok(())
    }

    /// \Seen lives in the index only: the mailbox is shared and the index is this user's own (12.3).
    pub fn private_seen(&self) -> bool {
        self.place.index != self.place.mailbox && self.mailbox().join("dovecot-shared").exists()
    }

    /// The quota plugin's record of the root is out of date; without it the plugin counts anew (1).
    pub fn forget_quota(&self) {
        let leaf_is_folder = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let root = if leaf_is_folder(self.mailbox()) { self.mailbox().parent() } else { Some(self.mailbox()) };
        for dir in root.into_iter().chain([&*self.place.control_root]) {
            if let Err(e) = fs_unlink_quiet(&dir.join("maildirsize")) {
                tracing::warn!("{e}");
            }
        }
    }

    /// The uidlist; read if it was not yet.
    ///
    /// # Errors
    /// Broken, or gone.
    pub fn list(&mut self) -> Result<&Uidlist> {
        if self.frozen.is_none() && self.uidlist.list().is_none() {
            self.uidlist.refresh()?;
        }
        let list = self.frozen.as_ref().map(|f| &f.list).or_else(|| self.uidlist.list());
        list.ok_or_else(|| Error::new(Class::Temporary, format!("{} is gone", self.uidlist.path().display())))
    }

    /// The line of a mail.
    ///
    /// # Errors
    /// [`Class::Expunged`] if it has none.
    pub fn entry(&mut self, uid: Uid) -> Result<Entry<'_>> {
        let gone = || Error::new(Class::Expunged, format!("UID {uid} is gone"));
        self.list()?.find(uid.get()).ok_or_else(gone)
    }

    /// The GUID of a mail (3.1).
    ///
    /// # Errors
    /// [`Class::Expunged`].
    pub fn guid(&mut self, uid: Uid) -> Result<MailGuid> {
        let entry = self.entry(uid)?;
        Ok(MailGuid::new(entry.guid()).expect("holds because neither BASE nor a G field that counts is empty"))
    }

    /// Does something with a mail's file, wherever it is by now.
    ///
    /// # Errors
    /// [`Class::Expunged`] if it is nowhere; what `f` says, with UID and file in front.
    pub fn with_file<T>(&mut self, uid: Uid, mut f: impl FnMut(&Path) -> io::Result<T>) -> Result<T> {
        // A file can be hidden from a look at the directory by being renamed in that moment.
        let mut missed = 0;
        for _ in 0..ROUNDS {
            for path in self.guesses(uid)? {
                match f(&path) {
                    Ok(value) => return Ok(value),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io(fs::Error::new("read", path, e)).at(format!("UID {uid}"))),
                }
            }
            let list = self.list()?.clone();
            let places = scan::scan(self.mailbox(), &list)?.places;
            missed = if places.get(uid.get()).is_none() { missed + 1 } else { 0 };
            self.places = Some(places);
            if missed == LOOKS {
                break;
            }
        }
        Err(Error::new(Class::Expunged, format!("UID {uid} is gone: its file was removed from {}", self.mailbox().display())))
    }

    /// Where a mail's file is, or where it should be as far as the index tells.
    fn guesses(&mut self, uid: Uid) -> Result<Vec<PathBuf>> {
        let base = self.entry(uid)?.base.to_vec();
        let mailbox = &self.place.mailbox;
        if let Some(places) = &self.places {
            let path = places.get(uid.get()).map(|(dir, info)| scan::path_of(mailbox, dir, &[&base, info].concat()));
            return Ok(path.into_iter().collect());
        }
        let Some(state) = self.index.as_ref().map(Index::state) else { return Ok(Vec::new()) };
        let Some(row) = state.row(uid) else { return Ok(Vec::new()) };
        Ok(self.likely_names(&base, state, row).iter().map(|found| found.path(mailbox)).collect())
    }

    /// The names that a mail's file has if its flags are those of the index.
    pub fn likely_names(&self, base: &[u8], state: &State, row: usize) -> [Found; 2] {
        let letters = self.table.letters(state.keywords(row));
        let in_cur = name::with_flags(base, state.flags(row), letters);
        [Found { dir: Dir::Cur, name: in_cur }, Found { dir: Dir::New, name: base.to_vec() }]
    }

    /// The attributes of a mail's file.
    ///
    /// # Errors
    /// As [`Core::with_file`].
    pub fn stat(&mut self, uid: Uid) -> Result<Metadata> {
        self.with_file(uid, |path| std::fs::metadata(path))
    }

    /// Opens a mail's file.
    ///
    /// # Errors
    /// As [`Core::with_file`], or it is no file.
    pub fn open_mail(&mut self, uid: Uid) -> Result<(File, PathBuf, Metadata)> {
        let (file, path, meta) = self.with_file(uid, |path| {
            let file = File::open(path)?;
            let meta = file.metadata()?;
            Ok((file, path.to_owned(), meta))
        })?;
        if !meta.is_file() {
            return Err(Error::new(Class::Temporary, format!("UID {uid}: {} is not a file", path.display())));
        }
        Ok((file, path, meta))
    }
}

fn fs_unlink_quiet(path: &Path) -> fs::Result<()> {
    // Looked for first: a removal that cannot be is no step of a run.
    if path.exists() { fs::unlink_if_there(path).map(drop) } else { Ok(()) }
}
