//! What every place of mail offers: the contract between the storages and the engine.
//!
//! A [`Store`] is one user's mail at one place; a [`Mailbox`] is one of its mailboxes, opened. The engine reads facts,
//! decides, and then changes **its own** store only.
//!
//! Rules for all storages:
//! - Nothing here waits for anything but the storage's own locks. No lock is held between two calls, except the one of
//!   [`Mailbox::lock`], which keeps other dsync runs away and nobody else.
//! - Facts are those of the last [`Mailbox::refresh`]. What others do in between shows at commit time: an [`Edit`] whose
//!   expectation no longer holds is left out, a save whose UID was taken gets another one and says so.
//! - What is committed is durable as the `mail_fsync` setting wants it, and valid for Dovecot at every moment.
//! - Damage is an error that names file and offset. It is never read as "empty".

use super::Error;
use super::{
    Body, Flags, Guid128, Keyword, Keywords, MailGuid, MailList, MailboxGuid, MailboxName, ModSeq, NameHash, NameRules, Result,
    Uid, UidValidity,
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// Seconds since 1970 as the formats keep them; 0 = not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u32);

impl Timestamp {
    /// The present time.
    #[must_use]
    pub fn now() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(now.as_secs()).unwrap_or(u32::MAX))
    }
}

/// Which namespaces take part (sync.md 3.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection {
    /// Those whose own location setting is empty.
    #[default]
    Default,
    /// All visible ones (`-N`).
    All,
    /// Those with these prefixes (`-n`).
    Prefixes(Vec<String>),
}

/// A node of the mailbox tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its full name.
    pub name: MailboxName,
    /// Whether there is anything under this name.
    pub existence: Existence,
    /// The mailbox, if there is one; else it is a directory, or only a subscription.
    pub identity: Option<Identity>,
    /// When it got this name, as far as the mailbox log knows.
    pub renamed: Timestamp,
    /// It is subscribed to.
    pub subscribed: bool,
    /// When that last changed, as far as the mailbox log knows.
    pub subscription_changed: Timestamp,
    /// Special-use flags from the configuration, such as `\Junk`.
    pub special_use: Vec<String>,
}

/// Whether there is anything under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Existence {
    /// A parent that is not there, or a mere subscription.
    Nonexistent,
    /// A mailbox or a directory.
    Exists,
    /// A mailbox whose identity cannot be read ([`Tree::problems`] says why). Nobody may touch this name.
    Unreadable,
}

/// What identifies a mailbox and its mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its GUID.
    pub guid: MailboxGuid,
    /// Its UIDVALIDITY.
    pub uidvalidity: UidValidity,
    /// The lowest UID that the next mail can get.
    pub uid_next: Uid,
}

/// Something that was removed, as the mailbox log tells (sync.md 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// What.
    pub key: DeletionKey,
    /// When.
    pub time: Timestamp,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeletionKey {
    /// A mailbox.
    Mailbox(MailboxGuid),
    /// A directory, by the hash of its full name in this store's separator.
    Directory(NameHash),
    /// A subscription, by the hash of its full name in this store's separator.
    Subscription(NameHash),
}

/// All that a store knows about its mailboxes' names.
#[derive(Debug)]
pub struct Tree {
    /// The nodes, in any order, names unique.
    pub nodes: Vec<Node>,
    /// The removals that are still true: what the log removed and what has not come back since.
    pub deletions: Vec<Deletion>,
    /// Which names this store can hold.
    pub rules: NameRules,
    /// Names that could not be read, with the reason. They are skipped; the run ends with the class of the worst one.
    pub problems: Vec<(MailboxName, Error)>,
}

impl Tree {
    /// The GUIDs of the mailboxes that are there.
    #[must_use]
    pub fn guids(&self) -> HashSet<MailboxGuid> {
        let there = self.nodes.iter().filter(|n| n.existence == Existence::Exists);
        there.filter_map(|n| n.identity.map(|i| i.guid)).collect()
    }
}

/// One user's mail at one place.
pub trait Store: Send {
    /// Reads names, identities, subscriptions and the mailbox log. Two mailboxes with one GUID get different ones on disk
    /// first (sync.md 3.2, 4).
    ///
    /// # Errors
    /// When the place as a whole cannot be read: not there, no permission, location not understood.
    fn scan(&mut self, selection: &Selection) -> Result<Tree>;

