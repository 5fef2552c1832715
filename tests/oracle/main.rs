//! The whole program beside a real Dovecot, as an administrator uses it.

mod company;
mod conversion;
mod lab;
