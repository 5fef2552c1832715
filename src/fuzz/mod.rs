//! Doors for the fuzz targets in `tests/fuzz`: each takes bytes that anybody may have written, and must neither panic nor
//! hang nor take memory without measure. Not part of the program: compiled for tests and for fuzzing only.
//!
//! What a door asserts beyond that is a property of the parser: what we write we read again as the same.

#![allow(missing_docs, reason = "each door is named after what it reads")]

mod disk;
#[cfg(test)]
mod kept;

use std::io::Read;

use crate::config::{Config, Override, Source, Vars};
use crate::mail::{MailboxGuid, NameHash};
use crate::store::decode::{Method, decoder};
use crate::store::list::subscriptions::Subscriptions;
use crate::store::list::{Location, Names, tabescape};
use crate::store::{NamespaceSettings, Owner};
use crate::sync::State;

pub(crate) use disk::Scratch;

/// A door.
pub type Door = fn(&[u8]);

/// All doors with the names of their targets.
pub const DOORS: [(&str, Door); 25] = [
    ("snapshot", crate::index::fuzz::snapshot),
    ("log", crate::index::fuzz::log),
    ("records", crate::index::fuzz::records),
    ("index_files", disk::index_files),
    ("cache", crate::index::fuzz::cache),
    ("list_index", disk::list_index),
    ("mailbox_log", mailbox_log),
    ("uidlist", crate::store::maildir::fuzz::uidlist),
    ("keywords", crate::store::maildir::fuzz::keywords),
    ("maildir_name", crate::store::maildir::fuzz::name),
    ("line_ends", crate::store::maildir::fuzz::line_ends),
    ("dbox_file", crate::store::dbox::fuzz::file),
    ("dbox_external", crate::store::dbox::fuzz::external),
    ("mdbox_storage", disk::mdbox_storage),
    ("subscriptions", subscriptions),
    ("attributes", attributes),
    ("config", config),
    ("variables", variables),
    ("location", location),
    ("state", state),
    ("names", names),
    ("items", crate::sync::dovecot::fuzz::items),
    ("server", crate::sync::dovecot::fuzz::server),
    ("client", crate::sync::dovecot::fuzz::client),
    ("header", crate::sync::dovecot::fuzz::header),
];

/// The door of a target.
#[must_use]
pub fn door(name: &str) -> Option<Door> {
    let decoders: [(&str, Door); 5] = [
        ("gz", |b| decode(Method::Gz, b)),
        ("bz2", |b| decode(Method::Bz2, b)),
        ("xz", |b| decode(Method::Xz, b)),
        ("lz4", |b| decode(Method::Lz4, b)),
        ("zstd", |b| decode(Method::Zstd, b)),
    ];
    DOORS.into_iter().chain(decoders).find(|(n, _)| *n == name).map(|(_, door)| door)
}

fn decode(method: Method, bytes: &[u8]) {
    if let Ok(reader) = decoder(method, Box::new(std::io::Cursor::new(bytes.to_vec()))) {
        let _ = std::io::copy(&mut reader.take(8 << 20), &mut std::io::sink());
    }
}

fn mailbox_log(bytes: &[u8]) {
    let dir = Scratch::new();
    dir.write("dovecot.mailbox.log", bytes);
    let log = crate::index::mailbox_log::read(dir.path()).expect("the file is readable");
    assert!(log.records.len() * 24 <= bytes.len());
}

fn subscriptions(bytes: &[u8]) {
    for separator in ['/', '.'] {
        let mut file = Subscriptions::parse(bytes, separator);
        assert_eq!(Subscriptions::parse(&file.render(), separator), file);
        let first = file.names().next().map(<[u8]>::to_vec);
        if let Some(name) = first {
            file.set(&name, false, separator);
            assert!(!file.contains(&name));
        }
        file.set(b"a name", true, separator);
        assert!(Subscriptions::parse(&file.render(), separator).contains(b"a name"));
    }
    let (mut escaped, mut plain) = (Vec::new(), Vec::new());
    tabescape::escape(bytes, &mut escaped);
    tabescape::unescape(&escaped, &mut plain);
    assert_eq!(plain, bytes);
}

fn attributes(bytes: &[u8]) {
    let dir = Scratch::new();
    dir.write("attributes", bytes);
    let path = dir.path().join("attributes");
    let Some(mut file) = crate::store::AttributeFile::of(&format!("file:{}", path.display()), true) else { return };
    let guid = MailboxGuid::new([7; 16]).expect("not zero");
    let _ = file.get(guid);
}

