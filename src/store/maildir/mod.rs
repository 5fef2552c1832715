//! The Maildir storage (maildir.md part A).
#![allow(dead_code)]

mod header;
mod keywords;
mod lines;
mod merge;
mod name;
mod scan;
mod stage;
mod uidlist;
