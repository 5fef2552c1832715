//! The Maildir storage against what Dovecot wrote, and against a live Dovecot.

mod corpus;
mod faults;
mod histories;
mod lab;
mod live;
mod ours;
mod special;
