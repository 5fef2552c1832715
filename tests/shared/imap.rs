//! Dovecot's imap program, spoken to as a client does.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// An IMAP session of a user.
pub struct Imap {
    child: Child,
    lines: BufReader<ChildStdout>,
    count: u32,
}

impl Imap {
    /// The command is Dovecot's imap program, with its settings.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("imap runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        lines.read_line(&mut String::new()).expect("a greeting");
        Self { child, lines, count: 0 }
    }

    /// Runs a command; its answer may be anything, and the session may end.
    pub fn any(&mut self, command: &str) -> String {
        self.count += 1;
        let tag = format!("t{} ", self.count);
        let mut all = String::new();
        if self.child.stdin.as_mut().expect("piped").write_all(format!("{tag}{command}\r\n").as_bytes()).is_err() {
            return all;
        }
        loop {
            let mut line = self.line();
            if line.is_empty() {
                return all;
            }
            // A literal in an answer.
            if let Some(size) = line.trim_end().strip_suffix('}').and_then(|l| l.rsplit_once('{')?.1.parse().ok()) {
                let mut literal = vec![0; size];
                if self.lines.read_exact(&mut literal).is_err() {
                    return all;
                }
                line.push_str(&String::from_utf8_lossy(&literal));
            }
            all.push_str(&line);
            if line.starts_with(&tag) {
                return all;
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let _ = self.lines.read_until(b'\n', &mut line);
        String::from_utf8_lossy(&line).into_owned()
    }

    #[track_caller]
    pub fn ok(&mut self, command: &str) -> String {
        let answer = self.any(command);
        assert!(Self::is_ok(&answer), "{command}: {answer}");
        answer
    }

    /// APPEND, with flags and a date such as `(\Seen kw) "01-Jan-2020 10:00:00 +0000"`.
    pub fn append(&mut self, mailbox: &str, how: &str, text: &str) -> String {
        let text = text.replace('\n', "\r\n");
        self.any(&format!("APPEND \"{mailbox}\" {how} {{{}+}}\r\n{text}", text.len()))
    }

    /// The command succeeded.
    pub fn is_ok(answer: &str) -> bool {
        answer.lines().last().is_some_and(|l| l.split(' ').nth(1) == Some("OK"))
    }
}

impl Drop for Imap {
    fn drop(&mut self) {
        self.any("LOGOUT");
        let _ = self.child.wait();
    }
}
