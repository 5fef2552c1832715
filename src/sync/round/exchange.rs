//! Mails on their way, out of the own mailbox and into it.

use super::{Decided, Result, Round, RoundError};
use crate::mail::Uid;
use crate::sync::at_hand::AtHand;
use crate::sync::carry::{Import, Step, hold_back};
use crate::sync::flow::{Event, Turn};
use crate::sync::message::{LinkError, Message};

impl Round<'_> {
    /// Sends these mails and takes in what shall come. What has come whole stays, however the exchange ends: the next run goes on
    /// behind it.
    pub(super) fn exchange<'d>(
        &mut self,
        sends: Vec<Uid>,
        steps: impl Iterator<Item = Step<'d>>,
        import: &mut Import,
        decided: &Decided,
        with: (&mut Turn<'_, '_>, &mut AtHand),
    ) -> Result<()> {
        let result = self.send_and_receive(sends, steps, import, decided, with);
        if import.rebuild || matches!(result, Err(RoundError::Own(_))) {
            return result;
        }
        let kept = self.commit(import, decided);
        result.and(kept)
    }

    fn send_and_receive<'d>(
        &mut self,
        sends: Vec<Uid>,
        mut steps: impl Iterator<Item = Step<'d>>,
        import: &mut Import,
        decided: &Decided,
        (turn, at_hand): (&mut Turn<'_, '_>, &mut AtHand),
    ) -> Result<()> {
        // Few flushes, and little to do again after a stop.
        let batch = usize::try_from(self.start.options.commit_interval).unwrap_or(usize::MAX);
        let mut outgoing = sends.into_iter();
        let mut waiting = outgoing.next();
        let mut cut = None;
        let mut step = steps.next();
        loop {
            self.check_stop()?;
            if let Some(uid) = waiting.filter(|_| turn.flow.has_credit()) {
                let known = if decided.there.contains(&uid) { self.carry().known(uid) } else { None };
                let sent = turn.flow.send_mail(known.unwrap_or_else(|| self.carry().mail_text(uid, &import.moved)));
                match sent {
                    Ok(()) => waiting = outgoing.next(),
                    // Nobody listens any more. What has been said before may be here already.
                    Err(e) => {
                        waiting = None;
                        cut = Some(e);
                    }
                }
                continue;
            }
            match step {
                None if waiting.is_none() => break,
                Some(Step::Move(from, m)) => {
                    self.carry().stage_move(from, m, import)?;
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
                        Message::Mail(text) => self.carry().stage(*text, m, import)?,
                        Message::Known(known) => self.carry().stage_known(*known, m, import, at_hand)?,
                        // That it was expunged is not known before a log says so: its file may have got another name when it
                        // was looked for.
                        Message::Gone => {
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
            if import.staged >= batch && !import.rebuild {
                self.commit(import, decided)?;
            }
        }
        cut.map_or(Ok(()), |e| Err(e.into()))
    }

    fn commit(&mut self, import: &mut Import, decided: &Decided) -> Result<()> {
        // The mails to come raise UIDNEXT: if the run stops behind them, what was held back below is not taken for expunged.
        let known = import.unreadable.len();
        if import.staged > 0 && import.held_known != Some(known) {
            let held = self.held_back(decided, import);
            hold_back(&mut *self.mailbox, &held, self.start.options)?;
            import.held_known = Some(known);
        }
        self.carry().commit(import)
    }
}
