//! From settings to what the storages need: [`Account`] (cli-config.md 3.6, 10.5, 12).

use std::time::Duration;

use thiserror::Error;

use super::{Config, Section, VarError, Vars};
use crate::index;
use crate::mail::Class;
use crate::os::{Fsync, LockMethod};
use crate::store::list::Location;
use crate::store::{Account, MailboxSettings, NamespaceSettings, Owner, Settings};

/// Why a user's mail cannot be opened as configured. The texts are Dovecot's.
#[derive(Debug, Error)]
pub enum AccountError {
    /// A wrong %-variable.
    #[error("Failed to expand settings: {setting}: {source}")]
    Expand {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        source: VarError,
    },
    /// The namespaces do not fit together.
    #[error("namespace configuration error: {0}")]
    Namespaces(String),
}

impl AccountError {
    /// The class.
    #[must_use]
    pub const fn class(&self) -> Class {
        Class::Temporary
    }
}

/// One side's location and what is known beside the configuration.
#[derive(Debug, Clone)]
pub struct Side {
    /// Whose mail.
    pub owner: Owner,
    /// The location, variables expanded; empty: to be found out.
    pub location: String,
    /// The separator of a configuration without any namespace; `None`: that of the layout.
    pub separator: Option<char>,
}

impl Config {
    /// All that opening this side needs.
    ///
    /// # Errors
    /// Wrong variables, namespaces that do not fit together.
    pub fn account(&self, side: Side, vars: &Vars) -> Result<Account, AccountError> {
        let Side { owner, location, separator } = side;
        let mut namespaces = Vec::new();
        for section in self.namespaces() {
            if !section.flag("disabled")
                && let Some(namespace) = self.namespace(&section, &location, vars)?
            {
                debug_line(section.text("name"), &namespace, &location);
                namespaces.push(namespace);
            }
        }
        if self.count("namespace") == 0 {
            namespaces.push(NamespaceSettings { separator, ..NamespaceSettings::default() });
        }
        // Dovecot keeps them so, and a stable order is what makes "the first that fits" mean something.
        namespaces.sort_by_key(|ns| ns.prefix.len());
        check(&namespaces, &location, &owner).map_err(AccountError::Namespaces)?;
        Ok(Account { owner, location, namespaces, settings: self.settings(vars)? })
    }

    /// `None` for the template of other users' mail.
    fn namespace(
        &self,
        section: &Section<'_>,
        default_location: &str,
        vars: &Vars,
    ) -> Result<Option<NamespaceSettings>, AccountError> {
        let expand = |setting| section.expanded(setting, vars).map_err(|source| AccountError::Expand { setting, source });
        let kind = section.text("type").to_owned();
        let prefix = expand("prefix")?;
        if kind == "shared" && prefix.contains('%') {
            return Ok(None);
        }
        // A location set from the command line counts as one of its own, even an empty one (cli-config.md 3.6).
        let location = match expand("location")? {
            location if location.is_empty() && self.is_overridden(&section.key("location")) => default_location.into(),
            location => location,
        };
        let mailboxes = section.mailboxes();
        let mailboxes = mailboxes.iter().map(|mailbox| MailboxSettings {
            name: mailbox.text("name").into(),
            special_use: mailbox.text("special_use").split_ascii_whitespace().map(Into::into).collect(),
        });
        Ok(Some(NamespaceSettings {
            prefix,
            separator: section.text("separator").chars().next(),
            location,
            inbox: section.flag("inbox"),
            hidden: section.flag("hidden"),
            list: match section.text("list") {
                "yes" => Some(true),
                "no" => Some(false),
                _ => None,
            },
            subscriptions: section.flag("subscriptions"),
            // An empty one is an alias of the namespace without prefix.
            alias_for: section.own("alias_for").map(Into::into),
            kind,
            mailboxes: mailboxes.collect(),
        }))
    }

