//! A run between two locations of this machine: both brains in this process, one thread each.

use std::path::Path;

use super::{Job, Outcome, Report};
use crate::mail::{self, Class, Store};
use crate::os::lock::LockFile;
use crate::os::stop::Stop;
use crate::store::local::{LocalStore, OpenFor};
use crate::store::{self, Account};
use crate::sync::tree::Side;
use crate::sync::{self, Channel, Options};

/// Runs the job between the account and the other account.
pub(super) fn run(job: &Job, other: &Account, stop: &Stop) -> Report {
    let options = &job.options;
    match prepare(job, other, options) {
        Ok(ready) => {
            let options = Options { locks_first: ready.locks_first, ..options.clone() };
            sync(ready, &options, stop)
        }
        Err(e) => {
            tracing::error!("{e}");
            Report { outcome: Outcome::Failed(e.class()), state: None }
        }
    }
}

struct Ready {
    master: LocalStore,
    slave: LocalStore,
    locks_first: Side,
    _lock: Option<LockFile>,
}

fn prepare(job: &Job, other: &Account, options: &Options) -> mail::Result<Ready> {
    // Only what will be filled may be missing: a source that is not there is a mistake, never an empty one.
    let open_for = |side| if options.mode.is_source(side) { OpenFor::Source } else { OpenFor::Destination };
    let master = store::open(&job.account, open_for(Side::Master))?;
    let slave = store::open(other, open_for(Side::Slave))?;
    let (ours, theirs) = (master.side(&options.namespaces)?, slave.side(&options.namespaces)?);
    if ours.separator != theirs.separator {
        let text =
            "Mail locations must use the same hierarchy separator (specify namespace prefix=\"\" { separator } explicitly)";
        return Err(mail::Error::new(Class::Temporary, text));
    }
    // Under whatever names: with itself a run would wait for its own locks.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let place = |mail: &Path, index: Option<&Path>| (real(mail), index.map(real));
    if place(&ours.mail_root, ours.index_root.as_deref()) == place(&theirs.mail_root, theirs.index_root.as_deref()) {
        let text = format!(
            "Both source and destination mail_location points to same directory: {} (namespace prefix=\"{}\" {{ location }} is set explicitly?)",
            ours.mail_root.display(),
            ours.prefix
        );
        return Err(mail::Error::new(Class::Temporary, text));
    }
    let is_lesser = (&ours.index_root, &ours.mail_root) < (&theirs.index_root, &theirs.mail_root);
    let locks_first = if is_lesser { Side::Master } else { Side::Slave };
    let lock = options.lock_timeout.filter(|t| !t.is_zero()).map(|t| super::lock::user(&job.account.owner, t)).transpose()?;
    Ok(Ready { master, slave, locks_first, _lock: lock })
}

fn sync(mut ready: Ready, options: &Options, stop: &Stop) -> Report {
    let (mut to_slave, mut to_master) = Channel::pair();
    let span = tracing::Span::current();
    let (slave, master) = (&mut ready.slave as &mut dyn Store, &mut ready.master as &mut dyn Store);
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let _in = span.entered();
            sync::run(Side::Slave, options, slave, &mut to_master, stop)
        });
        let first = sync::run(Side::Master, options, master, &mut to_slave, stop);
        // The other brain must not wait for one that has given up.
        drop(to_slave);
        (first, other.join())
    });
    let Ok(second) = second else {
        tracing::error!("the destination's part of the run died; this is a bug");
        return Report { outcome: Outcome::Failed(Class::Temporary), state: None };
    };
    super::conclude(first, second, options)
}
