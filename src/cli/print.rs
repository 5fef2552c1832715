//! The state on standard output, in the formats of doveadm (cli-config.md 6.4).

use std::io::{self, Write};

/// A format of `-f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Formatter {
    /// Also `pager`.
    Flow,
    Table,
    Tab,
    Json,
}

/// The width that doveadm gives the column.
const TABLE_WIDTH: usize = 46;

impl Formatter {
    /// By its name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "flow" | "pager" => Self::Flow,
            "table" => Self::Table,
            "tab" => Self::Tab,
            "json" => Self::Json,
            _ => return None,
        })
    }

    /// Prints the state of one user, or what is printed without one.
    pub(super) fn print(self, state: Option<&str>, titles: bool, out: &mut dyn Write) -> io::Result<()> {
        match (self, state) {
            (Self::Flow | Self::Table, None) => {}
            (Self::Flow, Some(state)) => writeln!(out, "{state}")?,
            (Self::Table, Some(state)) => writeln!(out, "{state:TABLE_WIDTH$}")?,
            (Self::Tab, state) => {
                if titles {
                    writeln!(out, "state")?;
                }
                if let Some(state) = state {
                    writeln!(out, "{state}")?;
                }
            }
            (Self::Json, None) => write!(out, "[]")?,
            (Self::Json, Some(state)) => write!(out, "{}", serde_json::json!([{ "state": state }]))?,
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // As doveadm 2.3.19.1 prints them.
    #[test]
    fn states_look_as_doveadm_prints_them() {
        let print = |name: &str, state, titles| {
            let mut out = Vec::new();
            Formatter::named(name).unwrap().print(state, titles, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let state = Some("AQAAAHm4+Jk=");
        assert_eq!(print("flow", state, true), "AQAAAHm4+Jk=\n");
        assert_eq!(print("pager", state, true), "AQAAAHm4+Jk=\n");
        assert_eq!(print("table", state, true), "AQAAAHm4+Jk=                                  \n");
        assert_eq!(print("tab", state, true), "state\nAQAAAHm4+Jk=\n");
        assert_eq!(print("tab", state, false), "AQAAAHm4+Jk=\n");
        assert_eq!(print("tab", None, true), "state\n");
        assert_eq!(print("json", state, true), "[{\"state\":\"AQAAAHm4+Jk=\"}]");
        assert_eq!(print("json", None, true), "[]");
        assert_eq!(print("flow", None, true), "");
        assert_eq!(Formatter::named("nosuch"), None);
    }
}
