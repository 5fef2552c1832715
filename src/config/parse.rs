//! Reads the files of a 2.3 configuration into blocks of settings (cli-config.md 10.1, 10.2).
//!
//! What a file asks of us is bounded: nesting of sections and includes, number and size of files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::defs::{self, Def};
use super::error::{Error, Place, reason};
use super::filter::{Filter, Net, Service};
use super::include;
use super::line::{self, Line, Lines, RawValue};

const MAX_FILE: u64 = 64 << 20;
const MAX_FILES: usize = 10_000;
const MAX_INCLUDES: usize = 64;
const MAX_SECTIONS: usize = 64;

const FILTERS: &[&str] = &["protocol", "local", "remote", "local_name"];

/// The settings of one filter. Keys are paths: `namespace/inbox/prefix` (cli-config.md 10.3).
#[derive(Debug)]
pub(super) struct Block {
    pub(super) filter: Filter,
    pub(super) at: Place,
    pub(super) values: BTreeMap<String, String>,
    /// The names of the sections of a kind, in their order: `namespace` or `namespace/inbox/mailbox`.
    pub(super) lists: BTreeMap<String, Vec<String>>,
    /// The block that this one stands in.
    parent: Option<usize>,
}

/// All that the files say.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The first has no filter.
    pub(super) blocks: Vec<Block>,
    /// Warnings, complete texts.
    pub(super) warnings: Vec<String>,
}

/// Reads a configuration from its main file.
pub(super) fn parse(main: &Path) -> Result<Parsed, Error> {
    let mut parser = Parser::new(main);
    let bytes = read(main).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Read { call: "stat", path: main.into(), hint: "", source },
        _ => Error::Read { call: "open", path: main.into(), hint: "", source },
    })?;
    parser.file(main.into(), &bytes)?;
    if let Some(open) = parser.stack.last() {
        let text = format!("Missing '}}' (section started at {})", open.at);
        return Err(Error::Whole { file: main.into(), text });
    }
    Ok(Parsed { blocks: parser.blocks, warnings: parser.warnings })
}

/// A directory reads as an empty file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    if !file.metadata()?.is_dir() {
        let size = file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if size as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "File too large"));
        }
    }
    Ok(bytes)
}

/// A section that is open.
struct Open {
    kind: String,
    scope: Scope,
    block: usize,
    /// Path of its settings with a final `/`; empty at the root.
    path: String,
    at: Place,
}

#[derive(Clone, Copy)]
enum Scope {
    /// The settings outside of all sections, also inside a filter.
    Root,
    /// A section with these settings.
    Section(&'static [Def]),
    /// Free keys.
    Plugin,
    /// A section that does not concern us.
    Skipped,
}

struct Parser {
    blocks: Vec<Block>,
    stack: Vec<Open>,
    warnings: Vec<String>,
    /// The files that are being read, outermost first.
    files: Vec<PathBuf>,
    files_read: usize,
    /// How many sections of a kind there have been, for the numbers of the unnamed.
    counts: HashMap<String, usize>,
}

impl Parser {
    fn new(main: &Path) -> Self {
        let root = Block {
            filter: Filter::default(),
            at: Place { file: main.into(), line: 0 },
            values: BTreeMap::new(),
            lists: BTreeMap::new(),
            parent: None,
        };
        Self {
            blocks: vec![root],
            stack: Vec::new(),
            warnings: Vec::new(),
            files: Vec::new(),
            files_read: 0,
            counts: HashMap::new(),
        }
    }

    fn file(&mut self, path: PathBuf, bytes: &[u8]) -> Result<(), Error> {
        let file: Arc<Path> = path.as_path().into();
        self.files.push(path);
        self.files_read += 1;
        let mut lines = Lines::new(bytes);
        while let Some(line) = lines.next() {
            let at = Place { file: Arc::clone(&file), line: lines.number() };
            self.line(line, &at)?;
        }
        for number in lines.ambiguous() {
            self.warnings.push(format!(
                "Configuration file {} line {number}: Ambiguous '#' character in line, treating it as comment. Add a space before it to remove this warning.",
                file.display()
            ));
        }
        self.files.pop();
        Ok(())
    }

