//! `-o K=V` (cli-config.md 11.2).

use super::Config;
use super::defs;
use super::error::Error;
use super::parse::escape;

/// A setting of the command line. Its value is taken literally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    path: String,
    value: String,
}

/// A wrong override, kept until the user's mail is to be opened.
#[derive(Debug, Clone)]
pub(super) struct Late {
    parameter: String,
    text: String,
}

impl Late {
    pub(super) fn error(&self) -> Error {
        Error::Override { parameter: self.parameter.clone(), text: self.text.clone() }
    }
}

impl Override {
    /// Reads `K=V`.
    ///
    /// # Errors
    /// No `=`, or nothing before it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Override { parameter: text.into(), text: reason.into() };
        match text.split_once('=') {
            None => Err(wrong("Missing '='")),
            Some(("", _)) => Err(wrong("Missing key name ('=' at the beginning of line)")),
            Some((path, value)) => Ok(Self { path: path.into(), value: value.into() }),
        }
    }

    /// The key as it was given.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }
}

/// What a path of the command line names.
enum Target {
    Setting {
        path: String,
        def: Option<&'static defs::Def>,
        late: bool,
    },
    /// The list of namespaces: adds these.
    Namespaces,
    Nothing(&'static str),
}

impl Config {
    /// Puts the overrides on top. Gives warnings about those that mean nothing.
    pub(super) fn apply(&mut self, overrides: &[Override]) -> Result<Vec<String>, Error> {
        let mut warnings = Vec::new();
        for o in overrides {
            match self.target(&o.path) {
                Target::Nothing(why) => {
                    warnings.push(format!("Ignoring -o parameter {}={}: {why}", o.path, o.value));
                }
                Target::Namespaces => {
                    let list = self.merged.lists.entry("namespace".into()).or_default();
                    for name in o.value.split(' ').filter(|name| !name.is_empty()) {
                        let id = escape(name);
                        if !list.contains(&id) {
                            self.merged.values.insert(format!("namespace/{id}/name"), name.into());
                            list.push(id);
                        }
                    }
                }
                Target::Setting { path, def, late } => {
                    let checked = def.map_or(Ok(()), |def| def.kind.check(&o.value));
                    match checked {
                        Ok(()) => {
                            self.merged.values.insert(path.clone(), o.value.clone());
                            self.overridden.insert(path);
                        }
                        Err(e) => {
                            let wrong = Late { parameter: format!("{}={}", o.path, o.value), text: e.to_string() };
                            if !late {
                                return Err(wrong.error());
                            }
                            self.late.get_or_insert(wrong);
                        }
                    }
                }
            }
        }
        Ok(warnings)
    }

    fn target(&self, path: &str) -> Target {
        let setting = |path: String, def| Target::Setting { path, def, late: true };
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["namespace"] => Target::Namespaces,
            [name] => {
                let name = defs::root_alias(name);
                match defs::root(name) {
                    Some(def) => Target::Setting { path: name.into(), def: Some(def), late: defs::is_users(name) },
                    None if defs::is_foreign(name) => Target::Setting { path: name.into(), def: None, late: false },
                    // Understood by the command line, where there is no configuration file.
                    None if matches!(name, "mail_driver" | "mail_path") => {
                        Target::Setting { path: name.into(), def: None, late: true }
                    }
                    None => Target::Nothing("there is no such setting"),
                }
            }
            ["plugin", name] => setting(format!("plugin/{name}"), None),
            ["namespace", ns, ..] if !self.has_section("namespace", ns) => Target::Nothing("there is no such namespace"),
            ["namespace", ns, key] => match defs::find(defs::NAMESPACE, defs::namespace_alias(key)) {
                Some(def) => setting(format!("namespace/{ns}/{}", def.name), Some(def)),
                None => Target::Nothing("there is no such setting"),
            },
            ["namespace", ns, "mailbox", mailbox, key] => {
                let list = format!("namespace/{ns}/mailbox");
                match defs::find(defs::MAILBOX, key) {
                    _ if !self.has_section(&list, mailbox) => Target::Nothing("there is no such mailbox"),
                    Some(def) => setting(format!("{list}/{mailbox}/{key}"), Some(def)),
                    None => Target::Nothing("there is no such setting"),
                }
            }
            _ => Target::Nothing("there is no such setting"),
        }
    }

    fn has_section(&self, list: &str, id: &str) -> bool {
        self.merged.lists.get(list).is_some_and(|ids| ids.iter().any(|known| known == id))
    }
}
