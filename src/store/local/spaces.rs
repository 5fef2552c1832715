//! Namespaces: which there are, which take part, which one a name belongs to (mailbox-list.md 6, sync.md 3.1).

use std::collections::HashMap;
use std::path::PathBuf;

use super::{LocalStore, MakeFormat, OpenFor, Site};
use crate::mail::{Class, Error, MailboxName, NameRules, Result, Selection};
use crate::store::format::Place;
use crate::store::list::{Driver, Layout, List, Listing, Location};
use crate::store::{Account, NamespaceSettings};

/// A namespace of the account.
pub(super) struct Space {
    pub settings: NamespaceSettings,
    /// It takes part where none is named.
    pub by_default: bool,
    /// Its list and the number of its site, or why it cannot be used.
    pub usable: std::result::Result<(List, usize), String>,
}

impl Space {
    pub fn list(&self) -> Result<&List> {
        self.usable.as_ref().map(|(list, _)| list).map_err(|text| Error::new(Class::Temporary, text.clone()))
    }

    pub fn site(&self) -> Result<usize> {
        self.usable.as_ref().map(|(_, site)| *site).map_err(|text| Error::new(Class::Temporary, text.clone()))
    }
}

/// What two sides of a local run are compared by before it (cli-config.md 3.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Prefix of the namespace that was compared.
    pub prefix: String,
    /// Its separator.
    pub separator: char,
    /// Its mail root.
    pub mail_root: PathBuf,
    /// Its index root; `None` with `INDEX=MEMORY`.
    pub index_root: Option<PathBuf>,
}

impl LocalStore {
    pub(super) fn add_spaces(&mut self, account: &Account, make_format: &MakeFormat<'_>) -> Result<()> {
        let inboxes = account.namespaces.iter().filter(|n| n.inbox).count();
        match inboxes {
            1 => {}
            0 => return Err(fatal("inbox=yes namespace missing")),
            _ => return Err(fatal("There can be only one namespace with inbox=yes")),
        }
        let mut settings: Vec<&NamespaceSettings> = account.namespaces.iter().collect();
        // The one with the empty prefix first, the others as they are configured.
        settings.sort_by_key(|n| !n.prefix.is_empty());
        for ns in settings {
            if self.spaces.iter().any(|s| s.settings.prefix == ns.prefix) {
                return Err(fatal(format!("Namespace '{}': Duplicate namespace prefix: \"{}\"", ns.prefix, ns.prefix)));
            }
            let usable = self.usable(ns, account, make_format).map_err(|e| format!("Namespace '{}': {e}", ns.prefix));
            self.spaces.push(Space { settings: ns.clone(), by_default: account.goes_by_default(ns), usable });
        }
        Ok(())
    }

    fn usable(
        &mut self,
        ns: &NamespaceSettings,
        account: &Account,
        make_format: &MakeFormat<'_>,
    ) -> std::result::Result<(List, usize), String> {
        let text = if ns.location.is_empty() { &account.location } else { &ns.location };
        let location = Location::parse(text, &account.owner).map_err(|e| e.to_string())?;
        if location.detected {
            tracing::info!("{}: taken for {}", location.root.display(), location.driver.name());
        }
        if location.layout == Layout::None || matches!(location.driver, Driver::Imapc | Driver::Pop3c | Driver::Other) {
            return Err(format!("{} is no local storage that can be synchronised", location.driver.name()));
        }
        if location.layout == Layout::Index && !location.driver.is_dbox() {
            return Err(format!("LAYOUT=index is not supported with {}", location.driver.name()));
        }
        if location.index_private.is_some() {
            return Err("INDEXPVT is not supported: \\Seen flags are kept there, and would be left out".into());
        }
        let site = match self.sites.iter().position(|s| s.asked == location) {
            Some(site) => site,
            None => {
                self.sites.push(Site::new(location, account, make_format).map_err(|e| e.to_string())?);
                self.sites.len() - 1
            }
        };
        let location = self.sites[site].location.clone();
        let list = List::new(location, ns, self.sites[site].format.reserved(), &account.settings);
        if !ns.prefix.is_empty() && !ns.prefix.ends_with(list.names.separator) {
            return Err(format!("list=yes requires prefix={} to end with separator", ns.prefix));
        }
        Ok((list, site))
    }

    /// The namespaces that take part.
    pub(super) fn select(&self, selection: &Selection) -> Result<Vec<usize>> {
        let all = 0..self.spaces.len();
        let chosen: Vec<usize> = match selection {
            Selection::Default => all.filter(|&i| self.spaces[i].by_default).collect(),
            Selection::All => all.filter(|&i| self.spaces[i].settings.is_visible()).collect(),
            Selection::Prefixes(prefixes) => {
                let mut named = Vec::new();
                for prefix in prefixes {
                    named.push(
                        self.by_prefix(prefix)
                            .ok_or_else(|| Error::new(Class::Params, format!("Namespace not found: '{prefix}'")))?,
                    );
                }
                let shared = |i: usize| self.spaces[i].settings.kind == "shared";
                let below = |i: usize, n: usize| self.spaces[i].settings.prefix.starts_with(&self.spaces[n].settings.prefix);
                all.filter(|&i| named.iter().any(|&n| n == i || shared(i) && shared(n) && below(i, n))).collect()
            }
        };
        let Some(&first) = chosen.first() else {
            return Err(fatal(
                "All your namespaces have a location setting. Only namespaces with empty location settings are converted. \
                 (One namespace should default to mail_location setting)",
            ));
        };
        self.check_twins(&chosen)?;
        let separator = |i: usize| self.list(i).map(|l| (l.names.separator, l.names.prefix_text.clone()));
        let (a, first_prefix) = separator(first)?;
        for &i in &chosen {
            let (b, prefix) = separator(i)?;
            if a != b {
                return Err(fatal(format!(
                    "Synced namespaces have conflicting separators ('{a}' for prefix=\"{first_prefix}\", '{b}' for prefix=\"{prefix}\")"
                )));
            }
        }
        Ok(chosen)
    }