/// Two files: the first one is the main file, the other one can be included as `other.conf`.
fn config(bytes: &[u8]) {
    // Paths out of the scratch directory would make the outcome depend on this machine.
    if memchr::memmem::find(bytes, b"../").is_some() || memchr::memmem::find(bytes, b"/*").is_some() {
        return;
    }
    let dir = Scratch::new();
    let (main, other) = disk::split(bytes);
    dir.write("dovecot.conf", main);
    dir.write("other.conf", other);
    let overrides: Vec<Override> =
        std::str::from_utf8(other).unwrap_or_default().lines().take(3).filter_map(|line| Override::parse(line).ok()).collect();
    let path = dir.path().join("dovecot.conf");
    let loaded = match Config::load(&Source::File(path.clone()), &overrides) {
        Ok(loaded) => loaded,
        Err(_) => match Config::load(&Source::File(path), &[]) {
            Ok(loaded) => loaded,
            Err(e) => return assert!(!e.to_string().is_empty()),
        },
    };
    let vars = vars();
    let owner = owner();
    if let Ok(location) = loaded.config.expanded("mail_location", &vars) {
        let _ = loaded.config.account(crate::config::Side { owner, location, separator: None }, &vars);
    }
}

fn vars() -> Vars {
    Vars {
        user: "tim@example.org".into(),
        home: "/h".into(),
        uid: Some(1000),
        userdb: vec![("quota".into(), "5".into())],
        ..Vars::default()
    }
}

fn owner() -> Owner {
    Owner { name: "tim".into(), home: Some("/nonexistent".into()) }
}

fn variables(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = vars().expand(text);
    }
}

fn location(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(location) = Location::parse(text, &owner()) {
        let names = Names::new(&location, &NamespaceSettings::default(), &["dbox-Mails"], &crate::store::Settings::default());
        one_name(&names, b"A/B");
    }
}

fn state(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(state) = State::decode(text)
    {
        assert_eq!(State::decode(&state.encode()), Ok(state));
    }
    // With the sum that belongs to it, past the first checks.
    let mut body = b"DST\0".to_vec();
    body.extend_from_slice(bytes);
    body.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, body);
    if let Ok(state) = State::decode(&text) {
        assert_eq!(State::decode(&state.encode()), Ok(state));
    }
}

/// First byte: how names are written. The rest is a name.
fn names(bytes: &[u8]) {
    let Some((&how, name)) = bytes.split_first() else { return };
    let layouts = ["maildir:/m", "maildir:/m:LAYOUT=fs", "sdbox:/m", "mdbox:/m:LAYOUT=index", "mdbox:/m:UTF-8"];
    let Ok(location) = Location::parse(layouts[usize::from(how) % layouts.len()], &owner()) else { return };
    let ns = NamespaceSettings {
        prefix: if how & 0x10 == 0 { String::new() } else { "Pre/".into() },
        separator: Some(if how & 0x20 == 0 { '/' } else { '.' }),
        ..NamespaceSettings::default()
    };
    let listescape_char = (how & 0x40 != 0).then_some('\\');
    let settings = crate::store::Settings { listescape_char, ..crate::store::Settings::default() };
    one_name(&Names::new(&location, &ns, &["dbox-Mails", "cur"], &settings), name);
}

/// A name on disk, and as a user writes it: what is stored means the same name again.
fn one_name(names: &Names, bytes: &[u8]) {
    use crate::store::list::Decoded;
    use std::os::unix::ffi::OsStrExt;
    let mut all = Vec::new();
    match names.decode(std::ffi::OsStr::from_bytes(bytes)) {
        Decoded::Name(name) | Decoded::Odd(name) => all.push(name),
        Decoded::Invalid(_) => {}
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        all.extend(names.parse(text));
    }
    for name in all {
        let _: NameHash = NameHash::of(&names.vname(&name));
        if let Ok(stored) = names.stored(&name)
            && !stored.inbox
        {
            assert_eq!(names.decode(&stored.name), Decoded::Name(names.folded(name.clone())), "{stored:?}");
        }
        let nearest = crate::mail::NameRules {
            separator: names.separator,
            alt: '_',
            no_directories: false,
            inbox_moves: true,
            namespaces: vec![names.rules()],
        }
        .nearest(&name);
        assert!(!nearest.levels().is_empty());
    }
}
