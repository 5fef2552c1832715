//! The rooms of the house and the arrows between them (docs/architecture.md): a room knows only those before it, and the
//! storages do not know each other.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up.
const ROOMS: [&str; 11] = ["os", "mail", "index", "store", "wire", "sync", "peer", "config", "users", "run", "cli"];
/// Storages: what is not listed here is shared by them.
const SIBLINGS: [&str; 5] = ["list", "maildir", "sdbox", "mdbox", "local"];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the sources are here") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The paths that a line names behind `crate::`, as far as two levels.
fn named(line: &str) -> Vec<(String, Option<String>)> {
    let code = line.split("//").next().unwrap_or_default();
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    code.match_indices("crate::")
        .map(|(at, p)| {
            let rest = &code[at + p.len()..];
            let room = word(rest);
            let inner = rest.strip_prefix(room.as_str()).and_then(|r| r.strip_prefix("::")).map(word);
            (room, inner)
        })
        .collect()
}

#[test]
fn every_arrow_points_to_the_ground() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).expect("below src").to_owned();
        let mut parts = relative.iter().map(|p| p.to_string_lossy().trim_end_matches(".rs").to_owned());
        let Some(from) = parts.next().and_then(|r| ROOMS.iter().position(|n| *n == r)) else { continue };
        let storage = parts.next().filter(|s| ROOMS[from] == "store" && SIBLINGS.contains(&s.as_str()));
        for (n, line) in fs::read_to_string(&file).expect("UTF-8").lines().enumerate() {
            for (room, inner) in named(line) {
                let Some(to) = ROOMS.iter().position(|r| *r == room) else { continue };
                let upward = to > from;
                let sibling = room == "store"
                    && storage.as_ref().is_some_and(|s| {
                        let other = inner.as_ref().filter(|i| SIBLINGS.contains(&i.as_str()));
                        // The store as a whole is list and formats put together.
                        other.is_some_and(|i| i != s) && s != "local"
                    });
                if upward || sibling {
                    wrong.push(format!("{}:{}: {}", relative.display(), n + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows against the order:\n{}", wrong.join("\n"));
}