    /// Two namespaces that show the same directories show every mailbox twice: each would get a new GUID in every run, and be
    /// deleted under one of its names.
    fn check_twins(&self, chosen: &[usize]) -> Result<()> {
        let mut seen: HashMap<PathBuf, &str> = HashMap::new();
        for &i in chosen {
            let list = self.list(i)?;
            let root = list.location.listing_root();
            if let Some(other) = seen.insert(root, &list.names.prefix_text) {
                return Err(fatal(format!(
                    "Namespaces '{other}' and '{}' have the same mailboxes, those of {}. Give one of them alias_for, or a location of its own",
                    list.names.prefix_text,
                    list.location.root.display()
                )));
            }
        }
        Ok(())
    }

    /// The namespace that a prefix, taken as a name, leads to.
    fn by_prefix(&self, prefix: &str) -> Option<usize> {
        let fits = |i: &usize| {
            let own = &self.spaces[*i].settings.prefix;
            let separator = self.spaces[*i].usable.as_ref().map_or('/', |(l, _)| l.names.separator);
            prefix.starts_with(own.as_str()) || Some(prefix) == own.strip_suffix(separator)
        };
        (0..self.spaces.len()).filter(fits).max_by_key(|&i| self.spaces[i].settings.prefix.len())
    }

    /// The namespace that a name belongs to, among those that take part.
    pub(super) fn space_of(&self, name: &MailboxName) -> Result<usize> {
        self.find_space(name, &self.selected).ok_or_else(|| fatal(format!("Couldn't find namespace for mailbox {name}")))
    }

    pub(super) fn find_space(&self, name: &MailboxName, among: &[usize]) -> Option<usize> {
        let lists = || among.iter().filter_map(|&i| self.list(i).ok().map(|l| (i, l)));
        if name.is_inbox()
            && let Some((i, _)) = lists().find(|(_, l)| l.names.inbox)
        {
            return Some(i);
        }
        lists()
            .filter(|(_, l)| l.names.strip(&l.names.folded(name.clone())).is_some())
            .max_by_key(|(_, l)| l.names.prefix.len())
            .map(|(i, _)| i)
    }

    /// The rules of the namespaces that take part.
    pub(super) fn rules(&self) -> NameRules {
        let lists: Vec<&List> = self.selected.iter().filter_map(|&i| self.list(i).ok()).collect();
        NameRules {
            separator: lists.first().map_or('/', |l| l.names.separator),
            alt: self.settings.alt_char,
            no_directories: !lists.is_empty() && lists.iter().all(|l| l.names.flat),
            inbox_moves: lists.iter().any(|l| l.names.inbox && l.inbox_moves()),
            namespaces: lists.iter().map(|l| l.names.rules()).collect(),
        }
    }

    /// What the other side of a local run is compared with: the first named namespace, else the one without prefix, else
    /// that of the INBOX.
    ///
    /// # Errors
    /// No namespace takes part, or its location cannot be used.
    pub fn side(&self, selection: &Selection) -> Result<Side> {
        let named = match selection {
            Selection::Prefixes(p) => p.first().and_then(|p| self.by_prefix(p)),
            _ => None,
        };
        let space = named
            .or_else(|| self.spaces.iter().position(|s| s.settings.prefix.is_empty()))
            .or_else(|| self.spaces.iter().position(|s| s.settings.inbox))
            .ok_or_else(|| fatal("inbox=yes namespace missing"))?;
        let list = self.list(space)?;
        Ok(Side {
            prefix: self.spaces[space].settings.prefix.clone(),
            separator: list.names.separator,
            mail_root: list.location.root.clone(),
            index_root: list.location.index_root(),
        })
    }

    /// A source must be there. A destination may be missing.
    pub(super) fn check_roots(&self, selected: &[usize]) -> Result<()> {
        for &i in selected {
            let list = self.list(i)?;
            let root = &list.location.root;
            if !root.is_dir() && self.open_for == OpenFor::Source {
                let text = format!(
                    "Namespace '{}': {} is not there. Nothing was changed. (If this user has no mail yet, make the directory)",
                    list.names.prefix_text,
                    root.display()
                );
                return Err(fatal(text));
            }
            list.check_alt_link(false)?;
        }
        Ok(())
    }

    /// Lets the storage of a namespace complete what an interrupted commit left, once. Gives the namespace's listing, if that
    /// was read for it.
    pub(super) fn begin(&mut self, space: usize) -> Result<Option<Listing>> {
        let site = self.spaces[space].site()?;
        if self.sites[site].begun {
            return Ok(None);
        }
        let mut all: Vec<Place> = Vec::new();
        let mut own = None;
        for i in 0..self.spaces.len() {
            // An alias shows the same mailboxes once more.
            if self.spaces[i].site().is_ok_and(|s| s == site) && self.spaces[i].settings.alias_for.is_none() {
                let list = self.list(i)?;
                let modes = list.root_modes();
                let listing = self.listing(i)?;
                for entry in listing.entries.iter().filter(|e| e.selectable) {
                    all.push(Place { modes, ..list.place_to_read(&entry.name, &entry.stored, entry.guid)? });
                }
                if i == space {
                    own = Some(listing);
                }
            }
        }
        self.sites[site].format.begin(&all)?;
        self.sites[site].begun = true;
        Ok(own)
    }
}

pub(super) fn fatal(text: impl Into<String>) -> Error {
    Error::new(Class::Temporary, text.into())
}
