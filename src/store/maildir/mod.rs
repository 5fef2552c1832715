//! The Maildir storage (maildir.md part A).
#![allow(dead_code)]

mod keywords;
mod name;
mod uidlist;
