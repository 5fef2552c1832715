//! Dovecot's configuration: finds it, reads it, puts `-o` on top, and fills the plain settings of the other rooms.
//!
//! Reads the grammar of 2.3 (cli-config.md 10). Another grammar would be another way to a [`Config`]: everything behind
//! it knows paths and values only. Knows nothing about who the user is; the rooms above say that through [`Vars`].

mod account;
mod check;
mod defs;
mod error;
mod filter;
mod include;
mod line;
mod mask;
mod merge;
mod overrides;
mod parse;
mod remote_cmd;
#[cfg(test)]
mod tests;
mod value;
mod vars;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use account::{AccountError, Side, separator};
pub use error::Error;
pub(crate) use error::reason;
pub use overrides::Override;
pub use remote_cmd::Remote;
use value::parse_millis;
pub(crate) use value::{parse_size, parse_time};
pub use vars::{VarError, Vars};

use defs::Def;
use filter::Filter;
use merge::Merged;

/// Where Dovecot's packages keep the configuration.
pub const DEFAULT_FILE: &str = "/etc/dovecot/dovecot.conf";

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This file (`-c`).
    File(PathBuf),
    /// This file, named by the environment (`CONFIG_FILE`).
    Environment(PathBuf),
    /// The default file, if there is one; else as [`Source::None`].
    Default,
    /// No file, built-in defaults only (`-O`).
    None,
}

/// The settings that hold for us. Every value has been checked against its type.
#[derive(Debug, Clone)]
pub struct Config {
    merged: Merged,
    /// The paths that `-o` set: their values are taken literally, without %-variables.
    overridden: BTreeSet<String>,
    /// The main file.
    file: Option<PathBuf>,
    /// A wrong `-o` that Dovecot would notice only when it opens a user's mail.
    late: Option<overrides::Late>,
}