    fn settings(&self, vars: &Vars) -> Result<Settings, AccountError> {
        let expand = |setting| self.expanded(setting, vars).map_err(|source| AccountError::Expand { setting, source });
        let set = |text: String| Some(text).filter(|t| !t.is_empty());
        let plugin = |name| self.plugin(name).filter(|t| !t.is_empty()).map(str::to_owned);
        let plugin_expanded = |setting| {
            let expanded = self.plugin_expanded(setting, vars);
            expanded.map_err(|source| AccountError::Expand { setting, source })
        };
        let plugins: Vec<String> = self.words("mail_plugins").into_iter().map(Into::into).collect();
        let max_lock_timeout = Some(self.time("mail_max_lock_timeout")).filter(|t| *t != Duration::ZERO);
        let defaults = Settings::default();
        let index = index::Settings {
            lock_method: match self.text("lock_method") {
                "flock" => LockMethod::Flock,
                "dotlock" => LockMethod::Dotlock,
                _ => LockMethod::Fcntl,
            },
            fsync: match self.text("mail_fsync") {
                "never" => Fsync::Never,
                "always" => Fsync::Always,
                _ => Fsync::Optimized,
            },
            lock_timeout: max_lock_timeout.map_or(defaults.index.lock_timeout, |t| t.min(defaults.index.lock_timeout)),
            dotlock_use_excl: self.flag("dotlock_use_excl"),
            nfs: self.flag("mail_nfs_index"),
            lasts: true,
        };
        Ok(Settings {
            index,
            save_crlf: self.flag("mail_save_crlf"),
            nfs_storage: self.flag("mail_nfs_storage"),
            max_lock_timeout,
            zlib_save: plugin("zlib_save"),
            mail_crypt_save_version: plugin("mail_crypt_save_version"),
            maildir_stat_dirs: self.flag("maildir_stat_dirs"),
            maildir_copy_with_hardlinks: self.flag("maildir_copy_with_hardlinks"),
            maildir_very_dirty_syncs: self.flag("maildir_very_dirty_syncs"),
            maildir_broken_filename_sizes: self.flag("maildir_broken_filename_sizes"),
            maildir_empty_new: self.flag("maildir_empty_new"),
            mdbox_rotate_size: self.size("mdbox_rotate_size"),
            mdbox_rotate_interval: self.time("mdbox_rotate_interval"),
            mdbox_preallocate_space: self.flag("mdbox_preallocate_space"),
            attachment_dir: set(expand("mail_attachment_dir")?).map(Into::into),
            attachment_fs: expand("mail_attachment_fs")?,
            full_filesystem_access: self.flag("mail_full_filesystem_access"),
            alt_char: self.text("dsync_alt_char").chars().next().unwrap_or(defaults.alt_char),
            listescape_char: plugins
                .iter()
                .any(|p| p == "listescape")
                .then(|| self.plugin("listescape_char").and_then(|t| t.chars().next()).unwrap_or('\\')),
            attribute_dict: set(expand("mail_attribute_dict")?),
            sieve: plugin_expanded("sieve")?,
            sieve_dir: plugin_expanded("sieve_dir")?,
            list_index: self.flag("mailbox_list_index"),
            inbox_by_default: self.own("mail_driver").is_some(),
            plugins,
        })
    }
}

/// As Dovecot shows a namespace with -D.
fn debug_line(name: &str, ns: &NamespaceSettings, location: &str) {
    let yes = |flag: bool| if flag { "yes" } else { "no" };
    tracing::debug!(
        "Namespace {name}: type={}, prefix={}, sep={}, inbox={}, hidden={}, list={}, subscriptions={} location={}",
        ns.kind,
        ns.prefix,
        ns.separator.map(String::from).unwrap_or_default(),
        yes(ns.inbox),
        yes(ns.hidden),
        ns.list.map_or("children", yes),
        yes(ns.subscriptions),
        if ns.location.is_empty() { location } else { &ns.location },
    );
}

