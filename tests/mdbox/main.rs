//! The mdbox storage, judged by fixtures and by a real Dovecot.

mod common;
mod corpus;
mod faults;
mod judge;
mod lab;
mod live;
mod together;
