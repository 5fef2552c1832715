//! A `mail_location` as text and as a value (mailbox-list.md 1, cli-config.md 12). Reads the file system only where the
//! driver has to be found out ([`super::detect`]).

use std::path::{Path, PathBuf};

use super::detect;
use super::location_error::LocationError;
use crate::store::Owner;

/// A storage driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Driver {
    /// Maildir.
    Maildir,
    /// Single-dbox.
    Sdbox,
    /// Multi-dbox.
    Mdbox,
    /// mbox.
    Mbox,
    /// An IMAP server.
    Imapc,
    /// A POP3 server.
    Pop3c,
    /// Drivers of Dovecot that cannot be synchronised (`raw`, `fail`).
    Other,
}

impl Driver {
    /// Its name in a location.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maildir => "maildir",
            Self::Sdbox => "sdbox",
            Self::Mdbox => "mdbox",
            Self::Mbox => "mbox",
            Self::Imapc => "imapc",
            Self::Pop3c => "pop3c",
            Self::Other => "raw",
        }
    }

    /// sdbox or mdbox.
    #[must_use]
    pub const fn is_dbox(self) -> bool {
        matches!(self, Self::Sdbox | Self::Mdbox)
    }
}

/// How mailboxes lie in directories (mailbox-list.md 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Flat: `.Foo.Bar`.
    MaildirPlusPlus,
    /// Flat without the leading dot: `Foo.Bar`.
    Imapdir,
    /// Directories in directories.
    Fs,
    /// Directories named by GUID, names in the list index.
    Index,
    /// One mailbox without children.
    None,
}

impl Layout {
    /// Its name in a location.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaildirPlusPlus => "maildir++",
            Self::Imapdir => "imapdir",
            Self::Fs => "fs",
            Self::Index => "index",
            Self::None => "none",
        }
    }

    /// All mailboxes are in one directory.
    #[must_use]
    pub const fn is_flat(self) -> bool {
        matches!(self, Self::MaildirPlusPlus | Self::Imapdir)
    }
}

/// Where index files are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IndexDir {
    /// With the mails.
    WithMails,
    /// Nowhere (`INDEX=MEMORY`).
    Memory,
    /// Below this directory.
    Dir(PathBuf),
}

/// A location, all defaults of its driver filled in, all paths absolute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// The driver.
    pub driver: Driver,
    /// It was not named but found out.
    pub detected: bool,
    /// The mail root.
    pub root: PathBuf,
    /// `INBOX`.
    pub inbox: Option<PathBuf>,
    /// `INDEX`.
    pub index: IndexDir,
    /// `INDEXPVT`.
    pub index_private: Option<PathBuf>,
    /// `INDEXCACHE`.
    pub cache: Option<PathBuf>,
    /// `CONTROL`.
    pub control: Option<PathBuf>,
    /// `ALT`.
    pub alt: Option<PathBuf>,
    /// Not `ALTNOCHECK`.
    pub alt_check: bool,
    /// `LAYOUT`.
    pub layout: Layout,
    /// `SUBSCRIPTIONS`.
    pub subscriptions: String,
    /// `DIRNAME` or `FULLDIRNAME`; empty = mails are in the mailbox's own directory.
    pub dirname: String,
    /// `FULLDIRNAME`: the name is used in index and control paths too.
    pub full_dirname: bool,
    /// `MAILBOXDIR`; may be empty.
    pub mailbox_dir: String,
    /// `VOLATILEDIR`.
    pub volatile: Option<PathBuf>,
    /// `LISTINDEX`, relative to the index root.
    pub list_index: PathBuf,
    /// `BROKENCHAR`.
    pub broken_char: Option<char>,
    /// `ITERINDEX`.
    pub iter_index: bool,
    /// `NO-NOSELECT`.
    pub no_noselect: bool,
    /// `NO-FS-VALIDATION`.
    pub no_fs_validation: bool,
    /// `UTF-8`.
    pub utf8: bool,
}

