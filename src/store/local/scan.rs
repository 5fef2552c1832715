//! Reading the tree of mailboxes (sync.md 3.2).

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::{Known, LocalStore, Target};
use crate::index;
use crate::mail::{
    Class, Error, Existence, Identity, Mailbox, MailboxGuid, MailboxName, Node, Result, Selection, Timestamp, Tree,
};
use crate::store::format::Place;
use crate::store::list::{Decoded, Entry, Layout, Listing, Stored};

/// How often the tree is looked at while others change it, and what lies between two looks, more each time.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// The tree while it is read.
#[derive(Default)]
pub(super) struct Draft {
    pub nodes: Vec<Node>,
    at: HashMap<MailboxName, usize>,
    pub problems: Vec<(MailboxName, Error)>,
}

impl Draft {
    /// The node of a name, made if it is not there.
    pub fn node(&mut self, name: &MailboxName) -> &mut Node {
        let at = *self.at.entry(name.clone()).or_insert_with(|| {
            self.nodes.push(Node {
                name: name.clone(),
                existence: Existence::Nonexistent,
                identity: None,
                renamed: Timestamp::default(),
                subscribed: false,
                subscription_changed: Timestamp::default(),
                special_use: Vec::new(),
            });
            self.nodes.len() - 1
        });
        &mut self.nodes[at]
    }

    fn has(&self, name: &MailboxName) -> bool {
        self.at.contains_key(name)
    }
}

impl LocalStore {
    pub(super) fn scan_tree(&mut self, selection: &Selection) -> Result<Tree> {
        let selected = self.select(selection)?;
        self.check_roots(&selected)?;
        self.selected = selected.clone();
        let mut draft = self.scan_in_peace(&selected)?;
        for &space in &selected {
            self.scan_subscriptions(space, &mut draft)?;
        }
        self.part_twins(&mut draft);
        let deletions = self.replay_history(&mut draft)?;
        Ok(Tree { nodes: draft.nodes, deletions, rules: self.rules(), problems: draft.problems })
    }

    /// A mailbox that gets another name while the others are looked at is found under both names, or under none: it would be
    /// taken for a twin, or for deleted. So it counts only when all names are the same before and after.
    fn scan_in_peace(&mut self, selected: &[usize]) -> Result<Draft> {
        for attempt in 0..ATTEMPTS {
            std::thread::sleep(PAUSE * attempt);
            self.known.clear();
            let mut draft = Draft::default();
            let mut listings = Vec::with_capacity(selected.len());
            for &space in selected {
                self.mend_list_index(space);
                let listing = match self.begin(space)? {
                    Some(listing) => listing,
                    None => self.listing(space)?,
                };
                self.scan_space(space, &listing, &mut draft)?;
                listings.push((space, listing));
            }
            let mut same = true;
            for (space, listing) in &listings {
                same = same && (listing.is_certainly_up_to_date() || self.listing(*space)?.entries == listing.entries);
            }
            if same {
                for (link, to) in listings.iter().flat_map(|(_, listing)| &listing.links) {
                    tracing::warn!("{} is a symbolic link to {}: left out", link.display(), to.display());
                }
                draft.problems.extend(listings.into_iter().flat_map(|(_, listing)| listing.problems));
                return Ok(draft);
            }
        }
        Err(Error::new(Class::Temporary, "Mailboxes are created, renamed or deleted all the time"))
    }

    /// The mailboxes and directories of a namespace.
    pub(super) fn listing(&self, space: usize) -> Result<Listing> {
        let list = self.list(space)?;
        if list.location.layout == Layout::Index {
            return self.listing_of_index(space);
        }
        let site = &self.sites[self.spaces[space].site()?];
        let exists =
            |stored: &Stored| list.place_to_read(&MailboxName::inbox(), stored, None).is_ok_and(|place| site.exists(&place));
        match list.walk(&exists) {
            // Whether that is right was looked at before.
            Err(e) if e.class() == Class::NotFound && !list.location.root.exists() => Ok(Listing::default()),
            other => other,
        }
    }