    /// Opens a mailbox. Nothing is created.
    ///
    /// # Errors
    /// [`Class::NotFound`](super::Class::NotFound), damage, no permission.
    fn open(&mut self, name: &MailboxName) -> Result<Box<dyn Mailbox>>;

    /// Creates an empty mailbox with this identity, and its parents as directories.
    ///
    /// # Errors
    /// [`Class::Exists`](super::Class::Exists) when there is a mailbox of that name: it stays as it is.
    fn create(&mut self, name: &MailboxName, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()>;

    /// Creates a directory. Fine if it is there.
    ///
    /// # Errors
    /// When the storage refuses. Layouts without pure directories (Maildir++) make a mailbox of that name.
    fn create_dir(&mut self, name: &MailboxName) -> Result<()>;

    /// Deletes a mailbox with all its mails and writes the removal to the mailbox log with the given time.
    /// Children stay. INBOX of a Maildir cannot be deleted.
    ///
    /// # Errors
    /// [`Class::NotFound`](super::Class::NotFound) if this mailbox is not under this name any more, and what the storage says.
    fn delete(&mut self, name: &MailboxName, guid: MailboxGuid, time: Timestamp) -> Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Not there, or not empty: [`Class::Exists`](super::Class::Exists).
    fn delete_dir(&mut self, name: &MailboxName, time: Timestamp) -> Result<()>;

    /// Renames a mailbox or directory with all its children.
    ///
    /// # Errors
    /// The new name is taken ([`Class::Exists`](super::Class::Exists)), the old one is not there, or cannot be renamed.
    fn rename(&mut self, from: &MailboxName, to: &MailboxName, time: Timestamp) -> Result<()>;

    /// Subscribes or unsubscribes.
    ///
    /// # Errors
    /// What the storage says.
    fn set_subscribed(&mut self, name: &MailboxName, subscribed: bool, time: Timestamp) -> Result<()>;

    /// Frees the space of expunged mails (mdbox). Elsewhere nothing.
    ///
    /// # Errors
    /// What the storage says.
    fn purge(&mut self) -> Result<()>;

    /// The attributes (METADATA, Sieve scripts) of a mailbox, `None` where the store keeps none.
    ///
    /// # Errors
    /// What the dictionary says.
    fn attributes(&mut self, name: &MailboxName, guid: MailboxGuid) -> Result<Option<Vec<Attribute>>> {
        let _ = (name, guid);
        Ok(None)
    }

    /// Sets (or with no value removes) an attribute.
    ///
    /// # Errors
    /// What the dictionary says; [`Class::NotPossible`](super::Class::NotPossible) where there is none.
    fn set_attribute(&mut self, name: &MailboxName, guid: MailboxGuid, attribute: &Attribute) -> Result<()> {
        let _ = (name, guid, attribute);
        Err(Error::new(super::Class::NotPossible, "Mailbox attributes not enabled"))
    }
}

/// A mailbox's numbers (sync.md 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// GUID, UIDVALIDITY and UIDNEXT.
    pub identity: Identity,
    /// How many mails.
    pub messages: u32,
    /// Mails from this UID on are \Recent.
    pub first_recent: Uid,
    /// Highest modseq; 0 where the storage keeps none.
    pub highest_modseq: ModSeq,
    /// Highest modseq of the private index; 0 without one.
    pub highest_private_modseq: ModSeq,
}

/// What a storage can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Its mails have GUIDs.
    pub has_guids: bool,
    /// A mail can be saved with a given GUID.
    pub saves_guids: bool,
    /// Modseqs outlive the session.
    pub keeps_modseqs: bool,
}

/// A mail as the index lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its UID.
    pub uid: Uid,
    /// System flags.
    pub flags: Flags,
    /// Keywords.
    pub keywords: Keywords,
    /// Its modseq; the mailbox's highest one where none is kept for it.
    pub modseq: ModSeq,
}

/// What else is known of a mail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Received (INTERNALDATE).
    pub received: Timestamp,
    /// Saved into this mailbox.
    pub saved: Timestamp,
    /// POP3 UIDL that was stored explicitly.
    pub pop3_uidl: Option<String>,
    /// POP3 order; 0 = none.
    pub pop3_order: u32,
    /// Size with CRLF line ends, where it is recorded.
    pub virtual_size: Option<u64>,
    /// It lies in the alternative storage (`ALT=`).
    pub in_alt: bool,
}