    fn line(&mut self, line: Line, at: &Place) -> Result<(), Error> {
        let wrong = |text: String| Error::Line { file: at.file.to_path_buf(), line: at.line, text };
        match line {
            Line::Include { pattern, optional } => self.include(&pattern, optional, at),
            Line::Close => self.stack.pop().map(drop).ok_or_else(|| wrong("Unexpected '}'".into())),
            Line::Open { kind, name } => self.open(&kind, name, at).map_err(wrong),
            Line::Wrong(_) if self.skipping() => Ok(()),
            Line::Wrong(text) => Err(wrong(text.into())),
            Line::Setting { key, value } => self.setting(&key, value, at).map_err(wrong),
        }
    }

    fn skipping(&self) -> bool {
        matches!(self.scope(), Scope::Skipped)
    }

    fn scope(&self) -> Scope {
        self.stack.last().map_or(Scope::Root, |open| open.scope)
    }

    fn block(&self) -> usize {
        self.stack.last().map_or(0, |open| open.block)
    }

    fn path(&self) -> &str {
        self.stack.last().map_or("", |open| &open.path)
    }

    /// `namespace { mailbox { KEY`
    fn unknown(&self, key: &str) -> String {
        let mut text = "Unknown setting: ".to_owned();
        for open in self.stack.iter().filter(|open| !FILTERS.contains(&open.kind.as_str())) {
            text.push_str(&open.kind);
            text.push_str(" { ");
        }
        text + key
    }

    fn include(&mut self, pattern: &str, optional: bool, at: &Place) -> Result<(), Error> {
        let wrong = |text: String| Error::Line { file: at.file.to_path_buf(), line: at.line, text };
        let dir = at.file.parent().unwrap_or(Path::new(""));
        let paths = include::matching(dir, pattern).map_err(&wrong)?;
        if paths.is_empty() && !optional {
            return Err(wrong("No matches".into()));
        }
        for path in paths {
            if self.files.contains(&path) {
                return Err(wrong(format!("Recursive include file: {}", path.display())));
            }
            if self.files.len() >= MAX_INCLUDES || self.files_read >= MAX_FILES {
                return Err(wrong(format!("Too many include files: {}", path.display())));
            }
            match read(&path) {
                Ok(bytes) => self.file(path, &bytes)?,
                Err(_) if optional => {}
                Err(e) => return Err(wrong(format!("Couldn't open include file {}: {}", path.display(), reason(&e)))),
            }
        }
        Ok(())
    }

    fn open(&mut self, kind: &str, name: String, at: &Place) -> Result<(), String> {
        if self.stack.len() >= MAX_SECTIONS {
            return Err("Sections are nested too deeply".into());
        }
        let mut block = self.block();
        let mut path = self.path().to_owned();
        let scope = match (self.scope(), kind) {
            (Scope::Skipped, _) => Scope::Skipped,
            // A filter may stand inside of a section; the section goes on inside of it.
            (scope, _) if FILTERS.contains(&kind) => {
                block = self.filter(kind, name, at)?;
                // But it ends what free keys there are.
                if matches!(scope, Scope::Plugin) { Scope::Section(&[]) } else { scope }
            }
            (Scope::Root, "plugin") => {
                path.push_str("plugin/");
                Scope::Plugin
            }
            (Scope::Plugin, _) => return Err("Section not allowed here".into()),
            (Scope::Root, "passdb" | "userdb")
                if self.blocks[block].filter.local.is_some() || self.blocks[block].filter.remote.is_some() =>
            {
                return Err(format!("Auth settings not supported inside local/remote blocks: {kind}"));
            }
            (Scope::Root, "passdb") => self.section(kind, name, false, defs::PASSDB, &mut path),
            (Scope::Root, "userdb") => self.section(kind, name, false, defs::USERDB, &mut path),
            (Scope::Root, "namespace") => self.section(kind, name, true, defs::NAMESPACE, &mut path),
            (Scope::Section(parent), "mailbox") if std::ptr::eq(parent, defs::NAMESPACE) => {
                self.section(kind, name, true, defs::MAILBOX, &mut path)
            }
            (Scope::Root, _) if defs::SKIPPED_SECTIONS.contains(&kind) => Scope::Skipped,
            _ => return Err(format!("{} {{ {kind}", self.unknown(kind))),
        };
        self.stack.push(Open { kind: kind.into(), scope, block, path, at: at.clone() });
        Ok(())
    }

