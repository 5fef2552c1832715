//! A mail text on its way in: small ones stay in memory, big ones go to a file that nobody else sees.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::mail::{self, Body, Class, FileRange};
use crate::os::fs::{self, Modes};

/// What stays in memory.
const IN_MEMORY: usize = 256 << 10;

/// A stream while it comes in.
#[derive(Debug, Default)]
pub struct Spool {
    data: Vec<u8>,
    file: Option<(File, std::path::PathBuf)>,
    size: u64,
}

/// A stream that has come in. Can be read more than once.
#[derive(Debug, Clone)]
pub struct Spooled {
    data: Arc<Vec<u8>>,
    file: Option<Arc<File>>,
    size: u64,
}

impl Spool {
    /// Takes a part. The file, where one is needed, is made in `dir`.
    ///
    /// # Errors
    /// No room, no permission in `dir`.
    pub fn add(&mut self, part: &[u8], dir: &Path) -> mail::Result<()> {
        self.size += part.len() as u64;
        if self.file.is_none() && self.data.len() + part.len() > IN_MEMORY {
            let id = hex::encode(mail::generate_guid());
            let path = dir.join(format!("dsync.{id}.tmp"));
            let modes = Modes { file: 0o600, ..Modes::default() };
            let mut file = fs::create_new(&path, &modes)?;
            fs::unlink(&path)?;
            fs::write_all(&mut file, &path, &self.data)?;
            self.data = Vec::new();
            self.file = Some((file, path));
        }
        match &mut self.file {
            Some((file, path)) => Ok(fs::write_all(file, path, part)?),
            None => {
                self.data.extend_from_slice(part);
                Ok(())
            }
        }
    }

    /// All of it is here.
    #[must_use]
    pub fn finish(self) -> Spooled {
        Spooled { data: Arc::new(self.data), file: self.file.map(|(f, _)| Arc::new(f)), size: self.size }
    }
}

impl Spooled {
    /// The text as a mail's body.
    #[must_use]
    pub fn body(&self) -> Body {
        match &self.file {
            Some(file) => Body::from_range(FileRange { file: Arc::clone(file), offset: 0, len: self.size }, None),
            None => Body::from_bytes(self.data.to_vec()),
        }
    }

    /// The text in memory: for what is known to be small.
    ///
    /// # Errors
    /// It is longer than `most`, or cannot be read.
    pub fn bytes(&self, most: u64) -> mail::Result<Vec<u8>> {
        if self.size > most {
            return Err(mail::Error::new(Class::Limit, format!("{} octets are too many", self.size)));
        }
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut self.body().reader, &mut out)
            .map_err(|e| mail::Error::new(Class::Temporary, format!("reading a temporary file: {e}")))?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_ones_lie_in_a_file_without_a_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::default();
        let part = vec![b'x'; 100 << 10];
        for _ in 0..5 {
            spool.add(&part, dir.path()).expect("room");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
        let spooled = spool.finish();
        assert!(spooled.body().range.is_some());
        assert_eq!(spooled.bytes(1 << 20).expect("small enough").len(), 500 << 10);
        assert!(spooled.bytes(1000).is_err());
    }
}
