//! The lines of a configuration file of Dovecot 2.3: bytes in, what each line says out (cli-config.md 10.1). Knows no
//! names of settings and opens no files.

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// `key = value`
    Setting { key: String, value: RawValue },
    /// `kind name {`
    Open { kind: String, name: String },
    /// `}`
    Close,
    /// `!include pattern`; it may match nothing if `optional`.
    Include { pattern: String, optional: bool },
    /// What cannot be understood.
    Wrong(&'static str),
}

/// A value as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RawValue {
    /// This text.
    Literal(String),
    /// Text with words that begin with `$`.
    Expanding(String),
    /// The content of this file.
    File(String),
}

/// Reads line by line.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
    ambiguous: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        Self { rest, number: 0, ambiguous: Vec::new() }
    }

    /// The number of the last physical line that was read.
    pub(super) const fn number(&self) -> usize {
        self.number
    }

    /// The lines where a `#` without white space in front began a comment.
    pub(super) fn ambiguous(self) -> Vec<usize> {
        self.ambiguous
    }

    fn physical(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = memchr::memchr(b'\n', self.rest);
        let line = &self.rest[..end.unwrap_or(self.rest.len())];
        self.rest = end.map_or(&[], |end| &self.rest[end + 1..]);
        // Dovecot's lines are C strings.
        Some(memchr::memchr(0, line).map_or(line, |nul| &line[..nul]))
    }
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let mut gathered = String::new();
        loop {
            let line = String::from_utf8_lossy(self.physical()?);
            let line = line.trim_start_matches(white);
            if line.is_empty() || line.starts_with('#') {
                // A comment or an empty line inside a continuation loses what was gathered.
                gathered.clear();
                continue;
            }
            let (line, ambiguous) = without_comment(line);
            if ambiguous {
                self.ambiguous.push(self.number);
            }
            let line = line.trim_end_matches(white);
            if let Some(start) = line.strip_suffix('\\') {
                gathered.push_str(start.trim_end_matches(white));
                gathered.push(' ');
                continue;
            }
            gathered.push_str(line);
            return Some(classify(&gathered));
        }
    }
}

const fn white(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// The line up to a `#` outside of quotes, and whether that `#` followed something else than white space.
fn without_comment(line: &str) -> (&str, bool) {
    let bytes = line.as_bytes();
    let mut quote = None;
    let mut i = 0;
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(q), b) if q == b => quote = None,
            (None, b @ (b'"' | b'\'')) => quote = Some(b),
            (None, b'#') => return (&line[..i], i > 0 && !white(char::from(bytes[i - 1]))),
            _ => {}
        }
        i += 1;
    }
    (line, false)
}

fn classify(line: &str) -> Line {
    // A continuation may have put its space in front.
    let line = line.trim_start_matches(white);
    let end = line.find(|c| white(c) || c == '=').unwrap_or(line.len());
    let (key, rest) = (&line[..end], line[end..].trim_start_matches(white));
    match key {
        "!include" => return Line::Include { pattern: rest.into(), optional: false },
        "!include_try" => return Line::Include { pattern: rest.into(), optional: true },
        _ => {}
    }
    if let Some(value) = rest.strip_prefix('=') {
        return Line::Setting { key: key.into(), value: raw_value(value.trim_start_matches(white)) };
    }
    if key == "}" && rest.is_empty() {
        return Line::Close;
    }
    let (name, rest) = if let Some(quoted) = rest.strip_prefix('"') {
        match quoted.split_once('"') {
            Some((name, rest)) => (unescape(name), rest),
            None => return Line::Wrong("Expecting '{'"),
        }
    } else if rest.starts_with('{') {
        (String::new(), rest)
    } else {
        let end = rest.find(white).unwrap_or(rest.len());
        (rest[..end].to_owned(), &rest[end..])
    };
    match rest.trim_start_matches(white).strip_prefix('{') {
        None => Line::Wrong("Expecting '{'"),
        Some(rest) if !rest.is_empty() => Line::Wrong("Garbage after '{'"),
        Some(_) => Line::Open { kind: key.into(), name },
    }
}

fn raw_value(text: &str) -> RawValue {
    if let Some(path) = text.strip_prefix('<') {
        return RawValue::File(path.trim_start_matches(white).into());
    }
    for quote in ['"', '\''] {
        if text == quote.to_string() {
            return RawValue::Literal(String::new());
        }
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return RawValue::Literal(unescape(inner));
        }
    }
    let quoted = text.starts_with(['"', '\'']);
    if !quoted && text.contains('$') { RawValue::Expanding(text.into()) } else { RawValue::Literal(text.into()) }
}