/// The settings as they stand in the text.
#[derive(Default)]
struct Raw {
    layout: Option<String>,
    inbox: Option<PathBuf>,
    index: Option<PathBuf>,
    index_memory: bool,
    index_private: Option<PathBuf>,
    cache: Option<PathBuf>,
    control: Option<PathBuf>,
    alt: Option<PathBuf>,
    alt_no_check: bool,
    subscriptions: Option<String>,
    dirname: String,
    full_dirname: bool,
    mailbox_dir: String,
    volatile: Option<PathBuf>,
    list_index: Option<String>,
    broken_char: Option<char>,
    iter_index: bool,
    no_noselect: bool,
    no_fs_validation: bool,
    utf8: bool,
}

impl Location {
    /// Reads a location; `%` variables have been expanded before. Looks at the disk only to find out a driver that is not
    /// named.
    ///
    /// # Errors
    /// See [`LocationError`].
    pub fn parse(text: &str, owner: &Owner) -> Result<Self, LocationError> {
        let (driver, rest) = split_driver(text);
        let driver = match driver {
            None if text.is_empty() => return detect::without_root(owner).map(|f| f.into_location(owner)),
            Some("auto") if rest.is_empty() => return detect::without_root(owner).map(|f| f.into_location(owner)),
            None | Some("auto" | "dbox") => None,
            Some(name) => Some(driver_by_name(name).ok_or_else(|| LocationError::UnknownDriver(name.to_owned()))?),
        };
        let mut parts = split_colons(rest);
        let root = parts.remove(0);
        if driver == Some(Driver::Imapc) || driver == Some(Driver::Pop3c) {
            // Their root is optional: it only holds indexes.
        } else if root.is_empty() {
            return Err(LocationError::NoRoot);
        }
        if root.starts_with("INBOX=") {
            return Err(LocationError::RootIsSetting(root));
        }
        let root = path(&root, "mail root dir", owner)?;
        let raw = parse_settings(&parts, owner)?;
        let detected = driver.is_none();
        let driver = match driver {
            Some(driver) => driver,
            None if text.starts_with("dbox:") => detect::which_dbox(&root)?.unwrap_or(Driver::Sdbox),
            None => detect::with_root(&root)?.ok_or_else(|| {
                if text.starts_with("auto:") {
                    LocationError::DetectionFailed { location: text.to_owned(), home: detect::home_text(owner) }
                } else {
                    LocationError::Ambiguous(text.to_owned())
                }
            })?,
        };
        Self::complete(driver, detected, root, raw)
    }

    /// A location of this driver at this root without any setting.
    pub(super) fn plain(driver: Driver, root: PathBuf) -> Self {
        let layout = if driver == Driver::Maildir { Layout::MaildirPlusPlus } else { Layout::Fs };
        Self::with_defaults(driver, true, root, layout, Raw::default())
    }

    fn complete(driver: Driver, detected: bool, root: PathBuf, raw: Raw) -> Result<Self, LocationError> {
        let layout = match raw.layout.as_deref() {
            None if driver == Driver::Maildir => Layout::MaildirPlusPlus,
            None if matches!(driver, Driver::Pop3c | Driver::Other) => Layout::None,
            None | Some("fs") => Layout::Fs,
            Some("maildir++" | "Maildir++") => Layout::MaildirPlusPlus,
            Some("imapdir") => Layout::Imapdir,
            Some("index") => Layout::Index,
            Some("none") => Layout::None,
            Some(other) => return Err(LocationError::UnknownLayout(other.to_owned())),
        };
        if layout.is_flat() && !raw.dirname.is_empty() {
            return Err(LocationError::DirnameNotSupported(layout.name()));
        }
        if layout.is_flat() && raw.alt.is_some() {
            return Err(LocationError::AltNotSupported(layout.name()));
        }
        if raw.iter_index && raw.index.is_none() {
            return Err(LocationError::IterIndexAlone);
        }
        Ok(Self::with_defaults(driver, detected, root, layout, raw))
    }

