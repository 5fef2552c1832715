//! The dsync protocol: captures of real sessions, and real Dovecots at the other end.

mod captures;
