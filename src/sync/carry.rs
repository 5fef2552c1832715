//! What one side does to its own mailbox once it is decided, and the mails it gives away: the same whoever is at the other end.

use std::collections::{HashMap, HashSet};

use super::at_hand::AtHand;
use super::facts::BadMail;
use super::merge::{Facts, Item, Merged, Outcome};
use super::message::{KnownMail, MailText, Message};
use super::round::{RoundError, RoundReport};
use super::tree::Side;
use super::{Mode, Options, Placement};
use crate::mail::{
    self, Class, Committed, Edit, EditKind, Identity, Mailbox, MailboxName, NewMail, Original, Rebuild, RebuildFrom, RebuildMail,
    SaveError, Uid, union_of_uids,
};

type Result<T> = std::result::Result<T, RoundError>;

/// One side's hands.
pub(super) struct Carry<'a> {
    pub side: Side,
    pub placement: Placement,
    pub mailbox: &'a mut dyn Mailbox,
    pub name: &'a MailboxName,
    pub report: &'a mut RoundReport,
}

/// The UID that a merged mail has on a side.
pub(super) fn own_uid(side: Side, m: &Merged) -> Option<Uid> {
    if side == Side::Master { m.master } else { m.slave }
}

/// UIDs that the own side does not have although the other side does, for no fault of its users. Without this memory a
/// later two-way run would take these mails for expunged.
pub(super) fn held_back(
    side: Side,
    mode: Mode,
    (own, peer): (&Facts, &Facts),
    outcome: &Outcome,
    import: &Import,
) -> Vec<(Uid, Uid)> {
    let failed = |m: &&Merged| !m.copied || import.unreadable.contains(&m.uid);
    let two_way = mode == Mode::TwoWay;
    // A source keeps its own UID, whatever was meant for the other side.
    let source_uid = |m: &Merged| if two_way { None } else { m.master.or(m.slave) };
    let of_mails = outcome.mails.iter().filter(|m| own_uid(side, m).is_none()).filter(failed);
    let of_mails = of_mails.flat_map(|m| [Some(m.uid), source_uid(m)]).flatten();
    // One way, what the source has and shall not or cannot give is not among the mails of the outcome.
    let of_source = peer.items.iter().filter(|i| !two_way && is_kept_away(own, i)).map(|i| i.uid);
    let mut uids: Vec<Uid> = of_mails.chain(of_source).collect();
    if uids.is_empty() && import.others.is_empty() {
        return Vec::new();
    }
    let comes = |m: &Merged| own_uid(side, m).is_some() || !two_way && !failed(&m);
    let here: HashSet<Uid> = outcome.mails.iter().filter(|m| comes(m)).map(|m| m.uid).collect();
    uids.retain(|u| !here.contains(u));
    union_of_uids(uids.into_iter().map(|uid| (uid, uid)).chain(import.others.iter().copied()))
}

/// What [`held_back`] needs of the other side's facts: the mails make up most of what a large mailbox takes in memory.
pub(super) fn still_needed(mode: Mode, own: &Facts, peer: &Facts) -> Facts {
    let mut out = peer.without_items();
    if mode != Mode::TwoWay {
        out.items = peer.items.iter().filter(|i| is_kept_away(own, i)).cloned().collect();
    }
    out
}

/// One way, a mail that the source shall not or cannot give.
fn is_kept_away(own: &Facts, item: &Item) -> bool {
    item.filtered || item.guid.is_none() || own.never_had(item.uid)
}

/// Remembers these.
pub(super) fn hold_back(mailbox: &mut dyn Mailbox, held: &[(Uid, Uid)], options: &Options) -> mail::Result<()> {
    match mailbox.hold_back(held) {
        // A copy without the source's damaged mails is better than none.
        Err(e) if e.class() == Class::NotPossible && options.mode != Mode::TwoWay && options.filter.is_empty() => Ok(()),
        result => result,
    }
}