/// From where the transaction log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// As far back as it goes.
    Everything,
    /// Changes behind this modseq, of mails up to this UID.
    State {
        /// The last common modseq.
        modseq: ModSeq,
        /// The last common UID.
        uid: Option<Uid>,
    },
}

/// What the transaction log tells (sync.md 6.1). Records that a sync has written itself are left out, except expunges.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Why the log does not reach back to the wanted modseq, in Dovecot's words; then it holds all there is.
    pub too_old: Option<String>,
    /// Changes by ascending UID, one per UID.
    pub mails: Vec<LogChange>,
    /// Changed attributes.
    pub attributes: Vec<AttributeChange>,
    /// UIDs that mails got here first, as ascending ranges with both ends included: deliveries, copies by users.
    pub native: Vec<(Uid, Uid)>,
    /// UIDs that a sync has brought from elsewhere, likewise.
    pub synced: Vec<(Uid, Uid)>,
    /// Mails that a sync has given another UID: where their old UIDs went.
    pub renumbered: Vec<Renumbered>,
    /// Mails of the view whose flags or keywords a sync has written since a state, ascending. Not collected for [`Since::Everything`].
    pub synced_flags: Vec<Uid>,
}

/// In one step a sync took a mail's UID away and brought mails under others, among them this one if it has the same GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renumbered {
    /// The old UID.
    pub from: Uid,
    /// The lowest of the new UIDs.
    pub first: Uid,
    /// The highest.
    pub last: Uid,
}

/// What the log says of one UID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChange {
    /// Expunged.
    Expunged {
        /// Which UID.
        uid: Uid,
        /// Its GUID, if the log knows it.
        guid: Option<Guid128>,
    },
    /// Flags or keywords changed.
    Flags {
        /// Which UID.
        uid: Uid,
        /// Added flags; none is in `removed` too.
        added: Flags,
        /// Removed flags.
        removed: Flags,
        /// Added keywords.
        keywords_added: Keywords,
        /// Removed keywords.
        keywords_removed: Keywords,
    },
}

impl LogChange {
    /// The UID it speaks of.
    #[must_use]
    pub const fn uid(&self) -> Uid {
        match self {
            Self::Expunged { uid, .. } | Self::Flags { uid, .. } => *uid,
        }
    }
}

/// Name of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttributeKey {
    /// Private to the user; else shared.
    pub private: bool,
    /// The key, without `/private/` or `/shared/` in front.
    pub key: String,
}

/// An attribute of a mailbox (RFC 5464, and what Dovecot keeps in the same way).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its name.
    pub key: AttributeKey,
    /// Its value; none = removed.
    pub value: Option<Vec<u8>>,
    /// When it was last changed; 0 unknown.
    pub changed: Timestamp,
}

/// A change of an attribute in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeChange {
    /// Its name.
    pub key: AttributeKey,
    /// It was removed.
    pub removed: bool,
    /// The modseq of the record.
    pub modseq: ModSeq,
}

/// A mail to be saved.
#[derive(Debug, Clone)]
pub struct NewMail {
    /// The UID it shall have. If that is below UIDNEXT at commit time it gets the next free one.
    pub uid: Uid,
    /// Its GUID. Storages that cannot keep it ignore it.
    pub guid: MailGuid,
    /// System flags.
    pub flags: Flags,
    /// Keywords.
    pub keywords: Keywords,
    /// The least modseq it shall have.
    pub modseq: ModSeq,
    /// Received; 0 is legal.
    pub received: Timestamp,
    /// Saved; 0 = now.
    pub saved: Timestamp,
    /// POP3 UIDL.
    pub pop3_uidl: Option<String>,
    /// POP3 order; 0 = none.
    pub pop3_order: u32,
    /// Its text is to lie in the alternative storage. Storages that have none, or none that is there, keep it with the others.
    pub in_alt: bool,
}

/// What becomes of the mail that [`Mailbox::stage_copy`] copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original {
    /// It stays.
    Keep,
    /// It goes when the copy appears; its expunge is logged with its GUID.
    Expunge,
}