    fn with_defaults(driver: Driver, detected: bool, root: PathBuf, layout: Layout, raw: Raw) -> Self {
        // A path that is the root itself is as good as not given: it changes where INBOX's files are (4.1).
        let other = |p: Option<PathBuf>| p.filter(|p| *p != root);
        let fixed = |given: String, default: &str| if given.is_empty() { default.to_owned() } else { given };
        let dbox = driver.is_dbox();
        // LAYOUT=index names directories by GUID and has nothing else in them (4.3).
        let dirname = match (dbox, layout) {
            (_, Layout::Index) => String::new(),
            (true, Layout::Fs) => fixed(raw.dirname, "dbox-Mails"),
            _ => raw.dirname,
        };
        Self {
            driver,
            detected,
            inbox: other(raw.inbox),
            index: match other(raw.index) {
                _ if raw.index_memory => IndexDir::Memory,
                Some(dir) => IndexDir::Dir(dir),
                None => IndexDir::WithMails,
            },
            index_private: other(raw.index_private),
            cache: other(raw.cache),
            control: other(raw.control),
            alt: other(raw.alt),
            alt_check: !raw.alt_no_check,
            layout,
            subscriptions: raw
                .subscriptions
                .unwrap_or_else(|| if driver == Driver::Mbox { ".subscriptions" } else { "subscriptions" }.to_owned()),
            dirname,
            full_dirname: raw.full_dirname,
            mailbox_dir: if dbox { fixed(raw.mailbox_dir, "mailboxes") } else { raw.mailbox_dir },
            volatile: raw.volatile,
            list_index: raw.list_index.unwrap_or_else(|| "dovecot.list.index".to_owned()).into(),
            broken_char: raw.broken_char,
            iter_index: raw.iter_index,
            no_noselect: raw.no_noselect,
            no_fs_validation: raw.no_fs_validation,
            utf8: raw.utf8,
            root,
        }
    }
}

/// The driver in front of the first colon, and what follows it.
fn split_driver(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((d, rest)) if !d.is_empty() && d.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => (Some(d), rest),
        _ => (None, text),
    }
}

fn driver_by_name(name: &str) -> Option<Driver> {
    Some(match name {
        "maildir" => Driver::Maildir,
        "sdbox" => Driver::Sdbox,
        "mdbox" => Driver::Mdbox,
        "mbox" => Driver::Mbox,
        "imapc" => Driver::Imapc,
        "pop3c" => Driver::Pop3c,
        "raw" | "fail" => Driver::Other,
        _ => return None,
    })
}

