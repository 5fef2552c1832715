//! The %-variables of Dovecot 2.2 and 2.3 (cli-config.md 15).
//!
//! ```text
//! var = "%" [ "-" ] [ "0" ] [ 1*DIGIT ] [ "." [ "0" ] [ "-" ] *DIGIT ] *10modifier ( short / "{" long "}" )
//! ```

mod choice;
mod hash;
mod modifier;

use thiserror::Error;

use modifier::Shape;

/// Why a text could not be expanded, in Dovecot's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VarError {
    /// There is no such variable.
    #[error("Unknown variable '%{0}'")]
    Unknown(String),
    /// A wrong `%{if;...}`.
    #[error("if: {0}")]
    If(String),
    /// A wrong hash.
    #[error("{0}")]
    Hash(String),
    /// Variables inside of variables, too many levels.
    #[error("Variables are nested too deeply")]
    Depth,
}

type Result<T> = std::result::Result<T, VarError>;

/// What the variables of a mail user stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vars {
    /// `%u`, and by that `%n` and `%d`.
    pub user: String,
    /// `%h`; empty if there is none.
    pub home: String,
    /// `%i`.
    pub uid: Option<u32>,
    /// `%{gid}`.
    pub gid: Option<u32>,
    /// `%{session}`.
    pub session: String,
    /// `%{hostname}`.
    pub hostname: String,
    /// `%{userdb:NAME}`.
    pub userdb: Vec<(String, String)>,
}

const MAX_DEPTH: usize = 10;

impl Vars {
    /// The text with all variables replaced.
    ///
    /// # Errors
    /// Unknown variables, wrong expressions.
    pub fn expand(&self, text: &str) -> Result<String> {
        self.expand_at(text, 0)
    }

    fn expand_at(&self, text: &str, depth: usize) -> Result<String> {
        if depth > MAX_DEPTH {
            return Err(VarError::Depth);
        }
        let mut out = Vec::with_capacity(text.len());
        scan(text, |piece| {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Short(shape, name) => {
                    let value = self.short(name).ok_or_else(|| VarError::Unknown(name.into()))?;
                    out.extend(shape.apply(value.into_bytes()));
                }
                Piece::Long(shape, expression) => {
                    out.extend(shape.apply(self.long(expression, depth)?.into_bytes()));
                }
                Piece::Open => return Err(VarError::Unknown("{".into())),
            }
            Ok(())
        })?;
        Ok(match String::from_utf8(out) {
            Ok(text) => text,
            // A width can cut a character in two.
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        })
    }

    fn short(&self, name: char) -> Option<String> {
        let long = match name {
            '%' => return Some("%".into()),
            'u' => "user",
            'n' => "username",
            'd' => "domain",
            'h' => "home",
            's' => "service",
            'l' => "lip",
            'r' => "rip",
            'p' => "pid",
            'i' => "uid",
            _ => return None,
        };
        self.named(long)
    }

    fn named(&self, name: &str) -> Option<String> {
        let split = || self.user.split_once('@').unwrap_or((&self.user, ""));
        let number = |n: Option<u32>| n.map_or_else(String::new, |n| n.to_string());
        Some(match name {
            "user" | "auth_user" => self.user.clone(),
            "username" | "auth_username" => split().0.into(),
            "domain" | "auth_domain" => split().1.into(),
            "home" => self.home.clone(),
            "service" => "doveadm".into(),
            "lip" | "rip" | "local_ip" | "remote_ip" => String::new(),
            "pid" => std::process::id().to_string(),
            "uid" => number(self.uid),
            "gid" => number(self.gid),
            "session" => self.session.clone(),
            "hostname" => self.hostname.clone(),
            _ => return None,
        })
    }

    /// The value of what stands between `%{` and `}`.
    fn long(&self, expression: &str, depth: usize) -> Result<String> {
        if let Some(parts) = expression.strip_prefix("if;") {
            return choice::choose(parts, |part| self.expand_at(part, depth + 1));
        }
        let Some((function, argument)) = expression.split_once(':') else {
            return self.named(expression).ok_or_else(|| VarError::Unknown(expression.into()));
        };
        match function {
            "env" => return Ok(std::env::var_os(argument).map_or_else(String::new, |v| v.to_string_lossy().into())),
            "userdb" => {
                let (name, default) = argument.split_once(':').unwrap_or((argument, ""));
                let found = self.userdb.iter().find(|(n, _)| n == name);
                return Ok(found.map_or(default, |(_, v)| v).to_owned());
            }
            _ => {}
        }
        let (algorithm, options) = function.split_once(';').unwrap_or((function, ""));
        let Some(hash) = hash::Algorithm::named(algorithm) else {
            return Err(VarError::Unknown(algorithm.into()));
        };
        let value = self.named(argument).ok_or_else(|| VarError::Unknown(argument.into()))?;
        hash.apply(options, value.as_bytes())
    }
}