/// What became of the staged mails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Those that are there now.
    pub saved: Vec<Saved>,
    /// UIDs that others were given since the UIDs of the staged mails were chosen: first and last.
    pub others: Option<(Uid, Uid)>,
}

/// What became of a staged mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The UID that was asked for.
    pub wanted: Uid,
    /// The UID that it got.
    pub got: Uid,
}

/// A change to one mail that is there.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Which mail.
    pub uid: Uid,
    /// Only if it has this GUID (where the storage can tell without opening the mail).
    pub expect: Option<Guid128>,
    /// What to do.
    pub kind: EditKind,
}

/// What to do to a mail.
#[derive(Debug, Clone)]
pub enum EditKind {
    /// Changes flags and keywords by difference, so that what others changed meanwhile stays.
    Flags {
        /// Flags to add.
        add: Flags,
        /// Flags to remove.
        remove: Flags,
        /// Keywords to add.
        add_keywords: Keywords,
        /// Keywords to remove.
        remove_keywords: Keywords,
        /// The least modseq it shall have afterwards.
        modseq: ModSeq,
    },
    /// Expunges it, its GUID with it into the log.
    Expunge,
}

/// Counters that are to be at least this high. They are never lowered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floors {
    /// UIDNEXT.
    pub uid_next: Option<Uid>,
    /// First \Recent UID.
    pub first_recent: Option<Uid>,
    /// Highest modseq.
    pub highest_modseq: ModSeq,
}

/// The complete content that a mailbox shall have, whatever it had (backup onto a changed destination).
#[derive(Debug)]
pub struct Rebuild {
    /// Its identity, UIDNEXT included, which may be lower than the present one.
    pub identity: Identity,
    /// First \Recent UID.
    pub first_recent: Uid,
    /// The highest modseq it shall have, at least.
    pub highest_modseq: ModSeq,
    /// Its mails by ascending UID. All others go.
    pub mails: Vec<RebuildMail>,
}

/// A mail of a [`Rebuild`].
#[derive(Debug)]
pub struct RebuildMail {
    /// Everything but the text.
    pub mail: NewMail,
    /// Where its text is.
    pub from: RebuildFrom,
}

/// Where the text of a rebuilt mail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildFrom {
    /// In the mailbox already, under this present UID. One mail may serve several times.
    Present(Uid),
    /// Among the staged mails: this is the n-th call of [`Mailbox::stage`] since the last commit, from 0.
    Staged(usize),
}

/// Why a mail could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The text could not be read to its end: only this mail is concerned.
    #[error("{0}")]
    Body(std::io::Error),
    /// The storage cannot take it: the mailbox is concerned.
    #[error("{0}")]
    Store(#[from] Error),
}

/// One mailbox, opened.
pub trait Mailbox {
    /// Keeps other dsync runs away from this mailbox until it is dropped (`.dovecot-box-sync.lock`, sync.md 10.1).
    ///
    /// # Errors
    /// The lock was not to be had in time; the message names its holder.
    fn lock(&mut self, timeout: std::time::Duration) -> Result<()>;

    /// Brings the index up to date with the storage (deliveries, changed file names, pending requests) and takes a new view.
    ///
    /// # Errors
    /// Damage, locks, I/O.
    fn refresh(&mut self) -> Result<()>;

    /// Takes a new view of what is written down, own changes included. What others have done to the files and not written
    /// down waits for the next [`Mailbox::refresh`].
    ///
    /// # Errors
    /// Damage, locks, I/O.
    fn renew(&mut self) -> Result<()> {
        self.refresh()
    }

    /// So many mails will be staged and committed.
    fn expect(&mut self, mails: usize) {
        let _ = mails;
    }

    /// The run has written here and is done: the storage may leave its index so that the next look at it is cheap.
    fn tidy(&mut self) {}

    /// Counts the views that were taken: as long as it is the same, so is the view. `None` where nobody counts.
    fn view_number(&self) -> Option<u64> {
        None
    }

    /// The numbers of the present view.
    fn status(&self) -> Status;

    /// What the storage can keep.
    fn capabilities(&self) -> Capabilities;

    /// The mails of the present view, ascending.
    fn mails(&self) -> &[Mail];

    /// The same to be asked for one by one, which may cost much less.
    fn list(&self) -> Arc<dyn MailList> {
        Arc::new(self.mails().to_vec())
    }

