//! Who: the user of a run, their home and identity, and becoming them (cli-config.md 4, 8, 12).
//!
//! Knows three ways so far: the current user, a user that the settings alone describe, and, where there is no
//! configuration, a user of the system. Asking Dovecot's auth process or a userdb is not built yet; a configuration that
//! needs it is refused. Knows nothing about storages.

mod identity;
mod privileges;

use std::path::PathBuf;

use nix::unistd::User as SystemUser;
use thiserror::Error;

pub use identity::Ids;

use crate::config::{Config, VarError, Vars};
use crate::mail::Class;
use crate::store::Owner;

/// Whose mail is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The one who started the program: `USER` and `HOME` without any lookup.
    Current {
        /// `USER`.
        name: String,
        /// `HOME`.
        home: Option<PathBuf>,
    },
    /// `-u NAME`.
    Named(String),
}

/// A user that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name and the home.
    pub owner: Owner,
    /// What to become; `None` where nothing says so.
    pub ids: Ids,
    /// What the %-variables stand for.
    pub vars: Vars,
}

/// Why there is no user. The texts are Dovecot's where it has one.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such user.
    #[error("User doesn't exist")]
    NotFound,
    /// The user has to be looked up, and that is not built yet.
    #[error(
        "User lookup failed: the configuration has a userdb, and asking it (or Dovecot's auth process) is not supported yet; without -u the mail of USER in HOME is used"
    )]
    LookupNeeded,
    /// The home is not absolute.
    #[error("Relative home directory paths not supported: {0}")]
    RelativeHome(String),
    /// A wrong %-variable.
    #[error("Failed to expand settings: {setting}: {source}")]
    Expand {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        source: VarError,
    },
    /// Changing the root directory is not built yet.
    #[error("Couldn't drop privileges: mail_chroot is not supported")]
    Chroot,
    /// The user and group cannot be.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// The system refuses to make us the user.
    #[error(transparent)]
    Privileges(#[from] privileges::PrivilegesError),
}

impl Error {
    /// The class. [`Error::NotFound`] has an exit code of its own.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::NotFound => Class::NotFound,
            _ => Class::Temporary,
        }
    }

    /// Root must become somebody, and nothing says whom.
    #[must_use]
    pub const fn is_missing_ids(&self) -> bool {
        matches!(self, Self::Identity(e) if e.is_missing())
    }
}

impl User {
    /// Finds a user. Reads the passwd database at most.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn find(who: &Who, config: &Config) -> Result<Self, Error> {
        let set = |name| Some(config.text(name)).filter(|text| !text.is_empty());
        if set("mail_chroot").is_some() {
            return Err(Error::Chroot);
        }
        let mut system = None;
        let (name, home) = match who {
            Who::Current { name, home } if home.is_some() && !config.is_overridden("mail_home") => (name, home.clone()),
            Who::Current { name, .. } => (name, None),
            // A script's empty variable: "/mail/%u" would be everybody's mail.
            Who::Named(name) if name.is_empty() => return Err(Error::NotFound),
            Who::Named(name) => {
                if config.count("userdb") > 0 {
                    return Err(Error::LookupNeeded);
                }
                if !config.has_file() {
                    system = system_user(name);
                    if system.is_none() && set("mail_home").is_none() && !has_absolute_location(config) {
                        return Err(Error::NotFound);
                    }
                }
                (name, system.as_ref().map(|s| s.dir.clone()).filter(|_| !config.is_overridden("mail_home")))
            }
        };
        let mut vars = Vars {
            user: name.clone(),
            session: session(),
            hostname: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            ..Vars::default()
        };
        let home = match home {
            Some(home) => Some(home),
            None => {
                let home =
                    config.expanded("mail_home", &vars).map_err(|source| Error::Expand { setting: "mail_home", source })?;
                Some(PathBuf::from(home)).filter(|h| !h.as_os_str().is_empty())
            }
        };
        if let Some(home) = home.as_ref().filter(|h| !h.is_absolute()) {
            return Err(Error::RelativeHome(home.display().to_string()));
        }
        let ids = Ids::of(config, system.as_ref())?;
        if let Some(home) = &home {
            vars.home = home.to_string_lossy().into_owned();
        }
        vars.uid = Some(ids.uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw()));
        vars.gid = Some(ids.gid.unwrap_or_else(|| nix::unistd::getegid().as_raw()));
        Ok(Self { owner: Owner { name: name.clone(), home }, ids, vars })
    }

    /// Makes the process this user, for good.
    ///
    /// # Errors
    /// The system refuses; nothing may be done then.
    pub fn become_user(&self, config: &Config) -> Result<(), Error> {
        privileges::drop_to(&self.ids, config)?;
        let home = self.owner.home.as_ref().map(|home| home.display().to_string());
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        tracing::debug!("Effective uid={uid}, gid={gid}, home={}", home.unwrap_or_default());
        Ok(())
    }
}

