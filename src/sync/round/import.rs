//! Mails on their way, out of the own mailbox and into it.

use std::collections::{HashMap, HashSet};

use super::{Result, Round, RoundError};
use crate::mail::{self, Class, Mailbox, NewMail, Original, SaveError, Uid};
use crate::sync::flow::{Event, Turn};
use crate::sync::merge::Merged;
use crate::sync::message::{Gone, LinkError, MailText, Message};

/// Mails that are committed together: few flushes, and little to do again after a stop.
const BATCH: usize = 1000;

impl Round<'_> {
    /// Sends these mails and takes in what shall come.
    pub(super) fn exchange(&mut self, sends: &[Uid], import: &mut Import<'_>, turn: &mut Turn<'_, '_>) -> Result<()> {
        let mut outgoing = sends.iter();
        let mut waiting = outgoing.next();
        let mut steps = std::mem::take(&mut import.steps).into_iter();
        let mut step = steps.next();
        loop {
            self.check_stop()?;
            if let Some(uid) = waiting.filter(|_| turn.flow.has_credit()) {
                turn.flow.send_mail(self.mail_text(*uid, &import.moved))?;
                waiting = outgoing.next();
                continue;
            }
            match step {
                None if waiting.is_none() => break,
                Some(Step::Move(from, m)) => {
                    self.stage_move(from, m, import)?;
                    step = steps.next();
                    continue;
                }
                Some(Step::Fetch(_)) | None => {}
            }
            match (turn.recv()?, &step) {
                (Event::Credit, _) => {}
                (Event::GivenUp(failure), _) => return Err(RoundError::Peer(failure)),
                (Event::Mail(message), Some(Step::Fetch(m))) => {
                    match message {
                        Message::Mail(text) => self.stage(*text, m, import)?,
                        Message::Gone(Gone::Unreadable) => {
                            import.unreadable.insert(m.uid);
                        }
                        _ => {}
                    }
                    step = steps.next();
                }
                (Event::Mail(message), _) => {
                    return Err(LinkError::Unexpected { got: message.kind(), wanted: "credit" }.into());
                }
            }
            if import.staged >= BATCH && !import.rebuild {
                self.commit(import)?;
            }
        }
        if !import.rebuild {
            self.commit(import)?;
        }
        Ok(())
    }

    fn mail_text(&mut self, uid: Uid, moved: &HashMap<Uid, Uid>) -> Message {
        let text = |mailbox: &mut dyn Mailbox, at: Uid| -> mail::Result<MailText> {
            // The text first: whoever has opened a mail knows the rest of it.
            let body = mailbox.body(at)?;
            let facts = mailbox.facts(at)?;
            let guid = mailbox.guid(at)?;
            Ok(MailText { uid, guid, facts, body })
        };
        let mut result = text(&mut *self.mailbox, uid);
        // Its own side may have given it another UID a moment ago.
        if let (Err(e), Some(&now)) = (&result, moved.get(&uid))
            && e.class() == Class::Expunged
            && self.mailbox.refresh().is_ok()
        {
            result = text(&mut *self.mailbox, now);
        }
        match result {
            Ok(t) => Message::Mail(Box::new(t)),
            Err(e) if e.class() == Class::Expunged => Message::Gone(Gone::Expunged),
            Err(e) => {
                self.bad(uid, e);
                Message::Gone(Gone::Unreadable)
            }
        }
    }

    fn stage(&mut self, text: MailText, m: &Merged, import: &mut Import<'_>) -> Result<()> {
        let mail = super::new_mail(m, text.guid, &text.facts);
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

    fn stage_move(&mut self, from: Uid, m: &Merged, import: &mut Import<'_>) -> Result<()> {
        let mail = match (self.mailbox.guid(from), self.mailbox.facts(from)) {
            (Ok(guid), Ok(facts)) => super::new_mail(m, guid, &facts),
            (Err(e), _) | (_, Err(e)) => {
                self.bad(from, e);
                import.surprised = true;
                return Ok(());
            }
        };
        match self.mailbox.stage_copy(mail, from, Original::Expunge) {
            Ok(()) => {
                import.staged += 1;
                import.moving.push((from, m.uid));
                Ok(())
            }
            Err(SaveError::Store(e)) if e.class() != Class::Expunged => Err(RoundError::Own(e)),
            Err(e) => {
                tracing::warn!("Mailbox {}: UID {from}: {e}", self.name);
                import.surprised = true;
                Ok(())
            }
        }
    }

    fn commit(&mut self, import: &mut Import<'_>) -> Result<()> {
        if import.staged == 0 {
            return Ok(());
        }
        let saved = self.mailbox.commit()?;
        import.surprised |= saved.len() < import.staged || saved.iter().any(|s| s.wanted != s.got);
        let moved = import.moving.len();
        import.moved.extend(import.moving.drain(..));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.report.done.saved += count(import.staged.saturating_sub(moved));
        self.report.done.moved += count(moved);
        import.staged = 0;
        Ok(())
    }
}
enum Step<'a> {
    /// The other side sends it.
    Fetch(&'a Merged),
    /// It is here under another UID.
    Move(Uid, &'a Merged),
}

/// Mails on their way in.
#[derive(Default)]
pub(super) struct Import<'a> {
    steps: Vec<Step<'a>>,
    /// Staged since the last commit.
    staged: usize,
    /// The mailbox will be rebuilt: nothing is committed before.
    rebuild: bool,
    /// For a rebuild: what was staged, and where each stands by its future UID.
    pub staged_mails: Vec<NewMail>,
    pub order: HashMap<Uid, usize>,
    /// Staged renumberings, and those that are done.
    moving: Vec<(Uid, Uid)>,
    moved: HashMap<Uid, Uid>,
    /// Future UIDs of mails that the other side could not give.
    pub unreadable: HashSet<Uid>,
    /// Something did not come out as decided.
    pub surprised: bool,
}

impl<'a> Import<'a> {
    pub fn new(rebuild: bool) -> Self {
        Self { rebuild, ..Self::default() }
    }

    /// The other side will send this mail.
    pub fn fetch(&mut self, mail: &'a Merged) {
        self.steps.push(Step::Fetch(mail));
    }

    /// The own mail gets another UID.
    pub fn move_from(&mut self, uid: Uid, mail: &'a Merged) {
        self.steps.push(Step::Move(uid, mail));
    }
}
