//! mdbox: several mails per `storage/m.N`, found through the map index (dbox.md 3).

mod plan;
mod record;
