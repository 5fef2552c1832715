//! Ways to the other side, against programs that we did not write: Dovecot's doveadm server, sshd, openssl, shells.

mod commands;
mod cuts;
mod forward;
mod hostile;
mod lab;
mod matrix;
mod options;
#[path = "../oracle/lab.rs"]
#[allow(dead_code, reason = "shared with the tests of whole runs")]
mod oracle;
mod revert;
mod rows;
#[cfg(feature = "ssh")]
mod ssh;
mod tcp;
mod texts;
