//! The settings that the storages need. `config` fills them; the defaults are Dovecot 2.3's.

use std::path::PathBuf;
use std::time::Duration;

use crate::index;

/// Settings of all storages of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Locks and durability of index files; `mail_fsync` of mail files too.
    pub index: index::Settings,
    /// `mail_save_crlf`.
    pub save_crlf: bool,
    /// `mail_nfs_storage`.
    pub nfs_storage: bool,
    /// `mail_max_lock_timeout`; `None` without a limit.
    pub max_lock_timeout: Option<Duration>,
    /// Names of the plugins in `mail_plugins`.
    pub plugins: Vec<String>,
    /// `plugin/zlib_save`: the compression that Dovecot would use when it saves.
    pub zlib_save: Option<String>,
    /// `plugin/mail_crypt_save_version`.
    pub mail_crypt_save_version: Option<String>,
    /// `maildir_stat_dirs`.
    pub maildir_stat_dirs: bool,
    /// `maildir_copy_with_hardlinks`.
    pub maildir_copy_with_hardlinks: bool,
    /// `maildir_very_dirty_syncs`.
    pub maildir_very_dirty_syncs: bool,
    /// `maildir_broken_filename_sizes`.
    pub maildir_broken_filename_sizes: bool,
    /// `maildir_empty_new`.
    pub maildir_empty_new: bool,
    /// `mdbox_rotate_size`, bytes.
    pub mdbox_rotate_size: u64,
    /// `mdbox_rotate_interval`.
    pub mdbox_rotate_interval: Duration,
    /// `mdbox_preallocate_space`.
    pub mdbox_preallocate_space: bool,
    /// `mail_attachment_dir`.
    pub attachment_dir: Option<PathBuf>,
    /// `mail_attachment_fs`.
    pub attachment_fs: String,
    /// `mail_full_filesystem_access`.
    pub full_filesystem_access: bool,
    /// `dsync_alt_char`.
    pub alt_char: char,
    /// `plugin/listescape_char`, if `mail_plugins` has listescape.
    pub listescape_char: Option<char>,
    /// `mail_attribute_dict`, expanded.
    pub attribute_dict: Option<String>,
    /// `plugin/sieve`, expanded; `None` where nothing is set.
    pub sieve: Option<String>,
    /// `plugin/sieve_dir`, expanded.
    pub sieve_dir: Option<String>,
    /// `mailbox_list_index`.
    pub list_index: bool,
    /// The settings are in 2.4's style, where only the namespace with the INBOX is synchronised when none is named.
    pub inbox_by_default: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            index: index::Settings::default(),
            save_crlf: false,
            nfs_storage: false,
            max_lock_timeout: None,
            plugins: Vec::new(),
            zlib_save: None,
            mail_crypt_save_version: None,
            maildir_stat_dirs: false,
            maildir_copy_with_hardlinks: true,
            maildir_very_dirty_syncs: false,
            maildir_broken_filename_sizes: false,
            maildir_empty_new: false,
            mdbox_rotate_size: 10 << 20,
            mdbox_rotate_interval: Duration::ZERO,
            mdbox_preallocate_space: false,
            attachment_dir: None,
            attachment_fs: "sis posix".into(),
            full_filesystem_access: false,
            alt_char: '_',
            listescape_char: None,
            attribute_dict: None,
            sieve: None,
            sieve_dir: None,
            list_index: true,
            inbox_by_default: false,
        }
    }
}

/// A namespace of the configuration (mailbox-list.md 6), variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceSettings {
    /// Prefix of its mailboxes' names.
    pub prefix: String,
    /// Separator; `None` = that of its layout.
    pub separator: Option<char>,
    /// Its own location; empty = the `mail_location`.
    pub location: String,
    /// It has the INBOX.
    pub inbox: bool,
    /// Not shown in NAMESPACE replies.
    pub hidden: bool,
    /// `list`: `Some(true)` yes, `None` children, `Some(false)` no.
    pub list: Option<bool>,
    /// Keeps its own subscriptions.
    pub subscriptions: bool,
    /// Prefix of the namespace that this one repeats.
    pub alias_for: Option<String>,
    /// `private`, `shared` or `public`.
    pub kind: String,
    /// Its `mailbox` sections.
    pub mailboxes: Vec<MailboxSettings>,
}

impl NamespaceSettings {
    /// Whether it takes part where all are asked for: one that shows itself. A prefix with variables is the pattern of shared
    /// namespaces, not one of them.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.alias_for.is_none() && (!self.hidden || self.list != Some(false)) && !self.prefix.contains('%')
    }
}

impl Default for NamespaceSettings {
    /// The one namespace of a configuration without any.
    fn default() -> Self {
        Self {
            prefix: String::new(),
            separator: None,
            location: String::new(),
            inbox: true,
            hidden: false,
            list: Some(true),
            subscriptions: true,
            alias_for: None,
            kind: "private".into(),
            mailboxes: Vec::new(),
        }
    }
}

/// A `mailbox` section of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailboxSettings {
    /// Its name, without the namespace's prefix.
    pub name: String,
    /// Special-use flags, such as `\Junk`.
    pub special_use: Vec<String>,
}

/// Whose mail it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// The user's name.
    pub name: String,
    /// The home directory, for `~/`.
    pub home: Option<PathBuf>,
}

/// All that is needed to open one user's mail at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Whose.
    pub owner: Owner,
    /// `mail_location`, variables expanded except a leading `~`.
    pub location: String,
    /// The namespaces; at least one.
    pub namespaces: Vec<NamespaceSettings>,
    /// The rest.
    pub settings: Settings,
}

impl Account {
    /// Whether a namespace takes part where none is named: in 2.3 those without a location of their own, in 2.4 the one with
    /// the INBOX (sync.md 3.1, 16).
    #[must_use]
    pub const fn goes_by_default(&self, ns: &NamespaceSettings) -> bool {
        ns.alias_for.is_none() && if self.settings.inbox_by_default { ns.inbox } else { ns.location.is_empty() }
    }
}