/// Splits at single colons and turns doubled ones into single ones. Gives at least one part.
fn split_colons(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ':' && chars.next_if_eq(&':').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn parse_settings(parts: &[String], owner: &Owner) -> Result<Raw, LocationError> {
    let mut raw = Raw::default();
    for part in parts {
        let (key, value) = part.split_once('=').map_or((part.as_str(), None), |(k, v)| (k, Some(v)));
        let text = value.unwrap_or_default();
        let dir = |what| if text.is_empty() { Ok(None) } else { path(text, what, owner).map(Some) };
        let name = |what| if text.is_empty() { Err(LocationError::EmptyValue(what)) } else { Ok(Some(trimmed(text).to_owned())) };
        match (key, value) {
            ("INBOX", _) => raw.inbox = dir("INBOX")?,
            ("INDEX", Some("MEMORY")) => raw.index_memory = true,
            ("INDEX", _) => (raw.index, raw.index_memory) = (dir("INDEX")?, false),
            ("INDEXPVT", _) => raw.index_private = dir("INDEXPVT")?,
            ("INDEXCACHE", _) => raw.cache = dir("INDEXCACHE")?,
            ("CONTROL", _) => raw.control = dir("CONTROL")?,
            ("ALT", _) => raw.alt = dir("ALT")?,
            ("VOLATILEDIR", _) => raw.volatile = dir("VOLATILEDIR")?,
            ("LAYOUT", _) => raw.layout = Some(text.to_owned()),
            ("SUBSCRIPTIONS", _) => raw.subscriptions = name("SUBSCRIPTIONS")?,
            ("DIRNAME", _) => (raw.dirname, raw.full_dirname) = (trimmed(text).to_owned(), false),
            ("FULLDIRNAME", _) => (raw.dirname, raw.full_dirname) = (trimmed(text).to_owned(), true),
            ("MAILBOXDIR", _) => raw.mailbox_dir = trimmed(text).to_owned(),
            ("LISTINDEX", _) => raw.list_index = name("LISTINDEX")?,
            ("BROKENCHAR", _) => {
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) if c.is_ascii() => raw.broken_char = Some(c),
                    _ => return Err(LocationError::BrokenChar),
                }
            }
            ("ALTNOCHECK", None) => raw.alt_no_check = true,
            ("ITERINDEX", None) => raw.iter_index = true,
            ("NO-NOSELECT", None) => raw.no_noselect = true,
            ("NO-FS-VALIDATION", None) => raw.no_fs_validation = true,
            ("UTF-8", None) => raw.utf8 = true,
            _ => return Err(LocationError::UnknownSetting(key.to_owned())),
        }
    }
    Ok(raw)
}

fn trimmed(text: &str) -> &str {
    match text.trim_end_matches('/') {
        "" if text.starts_with('/') => "/",
        t => t,
    }
}