impl Carry<'_> {
    pub(super) fn bad(&mut self, uid: Uid, error: mail::Error) {
        if error.class() != Class::Expunged && !self.report.bad.iter().any(|b| b.uid == uid) {
            self.report.bad.push(BadMail { uid, error });
        }
    }

    pub(super) fn mail_text(&mut self, uid: Uid, moved: &HashMap<Uid, Uid>) -> Message {
        let mut result = self.text(uid);
        // Its own side may have given it another UID a moment ago.
        if let (Err(e), Some(&now)) = (&result, moved.get(&uid))
            && e.class() == Class::Expunged
            && self.mailbox.refresh().is_ok()
        {
            result = self.text(now).map(|text| MailText { uid, ..text });
        }
        match result {
            Ok(t) => Message::Mail(Box::new(t)),
            Err(e) => {
                tracing::debug!("Mailbox {}: UID {uid} is not given: {e}", self.name);
                // It has gone with its mailbox, perhaps.
                if e.class() != Class::NotFound {
                    self.bad(uid, e);
                }
                Message::Gone
            }
        }
    }

    /// A mail as it is given away.
    pub(super) fn text(&mut self, uid: Uid) -> mail::Result<MailText> {
        // The text first: whoever has opened a mail knows the rest of it.
        let body = self.mailbox.body(uid)?;
        let facts = self.mailbox.facts(uid)?;
        let guid = self.mailbox.guid(uid)?;
        Ok(MailText { uid, guid, facts, body })
    }

    /// What the other side needs of a mail whose text it has; none if it is better looked for in the usual way.
    pub(super) fn known(&mut self, uid: Uid) -> Option<Message> {
        let facts = self.mailbox.facts(uid).ok()?;
        let guid = self.mailbox.guid(uid).ok()?;
        Some(Message::Known(Box::new(KnownMail { uid, guid, facts })))
    }

    /// Stages a mail whose text is in another mailbox of this side. When it has gone from there, another round brings it.
    pub(super) fn stage_known(&mut self, known: KnownMail, m: &Merged, import: &mut Import, at_hand: &mut AtHand) -> Result<()> {
        let KnownMail { uid, guid, facts } = known;
        let key = guid.to_128();
        if let Some(body) = at_hand.mail(&key).filter(|(here, _)| same_size(here, &facts)).map(|(_, body)| body) {
            self.stage(MailText { uid, guid, facts, body }, m, import)?;
            if !import.unreadable.contains(&m.uid) {
                return Ok(());
            }
        }
        at_hand.forget(&key);
        import.unreadable.insert(m.uid);
        import.surprised = true;
        Ok(())
    }

    pub(super) fn stage(&mut self, text: MailText, m: &Merged, import: &mut Import) -> Result<()> {
        let in_alt = self.placement.in_alt(&text.facts);
        let mail = NewMail { in_alt, ..new_mail(m, text.guid, &text.facts) };
        match self.mailbox.stage(mail.clone(), text.body) {
            Ok(()) => {
                if import.rebuild {
                    import.order.insert(m.uid, import.staged_mails.len());
                    import.staged_mails.push(mail);
                }
                import.staged += 1;
                Ok(())
            }
            Err(SaveError::Body(e)) => {
                let why = format!("the source's text broke off: {e}");
                tracing::error!("Mailbox {}: UID {}: {why}; the mail is left out, the others go on", self.name, text.uid);
                import.unreadable.insert(m.uid);
                Ok(())
            }
            Err(SaveError::Store(e)) => Err(RoundError::Own(e)),
        }
    }

    /// Gives an own mail its new UID. One that is renewed is another mail under it: the old one goes when everything has come.
    pub(super) fn stage_move(&mut self, from: Uid, m: &Merged, import: &mut Import) -> Result<()> {
        self.stage_instance(from, m, import, if m.renewed { Original::Keep } else { Original::Expunge })
    }

    pub(super) fn stage_instance(&mut self, from: Uid, m: &Merged, import: &mut Import, original: Original) -> Result<()> {
        let mail = match (self.mailbox.guid(from), self.mailbox.facts(from)) {
            (Ok(guid), Ok(facts)) => new_mail(m, guid, &facts),
            (Err(e), _) | (_, Err(e)) => {
                self.bad(from, e);
                import.failed(from);
                return Ok(());
            }
        };
        match self.mailbox.stage_copy(mail, from, original) {
            Ok(()) => {
                import.staged += 1;
                if original == Original::Expunge {
                    import.moving.push((from, m.uid));
                }
                Ok(())
            }
            Err(SaveError::Store(e)) if e.class() != Class::Expunged => Err(RoundError::Own(e)),
            Err(e) => {
                tracing::warn!("Mailbox {}: UID {from}: {e}", self.name);
                import.failed(from);
                Ok(())
            }
        }
    }

    pub(super) fn commit(&mut self, import: &mut Import) -> Result<()> {
        if import.staged == 0 {
            return Ok(());
        }
        let Committed { saved, others } = self.mailbox.commit(import.seen)?;
        let uids = |a: Uid, b: Uid| if a == b { a.to_string() } else { format!("{b} for {a}") };
        let saves = || saved.iter().map(|s| uids(s.wanted, s.got)).collect::<Vec<_>>().join(", ");
        let moves = || import.moving.iter().map(|(from, to)| format!("{from} to {to}")).collect::<Vec<_>>().join(", ");
        tracing::debug!("Mailbox {}: saved UIDs {}; renumbered {}", self.name, saves(), moves());
        import.surprised |= saved.len() < import.staged || saved.iter().any(|s| s.wanted != s.got);
        import.seen = saved.iter().map(|s| s.got.next()).fold(import.seen, Uid::max);
        import.others.extend(others);
        let moved = import.moving.len();
        import.moved.extend(import.moving.drain(..));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.report.done.saved += count(import.staged.saturating_sub(moved));
        self.report.done.moved += count(moved);
        import.staged = 0;
        Ok(())
    }

    /// Flags, and mails that have to go.
    pub(super) fn edit(&mut self, own: &Facts, outcome: &Outcome, import: &Import) -> Result<()> {
        let mut stays: Vec<Uid> = Vec::with_capacity(outcome.mails.len());
        stays.extend(&import.stuck);
        let mut edits = Vec::new();
        // Mails are in the order of their UIDs on both sides, but for those that change theirs.
        let mut items = own.items.iter().peekable();
        for m in &outcome.mails {
            let Some(uid) = own_uid(self.side, m) else { continue };
            if !m.renewed || uid == m.uid {
                stays.push(uid);
            }
            if uid != m.uid {
                continue;
            }
            while items.next_if(|i| i.uid < uid).is_some() {}
            let Some(item) = items.peek().copied().filter(|i| i.uid == uid).or_else(|| own.item(uid)) else { continue };
            if item.flags == m.flags && item.keywords == m.keywords {
                continue;
            }
            self.report.done.flags += 1;
            edits.push(Edit {
                uid,
                expect: item.guid,
                kind: EditKind::Flags {
                    add: m.flags.without(item.flags),
                    remove: item.flags.without(m.flags),
                    add_keywords: m.keywords.without(&item.keywords),
                    remove_keywords: item.keywords.without(&m.keywords),
                    modseq: m.modseq,
                },
            });
        }
        // Mostly sorted already.
        stays.sort_unstable();
        let mut stays = stays.into_iter().peekable();
        for item in &own.items {
            while stays.next_if(|&uid| uid < item.uid).is_some() {}
            if stays.peek() != Some(&item.uid) {
                self.report.done.expunged += 1;
                edits.push(Edit { uid: item.uid, expect: item.guid, kind: EditKind::Expunge });
            }
        }
        if edits.is_empty() {
            return Ok(());
        }
        edits.sort_by_key(|e| e.uid);
        let gone = || edits.iter().filter(|e| matches!(e.kind, EditKind::Expunge)).map(|e| e.uid.to_string()).collect::<Vec<_>>();
        tracing::debug!("Mailbox {}: {} changes, expunged UIDs {}", self.name, edits.len(), gone().join(", "));
        Ok(self.mailbox.edit(&edits)?)
    }

    pub(super) fn rebuild(&mut self, own: &Facts, peer: &Facts, outcome: &Outcome, import: &Import) -> Result<()> {
        let mut mails = Vec::with_capacity(outcome.mails.len());
        for m in &outcome.mails {
            let (mail, from) = match (own_uid(self.side, m), import.order.get(&m.uid)) {
                (Some(uid), _) => {
                    let (guid, facts) = match (self.mailbox.guid(uid), self.mailbox.facts(uid)) {
                        (Ok(g), Ok(f)) => (g, f),
                        // It cannot be told what it is, but it stays.
                        (Err(e), _) | (_, Err(e)) => return Err(RoundError::Own(e.at(format!("UID {uid}")))),
                    };
                    (new_mail(m, guid, &facts), RebuildFrom::Present(uid))
                }
                // Its place among the staged mails; the text itself came with all the rest.
                (None, Some(&n)) => match import.staged_mails.get(n) {
                    Some(mail) => (mail.clone(), RebuildFrom::Staged(n)),
                    None => continue,
                },
                (None, None) => continue,
            };
            mails.push(RebuildMail { mail, from });
        }
        let highest = peer.status.highest_modseq.max(own.status.highest_modseq);
        self.mailbox.rebuild(Rebuild {
            identity: Identity { guid: own.status.identity.guid, uidvalidity: outcome.uidvalidity, uid_next: outcome.uid_next },
            first_recent: outcome.first_recent,
            highest_modseq: highest,
            mails,
        })?;
        self.report.done.rebuilt += 1;
        Ok(())
    }
}

