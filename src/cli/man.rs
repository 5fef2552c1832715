//! The page dsync(1). Its options are those of [`super::flags`]; the rest is written here.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::flags::Cli;

/// The whole page.
pub(super) fn page() -> String {
    String::new()
}
