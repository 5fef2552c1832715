//! Becoming the user, for good (cli-config.md 8.4). Groups first, the user last, because only root may change groups.

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, getegid, geteuid, setgroups, setresgid, setresuid, setuid};
use thiserror::Error;

use super::Ids;
use crate::config::Config;

/// Why we cannot become the user.
#[derive(Debug, Error)]
pub enum PrivilegesError {
    /// A group that does not exist.
    #[error("Couldn't drop privileges: Unknown UNIX GID group: {group} (in {setting} setting)")]
    UnknownGroup {
        /// Its name.
        group: String,
        /// Where it stands.
        setting: &'static str,
    },
    /// The system refuses.
    #[error("Couldn't drop privileges: {call}({id}) failed with euid={euid}: {source}", euid = geteuid())]
    Refused {
        /// What was tried.
        call: &'static str,
        /// For whom.
        id: u32,
        /// Why not.
        source: Errno,
    },
    /// We are the user, and could become root again.
    #[error("Couldn't drop privileges: We couldn't drop root privileges")]
    StillRoot,
}

pub(super) fn drop_to(ids: &Ids, config: &Config) -> Result<(), PrivilegesError> {
    let privileged = groups(config, "mail_privileged_group")?.first().copied();
    let access = groups(config, "mail_access_groups")?;
    let root = geteuid().is_root();
    if let Some(gid) = ids.gid.map(Gid::from_raw)
        && (root || gid != getegid())
    {
        setresgid(gid, gid, privileged.unwrap_or(gid)).map_err(refused("setresgid", gid.as_raw()))?;
    }
    if root {
        // Root's own groups must not stay.
        setgroups(&access).map_err(refused("setgroups", 0))?;
    }
    if let Some(uid) = ids.uid.map(Uid::from_raw)
        && (root || uid != geteuid())
    {
        setresuid(uid, uid, uid).map_err(refused("setuid", uid.as_raw()))?;
        if root && setuid(Uid::from_raw(0)).is_ok() {
            return Err(PrivilegesError::StillRoot);
        }
    }
    Ok(())
}

const fn refused(call: &'static str, id: u32) -> impl FnOnce(Errno) -> PrivilegesError {
    move |source| PrivilegesError::Refused { call, id, source }
}

/// The groups of a setting, by name or number.
fn groups(config: &Config, setting: &'static str) -> Result<Vec<Gid>, PrivilegesError> {
    let one = |name: &str| {
        let by_name = || Group::from_name(name).ok().flatten().map(|g| g.gid);
        let gid = name.parse().ok().map(Gid::from_raw).or_else(by_name);
        gid.ok_or_else(|| PrivilegesError::UnknownGroup { group: name.into(), setting })
    };
    config.words(setting).into_iter().map(one).collect()
}
