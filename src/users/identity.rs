//! Which user and group of the system the mail belongs to (cli-config.md 8.3).

use nix::unistd::{Group, User, geteuid};
use thiserror::Error;

use crate::config::Config;

/// What to become; `None` where nothing says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub uid: Option<u32>,
    /// The primary group.
    pub gid: Option<u32>,
}

/// Why somebody cannot be. The texts are Dovecot's.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// No such user.
    #[error("Unknown UNIX UID user: {0} (from mail_uid setting)")]
    UnknownUser(String),
    /// No such group.
    #[error("Unknown UNIX GID group: {0} (from mail_gid setting)")]
    UnknownGroup(String),
    /// We are root, and nothing says whom to become.
    #[error("Couldn't drop privileges: User is missing {kind} (see mail_{setting} setting)", setting = kind.to_lowercase())]
    Missing {
        /// `UID` or `GID`.
        kind: &'static str,
    },
    /// Below or above what is allowed.
    #[error("Mail access for users with {kind} {id} not permitted (see first_valid_{setting} in config file, {setting} from {origin}).", setting = kind.to_lowercase())]
    NotPermitted {
        /// `UID` or `GID`.
        kind: &'static str,
        /// The number.
        id: u32,
        /// Where it comes from.
        origin: &'static str,
    },
    /// Root is nobody's mail user.
    #[error("Mail access not allowed for root")]
    Root,
}

impl IdentityError {
    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// One of the two numbers with the setting it comes from.
type Origin = Option<(u32, &'static str)>;

impl Ids {
    /// What the settings say, or else the system's user; checked against what is allowed.
    pub(super) fn of(config: &Config, system: Option<&User>) -> Result<Self, IdentityError> {
        let unknown_user = |name: &str| IdentityError::UnknownUser(name.into());
        let uid = number(config, "mail_uid", |name| {
            User::from_name(name).ok().flatten().map(|u| u.uid.as_raw()).ok_or_else(|| unknown_user(name))
        })?;
        let gid = number(config, "mail_gid", |name| {
            let group = Group::from_name(name).ok().flatten();
            group.map(|g| g.gid.as_raw()).ok_or_else(|| IdentityError::UnknownGroup(name.into()))
        })?;
        let uid = uid.map(|id| (id, "mail_uid setting")).or(system.map(|s| (s.uid.as_raw(), "passwd database")));
        let gid = gid.map(|id| (id, "mail_gid setting")).or(system.map(|s| (s.gid.as_raw(), "passwd database")));

        let root = geteuid().is_root();
        if root && uid.is_none() {
            return Err(IdentityError::Missing { kind: "UID" });
        }
        if root && gid.is_none() && config.uint("first_valid_gid") > 0 {
            return Err(IdentityError::Missing { kind: "GID" });
        }
        permitted(config, "UID", uid)?;
        permitted(config, "GID", gid)?;
        if uid.is_some_and(|(id, _)| id == 0) {
            return Err(IdentityError::Root);
        }
        Ok(Self { uid: uid.map(|(id, _)| id), gid: gid.map(|(id, _)| id) })
    }
}

fn number(
    config: &Config,
    setting: &str,
    by_name: impl Fn(&str) -> Result<u32, IdentityError>,
) -> Result<Option<u32>, IdentityError> {
    match config.text(setting) {
        "" => Ok(None),
        text => text.parse().or_else(|_| by_name(text)).map(Some),
    }
}

fn permitted(config: &Config, kind: &'static str, id: Origin) -> Result<(), IdentityError> {
    let Some((id, origin)) = id else { return Ok(()) };
    let bound = |which: &str| config.uint(&format!("{which}_valid_{}", kind.to_lowercase()));
    let last = bound("last");
    if id < bound("first") || last != 0 && id > last {
        return Err(IdentityError::NotPermitted { kind, id, origin });
    }
    Ok(())
}
