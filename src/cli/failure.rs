//! What ends the program early: a message and an exit code.

use std::fmt;

use super::{exit, log};

/// The end, with a message.
#[derive(Debug)]
pub(super) struct Failure {
    kind: Kind,
    text: String,
    code: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The text is the whole line (getopt, doveconf, usage).
    Plain,
    Error,
    Fatal,
    /// It has been said already.
    Said,
}

impl Failure {
    /// A line without prefix and type.
    pub(super) const fn plain(text: String, code: u8) -> Self {
        Self { kind: Kind::Plain, text, code }
    }

    /// An error.
    pub(super) const fn error(text: String, code: u8) -> Self {
        Self { kind: Kind::Error, text, code }
    }

    /// What Dovecot calls fatal always ends with the same code.
    pub(super) const fn fatal(text: String) -> Self {
        Self { kind: Kind::Fatal, text, code: exit::TEMPORARY }
    }

    /// Fatal, but a mistake of the one who typed.
    pub(super) const fn usage(text: String) -> Self {
        Self { kind: Kind::Fatal, text, code: exit::USAGE }
    }

    /// Without a word.
    pub(super) const fn silent(code: u8) -> Self {
        Self { kind: Kind::Said, text: String::new(), code }
    }

    /// The exit code.
    pub(super) const fn code(&self) -> u8 {
        self.code
    }

    /// Says it, with the prefix of the span that we are in. What is left is only the code.
    pub(super) fn say(self) -> Self {
        let logging = tracing::dispatcher::has_been_set();
        match self.kind {
            Kind::Said => {}
            Kind::Error if logging => tracing::error!("{}", self.text),
            Kind::Fatal if logging => tracing::error!(fatal = true, "{}", self.text),
            Kind::Plain | Kind::Error | Kind::Fatal => log::line(&self.to_string()),
        }
        Self { kind: Kind::Said, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Plain | Kind::Said => "",
            Kind::Error => "Error: ",
            Kind::Fatal => "Fatal: ",
        })?;
        f.write_str(&self.text)
    }
}
