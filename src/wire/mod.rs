//! The dsync protocol's bytes (wire.md 1 to 6): what is said when, and what it means, is `sync`'s business.

mod ends;

pub use ends::Ends;
