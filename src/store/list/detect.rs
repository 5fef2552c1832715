//! Finding out the driver of a location that does not name one (mailbox-list.md 1.1). Only looks.

use std::path::{Path, PathBuf};

use super::location::{Driver, Location};
use super::location_error::LocationError;
use crate::store::Owner;

/// What was found without a given root.
pub(super) struct Found {
    driver: Driver,
    root: PathBuf,
}

impl Found {
    pub(super) fn into_location(self, owner: &Owner) -> Location {
        let mut location = Location::plain(self.driver, self.root);
        if self.driver == Driver::Mbox {
            location.inbox = ["/var/mail", "/var/spool/mail"].iter().map(|d| Path::new(d).join(&owner.name)).find(|p| p.exists());
        }
        location
    }
}

/// The driver of what lies at a root.
pub(super) fn with_root(root: &Path) -> Result<Option<Driver>, LocationError> {
    if let Some(dbox) = which_dbox(root)? {
        return Ok(Some(dbox));
    }
    Ok(if root.join("cur").is_dir() {
        Some(Driver::Maildir)
    } else if is_mbox_root(root) {
        Some(Driver::Mbox)
    } else {
        None
    })
}

/// Dovecot takes every mdbox for an sdbox here. We look for the map that only an mdbox has, and do not guess where there is a
/// `storage` directory without it.
pub(super) fn which_dbox(root: &Path) -> Result<Option<Driver>, LocationError> {
    let storage = root.join("storage");
    let map = ["dovecot.map.index", "dovecot.map.index.log"].iter().any(|n| storage.join(n).exists());
    Ok(match (root.join("mailboxes").is_dir(), storage.is_dir()) {
        (_, true) if map => Some(Driver::Mdbox),
        (true, true) => return Err(LocationError::AmbiguousDbox(root.to_owned())),
        (true, false) => Some(Driver::Sdbox),
        (false, true) => Some(Driver::Mdbox),
        (false, false) => None,
    })
}

/// The usual places in the home directory, in Dovecot's order.
pub(super) fn without_root(owner: &Owner) -> Result<Found, LocationError> {
    let nothing = || LocationError::NothingFound(home_text(owner));
    let home = owner.home.as_ref().ok_or_else(nothing)?;
    let places =
        [(Driver::Sdbox, "sdbox", "mailboxes"), (Driver::Mdbox, "mdbox", "storage"), (Driver::Maildir, "Maildir", "cur")];
    for (driver, dir, inside) in places {
        let root = home.join(dir);
        if root.join(inside).is_dir() {
            return Ok(Found { driver, root });
        }
    }
    for dir in ["mail", "Mail"] {
        let root = home.join(dir);
        if is_mbox_root(&root) {
            return Ok(Found { driver: Driver::Mbox, root });
        }
    }
    Err(nothing())
}

pub(super) fn home_text(owner: &Owner) -> String {
    owner.home.as_ref().map(|h| h.display().to_string()).unwrap_or_default()
}

fn is_mbox_root(root: &Path) -> bool {
    root.join(".imap").is_dir() || ["inbox", "mbox"].iter().any(|f| root.join(f).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the live 2.3.19.1 does it: an empty directory of the right name is none of a user's mail.
    #[test]
    fn a_place_counts_by_what_is_in_it() {
        let home = tempfile::tempdir().expect("a directory");
        let owner = Owner { home: Some(home.path().to_owned()), ..Owner::default() };
        let found = || without_root(&owner).map(|f| f.driver).ok();
        let steps = [
            ("Maildir", None),
            ("mdbox", None),
            ("sdbox", None),
            ("mail/.imap", Some(Driver::Mbox)),
            ("Maildir/cur", Some(Driver::Maildir)),
            ("mdbox/storage", Some(Driver::Mdbox)),
            ("sdbox/mailboxes", Some(Driver::Sdbox)),
        ];
        for (dir, driver) in steps {
            std::fs::create_dir_all(home.path().join(dir)).expect("made");
            assert_eq!(found(), driver, "{dir}");
        }
    }
}
