//! The two ends of an opened way to the other side.

use std::io::{Read, Write};

/// Both directions of an opened way. The first octets of each are the dsync handshake.
pub struct Ends {
    /// What the other side says.
    pub read: Box<dyn Read + Send>,
    /// What we say. Dropped to tell the other side that nothing more comes: a socket has to be shut down for that.
    pub write: Box<dyn Write + Send>,
    /// The other side's name in messages, until it has told its own: the host, `remote`, or `local` on a server.
    pub name: String,
}