/// `\x` is `x` for every x.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

const MAX_EXPANDED: usize = 1 << 20;

/// Replaces the words of `text` that begin with `$`: `lookup` gets the name. Words are parted by a space; white space
/// behind that space is skipped (a TAB elsewhere is part of a word).
///
/// # Errors
/// The first name that `lookup` does not know; a result that only a chain of doublings can give.
pub(super) fn expand(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (word, next) = match rest.split_once(' ') {
            Some((word, next)) => (word, Some(next.trim_start_matches(white))),
            None => (rest, None),
        };
        match word.strip_prefix('$') {
            Some(name) => out.push_str(&lookup(name).ok_or_else(|| format!("Unknown variable: ${name}"))?),
            None => out.push_str(word),
        }
        if out.len() > MAX_EXPANDED {
            return Err("The value is too long".into());
        }
        let Some(next) = next else { return Ok(out) };
        out.push(' ');
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn literal(key: &str, value: &str) -> Line {
        Line::Setting { key: key.into(), value: RawValue::Literal(value.into()) }
    }

    // What doveconf 2.3.19.1 makes of these bytes.
    #[test]
    fn lines_as_doveconf_reads_them() {
        for (bytes, lines) in [
            ("mail_home = a \\\n# c\n b\n", vec![Line::Wrong("Expecting '{'")]),
            ("mail_home = a \\\n\n b {\n", vec![Line::Open { kind: "b".into(), name: String::new() }]),
            ("mail_home = abc \\", vec![]),
            ("mail_home = a\\\n\tb\\\n c\n", vec![literal("mail_home", "a b c")]),
            ("mail_home = a \\ # c\n b\n", vec![literal("mail_home", "a b")]),
            ("mail_home \\\n = x\n", vec![literal("mail_home", "x")]),
            ("x\n\\\n y = 5", vec![Line::Wrong("Expecting '{'"), literal("y", "5")]),
            ("a = it's # x\r\n", vec![literal("a", "it's # x")]),
            ("a = x\"#y\"#z", vec![literal("a", "x\"#y\"")]),
            ("a = \"abc", vec![literal("a", "\"abc")]),
            ("a = \"abc\\\"", vec![literal("a", "abc")]),
            ("a = \"abc\\\\\"", vec![literal("a", "abc\\")]),
            ("a = \"", vec![literal("a", "")]),
            ("a = \"a\"b\"", vec![literal("a", "a\"b")]),
            ("a = \"a\" $b", vec![literal("a", "\"a\" $b")]),
            ("a = x\0y\nb=", vec![literal("a", "x"), literal("b", "")]),
            ("= x", vec![literal("", "x")]),
            ("namespace \"in box\" { # c\n", vec![Line::Open { kind: "namespace".into(), name: "in box".into() }]),
            ("namespace inbox{", vec![Line::Wrong("Expecting '{'")]),
            ("namespace 'a b' {", vec![Line::Wrong("Expecting '{'")]),
            ("namespace a { x = y }", vec![Line::Wrong("Garbage after '{'")]),
            ("} foo", vec![Line::Wrong("Expecting '{'")]),
            ("!include = x", vec![Line::Include { pattern: "= x".into(), optional: false }]),
        ] {
            assert_eq!(Lines::new(bytes.as_bytes()).collect::<Vec<_>>(), lines, "{bytes:?}");
        }
    }

    #[test]
    fn words_expand_as_in_doveconf() {
        let known = |name: &str| (name == "h").then(|| "HOME".to_owned());
        assert_eq!(expand("a   b\t$h   c", known), Ok("a b\t$h c".into()));
        assert_eq!(expand("$h x $h", known), Ok("HOME x HOME".into()));
        assert_eq!(expand("$h/x", known), Err("Unknown variable: $h/x".into()));
        assert_eq!(expand("x $", known), Err("Unknown variable: $".into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut lines = Lines::new(&bytes);
            while lines.next().is_some() {}
            prop_assert!(lines.number() <= bytes.iter().filter(|b| **b == b'\n').count() + 1);
        }

        #[test]
        fn odd_text_is_lines(text in r#"[ \t\\#"'=${}<!a\n]{0,60}"#) {
            Lines::new(text.as_bytes()).for_each(drop);
        }
    }
}
