//! Whether a job can be done at all, before anything is opened (cli-config.md 3.6, 7.7). The texts are Dovecot's.

use std::fmt;
use std::path::PathBuf;

use crate::config::separator;
use crate::mail::{Class, Selection};
use crate::store::list::{Driver, IndexDir, Location};
use crate::store::{Account, NamespaceSettings};

/// Why a side, or both together, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    class: Class,
    text: String,
}

impl Unusable {
    fn new(text: impl Into<String>) -> Self {
        // Settings that do not fit are 78 inside Dovecot, and 75 for whoever calls it.
        Self { class: Class::Temporary, text: text.into() }
    }

    /// The class.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Unusable {}

/// Looks at all locations of an account: they can be read, and we have their storage. `has_namespaces`: the configuration
/// has namespace sections, which is where Dovecot then looks for what is wrong.
///
/// # Errors
/// Unknown drivers and settings, no home for `~/`, nothing found.
pub fn locations(account: &Account, has_namespaces: bool) -> Result<(), Unusable> {
    for ns in &account.namespaces {
        let location = Location::parse(location_of(ns, account), &account.owner).map_err(|e| {
            Unusable::new(if has_namespaces {
                format!("Namespace '{}': {e}", ns.prefix)
            } else if account.location.is_empty() {
                format!("mail_location not set and autodetection failed: {e}")
            } else {
                format!("Initializing mail storage from mail_location setting failed: {e}")
            })
        })?;
        debug_line(&location);
        if !matches!(location.driver, Driver::Maildir | Driver::Sdbox | Driver::Mdbox) {
            let driver = location.driver.name();
            return Err(Unusable::new(format!("Namespace '{}': Mail storage {driver} is not supported yet", ns.prefix)));
        }
    }
    Ok(())
}

/// As Dovecot shows a location with -D.
fn debug_line(location: &Location) {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let index = match &location.index {
        IndexDir::WithMails => String::new(),
        IndexDir::Memory => "MEMORY".into(),
        IndexDir::Dir(dir) => dir.display().to_string(),
    };
    let root = location.root.display();
    // A Maildir's INBOX is the root itself.
    let inbox = match &location.inbox {
        None if location.layout.is_flat() => root.to_string(),
        inbox => path(inbox),
    };
    tracing::debug!(
        "{}: root={root}, index={index}, indexpvt={}, control={}, inbox={inbox}, alt={}",
        location.layout.name(),
        path(&location.index_private),
        path(&location.control),
        path(&location.alt),
    );
}

/// Which namespaces take part, with prefixes as the account has them.
///
/// # Errors
/// No namespace can.
pub fn namespaces(wanted: &Selection, account: &Account) -> Result<Selection, Unusable> {
    match wanted {
        Selection::All => Ok(Selection::All),
        Selection::Default => {
            if account.namespaces.iter().any(|ns| account.goes_by_default(ns)) {
                return Ok(Selection::Default);
            }
            Err(Unusable::new(
                "All your namespaces have a location setting. Only namespaces with empty location settings are converted. (One namespace should default to mail_location setting)",
            ))
        }
        Selection::Prefixes(prefixes) => {
            let mut found = Vec::new();
            for wanted in prefixes {
                let Some(ns) = holding(wanted, account) else {
                    let text = format!("Namespace not found: '{wanted}'");
                    return Err(Unusable { class: Class::Params, text });
                };
                if !found.contains(&ns.prefix) {
                    found.push(ns.prefix.clone());
                }
            }
            Ok(Selection::Prefixes(found))
        }
    }
}

/// For `-v`: which namespaces take part, where there is more than one.
pub fn tell_namespaces(selection: &Selection, account: &Account) {
    if account.namespaces.len() > 1 {
        tracing::info!("Namespaces: {}", prefixes(selection, account));
    }
}

/// The prefixes of the namespaces that take part.
fn prefixes(selection: &Selection, account: &Account) -> String {
    let part = |ns: &&NamespaceSettings| match selection {
        Selection::Default => account.goes_by_default(ns),
        Selection::All => ns.is_visible(),
        Selection::Prefixes(prefixes) => prefixes.contains(&ns.prefix),
    };
    account.namespaces.iter().filter(part).map(|ns| format!("'{}'", ns.prefix)).collect::<Vec<_>>().join(", ")
}

/// The namespace that would hold a mailbox of this name: so an unknown prefix means the one without a prefix.
fn holding<'a>(name: &str, account: &'a Account) -> Option<&'a NamespaceSettings> {
    let inbox = name.eq_ignore_ascii_case("INBOX").then(|| account.namespaces.iter().find(|ns| ns.inbox)).flatten();
    inbox.or_else(|| {
        let holds = |ns: &&NamespaceSettings| {
            let bare = ns.prefix.strip_suffix(|c| Some(c) == separator(ns, &account.location, &account.owner));
            name.starts_with(&ns.prefix) || bare.is_some_and(|bare| bare == name)
        };
        account.namespaces.iter().filter(holds).max_by_key(|ns| ns.prefix.len())
    })
}