/// A configuration with what there is to say about it.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Warnings about the files: complete texts without a prefix.
    pub file_warnings: Vec<String>,
    /// Warnings about the overrides.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the configuration for the service `doveadm` and applies the overrides in their order.
    ///
    /// # Errors
    /// Files that cannot be read or are wrong, overrides that are wrong, settings that do not fit together.
    pub fn load(source: &Source, overrides: &[Override]) -> Result<Loaded, Error> {
        let (file, hint): (_, &'static str) = match source {
            Source::File(path) => (Some(path.as_path()), ""),
            Source::Environment(path) => (Some(path.as_path()), " (path is from CONFIG_FILE environment)"),
            Source::Default => (Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()), ""),
            Source::None => (None, ""),
        };
        let mut file_warnings = Vec::new();
        let mut config = Self { merged: Merged::default(), overridden: BTreeSet::new(), file: None, late: None };
        if let Some(file) = file {
            let whole = |text: String| Error::Whole { file: file.into(), text };
            let parsed = Self::parse(file, hint)?;
            parsed.check_conflicts().map_err(|e| whole(e.to_string()))?;
            config.merged = parsed.merge(&Filter::of_service("doveadm")).map_err(|e| whole(e.to_string()))?;
            config.file = Some(file.into());
            config.check().map_err(whole)?;
            file_warnings = parsed.warnings;
        }
        let warnings = config.apply(overrides)?;
        config.check().map_err(|text| Error::Settings { text })?;
        Ok(Loaded { config, file_warnings, warnings })
    }

    fn parse(file: &Path, hint: &'static str) -> Result<parse::Parsed, Error> {
        use std::os::unix::fs::FileTypeExt;
        let metadata = std::fs::metadata(file).map_err(|source| Error::Read { call: "stat", path: file.into(), hint, source })?;
        if metadata.file_type().is_socket() {
            return Err(Error::Socket { path: file.into() });
        }
        parse::parse(file)
    }

    /// There is a configuration file, so this is a machine with Dovecot's rules. Without one we are more obliging
    /// (cli-config.md 9.5).
    #[must_use]
    pub const fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// A setting outside of all sections, as text.
    ///
    /// # Panics
    /// Never for the name of a setting of 2.3; other names are an error of the caller.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.merged.values.get(name) {
            Some(text) => text,
            None => {
                let default = defs::default_of(name);
                debug_assert!(default.is_some(), "there is no setting {name}");
                default.unwrap_or_default()
            }
        }
    }

    /// The same with %-variables expanded, unless it came from `-o`.
    ///
    /// # Errors
    /// Unknown variables.
    pub fn expanded(&self, name: &str, vars: &Vars) -> Result<String, VarError> {
        self.expand_path(name, self.text(name), vars)
    }

    fn expand_path(&self, path: &str, text: &str, vars: &Vars) -> Result<String, VarError> {
        if self.overridden.contains(path) { Ok(text.into()) } else { vars.expand(text) }
    }

    /// A setting of `plugin { }`.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<&str> {
        self.merged.values.get(&format!("plugin/{name}")).map(String::as_str)
    }

    /// The same with %-variables expanded, unless it came from `-o`.
    ///
    /// # Errors
    /// Unknown variables.
    pub fn plugin_expanded(&self, name: &str, vars: &Vars) -> Result<Option<String>, VarError> {
        let path = format!("plugin/{name}");
        self.merged.values.get(&path).map(|text| self.expand_path(&path, text, vars)).transpose()
    }

    /// The value that `-o` gave to a name that is no setting of Dovecot 2.3 but one of ours (`mail_driver`, `mail_path`).
    #[must_use]
    pub fn own(&self, name: &str) -> Option<&str> {
        self.merged.values.get(name).map(String::as_str)
    }

    /// The same configuration with more overrides on top, and warnings about those that mean nothing.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn with(&self, overrides: &[Override]) -> Result<(Self, Vec<String>), Error> {
        let mut config = self.clone();
        let warnings = config.apply(overrides)?;
        config.check().map_err(|text| Error::Settings { text })?;
        config.check_user()?;
        Ok((config, warnings))
    }

    /// Whether `-o` has set this path.
    #[must_use]
    pub fn is_overridden(&self, path: &str) -> bool {
        self.overridden.contains(path)
    }

    /// A yes-or-no setting.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        // Every value was checked when it was set; the same holds for the others below.
        value::parse_bool(self.text(name)).unwrap_or_default()
    }

    /// A number.
    #[must_use]
    pub fn uint(&self, name: &str) -> u32 {
        value::parse_uint(self.text(name)).unwrap_or_default()
    }

    /// A number of bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> u64 {
        parse_size(self.text(name)).unwrap_or_default()
    }

    /// A time.
    #[must_use]
    pub fn time(&self, name: &str) -> Duration {
        parse_millis(self.text(name)).unwrap_or_default()
    }

    /// A list of words, parted by spaces or commas.
    #[must_use]
    pub fn words(&self, name: &str) -> Vec<&str> {
        self.text(name).split([' ', ',']).filter(|w| !w.is_empty()).collect()
    }

    /// How many sections of this kind (`userdb`, `passdb`) there are.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.merged.lists.get(kind).map_or(0, Vec::len)
    }

    /// What Dovecot notices only when it opens a user's mail.
    ///
    /// # Errors
    /// A wrong `-o` of a setting that belongs to the user.
    pub fn check_user(&self) -> Result<(), Error> {
        self.late.as_ref().map_or(Ok(()), |late| Err(late.error()))
    }

    fn sections<'c>(&'c self, list: &str, defs: &'static [Def]) -> Vec<Section<'c>> {
        let ids = self.merged.lists.get(list).map(Vec::as_slice).unwrap_or_default();
        ids.iter().map(|id| Section { config: self, path: format!("{list}/{id}"), defs }).collect()
    }

    /// The namespaces in the order of the files, disabled ones included.
    fn namespaces(&self) -> Vec<Section<'_>> {
        self.sections("namespace", defs::NAMESPACE)
    }
}

/// A section.
struct Section<'c> {
    config: &'c Config,
    /// Without a final `/`.
    path: String,
    defs: &'static [Def],
}

impl<'c> Section<'c> {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn text(&self, name: &str) -> &'c str {
        match self.config.merged.values.get(&self.key(name)) {
            Some(text) => text,
            None => defs::find(self.defs, name).map_or("", |d| d.default),
        }
    }

    /// What the configuration says, be it empty, without a default.
    fn own(&self, name: &str) -> Option<&'c str> {
        self.config.merged.values.get(&self.key(name)).map(String::as_str)
    }

    fn flag(&self, name: &str) -> bool {
        value::parse_bool(self.text(name)).unwrap_or_default()
    }

    fn expanded(&self, name: &str, vars: &Vars) -> Result<String, VarError> {
        self.config.expand_path(&self.key(name), self.text(name), vars)
    }

    fn mailboxes(&self) -> Vec<Section<'c>> {
        self.config.sections(&self.key("mailbox"), defs::MAILBOX)
    }
}
