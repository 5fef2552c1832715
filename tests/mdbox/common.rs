//! Opening scratch storages through the contracts.

use std::path::{Path, PathBuf};

use dsync::mail::{Mailbox, MailboxName};
use dsync::os::fs::Modes;
use dsync::store::Settings;
use dsync::store::format::{Format, Place};
use dsync::store::mdbox::{Location, Mdbox};

pub use self::mails::{flag_names, keywords, new_mail, read, uid};

#[path = "../shared/mails.rs"]
mod mails;

/// A storage at its default layout.
pub fn location(root: &Path, alt: Option<&Path>) -> Location {
    Location { root: root.to_owned(), index_root: root.to_owned(), alt: alt.map(Path::to_owned) }
}

pub fn place(root: &Path, name: &str) -> Place {
    let dir = root.join("mailboxes").join(name).join("dbox-Mails");
    Place {
        name: MailboxName::parse(name, '/').expect("a name"),
        storage_name: name.into(),
        inbox: name == "INBOX",
        mailbox: dir.clone(),
        index: dir.clone(),
        cache: dir.clone(),
        control: dir,
        alt: None,
        control_root: root.to_owned(),
        volatile: None,
        names_in_index: false,
        modes: std::fs::metadata(root).map_or_else(|_| Modes::default(), |m| Modes::like(&m)),
    }
}

/// The mailboxes below a root.
pub fn places(root: &Path) -> Vec<Place> {
    let mut names = Vec::new();
    let mut todo: Vec<PathBuf> = vec![root.join("mailboxes")];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|n| n == "dbox-Mails") {
                names.push(dir.strip_prefix(root.join("mailboxes")).expect("below").to_str().expect("ascii").to_owned());
            } else if path.is_dir() {
                todo.push(path);
            }
        }
    }
    names.sort();
    names.iter().map(|n| place(root, n)).collect()
}

/// The format at a root, begun.
pub fn begin(root: &Path, settings: &Settings) -> dsync::mail::Result<Mdbox> {
    let mut format = Mdbox::new(location(root, None), settings.clone());
    format.begin(&places(root))?;
    Ok(format)
}

pub fn open(format: &mut Mdbox, root: &Path, name: &str) -> Box<dyn Mailbox> {
    format.open(&place(root, name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}