fn location_of<'a>(ns: &'a NamespaceSettings, account: &'a Account) -> &'a str {
    if ns.location.is_empty() { &account.location } else { &ns.location }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Owner, Settings};

    fn account(location: &str, namespaces: Vec<NamespaceSettings>) -> Account {
        Account {
            owner: Owner { name: "tim".into(), home: Some("/nonexistent/h".into()) },
            location: location.into(),
            namespaces,
            settings: Settings::default(),
        }
    }

    fn ns(prefix: &str, separator: Option<char>, location: &str) -> NamespaceSettings {
        let location = location.into();
        NamespaceSettings { prefix: prefix.into(), separator, location, inbox: prefix.is_empty(), ..NamespaceSettings::default() }
    }

    #[test]
    fn one_side() {
        let error = |location: &str, namespaces: Vec<_>| {
            let configured = namespaces.len() > 1;
            locations(&account(location, namespaces), configured).unwrap_err().to_string()
        };
        let plain = || vec![NamespaceSettings::default()];
        assert_eq!(
            error("maildir:~/M:FOO=1", plain()),
            "Initializing mail storage from mail_location setting failed: Unknown setting: FOO"
        );
        assert_eq!(
            error("", plain()),
            "mail_location not set and autodetection failed: Mail storage autodetection failed with home=/nonexistent/h"
        );
        assert_eq!(error("mbox:~/mail", plain()), "Namespace '': Mail storage mbox is not supported yet");
        let two = vec![ns("", None, ""), ns("Old/", None, "foo:x")];
        assert_eq!(error("maildir:~/M", two), "Namespace 'Old/': Unknown mail storage driver foo");
        assert!(locations(&account("maildir:~/M", plain()), false).is_ok());
    }

    /// Row F11.
    #[test]
    fn f11_the_default_follows_the_style_of_the_settings() {
        let mut two = account("maildir:~/M", vec![ns("", Some('/'), "mdbox:/inbox"), ns("Old/", Some('/'), "")]);
        assert_eq!(prefixes(&Selection::Default, &two), "'Old/'");
        assert_eq!(prefixes(&Selection::All, &two), "'', 'Old/'");
        assert_eq!(prefixes(&Selection::Prefixes(vec!["Old/".into()]), &two), "'Old/'");
        two.settings.inbox_by_default = true;
        assert_eq!(prefixes(&Selection::Default, &two), "''");
        assert_eq!(namespaces(&Selection::Default, &two), Ok(Selection::Default));
    }

    #[test]
    fn an_unknown_prefix_is_the_empty_one() {
        let two = account("maildir:~/M", vec![ns("", Some('/'), ""), ns("Old/", Some('/'), "mdbox:/x")]);
        let select = |prefix: &str, account: &Account| namespaces(&Selection::Prefixes(vec![prefix.into()]), account);
        let prefixes = |prefix: &str| Ok(Selection::Prefixes(vec![prefix.into()]));
        assert_eq!(select("zzz/", &two), prefixes(""));
        assert_eq!(select("Old/", &two), prefixes("Old/"));
        assert_eq!(select("Old", &two), prefixes("Old/"));
        let one = account("maildir:~/M", vec![ns("Old/", Some('/'), "mdbox:/x")]);
        let error = select("zzz/", &one).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.class()), ("Namespace not found: 'zzz/'", Class::Params));
        assert!(namespaces(&Selection::Default, &one).unwrap_err().to_string().starts_with("All your namespaces"));
    }
}