/// Nothing says that they are of different sizes.
fn same_size(a: &mail::Facts, b: &mail::Facts) -> bool {
    a.virtual_size.zip(b.virtual_size).is_none_or(|(a, b)| a == b)
}

fn new_mail(m: &Merged, guid: mail::MailGuid, facts: &mail::Facts) -> NewMail {
    NewMail {
        uid: m.uid,
        guid,
        flags: m.flags,
        keywords: m.keywords.clone(),
        modseq: m.modseq,
        received: facts.received,
        saved: facts.saved,
        pop3_uidl: facts.pop3_uidl.clone(),
        pop3_order: facts.pop3_order,
        in_alt: facts.in_alt,
    }
}

pub(super) enum Step<'a> {
    /// The other side sends it.
    Fetch(&'a Merged),
    /// It is here under another UID.
    Move(Uid, &'a Merged),
}

/// Mails on their way in.
pub(super) struct Import {
    /// UIDNEXT, as it was last seen.
    pub seen: Uid,
    /// UIDs that others were given meanwhile: the other side knows nothing of them.
    pub others: Vec<(Uid, Uid)>,
    /// Staged since the last commit.
    pub staged: usize,
    /// The mailbox will be rebuilt: nothing is committed before.
    pub rebuild: bool,
    /// For a rebuild: what was staged, and where each stands by its future UID.
    pub staged_mails: Vec<NewMail>,
    pub order: HashMap<Uid, usize>,
    /// Staged renumberings, and those that are done.
    pub moving: Vec<(Uid, Uid)>,
    pub moved: HashMap<Uid, Uid>,
    /// Future UIDs of mails that the other side could not give.
    pub unreadable: HashSet<Uid>,
    /// Own mails that could not be given another UID, or be copied.
    pub stuck: Vec<Uid>,
    /// How many of the unreadable ones the mailbox has been told to hold back.
    pub held_known: Option<usize>,
    pub surprised: bool,
}

impl Import {
    /// Into a mailbox that was looked at when it had this UIDNEXT.
    pub fn new(seen: Uid) -> Self {
        Self {
            seen,
            others: Vec::new(),
            staged: 0,
            rebuild: false,
            staged_mails: Vec::new(),
            order: HashMap::new(),
            moving: Vec::new(),
            moved: HashMap::new(),
            unreadable: HashSet::new(),
            stuck: Vec::new(),
            held_known: None,
            surprised: false,
        }
    }

    fn failed(&mut self, from: Uid) {
        self.stuck.push(from);
        self.surprised = true;
    }

    /// To be put back.
    pub fn take(&mut self) -> Self {
        let seen = self.seen;
        std::mem::replace(self, Self::new(seen))
    }
}