/// The name of the user who started the program, if the environment does not tell.
#[must_use]
pub fn name_of_process() -> Option<String> {
    SystemUser::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}

fn system_user(name: &str) -> Option<SystemUser> {
    SystemUser::from_name(name).ok().flatten()
}

/// The mail can be found without a home.
fn has_absolute_location(config: &Config) -> bool {
    config.text("mail_location").split_once(':').is_some_and(|(_, root)| root.starts_with('/'))
}

/// 22 characters of base64, as Dovecot makes them for its log lines.
fn session() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(crate::mail::generate_guid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Override, Source};

    fn find(who: &Who, overrides: &[&str]) -> Result<User, String> {
        let overrides: Vec<_> = overrides.iter().map(|o| Override::parse(o).unwrap()).collect();
        let config = Config::load(&Source::None, &overrides).unwrap().config;
        User::find(who, &config).map_err(|e| e.to_string())
    }

    fn tim(home: Option<&str>) -> Who {
        Who::Current { name: "tim".into(), home: home.map(Into::into) }
    }

    const IDS: [&str; 2] = ["mail_uid=1000", "mail_gid=1000"];

    #[test]
    fn home_beats_the_file_and_an_override_beats_home() {
        let user = find(&tim(Some("/h")), &IDS).unwrap();
        assert_eq!(user.owner.home.as_deref(), Some(std::path::Path::new("/h")));
        let user = find(&tim(Some("/h")), &[IDS[0], IDS[1], "mail_home=/o"]).unwrap();
        assert_eq!(user.owner.home.as_deref(), Some(std::path::Path::new("/o")));
        assert_eq!(find(&tim(None), &IDS).unwrap().owner.home, None);
        assert_eq!(
            find(&tim(Some("/h")), &[IDS[0], IDS[1], "mail_home=rel"]).unwrap_err(),
            "Relative home directory paths not supported: rel"
        );
    }

    #[test]
    fn identities_are_checked_as_by_dovecot() {
        let error = |overrides: &[&str]| find(&tim(Some("/h")), overrides).unwrap_err();
        assert_eq!(
            error(&["mail_uid=33", IDS[1]]),
            "Mail access for users with UID 33 not permitted (see first_valid_uid in config file, uid from mail_uid setting)."
        );
        assert_eq!(
            error(&[IDS[0], "mail_gid=0"]),
            "Mail access for users with GID 0 not permitted (see first_valid_gid in config file, gid from mail_gid setting)."
        );
        assert_eq!(error(&["mail_uid=nosuchuser", IDS[1]]), "Unknown UNIX UID user: nosuchuser (from mail_uid setting)");
        assert_eq!(error(&["mail_uid=0", "first_valid_uid=0", IDS[1]]), "Mail access not allowed for root");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(error(&["mail_gid=1000"]), "Couldn't drop privileges: User is missing UID (see mail_uid setting)");
            assert_eq!(error(&["mail_uid=1000"]), "Couldn't drop privileges: User is missing GID (see mail_gid setting)");
        }
    }

    #[test]
    fn without_a_configuration_a_name_is_a_user_of_the_system_or_virtual() {
        let named = |name: &str| Who::Named(name.into());
        assert_eq!(find(&named(""), &[IDS[0], IDS[1], "mail_home=/v"]).unwrap_err(), "User doesn't exist");
        let root = find(&named("root"), &["first_valid_uid=0", "mail_uid=1000", "mail_gid=1000"]).unwrap();
        assert_eq!(root.owner.home.as_deref(), Some(std::path::Path::new("/root")));
        assert_eq!(root.ids.uid, Some(1000));
        assert_eq!(find(&named("no such user"), &IDS).unwrap_err(), "User doesn't exist");
        let user = find(&named("no such user"), &[IDS[0], IDS[1], "mail_home=/v"]).unwrap();
        assert_eq!(user.owner.name, "no such user");
    }

    #[test]
    fn a_userdb_in_the_configuration_has_to_be_asked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "mail_home=/m/%u\nuserdb {\n driver = passwd\n}\n").unwrap();
        let config = Config::load(&Source::File(file.path().into()), &[]).unwrap().config;
        assert!(matches!(User::find(&Who::Named("tim".into()), &config), Err(Error::LookupNeeded)));
    }

    #[test]
    fn without_a_userdb_the_settings_describe_everybody() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "mail_home=/m/%d/%n\nmail_uid=1000\nmail_gid=1000\n").unwrap();
        let config = Config::load(&Source::File(file.path().into()), &[]).unwrap().config;
        let user = User::find(&Who::Named("tim@example.org".into()), &config).unwrap();
        assert_eq!(user.owner.home.as_deref(), Some(std::path::Path::new("/m/example.org/tim")));
    }
}
