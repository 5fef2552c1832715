//! Mailbox lists beside a live Dovecot: what we make it sees, what it makes we see, and a kill at any step loses nothing.

mod faults;
mod lab;
mod live;