    /// Registers a section in its list. One that is `named` continues the earlier one of its name.
    fn section(&mut self, kind: &str, name: String, named: bool, defs: &'static [Def], path: &mut String) -> Scope {
        path.push_str(kind);
        let block = self.block();
        let known = named && !name.is_empty();
        let id = if known { escape(&name) } else { self.counts.get(path).copied().unwrap_or(0).to_string() };
        let new = !self.blocks.iter().any(|b| b.lists.get(path).is_some_and(|ids| ids.contains(&id)));
        if new || !known {
            *self.counts.entry(path.clone()).or_default() += 1;
        }
        let values = &mut self.blocks[block];
        let ids = values.lists.entry(path.clone()).or_default();
        if !ids.contains(&id) {
            ids.push(id.clone());
        }
        path.push('/');
        path.push_str(&id);
        path.push('/');
        values.values.insert(format!("{path}name"), name);
        Scope::Section(defs)
    }

    /// The block of a filter that opens here.
    fn filter(&mut self, kind: &str, name: String, at: &Place) -> Result<usize, String> {
        let parent = self.block();
        let mut filter = self.blocks[parent].filter.clone();
        match kind {
            "protocol" => {
                if filter.service.is_some() {
                    return Err("Nested protocol { protocol { .. } } block not allowed".into());
                }
                let (negated, name) = name.strip_prefix('!').map_or((false, name.as_str()), |n| (true, n));
                filter.service = Some(Service { name: name.into(), negated });
            }
            _ if filter.service.is_some() => {
                return Err(format!("protocol {{ {kind} {{ .. }} }} not allowed (use {kind} {{ protocol {{ .. }} }} instead)"));
            }
            "local_name" if filter.remote.is_some() || filter.local.is_some() => {
                let outer = if filter.remote.is_some() { "remote" } else { "local" };
                return Err(format!(
                    "{outer} {{ local_name {{ .. }} }} not allowed (use local_name {{ {outer} {{ .. }} }} instead)"
                ));
            }
            "local_name" => filter.local_name = Some(name),
            "local" if filter.remote.is_some() => {
                return Err("remote { local { .. } } not allowed (use local { remote { .. } } instead)".into());
            }
            _ => {
                let net = Net::parse(&name)?;
                let slot = if kind == "local" { &mut filter.local } else { &mut filter.remote };
                if slot.as_ref().is_some_and(|outer| !outer.contains(&net)) {
                    return Err(format!("{kind} net1 {{ {kind} net2 {{ .. }} }} requires net2 to be inside net1"));
                }
                *slot = Some(net);
            }
        }
        if let Some(index) = self.blocks.iter().position(|b| b.filter == filter) {
            return Ok(index);
        }
        self.blocks.push(Block { filter, at: at.clone(), values: BTreeMap::new(), lists: BTreeMap::new(), parent: Some(parent) });
        Ok(self.blocks.len() - 1)
    }

