//! The room against files that Dovecot wrote, and against itself.

mod cache;
mod changes;
mod codec;
mod damaged;
mod fixtures;
mod hostile;
mod model;
mod writing;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Files, Index, Options, Settings};
use crate::os::fs::Modes;

/// A folder of the fixtures.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/index").join(name)
}

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn options() -> Options {
    Options::new(Settings::default(), Modes::default())
}

fn open(dir: &Path) -> super::Result<Index> {
    Index::open(Files::new(dir, Files::MAILBOX), options())
}

/// A scratch directory with copies of the files of a fixture folder.
fn scratch(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("scratch directory");
    for entry in std::fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.expect("readable");
        if entry.file_type().expect("readable").is_file() {
            let copy = dir.path().join(entry.file_name());
            std::fs::copy(entry.path(), &copy).expect("room");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&copy, mode).expect("own file");
        }
    }
    dir
}
