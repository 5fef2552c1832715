//! The mailbox with all mails (`-a`): a text that is here already need not travel (sync.md 7.6, step 5).

use std::collections::HashMap;

use super::merge::{Facts, Item};
use crate::mail::{self, Body, Existence, Guid128, Mailbox, MailboxName, Store, Tree, Uid};

/// The own mailbox with all mails, once something is to be received.
#[derive(Default)]
pub(super) struct AtHand {
    name: Option<MailboxName>,
    mailbox: Option<Box<dyn Mailbox>>,
    uids: HashMap<Guid128, Uid>,
}

impl AtHand {
    /// The mailbox that the user has named, if this side has one of that name. It is opened when it is needed.
    pub fn new(name: Option<&String>, own: &Tree) -> Self {
        let name = name.and_then(|name| {
            let mailboxes = own.nodes.iter().filter(|n| n.existence == Existence::Exists && n.identity.is_some());
            mailboxes.map(|n| &n.name).find(|n| n.join(own.rules.separator) == *name).cloned()
        });
        Self { name, ..Self::default() }
    }

    /// Opens it. Without it, everything comes from the other side.
    pub fn open(&mut self, store: &mut dyn Store) {
        let Some(name) = self.name.take() else { return };
        let mut mailbox = match store.open(&name).and_then(|mut m| m.refresh().map(|()| m)) {
            Ok(mailbox) => mailbox,
            Err(e) => {
                tracing::warn!("Can't open mailbox {name}: {e}; all mails come from the other side");
                return;
            }
        };
        let mails = mailbox.list();
        for uid in (0..mails.len()).map(|at| mails.uid(at)) {
            if let Ok(guid) = mailbox.guid128(uid) {
                self.uids.insert(guid, uid);
            }
        }
        self.mailbox = Some(mailbox);
    }

    /// A mail of this GUID is there.
    pub fn has(&self, guid: &Guid128) -> bool {
        self.uids.contains_key(guid)
    }

    /// Mails of `peer` that `own` has not, and that are here.
    pub fn lacking(&self, own: &Facts, peer: &Facts) -> Vec<Guid128> {
        if self.uids.is_empty() {
            return Vec::new();
        }
        let here: std::collections::HashSet<Guid128> = own.items.iter().filter_map(|i| i.guid).collect();
        let wanted = |i: &Item| i.guid.filter(|g| !i.filtered && !here.contains(g) && self.has(g));
        peer.items.iter().filter_map(wanted).collect()
    }

    /// What is known of the mail, and its text. One that cannot be had is not offered again.
    pub fn mail(&mut self, guid: &Guid128) -> Option<(mail::Facts, Body)> {
        let uid = *self.uids.get(guid)?;
        let mailbox = self.mailbox.as_mut()?;
        let found = mailbox.body(uid).and_then(|body| Ok((mailbox.facts(uid)?, body)));
        if found.is_err() {
            self.uids.remove(guid);
        }
        found.ok()
    }

    /// The text turned out not to be readable.
    pub fn forget(&mut self, guid: &Guid128) {
        self.uids.remove(guid);
    }
}
