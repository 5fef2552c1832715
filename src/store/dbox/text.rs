//! From a message of a dbox file to its text (dbox.md 4).

use super::external::{Attachments, External, ExternalError, Owner};
use super::{Damage, DboxFile, Error, Message};
use crate::mail::Body;
use crate::store::Settings;
use crate::store::decode::{self, Decoded, Plugins, Sized, Stored};

/// What the configuration says about stored bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRules {
    plugins: Plugins,
    attachments: Result<Attachments, ExternalError>,
}

impl TextRules {
    /// As the settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self { plugins: Plugins::of(settings), attachments: Attachments::of(settings) }
    }

    /// Which plugins there are.
    #[must_use]
    pub const fn plugins(&self) -> Plugins {
        self.plugins
    }

    /// The text of a message. `owner` is needed in sdbox, where it is part of the attachments' file names.
    ///
    /// # Errors
    /// What cannot be decoded, and why. What is wrong further behind shows when the text is read: it always ends with an error
    /// unless it has the recorded size.
    pub fn text(&self, file: &DboxFile, message: &Message, owner: Option<Owner>) -> Result<Body, Error> {
        let range = file.stored_body(message);
        let plain_size = message.plain_size();
        let virtual_size = message.metadata.virtual_size();
        let failed = |source: TextError| Error::Text { path: file.path().to_owned(), offset: message.offset, source };

        let parts = message.metadata.external().map(|x| External::parse(x, plain_size)).transpose();
        let parts = parts.map_err(|e| failed(e.into()))?;
        // With attachments outside, no size of what is stored is recorded.
        let recorded = parts.is_none().then_some(plain_size);
        let whole = file.piece(&range);
        let stored = Stored { range: &range, whole: whole.as_ref() };
        let decoded = decode::decode(stored, recorded, self.plugins, true).map_err(|e| failed(e.into()))?;
        let stored = match (decoded, parts) {
            (Decoded::Plain, None) if range.len != plain_size => {
                return Err(file.damaged(message.offset, Damage::Length { want: plain_size, got: range.len }));
            }
            (Decoded::Plain, None) => {
                return Ok(whole.map_or_else(|| Body::from_range(range, virtual_size), |p| Body::from_piece(p, virtual_size)));
            }
            (Decoded::Text(reader), None) => reader,
            (decoded, Some(parts)) => {
                let attachments = self.attachments.as_ref().map_err(|e| failed(e.clone().into()))?;
                let stored = match decoded {
                    Decoded::Plain => Body::from_range(range, None).reader,
                    Decoded::Text(reader) => reader,
                };
                Box::new(Sized::new(attachments.insert(&parts, owner, stored), plain_size))
            }
        };
        Ok(Body::from_reader(stored, Some(plain_size), virtual_size))
    }

    /// The external attachments of a message and where they are; `None` without any.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn attachments(&self, file: &DboxFile, message: &Message) -> Result<Option<(Attachments, External)>, Error> {
        let Some(value) = message.metadata.external() else { return Ok(None) };
        let failed = |e: ExternalError| Error::Text { path: file.path().to_owned(), offset: message.offset, source: e.into() };
        let parts = External::parse(value, message.plain_size()).map_err(failed)?;
        let attachments = self.attachments.clone().map_err(failed)?;
        Ok(Some((attachments, parts)))
    }
}

/// Why a message has no readable text though the file is good.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// Compression, encryption.
    #[error(transparent)]
    Decode(#[from] decode::Error),
    /// External attachments.
    #[error(transparent)]
    External(#[from] ExternalError),
}
