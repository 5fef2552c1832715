//! The mails of an index at one moment, for those who look at them while it changes.

use std::sync::OnceLock;

use crate::index::state::State;
use crate::mail::{Mail, MailList, Uid};

/// The mails that a state shows. It shares the state's rows: nothing is made for all mails unless somebody wants them all.
#[derive(Debug)]
pub struct Mails {
    state: State,
    all: OnceLock<Vec<Mail>>,
}

impl Mails {
    /// Those of a state as it is now.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self { state: state.clone(), all: OnceLock::new() }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }
}

impl MailList for Mails {
    fn len(&self) -> usize {
        self.state.len()
    }

    fn uid(&self, at: usize) -> Uid {
        self.state.uid(at)
    }

    fn mail(&self, at: usize) -> Mail {
        self.state.mail(at)
    }

    fn all(&self) -> &[Mail] {
        self.all.get_or_init(|| self.state.mails())
    }

    fn position(&self, uid: Uid) -> Option<usize> {
        self.state.row(uid)
    }
}
