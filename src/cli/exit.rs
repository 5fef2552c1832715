//! Exit codes: the one table from what happened to the number that scripts see (cli-config.md 6.1, sync.md 11.2).

use crate::mail::Class;
use crate::run::Outcome;

/// Done.
pub(super) const OK: u8 = 0;
/// Something is left to do.
pub(super) const INCOMPLETE: u8 = 2;
/// Wrong command line.
pub(super) const USAGE: u8 = 64;
const DATA: u8 = 65;
/// No such user.
pub(super) const NO_USER: u8 = 67;
const NOT_FOUND: u8 = 68;
const NO_ROOM: u8 = 73;
/// May work another time; also the code of every fatal message.
pub(super) const TEMPORARY: u8 = 75;
const PERMISSION: u8 = 77;
/// The configuration files are wrong, or an option before the command is.
pub(super) const CONFIG: u8 = 89;

/// The code of an error.
pub(super) const fn of_class(class: Class) -> u8 {
    match class {
        Class::Temporary | Class::Expunged => TEMPORARY,
        Class::NotFound => NOT_FOUND,
        Class::NotPossible | Class::Exists | Class::InvalidData | Class::InUse | Class::Limit => DATA,
        Class::Params => USAGE,
        Class::Permission => PERMISSION,
        Class::NoRoom => NO_ROOM,
    }
}

/// The code of a run.
pub(super) const fn of_outcome(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Done => OK,
        Outcome::Incomplete => INCOMPLETE,
        Outcome::Failed(class) => of_class(class),
    }
}