/// The text with the variables of some other table than a mail user's: by short or long name.
///
/// # Errors
/// Unknown variables.
pub(super) fn expand_with<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    scan(text, |piece| {
        let (shape, name) = match piece {
            Piece::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                return Ok(());
            }
            Piece::Short(shape, name) => (shape, name.to_string()),
            Piece::Long(shape, name) => (shape, name.to_owned()),
            Piece::Open => return Err(VarError::Unknown("{".into())),
        };
        let value = if name == "%" { Some("%") } else { value(&name) };
        out.extend(shape.apply(value.ok_or(VarError::Unknown(name))?.as_bytes().to_vec()));
        Ok(())
    })?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// The name of every variable in the text, short or long, in their order. For settings that allow only some.
pub(super) fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let collected = scan(text, |piece| {
        match piece {
            Piece::Text(_) => {}
            Piece::Short(_, name) => names.push(name.to_string()),
            Piece::Long(_, name) => names.push(name.to_owned()),
            Piece::Open => names.push("{".into()),
        }
        Ok::<_, std::convert::Infallible>(())
    });
    match collected {
        Ok(()) => names,
        Err(never) => match never {},
    }
}

enum Piece<'t> {
    Text(&'t str),
    Short(Shape, char),
    Long(Shape, &'t str),
    /// A `%{` without its `}`.
    Open,
}

/// Cuts the text at its variables. A `%` without a name at the end vanishes.
fn scan<'t, E>(text: &'t str, mut each: impl FnMut(Piece<'t>) -> std::result::Result<(), E>) -> std::result::Result<(), E> {
    let mut rest = text;
    while let Some(percent) = rest.find('%') {
        each(Piece::Text(&rest[..percent]))?;
        let (shape, after) = Shape::parse(&rest[percent + 1..]);
        let Some(name) = after.chars().next() else { return Ok(()) };
        rest = &after[name.len_utf8()..];
        if name != '{' {
            each(Piece::Short(shape, name))?;
        } else if let Some(end) = closing(rest) {
            each(Piece::Long(shape, &rest[..end]))?;
            rest = &rest[end + 1..];
        } else {
            return each(Piece::Open);
        }
    }
    each(Piece::Text(rest))
}

/// Where the `}` is that closes what was opened before this text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(i),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Corpus {
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        expr: String,
        out: Option<String>,
        error: Option<String>,
    }

    fn alice() -> Vars {
        Vars {
            user: "alice@example.org".into(),
            home: "/srv/mail/alice".into(),
            uid: Some(1000),
            gid: Some(1000),
            userdb: [("mail", "maildir:~/Maildir"), ("quota_rule", "*:storage=1G")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            ..Vars::default()
        }
    }

    // Captured from Dovecot 2.3.19.1.
    #[test]
    fn all_cases_of_the_corpus() {
        let corpus: Corpus = serde_json::from_str(include_str!("../../../tests/fixtures/config/v23-vars/expected.json")).unwrap();
        assert_eq!(corpus.cases.len(), 104);
        let mut wrong = Vec::new();
        for case in corpus.cases {
            // The environment is the one this test runs in.
            if case.expr == "%{env:USER}" {
                let user = std::env::var("USER").unwrap_or_default();
                assert_eq!(alice().expand(&case.expr), Ok(user));
                continue;
            }
            let got = alice().expand(&case.expr);
            let same = match &got {
                Ok(out) => Some(out) == case.out.as_ref() && case.error.is_none(),
                Err(error) => Some(error.to_string()) == case.error,
            };
            if !same {
                wrong.push(format!("{}: {got:?} instead of {:?} {:?}", case.expr, case.out, case.error));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn patterns_match_bytes() {
        assert_eq!(alice().expand("%{if;%u;~;^.*@[^.]+\\.org$;y;n}"), Ok("y".into()));
        assert_eq!(alice().expand("%{if;%u;!~;^bob;y;n}"), Ok("y".into()));
        assert!(alice().expand("%{if;%u;~;(;y;n}").is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        let mut text = "%u".to_owned();
        for _ in 0..50 {
            text = format!("%{{if;1;==;1;{text};x}}");
        }
        assert_eq!(alice().expand(&text), Err(VarError::Depth));
    }

    #[test]
    fn names_of_variables() {
        assert_eq!(names("%08Xu%08Xv%%x%{if;%u;eq;x;y}%"), ["u", "v", "%", "if;%u;eq;x;y"]);
    }

    proptest! {
        #[test]
        fn any_text_expands_or_fails(text in r#"[%{}0-9.\-LUEXRMHNDTundhi;:~*=<>!a-e\\ ü]{0,40}"#) {
            let _ = alice().expand(&text);
        }
    }
}
