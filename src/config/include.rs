//! Which files an `!include` means: `*`, `?`, `[...]` and `{a,b}`, sorted bytewise (cli-config.md 10.1).

use std::path::{Path, PathBuf};

const MAX_ALTERNATIVES: usize = 1000;
const MAX_PATTERN: usize = 4096;

/// The files that match, relative patterns below `dir`.
///
/// # Errors
/// A pattern that cannot be understood or stands for too much.
pub(super) fn matching(dir: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    if pattern.is_empty() {
        return Ok(Vec::new());
    }
    if pattern.len() > MAX_PATTERN {
        return Err("Include pattern is too long".into());
    }
    let dir = dir.to_string_lossy();
    let mut found = Vec::new();
    for alternative in alternatives(pattern)? {
        let full = if alternative.starts_with('/') || dir.is_empty() {
            alternative
        } else {
            format!("{}/{alternative}", glob::Pattern::escape(&dir))
        };
        let options =
            glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
        // What cannot be listed does not match, as in the C library.
        let paths = glob::glob_with(&full, options).map_err(|e| format!("Invalid include pattern {full}: {e}"))?;
        let start = found.len();
        found.extend(paths.filter_map(Result::ok));
        found[start..].sort();
    }
    Ok(found)
}

/// All that `{a,b}` stands for, from left to right.
fn alternatives(pattern: &str) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    let mut todo = vec![pattern.to_owned()];
    while let Some(pattern) = todo.pop() {
        if done.len() + todo.len() > MAX_ALTERNATIVES {
            return Err(format!("Include pattern stands for too many files: {pattern}"));
        }
        match braces(&pattern) {
            None => done.push(pattern),
            Some((before, inner, after)) => {
                todo.extend(inner.iter().rev().map(|part| format!("{before}{part}{after}")));
            }
        }
    }
    Ok(done)
}

/// The first braces: what is before them, the parts inside, what is behind.
fn braces(pattern: &str) -> Option<(&str, Vec<&str>, &str)> {
    let open = pattern.find('{')?;
    let inner = &pattern[open + 1..];
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (i, b) in inner.bytes().enumerate() {
        match b {
            b'{' => depth += 1,
            b'}' if depth == 0 => {
                parts.push(&inner[start..i]);
                return Some((&pattern[..open], parts, &inner[i + 1..]));
            }
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&inner[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_alternatives() {
        assert_eq!(alternatives("a{b,c{d,e}}f").unwrap(), ["abf", "acdf", "acef"]);
        assert_eq!(alternatives("a{b").unwrap(), ["a{b"]);
        assert!(alternatives(&"{a,b}".repeat(20)).is_err());
    }
}
