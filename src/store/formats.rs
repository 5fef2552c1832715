//! Which format a location has.

use std::path::PathBuf;
use std::sync::Arc;

use super::Account;
use super::format::Format;
use super::list::{Driver, Location, uidvalidity};
use super::local::{LocalStore, OpenFor};
use super::maildir::Maildir;
use super::mdbox::{self, Mdbox};
use super::sdbox::Sdbox;
use crate::mail::{Class, Error, Result};

/// Opens a user's mail at one place. See [`LocalStore::open`].
///
/// # Errors
/// The location or a namespace makes no sense, or the storage is not one of those that dsync has.
pub fn open(account: &Account, open_for: OpenFor) -> Result<LocalStore> {
    LocalStore::open(account, open_for, &make)
}

/// The index is where a dbox keeps its state.
fn index_root(location: &Location) -> Result<PathBuf> {
    let missing = || format!("{} cannot work without index files (INDEX=MEMORY)", location.driver.name());
    location.index_root().ok_or_else(|| Error::new(Class::NotPossible, missing()))
}

fn mdbox_location(location: &Location) -> Result<mdbox::Location> {
    let index_root = index_root(location)?;
    Ok(mdbox::Location { root: location.root.clone(), index_root, alt: location.alt.clone() })
}

fn make(location: &Location, account: &Account) -> Result<Box<dyn Format>> {
    let settings = account.settings.clone();
    match location.driver {
        Driver::Maildir => {
            let next = Arc::new(|root: &std::path::Path, modes: &crate::os::fs::Modes| Ok(uidvalidity::next(root, modes)?));
            Ok(Box::new(Maildir::new(settings, location.layout.is_flat(), next)))
        }
        Driver::Sdbox => {
            index_root(location)?;
            Ok(Box::new(Sdbox::new(settings)))
        }
        Driver::Mdbox => Ok(Box::new(Mdbox::new(mdbox_location(location)?, settings))),
        other => Err(Error::new(Class::NotPossible, format!("Mail storage driver {} is not supported", other.name()))),
    }
}
