//! Mails on their way, out of the own mailbox and into it.

use super::{Decided, Result, Round, RoundError};
use crate::mail::Uid;
use crate::sync::carry::{Import, Step, hold_back};
use crate::sync::flow::{Event, Turn};
use crate::sync::message::{Gone, LinkError, Message};

impl Round<'_> {
    /// Sends these mails and takes in what shall come.
    pub(super) fn exchange<'d>(
        &mut self,
        sends: Vec<Uid>,
        mut steps: impl Iterator<Item = Step<'d>>,
        import: &mut Import,
        decided: &Decided,
        turn: &mut Turn<'_, '_>,
    ) -> Result<()> {
        // Few flushes, and little to do again after a stop.
        let batch = usize::try_from(self.start.options.commit_interval).unwrap_or(usize::MAX);
        let mut outgoing = sends.into_iter();
        let mut waiting = outgoing.next();
        let mut step = steps.next();
        loop {
            self.check_stop()?;
            if let Some(uid) = waiting.filter(|_| turn.flow.has_credit()) {
                turn.flow.send_mail(self.carry().mail_text(uid, &import.moved))?;
                waiting = outgoing.next();
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
            if import.staged >= batch && !import.rebuild {
                self.commit(import, decided)?;
            }
        }
        if !import.rebuild {
            self.commit(import, decided)?;
        }
        Ok(())
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