    /// The GUID of a mail of the view.
    ///
    /// # Errors
    /// [`Class::Expunged`](super::Class::Expunged) when it vanished meanwhile; else the mail is unreadable: only this mail is concerned.
    fn guid(&mut self, uid: Uid) -> Result<MailGuid>;

    /// The 16-byte form of the GUID; cheaper than [`Mailbox::guid`] where the index has it.
    ///
    /// # Errors
    /// As [`Mailbox::guid`].
    fn guid128(&mut self, uid: Uid) -> Result<Guid128> {
        Ok(self.guid(uid)?.to_128())
    }

    /// Dates, POP3 values and size of a mail of the view.
    ///
    /// # Errors
    /// As [`Mailbox::guid`].
    fn facts(&mut self, uid: Uid) -> Result<Facts>;

    /// The text of a mail of the view.
    ///
    /// # Errors
    /// As [`Mailbox::guid`].
    fn body(&mut self, uid: Uid) -> Result<Body>;

    /// Reads the transaction log up to the present view.
    ///
    /// # Errors
    /// Damage, I/O.
    fn changes(&mut self, since: Since) -> Result<Changes>;

    /// Writes a mail's text to a place where nobody sees it yet. No lock is held.
    ///
    /// # Errors
    /// See [`SaveError`]. What was staged before stays staged.
    fn stage(&mut self, mail: NewMail, body: Body) -> std::result::Result<(), SaveError>;

    /// Stages another instance of a mail that is in this mailbox, by reference where the storage can. With
    /// [`Original::Expunge`] the commit takes the original away in the same step as the new instance appears (one log
    /// transaction, one uidlist rewrite), so that no crash shows the mail twice or not at all: this is how a mail changes its UID.
    ///
    /// # Errors
    /// As [`Mailbox::stage`].
    fn stage_copy(&mut self, mail: NewMail, from: Uid, original: Original) -> std::result::Result<(), SaveError>;

    /// Makes all staged mails visible, in UID order, marked as a sync's work in the log. Returns them in staging order, without
    /// those that were to get another UID and have vanished. Does not change the view.
    ///
    /// `seen` is UIDNEXT as it was when the UIDs were chosen. UIDs that others were given since are held back (see
    /// [`Mailbox::hold_back`]) before anything becomes visible.
    ///
    /// # Errors
    /// Nothing became visible, or what did is complete.
    fn commit(&mut self, seen: Uid) -> Result<Committed>;

    /// Changes flags and expunges, marked as a sync's work in the log. Mails that are gone, or are not the expected ones, are left out.
    ///
    /// # Errors
    /// Locks, I/O. Edits that were carried out before the failure stay.
    fn edit(&mut self, edits: &[Edit]) -> Result<()>;

    /// Raises counters. Writes nothing when they are high enough.
    ///
    /// # Errors
    /// Locks, I/O.
    fn raise(&mut self, floors: &Floors) -> Result<()>;

    /// Changes GUID or UIDVALIDITY; UIDs stay.
    ///
    /// # Errors
    /// Locks, I/O.
    fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()>;

    /// Gives the mailbox exactly this content, reusing the texts that are there. Staged mails not named are thrown away. What is
    /// held back stays held back. Whatever stops it, the mailbox is complete in its old or its new state.
    ///
    /// # Errors
    /// Locks, I/O, a mail vanished meanwhile.
    fn rebuild(&mut self, plan: Rebuild) -> Result<()>;

    /// UIDs that mean nothing to the other side, or to this one: the other side's mail was held back (filters, unreadable mails), or
    /// others were given them while a sync wrote above. As ascending ranges with both ends included.
    fn held_back(&self) -> Vec<(Uid, Uid)>;

    /// Remembers these ranges in place of the present ones; they outlive the session. Writes nothing when they are equal.
    ///
    /// # Errors
    /// Locks, I/O. Class `NotPossible` where nothing can be remembered.
    fn hold_back(&mut self, ranges: &[(Uid, Uid)]) -> Result<()>;

    /// A keyword's spelling in this mailbox, if it has it.
    fn keyword(&self, name: &str) -> Option<Keyword> {
        let wanted = Keyword::new(name);
        let mails = self.list();
        (0..mails.len()).find_map(|at| mails.mail(at).keywords.iter().find(|k| **k == wanted).cloned())
    }
}
