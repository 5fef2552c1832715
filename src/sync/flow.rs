//! The way to the other brain as the rounds use it: mails flow only as far as the receiver has room for them.

use super::message::{Failure, Link, LinkError, Message, RoundEnd};

/// A link with the account of mails on their way, over the whole run.
pub struct Flow<'a> {
    link: &'a mut dyn Link,
    /// Mails that may still be sent.
    credit: u32,
    /// Mails received since credit was given last.
    received: u32,
    /// Half of what may be on its way.
    portion: u32,
}

impl<'a> Flow<'a> {
    /// Nothing is on its way yet.
    pub fn new(link: &'a mut dyn Link) -> Self {
        let window = link.window().max(2);
        Self { link, credit: window, received: 0, portion: window / 2 }
    }

    /// See [`Link::is_near`].
    pub fn is_near(&self) -> bool {
        self.link.is_near()
    }

    /// Says something that is no mail.
    pub fn send(&mut self, message: Message) -> Result<(), LinkError> {
        self.link.send(message)
    }

    /// See [`Link::forget`].
    pub fn forget(&mut self) {
        self.link.forget();
    }

    /// Waits for something that is no credit.
    pub fn recv(&mut self) -> Result<Message, LinkError> {
        loop {
            if let Some(message) = self.recv_or_credit()? {
                return Ok(message);
            }
        }
    }

    /// Waits for something; `None`: there is more credit now.
    pub fn recv_or_credit(&mut self) -> Result<Option<Message>, LinkError> {
        let message = self.link.recv()?;
        match message {
            Message::Credit(n) => {
                self.credit = self.credit.saturating_add(n);
                return Ok(None);
            }
            Message::Mail(_) | Message::Known(_) | Message::Gone => {
                self.received += 1;
                if self.received == self.portion {
                    self.received = 0;
                    self.link.send(Message::Credit(self.portion))?;
                }
            }
            _ => {}
        }
        Ok(Some(message))
    }

    /// The receiver has room for a mail.
    pub const fn has_credit(&self) -> bool {
        self.credit > 0
    }

    /// Sends a mail, or the news that there is none.
    pub fn send_mail(&mut self, message: Message) -> Result<(), LinkError> {
        self.credit = self.credit.saturating_sub(1);
        self.link.send(message)
    }
}

/// The mails of one of several mailboxes that travel together. Each side ends each mailbox with one `Done`, in the same order,
/// but not at the same time.
pub struct Turn<'f, 'a> {
    /// The link.
    pub flow: &'f mut Flow<'a>,
    /// Which mailbox it is.
    pub at: usize,
    /// How the other side has ended mailboxes so far.
    pub dones: &'f mut Vec<Result<RoundEnd, Failure>>,
}

/// What came in.
#[derive(Debug)]
pub enum Event {
    /// A mail, or the news that there is none.
    Mail(Message),
    /// There is more credit.
    Credit,
    /// The other side has given the mailbox up.
    GivenUp(Failure),
}

impl Turn<'_, '_> {
    /// Waits for something that concerns this mailbox.
    ///
    /// # Errors
    /// The other side is gone, or makes no sense.
    pub fn recv(&mut self) -> Result<Event, LinkError> {
        loop {
            let Some(message) = self.flow.recv_or_credit()? else { return Ok(Event::Credit) };
            let kind = message.kind();
            let ended = self.dones.len();
            match message {
                Message::Done(done) => {
                    let failure = done.as_ref().err().cloned();
                    self.dones.push(done);
                    match failure {
                        Some(failure) if ended == self.at => return Ok(Event::GivenUp(failure)),
                        None if ended == self.at => return Err(LinkError::Unexpected { got: kind, wanted: "a mail" }),
                        _ => {}
                    }
                }
                Message::Mail(_) | Message::Known(_) | Message::Gone if ended == self.at => return Ok(Event::Mail(message)),
                // The rest of a mailbox that this side gave up.
                Message::Mail(_) | Message::Known(_) | Message::Gone => {}
                _ => return Err(LinkError::Unexpected { got: kind, wanted: "a mail" }),
            }
        }
    }

    /// Waits until the other side has ended as many mailboxes as `self.at` says.
    ///
    /// # Errors
    /// The other side is gone, or makes no sense.
    pub fn wait(&mut self) -> Result<(), LinkError> {
        while self.dones.len() < self.at {
            match self.flow.recv()? {
                Message::Done(done) => self.dones.push(done),
                Message::Mail(_) | Message::Known(_) | Message::Gone => {}
                other => return Err(LinkError::Unexpected { got: other.kind(), wanted: "the end of a mailbox" }),
            }
        }
        Ok(())
    }
}
