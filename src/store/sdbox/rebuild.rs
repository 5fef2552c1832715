//! Rebuild.
use super::mailbox::SdboxMailbox;
use crate::mail::{Class, Error, Rebuild, Result};
use crate::store::Settings;
use crate::store::format::Place;

pub(super) fn clean_up(_place: &Place, _settings: &Settings) {}

pub(super) fn rebuild(_m: &mut SdboxMailbox, _plan: Rebuild) -> Result<()> {
    Err(Error::new(Class::NotPossible, "not yet"))
}