    fn setting(&mut self, key: &str, value: RawValue, at: &Place) -> Result<(), String> {
        if self.skipping() {
            return Ok(());
        }
        let in_root = matches!(self.scope(), Scope::Root);
        if in_root && key.is_empty() {
            return Err("Missing key name ('=' at the beginning of line)".into());
        }
        let key = if in_root { defs::root_alias(key) } else { key };
        // Dovecot looks at the value before it looks whether there is such a setting.
        let text = match self.value(key, value, at) {
            // Whatever is wrong with another program's setting is Dovecot's business.
            Err(_) if in_root && defs::is_foreign(key) => return Ok(()),
            text => text?,
        };
        let (key, def) = self.known(key)?;
        if let Some(def) = def {
            def.kind.check(&text).map_err(|e| e.to_string())?;
        }
        self.set(key, text);
        Ok(())
    }

    /// The setting's real name, and its definition if its value is to be checked.
    fn known<'k>(&self, key: &'k str) -> Result<(&'k str, Option<&'static Def>), String> {
        match self.scope() {
            Scope::Root => {
                let filter = &self.blocks[self.block()].filter;
                if (filter.local.is_some() || filter.remote.is_some()) && is_auth(key) {
                    return Err(format!("Auth settings not supported inside local/remote blocks: {key}"));
                }
                match defs::root(key) {
                    Some(def) => Ok((key, Some(def))),
                    None if defs::is_foreign(key) => Ok((key, None)),
                    None if key == "dovecot_config_version" => Err(format!(
                        "This is a configuration of Dovecot 2.4 ({key}), which is not supported yet; -O and -o do without a configuration file"
                    )),
                    None => Err(self.unknown(key)),
                }
            }
            Scope::Plugin if key.contains('/') => Err(self.unknown(key)),
            Scope::Plugin | Scope::Skipped => Ok((key, None)),
            Scope::Section(defs) => {
                let key = if std::ptr::eq(defs, defs::NAMESPACE) { defs::namespace_alias(key) } else { key };
                Ok((key, Some(defs::find(defs, key).ok_or_else(|| self.unknown(key))?)))
            }
        }
    }

    fn set(&mut self, key: &str, text: String) {
        let path = format!("{}{key}", self.path());
        let block = self.block();
        self.blocks[block].values.insert(path, text);
    }

    fn value(&self, key: &str, value: RawValue, at: &Place) -> Result<String, String> {
        match value {
            RawValue::Literal(text) => Ok(text),
            RawValue::Expanding(text) => line::expand(&text, |name| self.variable(name, key)),
            RawValue::File(name) => {
                let path = at.file.parent().unwrap_or(Path::new("")).join(&name);
                let failed = |text: &str, e: io::Error| format!("{key}: {text}: {}", reason(&e));
                let shown = path.display();
                let file = File::open(&path).map_err(|e| failed(&format!("Can't open file {shown}"), e))?;
                let mut bytes = Vec::new();
                let size =
                    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| failed(&format!("read({shown}) failed"), e))?;
                if size as u64 > MAX_FILE {
                    return Err(format!("{key}: read({shown}) failed: File too large"));
                }
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// What `$NAME` stands for at this point of the files: a setting outside of all sections. Inside of a filter that is
    /// what the filter has said so far; only a setting that names itself gets what holds around the filter.
    fn variable(&self, name: &str, key: &str) -> Option<String> {
        if let Some(name) = name.strip_prefix("ENV:") {
            return Some(std::env::var_os(name).map_or_else(String::new, |v| v.to_string_lossy().into_owned()));
        }
        let name = defs::root_alias(name);
        let mut block = Some(self.block());
        while let Some(index) = block {
            if let Some(text) = self.blocks[index].values.get(name) {
                return Some(text.clone());
            }
            block = self.blocks[index].parent.filter(|_| name == key);
        }
        defs::default_of(name).map(Into::into)
    }
}

fn is_auth(key: &str) -> bool {
    key.starts_with("auth_") && key != "auth_socket_path"
}

/// The name of a section as a part of a path.
pub(super) fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            ' ' => out.push_str("\\_"),
            '/' => out.push_str("\\s"),
            '\\' => out.push_str("\\\\"),
            '=' => out.push_str("\\e"),
            ',' => out.push_str("\\+"),
            c => out.push(c),
        }
    }
    out
}
