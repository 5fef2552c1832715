//! The whole program beside a real Dovecot, as an administrator uses it.

mod bad_input;
mod company;
mod conversion;
mod lab;
mod places;
mod scenarios;
mod selection;
mod soak;
