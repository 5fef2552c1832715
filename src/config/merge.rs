//! From blocks of settings to the settings that hold for one question (cli-config.md 10.2).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::error::Place;
use super::filter::Filter;
use super::parse::{Block, Parsed};

/// Settings by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) values: BTreeMap<String, String>,
    pub(super) lists: BTreeMap<String, Vec<String>>,
}

/// Two blocks, neither more specific than the other, that do not agree.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Conflict in setting {key} found from filter at {at}")]
pub(super) struct Conflict {
    key: String,
    at: Place,
}

impl Parsed {
    /// The settings that hold for `question`.
    pub(super) fn merge(&self, question: &Filter) -> Result<Merged, Conflict> {
        let mut blocks: Vec<&Block> = self.blocks.iter().filter(|b| b.filter.contains(question)).collect();
        blocks.sort_by_key(|b| b.filter.rank());
        let mut merged = Merged::default();
        let mut origins: BTreeMap<&str, &Block> = BTreeMap::new();
        for block in blocks {
            for (key, text) in &block.values {
                match origins.entry(key) {
                    Entry::Occupied(mut origin) => {
                        if !origin.get().filter.contains(&block.filter) && merged.values.get(key) != Some(text) {
                            return Err(Conflict { key: key.clone(), at: block.at.clone() });
                        }
                        origin.insert(block);
                    }
                    Entry::Vacant(origin) => {
                        origin.insert(block);
                    }
                }
                merged.values.insert(key.clone(), text.clone());
            }
            for (list, ids) in &block.lists {
                let all = merged.lists.entry(list.clone()).or_default();
                all.extend(ids.iter().filter(|id| !all.contains(id)).cloned().collect::<Vec<_>>());
            }
        }
        Ok(merged)
    }

    /// No block's own filter has conflicting settings.
    pub(super) fn check_conflicts(&self) -> Result<(), Conflict> {
        self.blocks.iter().try_for_each(|block| self.merge(&block.filter).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::filter::Net;
    use super::super::parse::parse;
    use super::*;

    #[derive(serde::Deserialize)]
    struct Corpus {
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        error: Option<String>,
        filter: Vec<String>,
        settings: BTreeMap<String, String>,
    }

    fn question(parts: &[String]) -> Filter {
        let mut filter = Filter::default();
        for part in parts {
            match part.split_once('=').unwrap() {
                ("service", name) => filter.service = Filter::of_service(name).service,
                ("local", net) => filter.local = Some(Net::parse(net).unwrap()),
                ("remote", net) => filter.remote = Some(Net::parse(net).unwrap()),
                ("lname", name) => filter.local_name = Some(name.into()),
                other => panic!("{other:?}"),
            }
        }
        filter
    }

    // doveconf 2.3.19.1 -f ...
    #[test]
    fn blocks_win_as_in_doveconf() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/v23-filters");
        let corpus: Corpus = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let parsed = parse(&dir.join("dovecot.conf")).unwrap();
        parsed.check_conflicts().unwrap();
        assert!(corpus.cases.len() > 8);
        for case in corpus.cases {
            match parsed.merge(&question(&case.filter)) {
                Err(conflict) => {
                    let error = case.error.unwrap();
                    let line = conflict.at.line;
                    assert!(
                        error.contains(&format!("Conflict in setting {} found from filter at dovecot.conf:{line}", conflict.key)),
                        "{error} {conflict}"
                    );
                }
                Ok(merged) => {
                    assert_eq!(case.error, None, "{:?}", case.filter);
                    for (key, text) in case.settings.iter().filter(|(key, _)| *key != "plugin") {
                        let got = merged.values.get(key).map(String::as_str);
                        let got = got.or_else(|| super::super::defs::default_of(key));
                        assert_eq!(got, Some(text.as_str()), "{key} {:?}", case.filter);
                    }
                }
            }
        }
    }
}
