//! The header of the `list` extension: a flag, then names by number (index.md 9.2). Bytes in, bytes out.

/// Names by their numbers, ascending.
#[derive(Debug, Default)]
pub struct NameTable(Vec<(u32, Vec<u8>)>);

impl NameTable {
    /// Understands the header.
    pub fn parse(header: &[u8]) -> Result<Self, String> {
        let mut names: Vec<(u32, Vec<u8>)> = Vec::new();
        let Some((_, mut rest)) = header.split_first() else { return Ok(Self::default()) };
        while let Some((id, tail)) = rest.split_first_chunk::<4>() {
            let id = u32::from_le_bytes(*id);
            if id == 0 {
                break;
            }
            if names.last().is_some_and(|(last, _)| *last >= id) {
                return Err(format!("name ids of the list header do not ascend at {id}"));
            }
            let Some(end) = memchr::memchr(0, tail) else { return Err(format!("name {id} of the list header has no end")) };
            if end == 0 {
                return Err(format!("name {id} of the list header is empty"));
            }
            names.push((id, tail[..end].to_vec()));
            rest = &tail[end + 1..];
        }
        Ok(Self(names))
    }

    /// The name with this number.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        self.0.binary_search_by_key(&id, |(i, _)| *i).ok().map(|at| self.0[at].1.as_slice())
    }

    /// Gives a name the next free number.
    pub fn add(&mut self, name: &[u8]) -> u32 {
        let id = self.0.last().map_or(1, |(last, _)| last.saturating_add(1));
        self.0.push((id, name.to_vec()));
        id
    }

    /// Forgets all names but those with these numbers.
    pub fn keep(&mut self, ids: &std::collections::HashSet<u32>) {
        self.0.retain(|(id, _)| ids.contains(id));
    }

    /// The header with refresh flag 0, without padding.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0];
        for (id, name) in &self.0 {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(name);
            out.push(0);
        }
        out.extend_from_slice(&[0; 4]);
        out
    }
}