/// A path of a location: trailing slashes go, `~` and `~user` become home directories, a relative one lies in the home
/// directory, where Dovecot's processes work.
fn path(text: &str, what: &'static str, owner: &Owner) -> Result<PathBuf, LocationError> {
    let text = trimmed(text);
    let no_home = || LocationError::NoHome { what, text: text.to_owned() };
    let Some(tail) = text.strip_prefix('~') else {
        return Ok(match &owner.home {
            Some(home) if !text.starts_with('/') && !text.is_empty() => home.join(text),
            _ => PathBuf::from(text),
        });
    };
    let (user, rest) = tail.split_once('/').unwrap_or((tail, ""));
    let home = if user.is_empty() {
        owner.home.clone().ok_or_else(no_home)?
    } else {
        nix::unistd::User::from_name(user).ok().flatten().map(|u| u.dir).ok_or_else(|| LocationError::NoSystemUser {
            user: user.to_owned(),
            what,
            text: text.to_owned(),
        })?
    };
    Ok(if rest.is_empty() { home } else { home.join(Path::new(rest.trim_start_matches('/'))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, LocationError> {
        Location::parse(text, &Owner { name: "u".into(), home: Some("/home/u".into()) })
    }

    fn fails(text: &str) -> String {
        parse(text).expect_err("is wrong").to_string()
    }

    #[test]
    fn doubled_colons_are_part_of_a_path() {
        assert_eq!(
            parse("maildir:~/a::b/:INDEX=/i::j/").map(|l| (l.root, l.index)),
            Ok(("/home/u/a:b".into(), IndexDir::Dir("/i:j".into())))
        );
        // Verified live: three colons are a literal one and the end of the root.
        assert_eq!(parse("maildir:~/a:::INDEX=~/i").map(|l| l.root), Ok("/home/u/a:".into()));
    }

    #[test]
    fn defaults_of_the_drivers() {
        let l = parse("mdbox:/m").expect("fine");
        assert_eq!((l.layout, l.mailbox_dir.as_str(), l.dirname.as_str()), (Layout::Fs, "mailboxes", "dbox-Mails"));
        let l = parse("sdbox:/m:LAYOUT=index").expect("fine");
        assert_eq!((l.layout, l.mailbox_dir.as_str(), l.dirname.as_str()), (Layout::Index, "mailboxes", ""));
        let l = parse("maildir:/m:LAYOUT=fs").expect("fine");
        assert_eq!((l.layout, l.mailbox_dir.as_str(), l.dirname.as_str()), (Layout::Fs, "", ""));
        assert_eq!(parse("mbox:~/mail:INBOX=/var/mail/u").map(|l| l.subscriptions), Ok(".subscriptions".into()));
    }

    #[test]
    fn a_path_equal_to_the_root_is_none() {
        let l = parse("maildir:/m/:INDEX=/m:CONTROL=/m/").expect("fine");
        assert_eq!((l.index, l.control), (IndexDir::WithMails, None));
    }

    #[test]
    fn errors_have_dovecot_s_texts() {
        for (text, message) in [
            ("maildir:", "Root mail directory not given"),
            (
                "maildir",
                "Ambiguous mail location setting, don't know what to do with it: maildir (try prefixing it with mbox: or maildir:)",
            ),
            (
                "~/nothing",
                "Ambiguous mail location setting, don't know what to do with it: ~/nothing (try prefixing it with mbox: or maildir:)",
            ),
            ("auto:~/nothing", "Autodetection failed for auto:~/nothing (home=/home/u)"),
            ("", "Mail storage autodetection failed with home=/home/u"),
            ("foo:~/x", "Unknown mail storage driver foo"),
            ("maildir:~/M:FOO=1", "Unknown setting: FOO"),
            ("maildir:~/M:UTF-8=yes", "Unknown setting: UTF-8"),
            ("maildir:~/M://", "Unknown setting: //"),
            ("maildir:~/M:LAYOUT=bogus", "Mailbox list driver bogus: Unknown driver name"),
            ("maildir:~/M:LAYOUT", "Mailbox list driver : Unknown driver name"),
            ("maildir:~/M:DIRNAME=x", "Mailbox list driver maildir++: maildir_name not supported by this driver"),
            ("maildir:~/M:ALT=~/A", "Mailbox list driver maildir++: alt_dir not supported by this driver"),
            ("maildir:~/M:ITERINDEX", "ITERINDEX requires INDEX to be explicitly set"),
            ("maildir:~/M:BROKENCHAR=ab", "BROKENCHAR value must be a single character"),
            ("maildir:~/M:BROKENCHAR=", "BROKENCHAR value must be a single character"),
            ("maildir:INBOX=x", "Mail root directory not given: INBOX=x"),
            (
                "maildir:~nosuchuser/x",
                "No home directory for system user. Can't expand ~nosuchuser for mail root dir in: ~nosuchuser/x",
            ),
        ] {
            assert_eq!(fails(text), message, "{text}");
        }
    }

    #[test]
    fn detection_looks_at_the_directories() {
        let home = tempfile::tempdir().expect("scratch");
        let owner = Owner { name: "u".into(), home: Some(home.path().into()) };
        let made = |dir: &str| std::fs::create_dir_all(home.path().join(dir)).expect("mkdir");
        let driver = |text: &str| Location::parse(text, &owner).map(|l| l.driver);
        made("a/cur");
        assert_eq!(driver("~/a"), Ok(Driver::Maildir));
        made("b/mailboxes");
        assert_eq!(driver("~/b"), Ok(Driver::Sdbox));
        made("b/storage");
        assert!(matches!(driver("auto:~/b"), Err(LocationError::AmbiguousDbox(_))));
        std::fs::write(home.path().join("b/storage/dovecot.map.index.log"), "").expect("write");
        assert_eq!(driver("auto:~/b"), Ok(Driver::Mdbox));
        assert_eq!(driver("dbox:~/b"), Ok(Driver::Mdbox));
        made("c/.imap");
        assert_eq!(driver("~/c:UTF-8"), Ok(Driver::Mbox));
        made("Maildir/cur");
        assert_eq!(Location::parse("", &owner).map(|l| (l.driver, l.root)), Ok((Driver::Maildir, home.path().join("Maildir"))));
    }
}