/// Whether the namespaces can be used together (cli-config.md 10.5).
fn check(namespaces: &[NamespaceSettings], location: &str, owner: &Owner) -> Result<(), String> {
    for (i, ns) in namespaces.iter().enumerate() {
        if namespaces[..i].iter().any(|other| other.prefix == ns.prefix) {
            return Err(format!("Duplicate namespace prefix: \"{}\"", ns.prefix));
        }
    }
    match namespaces.iter().filter(|ns| ns.inbox && ns.alias_for.is_none()).count() {
        0 => return Err("inbox=yes namespace missing".into()),
        1 => {}
        _ => return Err("There can be only one namespace with inbox=yes".into()),
    }
    if namespaces.iter().all(|ns| ns.list == Some(false)) {
        return Err("list=yes namespace missing".into());
    }
    if namespaces.iter().all(|ns| ns.hidden) {
        return Err("hidden=no namespace missing".into());
    }
    if !namespaces.iter().any(|ns| ns.subscriptions) {
        return Err("subscriptions=yes namespace missing".into());
    }
    let mut first = None;
    for ns in namespaces.iter().filter(|ns| ns.list != Some(false)) {
        // A location that cannot be read is reported when it is opened.
        let Some(separator) = separator(ns, location, owner) else { continue };
        if !ns.prefix.is_empty() && !ns.prefix.ends_with(separator) {
            return Err(format!("list=yes requires prefix={} to end with separator {separator}", ns.prefix));
        }
        if ns.prefix.starts_with(separator) {
            return Err(format!("list=yes requires prefix={} not to start with separator", ns.prefix));
        }
        if *first.get_or_insert(separator) != separator {
            return Err("All list=yes namespaces must use the same separator".into());
        }
    }
    for ns in namespaces {
        let Some(target) = &ns.alias_for else { continue };
        match namespaces.iter().find(|other| other.prefix == *target) {
            None => return Err(format!("Invalid namespace alias_for: {target}")),
            Some(other) if other.alias_for.is_some() => {
                return Err(format!("Chained namespace alias_for: {target}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The separator between the levels of a namespace's names; `None` if its location cannot be read.
#[must_use]
pub fn separator(ns: &NamespaceSettings, location: &str, owner: &Owner) -> Option<char> {
    ns.separator.or_else(|| {
        let location = if ns.location.is_empty() { location } else { &ns.location };
        Location::parse(location, owner).ok().map(|l| if l.layout.is_flat() { '.' } else { '/' })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Override, Source};
    use super::*;

    fn account(file: &str, overrides: &[&str]) -> Result<Account, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dovecot.conf");
        std::fs::write(&path, file).unwrap();
        let overrides: Vec<_> = overrides.iter().map(|o| Override::parse(o).unwrap()).collect();
        let config = Config::load(&Source::File(path), &overrides).unwrap().config;
        let vars = Vars { user: "tim".into(), home: "/h".into(), ..Vars::default() };
        let owner = Owner { name: "tim".into(), home: Some("/h".into()) };
        let location = config.expanded("mail_location", &vars).map_err(|e| e.to_string())?;
        config.account(Side { owner, location, separator: None }, &vars).map_err(|e| e.to_string())
    }

    // Each was given to doveadm sync of 2.3.19.1.
    #[test]
    fn namespaces_that_do_not_fit_are_refused_as_by_dovecot() {
        for (text, error) in [
            ("namespace a {\n inbox=yes\n prefix=%z\n}", "Failed to expand settings: prefix: Unknown variable '%z'"),
            (
                "namespace a {\n prefix=x\n inbox=yes\n}",
                "namespace configuration error: list=yes requires prefix=x to end with separator .",
            ),
            ("namespace a {\n inbox=yes\n}\nnamespace b {\n}", "namespace configuration error: Duplicate namespace prefix: \"\""),
            (
                "namespace a {\n inbox=yes\n}\nnamespace b {\n inbox=yes\n prefix=x/\n}",
                "namespace configuration error: There can be only one namespace with inbox=yes",
            ),
            (
                "namespace a {\n inbox=yes\n separator=/\n}\nnamespace b {\n prefix=x.\n separator=.\n location=mdbox:~/q\n}",
                "namespace configuration error: All list=yes namespaces must use the same separator",
            ),
            ("namespace a {\n inbox=yes\n list=no\n}", "namespace configuration error: list=yes namespace missing"),
            ("namespace a {\n inbox=yes\n hidden=yes\n}", "namespace configuration error: hidden=no namespace missing"),
            (
                "namespace a {\n inbox=yes\n subscriptions=no\n}",
                "namespace configuration error: subscriptions=yes namespace missing",
            ),
            ("namespace a {\n prefix=x.\n}", "namespace configuration error: inbox=yes namespace missing"),
        ] {
            let text = format!("mail_location=maildir:~/M\n{text}\n");
            assert_eq!(account(&text, &[]).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn settings_reach_the_storages() {
        let text = "mail_location = mdbox:~/m-%u:ALT=/alt/%n\nmail_fsync = always\nlock_method = flock\n
            mail_max_lock_timeout = 1 min\nmdbox_rotate_size = 32M\nmdbox_rotate_interval = 1 day\n
            mail_plugins = zlib listescape\nplugin {\n zlib_save = zstd\n}\nmail_attachment_dir = /a/%u\n
            dsync_alt_char = xy\nmail_nfs_index=yes\nmmap_disable=yes\n
            namespace {\n prefix = Shared/%%u/\n type = shared\n separator = /\n location = mdbox:%%h/m\n}\n
            namespace inbox {\n inbox = yes\n separator = /\n mailbox \"Sent Items\" {\n special_use = \\Sent\n }\n}\n
            namespace old {\n prefix = Old/\n separator = /\n location = maildir:~/%u\n list = children\n}\n
            namespace compat {\n prefix = mail/\n separator = /\n alias_for =\n list = no\n hidden = yes\n}\n";
        let account = account(text, &["namespace/inbox/location="]).unwrap();
        assert_eq!(account.location, "mdbox:~/m-tim:ALT=/alt/tim");
        let s = &account.settings;
        assert_eq!(s.index.fsync, Fsync::Always);
        assert_eq!(s.index.lock_method, LockMethod::Flock);
        assert_eq!(s.index.lock_timeout, Duration::from_secs(60));
        assert!(s.index.nfs);
        assert_eq!(s.mdbox_rotate_size, 32 << 20);
        assert_eq!(s.mdbox_rotate_interval, Duration::from_secs(86400));
        assert_eq!(s.zlib_save.as_deref(), Some("zstd"));
        assert_eq!(s.listescape_char, Some('\\'));
        assert_eq!(s.attachment_dir.as_deref(), Some(std::path::Path::new("/a/tim")));
        assert_eq!(s.alt_char, 'x');
        let [inbox, old, compat] = &account.namespaces[..] else { panic!("{:?}", account.namespaces) };
        // Set by -o, so explicit, although empty.
        assert_eq!(inbox.location, account.location);
        assert_eq!(inbox.mailboxes[0].name, "Sent Items");
        assert_eq!((&inbox.alias_for, &compat.alias_for), (&None, &Some(String::new())));
        assert_eq!((old.prefix.as_str(), old.location.as_str(), old.list), ("Old/", "maildir:~/tim", None));
    }

    #[test]
    fn defaults_are_those_of_the_rooms() {
        let account = account("mail_location=maildir:~/M\n", &[]).unwrap();
        assert_eq!(account.settings, Settings::default());
        assert_eq!(account.namespaces, [NamespaceSettings::default()]);
    }
}
