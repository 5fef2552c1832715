//! Dovecot's wildcards: `*` any text, `?` one byte, nothing else.

use globset::GlobBuilder;

/// The whole text is what the mask says. A mask that is too large for the matcher matches nothing.
pub(super) fn matches(mask: &str, text: &str) -> bool {
    let mut glob = String::with_capacity(mask.len());
    for c in mask.chars() {
        match c {
            // Two stars mean something else to globset.
            '*' if glob.ends_with('*') => {}
            '*' | '?' => glob.push(c),
            // Everything else is what it is, `[` and `{` too.
            _ if c.is_ascii_punctuation() => glob.extend(['\\', c]),
            _ => glob.push(c),
        }
    }
    let glob = GlobBuilder::new(&glob).literal_separator(false).backslash_escape(true).build();
    glob.is_ok_and(|glob| glob.compile_matcher().is_match(text))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks() {
        for (mask, text, same) in [
            ("*@example.org", "alice@example.org", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("?", "", false),
            ("??", "ü", true),
            ("", "", true),
            ("*", "", true),
            ("*aab", "aaaab", true),
            ("[a]", "a", false),
            ("\\*", "\\x", true),
            ("**/b", "b", false),
            ("*", "a/b", true),
        ] {
            assert_eq!(matches(mask, text), same, "{mask} {text}");
        }
    }
}
