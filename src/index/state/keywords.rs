//! The keyword names of an index, and the sets of them that mails have. A mail holds the number of its set.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::mail::{Keyword, Keywords};

/// Number of a set; 0 is the empty one.
pub(in crate::index) type SetId = u32;

#[derive(Debug, Clone, Default)]
pub(in crate::index) struct KeywordTable {
    names: Vec<Box<[u8]>>,
    by_name: HashMap<Vec<u8>, u32>,
    sets: Vec<Set>,
    by_content: HashMap<Vec<u32>, SetId>,
    bytes: usize,
}

#[derive(Debug, Clone, Default)]
struct Set {
    // Numbers of keywords, ascending.
    content: Vec<u32>,
    built: OnceLock<Keywords>,
}

impl KeywordTable {
    /// The names as they were first written, in the order of their numbers.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.names.iter().map(|n| &**n)
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Bytes that the header of the `keywords` extension needs.
    pub fn header_size(&self) -> usize {
        4 + 8 * self.names.len() + self.bytes
    }

    /// The number of a name, in any case.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    /// The number of a name; it is added if it is new.
    pub fn add(&mut self, name: &[u8]) -> u32 {
        if let Some(id) = self.find(name) {
            return id;
        }
        let id = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.bytes += name.len() + 1;
        self.names.push(name.into());
        self.by_name.insert(name.to_ascii_lowercase(), id);
        id
    }

    /// The keywords of a set.
    pub fn set(&self, id: SetId) -> &Keywords {
        static NONE: Keywords = Keywords::NONE;
        if id == 0 {
            return &NONE;
        }
        let Some(set) = self.sets.get(id as usize - 1) else { return &NONE };
        set.built.get_or_init(|| {
            set.content
                .iter()
                .filter_map(|&k| self.names.get(k as usize))
                .map(|name| Keyword::new(&String::from_utf8_lossy(name)))
                .collect()
        })
    }

    /// The numbers of the keywords in a set, ascending.
    pub fn content(&self, id: SetId) -> &[u32] {
        if id == 0 { &[] } else { self.sets.get(id as usize - 1).map_or(&[], |s| &s.content) }
    }

    /// The set with exactly these keywords (ascending).
    pub fn intern(&mut self, content: Vec<u32>) -> SetId {
        if content.is_empty() {
            return 0;
        }
        if let Some(&id) = self.by_content.get(&content) {
            return id;
        }
        self.sets.push(Set { content: content.clone(), built: OnceLock::new() });
        let id = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        self.by_content.insert(content, id);
        id
    }

    /// The set that results from adding a keyword to this one, or from removing it.
    pub fn changed(&mut self, id: SetId, keyword: u32, add: bool) -> SetId {
        let content = self.content(id);
        match (content.binary_search(&keyword), add) {
            (Ok(_), true) | (Err(_), false) => id,
            (Ok(at), false) => {
                let mut content = content.to_vec();
                content.remove(at);
                self.intern(content)
            }
            (Err(at), true) => {
                let mut content = content.to_vec();
                content.insert(at, keyword);
                self.intern(content)
            }
        }
    }
}