    fn listing_of_index(&self, space: usize) -> Result<Listing> {
        let list = self.list(space)?;
        let mut out = Listing::default();
        let read = self.with_list_index(space, false, |index| Ok(index.paths(list.names.storage_separator)?))?;
        let Some(paths) = read else {
            return self.no_list_index(space).map(|()| out);
        };
        for (path, node) in paths {
            let storage = OsString::from_vec(path);
            let inbox = list.names.inbox && storage.as_encoded_bytes().eq_ignore_ascii_case(b"INBOX");
            let (name, odd) = if inbox {
                (MailboxName::inbox(), false)
            } else {
                match list.names.decode(&storage) {
                    Decoded::Name(name) => (name, false),
                    Decoded::Odd(name) => (name, true),
                    Decoded::Invalid(e) => {
                        let name = MailboxName::new(vec![storage.to_string_lossy().into_owned()]);
                        out.problems.extend(name.map(|n| (n, Error::new(Class::InvalidData, e))));
                        continue;
                    }
                }
            };
            let guid = node.guid.filter(|_| node.selectable);
            let stored = Stored { name: storage, inbox };
            out.entries.push(Entry { name, stored, selectable: guid.is_some(), odd, guid });
        }
        Ok(out)
    }

    /// Without its list index a `LAYOUT=index` tree has mailboxes without names: never "no mailboxes".
    fn no_list_index(&self, space: usize) -> Result<()> {
        let list = self.list(space)?;
        let root = list.location.listing_root();
        let orphan = std::fs::read_dir(&root).ok().and_then(|mut d| {
            d.find_map(|e| e.ok().filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<MailboxGuid>().is_ok())))
        });
        match orphan {
            None => Ok(()),
            Some(dir) => Err(Error::new(
                Class::Temporary,
                format!(
                    "{} has mailboxes, but the list index with their names is lost; run `doveadm force-resync` to recover it",
                    dir.path().display()
                ),
            )),
        }
    }

    fn scan_space(&mut self, space: usize, listing: &Listing, draft: &mut Draft) -> Result<()> {
        let list = self.list(space)?;
        let prefix = MailboxName::new(list.names.prefix.clone());
        let root_is_there = list.location.root.is_dir();
        let special: Vec<(MailboxName, Vec<String>)> = self.spaces[space]
            .settings
            .mailboxes
            .iter()
            .filter_map(|m| {
                list.names.parse(&format!("{}{}", list.names.prefix_text, m.name)).ok().map(|n| (n, m.special_use.clone()))
            })
            .collect();
        let all: Vec<usize> = (0..self.spaces.len()).collect();
        for entry in listing.entries.iter().cloned() {
            let owner = self.find_space(&entry.name, &all);
            if owner != Some(space) {
                let other = owner.map_or("", |o| self.spaces[o].settings.prefix.as_str());
                let text = format!(
                    "Mailbox {} exists in two namespaces: '{}' and '{other}'",
                    entry.name, self.spaces[space].settings.prefix
                );
                draft.problems.push((entry.name, Error::new(Class::InvalidData, text)));
                continue;
            }
            let target = Target { space, entry };
            let place = self.scan_entry(&target, draft);
            self.known.insert(target.entry.name.clone(), Known { space, entry: target.entry, place });
        }
        for (name, special_use) in special {
            if draft.has(&name) {
                draft.node(&name).special_use = special_use;
            }
        }
        if let Some(prefix) = prefix.filter(|p| root_is_there && !draft.has(p)) {
            draft.node(&prefix).existence = Existence::Exists;
        }
        Ok(())
    }

    fn scan_entry(&mut self, target: &Target, draft: &mut Draft) -> Option<Place> {
        let name = &target.entry.name;
        if !target.entry.selectable {
            draft.node(name).existence = Existence::Exists;
            return None;
        }
        let place = self.place(target);
        let identity = match &place {
            Ok(place) => self.format(target.space).and_then(|format| format.identity(place)),
            Err(e) => Err(Error::new(e.class(), e.to_string())),
        };
        match identity {
            Ok(identity) => {
                let node = draft.node(name);
                node.existence = Existence::Exists;
                node.identity = Some(identity);
                return place.ok();
            }
            // Gone since it was listed, or being deleted or created by somebody: not there right now (index.md 4.5). A lost
            // index is not the same as that.
            Err(e) if e.class() == Class::NotFound && (!self.exists(target).unwrap_or(true) || self.comes_or_goes(target)) => {}
            Err(e) => {
                draft.node(name).existence = Existence::Unreadable;
                draft.problems.push((name.clone(), e));
            }
        }
        None
    }

    fn comes_or_goes(&self, target: &Target) -> bool {
        match self.index_of(target) {
            Some(Ok(index)) => index.state().is_half_made(),
            Some(Err(e)) => matches!(e, index::Error::Deleted(_)),
            None => false,
        }
    }

    /// A creation was stopped, and a Dovecot has looked at what it left: the mailbox is still to be created.
    pub(super) fn is_half_made(&self, target: &Target) -> bool {
        matches!(self.index_of(target), Some(Ok(index)) if index.state().is_half_made())
    }

    fn index_of(&self, target: &Target) -> Option<std::result::Result<index::Index, index::Error>> {
        let place = self.place(target).ok()?;
        let files = index::Files::new(&place.index, index::Files::MAILBOX);
        let options = index::Options::new(self.settings.index.clone(), place.modes);
        Some(index::Index::open(files, options))
    }

    pub(super) fn identity(&mut self, target: &Target) -> Result<Identity> {
        let place = self.place(target)?;
        self.format(target.space)?.identity(&place)
    }

    /// Two mailboxes with one GUID: the one with the lesser name gets a new one, on disk, at once (sync.md 3.2).
    fn part_twins(&mut self, draft: &mut Draft) {
        let separator = self.rules().separator;
        let mut by_guid: HashMap<MailboxGuid, Vec<usize>> = HashMap::new();
        for (at, node) in draft.nodes.iter().enumerate() {
            if let Some(identity) = node.identity {
                by_guid.entry(identity.guid).or_default().push(at);
            }
        }
        for (guid, mut twins) in by_guid {
            twins.sort_by_key(|&at| draft.nodes[at].name.join(separator));
            let Some(keeper) = twins.pop() else { continue };
            for at in twins {
                let (name, keeper) = (draft.nodes[at].name.clone(), draft.nodes[keeper].name.clone());
                let Some(old) = draft.nodes[at].identity else { continue };
                if self.known.get(&name).is_some_and(|k| k.entry.guid.is_some()) {
                    let text =
                        format!("Mailbox {name} has the GUID of {keeper} and so its directory; run `doveadm force-resync`");
                    let node = &mut draft.nodes[at];
                    (node.existence, node.identity) = (Existence::Unreadable, None);
                    draft.problems.push((name, Error::new(Class::Temporary, text)));
                    continue;
                }
                let new = MailboxGuid::generate();
                tracing::warn!(
                    "Duplicate mailbox GUID {guid} for mailboxes {name} and {keeper} - giving a new GUID {new} to {name}"
                );
                let changed = crate::mail::Store::open(self, &name).and_then(|mut mailbox| {
                    mailbox.set_identity(new, old.uidvalidity)?;
                    Ok(Mailbox::status(&*mailbox).identity)
                });
                let node = &mut draft.nodes[at];
                match changed {
                    Ok(identity) => node.identity = Some(Identity { guid: new, ..identity }),
                    Err(e) => {
                        (node.existence, node.identity) = (Existence::Unreadable, None);
                        draft.problems.push((name, e));
                    }
                }
            }
        }
    }
}
