//! The dsync protocol: captures of real sessions, and real Dovecots at the other end.

mod captures;
mod cuts;
mod hostile;
mod live;
#[path = "../oracle/lab.rs"]
#[allow(dead_code, reason = "shared with the tests of whole runs")]
mod oracle;
