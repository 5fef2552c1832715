//! `%{if;A;OP;B;THEN[;ELSE]}` (cli-config.md 15.3).

use super::{Result, VarError};
use crate::config::mask;

/// Decides. `parts` is what follows `if;`; `expand` expands each of them.
pub(super) fn choose(parts: &str, expand: impl Fn(&str) -> Result<String>) -> Result<String> {
    let parts = split(parts).iter().map(|part| expand(part)).collect::<Result<Vec<_>>>()?;
    let (a, op, b, then, otherwise) = match parts.as_slice() {
        [a, op, b, then] => (a, op, b, then, ""),
        [a, op, b, then, otherwise] => (a, op, b, then, otherwise.as_str()),
        _ => return Err(VarError::If(format!("requires four or five parameters, got {}", parts.len()))),
    };
    Ok(if holds(a, op, b)? { then.clone() } else { otherwise.to_owned() })
}

/// The parts: `;` between them, `\;` is a `;`, `%{...}` stays whole, a `:` outside ends everything.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let current = parts.last_mut().expect("holds because one part is there from the start");
        match c {
            '\\' if depth == 0 && matches!(chars.peek(), Some(';' | ':')) => current.extend(chars.next()),
            ';' if depth == 0 => parts.push(String::new()),
            ':' if depth == 0 => break,
            _ => {
                depth = match c {
                    '{' => depth + 1,
                    '}' => depth.saturating_sub(1),
                    _ => depth,
                };
                current.push(c);
            }
        }
    }
    parts
}

fn holds(a: &str, op: &str, b: &str) -> Result<bool> {
    let number = |text: &str, side| text.parse::<i64>().map_err(|_| VarError::If(format!("{text} ({side}) is not a number")));
    let numbers = || Ok((number(a, "lhs")?, number(b, "rhs")?));
    Ok(match op {
        "==" => numbers().map(|(a, b)| a == b)?,
        "!=" => numbers().map(|(a, b)| a != b)?,
        "<" => numbers().map(|(a, b)| a < b)?,
        "<=" => numbers().map(|(a, b)| a <= b)?,
        ">" => numbers().map(|(a, b)| a > b)?,
        ">=" => numbers().map(|(a, b)| a >= b)?,
        "eq" => a == b,
        "ne" => a != b,
        "lt" => a < b,
        "le" => a <= b,
        "gt" => a > b,
        "ge" => a >= b,
        "*" => mask::matches(b, a),
        "!*" => !mask::matches(b, a),
        "~" => regex(b)?.is_match(a.as_bytes()),
        "!~" => !regex(b)?.is_match(a.as_bytes()),
        _ => return Err(VarError::If(format!("Unsupported comparator '{op}'"))),
    })
}

fn regex(pattern: &str) -> Result<regex::bytes::Regex> {
    regex::bytes::RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(1 << 20)
        .build()
        .map_err(|e| VarError::If(format!("Invalid regular expression '{pattern}': {e}")))
}
