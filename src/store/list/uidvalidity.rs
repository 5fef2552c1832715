//! The next UIDVALIDITY of a user: `dovecot-uidvalidity` and its marker (mailbox-list.md 11.1).
//!
//! The marker is an empty file whose name carries the last used value. Renaming it is the step that decides; the main file is
//! only a hint. A kill between the two leaves a main file that is too low, which the next caller walks past.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mail::{Timestamp, UidValidity};
use crate::os::fs::{self, Modes};

const NAME: &str = "dovecot-uidvalidity";
const TRIES: u32 = 10;

/// Takes the next value. Makes the control root if it is missing.
///
/// # Errors
/// What the system says about the first marker ever. Where the scheme cannot be followed further, the clock is the value, as
/// Dovecot has it.
pub fn next(control_root: &Path, modes: &Modes) -> fs::Result<UidValidity> {
    let root = Root { dir: control_root, modes };
    let value = match root.read_main() {
        Some(main) => root.advance(main),
        None => Advance::Rescan,
    };
    let value = match value {
        Advance::To(value) => {
            root.write_main_in_place(value)?;
            value
        }
        Advance::Rescan => root.rescan()?,
    };
    LAST.fetch_max(value, Ordering::Relaxed);
    Ok(UidValidity::new(value).unwrap_or(FIRST))
}

const FIRST: UidValidity = match UidValidity::new(1) {
    Some(one) => one,
    None => unreachable!(),
};

/// The highest value given out by this process.
static LAST: AtomicU32 = AtomicU32::new(0);

fn clock() -> u32 {
    Timestamp::now().0.max(LAST.load(Ordering::Relaxed).saturating_add(1)).max(1)
}

enum Advance {
    To(u32),
    Rescan,
}

struct Root<'a> {
    dir: &'a Path,
    modes: &'a Modes,
}

impl Root<'_> {
    fn main(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    fn marker(&self, value: u32) -> PathBuf {
        self.dir.join(format!("{NAME}.{value:08x}"))
    }

    /// The first 8 bytes as a number; `None` when they are none, or fewer than 8, or 0.
    fn read_main(&self) -> Option<u32> {
        use std::io::Read;
        let mut text = [0; 8];
        std::fs::File::open(self.main()).ok()?.read_exact(&mut text).ok()?;
        hex_value(&text).filter(|&v| v != 0)
    }

    /// Moves the marker one value further; walks past values that somebody else has taken.
    fn advance(&self, from: u32) -> Advance {
        let mut value = from;
        for _ in 0..TRIES {
            let marker = self.marker(value);
            value = value.checked_add(1).unwrap_or(1);
            match fs::rename(&marker, &self.marker(value)) {
                Ok(()) => return Advance::To(value),
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    tracing::warn!("{e}");
                    return Advance::Rescan;
                }
            }
        }
        Advance::Rescan
    }

    fn rescan(&self) -> fs::Result<u32> {
        fs::mkdir_all(self.dir, self.modes)?;
        let mut found: Vec<u32> = std::fs::read_dir(self.dir)
            .map_err(|e| fs::Error::new("read", self.dir, e))?
            .filter_map(|entry| {
                use std::os::unix::ffi::OsStrExt;
                let name = entry.ok()?.file_name();
                hex_value(name.as_bytes().strip_prefix(NAME.as_bytes())?.strip_prefix(b".")?)
            })
            .collect();
        found.sort_unstable();
        let (Some(&smallest), Some(&largest)) = (found.first(), found.last()) else { return self.first() };
        if smallest != largest {
            let _ = fs::unlink_if_there(&self.marker(smallest));
        }
        match self.advance(largest) {
            Advance::To(value) => {
                self.write_main(value)?;
                Ok(value)
            }
            Advance::Rescan => Ok(clock()),
        }
    }

    /// The very first value.
    fn first(&self) -> fs::Result<u32> {
        let mut value = clock();
        let mut tries = 0;
        loop {
            let marker = self.marker(value);
            match fs::create_new(&marker, &Modes { file: 0o444, ..*self.modes }) {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {
                    tries += 1;
                    value = value.checked_add(1).unwrap_or(1);
                }
                Err(e) => return Err(e),
            }
        }
        self.write_main(value)?;
        Ok(value)
    }

    fn write_main(&self, value: u32) -> fs::Result<()> {
        let path = self.main();
        if !path.exists() {
            match fs::create_new(&path, self.modes) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        self.write_main_in_place(value)
    }

    fn write_main_in_place(&self, value: u32) -> fs::Result<()> {
        let path = self.main();
        let file = OpenOptions::new().write(true).open(&path).map_err(|e| fs::Error::new("open", &path, e))?;
        fs::write_all_at(&file, &path, format!("{value:08x}").as_bytes(), 0)
    }
}

/// Lower or upper case hex digits, at most 8, and nothing else.
fn hex_value(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 8 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).expect("read").map(|e| e.expect("entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn the_fixtures() {
        let all: Value = serde_json::from_str(include_str!("../../../tests/fixtures/list/expected.json")).expect("is JSON");
        let cases = all["uidvalidity"].as_array().expect("list");
        assert_eq!(cases.len(), 10);
        for case in cases {
            let text = |key: &str| case[key].as_str().unwrap_or_default();
            let dir = tempfile::tempdir().expect("scratch");
            for name in case["files_before"].as_array().expect("list") {
                std::fs::write(dir.path().join(name.as_str().expect("text")), "").expect("write");
            }
            if let Some(main) = case["main"].as_str() {
                std::fs::write(dir.path().join(NAME), main.replace("\\n", "\n")).expect("write");
            }
            let number = |key: &str| u32::from_str_radix(text(key).trim_end(), 16).expect("hex");
            let before = Timestamp::now().0;
            let mut first = next(dir.path(), &Modes::default()).expect("next").get();
            let mut second = next(dir.path(), &Modes::default()).expect("next").get();
            if text("allocated") >= text("clock") {
                // The fixture took the clock: so did we, of now.
                assert!(first >= before, "{}", text("name"));
                (first, second) = (number("allocated"), second - first + number("allocated"));
            } else {
                assert_eq!(files(dir.path()), *case["files_after"].as_array().expect("list"), "{}", text("name"));
                assert_eq!(std::fs::read_to_string(dir.path().join(NAME)).expect("read"), text("main_after"), "{}", text("name"));
            }
            // INBOX was opened too and took the value behind it.
            assert_eq!((first, second), (number("allocated"), number("main_after")), "{}", text("name"));
        }
    }

    #[test]
    fn markers_are_read_only_and_values_never_repeat() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("scratch");
        let root = dir.path().join("control");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            assert!(seen.insert(next(&root, &Modes::default()).expect("next")));
        }
        let marker = files(&root).into_iter().find(|n| n.len() > NAME.len()).expect("one marker");
        assert_eq!(std::fs::metadata(root.join(marker)).expect("stat").permissions().mode() & 0o777, 0o444);
    }
}
