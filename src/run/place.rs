//! The own side of a run over a stream.

use std::time::Duration;

use super::{check, lock};
use crate::mail::{self, Class, Store};
use crate::store::local::OpenFor;
use crate::store::{self, Account};
use crate::sync::Options;
use crate::sync::dovecot::Place;
use crate::sync::tree::Side;

/// A user's mail, opened only when the other side has said what it wants.
pub(super) struct Own<'a> {
    pub(super) account: &'a Account,
    pub(super) side: Side,
    /// Nothing is changed here, whatever the other side wants.
    pub(super) read_only: bool,
}

impl Place for Own<'_> {
    fn open(&mut self, options: &mut Options) -> mail::Result<Box<dyn Store>> {
        if self.read_only {
            if !options.mode.is_source(self.side) {
                let text = "This server is read-only: it can only be the source of a backup -R or a sync -1R";
                return Err(mail::Error::new(Class::Permission, text));
            }
            options.purge = false;
        }
        let selected = check::namespaces(&options.namespaces, self.account);
        options.namespaces = selected.map_err(|e| mail::Error::new(e.class(), e))?;
        if self.side == Side::Slave {
            check::tell_namespaces(&options.namespaces, self.account);
        }
        // Only what will be filled may be missing: a source that is not there is a mistake, never an empty one.
        let open_for = if options.mode.is_source(self.side) { OpenFor::Source } else { OpenFor::Destination };
        Ok(Box::new(store::open(self.account, open_for)?))
    }

    fn lock_user(&mut self, timeout: Duration) -> mail::Result<Box<dyn Send>> {
        Ok(Box::new(lock::user(&self.account.owner, timeout)?))
    }
}
