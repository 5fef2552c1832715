//! What a sync of a Maildir has to do, decided from the uidlist, the file names and the index (maildir.md 7.3, 4.4).
//! Facts in, steps out; nothing is read or written here.
//!
//! The uidlist is the truth about UIDs, the file name about flags, the index about what no name can say: keywords without a
//! letter, mails whose rename failed (dirty), requests in the log that nobody has carried out yet.

use std::collections::HashSet;

use super::keywords::Table;
use super::name::Letters;
use crate::mail::{Flags, Keywords};

/// A mail as the index has it, requests of the log applied to its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexMail {
    pub uid: u32,
    pub flags: Flags,
    pub keywords: Keywords,
    /// Its flags could not be written into its name.
    pub dirty: bool,
}

/// A line of the uidlist whose file is there, with the flags of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileMail {
    pub uid: u32,
    pub flags: Flags,
    pub letters: Letters,
}

/// Requests that wait in the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    /// Mails whose flags or keywords were changed.
    pub flags: HashSet<u32>,
    /// Mails that are to be expunged.
    pub expunges: HashSet<u32>,
}

impl Requests {
    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty() && self.expunges.is_empty()
    }
}

/// What the mailbox makes special.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Letters and their keywords.
    pub table: &'a Table,
    /// UIDNEXT of the index.
    pub index_next: u32,
    /// \Seen lives in the index only (12.3).
    pub private_seen: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The index loses this mail: its file is gone.
    Forget { uid: u32 },
    /// The index gets this mail.
    Append { uid: u32, flags: Flags, keywords: Keywords },
    /// The index has had this UID and expunged it, but the file is there: it needs a new UID.
    Reappeared { uid: u32 },
    /// The index takes flags and keywords over from the name.
    Adopt { uid: u32, add: Flags, remove: Flags, add_keywords: Keywords, remove_keywords: Keywords },
    /// The name takes them over from the index.
    Rename { uid: u32, flags: Flags, keywords: Keywords, dirty: bool },
    /// The file goes, and then the index loses the mail.
    Unlink { uid: u32 },
}

impl Step {
    /// Which mail it is about.
    pub const fn uid(&self) -> u32 {
        match self {
            Self::Forget { uid }
            | Self::Append { uid, .. }
            | Self::Reappeared { uid }
            | Self::Adopt { uid, .. }
            | Self::Rename { uid, .. }
            | Self::Unlink { uid } => *uid,
        }
    }
}

impl Rules<'_> {
    /// The flags of a name that others may see.
    fn shared(&self, flags: Flags, seen: Flags) -> Flags {
        if self.private_seen { flags.without(Flags::SEEN) | (seen & Flags::SEEN) } else { flags }
    }
}

/// Walks index and files side by side, both by ascending UID.
pub(super) fn merge(
    index: impl IntoIterator<Item = IndexMail>,
    files: impl IntoIterator<Item = FileMail>,
    requests: &Requests,
    rules: Rules<'_>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut files = files.into_iter().peekable();
    let only_file = |file: FileMail, steps: &mut Vec<Step>| {
        if file.uid >= rules.index_next {
            let flags = rules.shared(file.flags, Flags::NONE);
            steps.push(Step::Append { uid: file.uid, flags, keywords: rules.table.keywords(file.letters) });
        } else {
            steps.push(Step::Reappeared { uid: file.uid });
        }
    };
    for mail in index {
        while let Some(file) = files.next_if(|file| file.uid < mail.uid) {
            only_file(file, &mut steps);
        }
        match files.next_if(|file| file.uid == mail.uid) {
            None => steps.push(Step::Forget { uid: mail.uid }),
            Some(_) if requests.expunges.contains(&mail.uid) => steps.push(Step::Unlink { uid: mail.uid }),
            Some(file) => steps.extend(both(mail, file, requests, rules)),
        }
    }
    for file in files {
        only_file(file, &mut steps);
    }
    steps
}

fn both(mail: IndexMail, file: FileMail, requests: &Requests, rules: Rules<'_>) -> Option<Step> {
    let IndexMail { uid, flags, keywords, dirty } = mail;
    let named_flags = rules.shared(file.flags, flags);
    let named = rules.table.keywords(file.letters);
    if dirty || requests.flags.contains(&uid) {
        let as_named = named_flags == flags && named == keywords;
        return (dirty || !as_named).then_some(Step::Rename { uid, flags, keywords, dirty });
    }
    let (add, remove) = (named_flags.without(flags), flags.without(named_flags));
    let add_keywords = named.without(&keywords);
    // What has no letter cannot be missing in a name.
    let remove_keywords: Keywords =
        keywords.iter().filter(|k| rules.table.letter(k).is_some() && !named.contains(k)).cloned().collect();
    let differ = !(add.is_empty() && remove.is_empty() && add_keywords.is_empty() && remove_keywords.is_empty());
    differ.then_some(Step::Adopt { uid, add, remove, add_keywords, remove_keywords })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Keyword;

    fn set(names: &[&str]) -> Keywords {
        names.iter().map(|n| Keyword::new(n)).collect()
    }

    fn mail(uid: u32, flags: Flags, keywords: &[&str]) -> IndexMail {
        IndexMail { uid, flags, keywords: set(keywords), dirty: false }
    }

    fn file(uid: u32, flags: Flags, letters: &[u8]) -> FileMail {
        FileMail { uid, flags, letters: letters.iter().copied().collect() }
    }

    fn run(index: Vec<IndexMail>, files: Vec<FileMail>, requests: &Requests) -> Vec<Step> {
        let table = Table::parse(b"0 a\n1 b\n", std::path::Path::new("x"));
        merge(index, files, requests, Rules { table: &table, index_next: 10, private_seen: false })
    }

    #[test]
    fn who_is_where() {
        let steps = run(
            vec![mail(2, Flags::NONE, &[]), mail(5, Flags::NONE, &[])],
            vec![file(1, Flags::NONE, &[]), file(5, Flags::NONE, &[]), file(10, Flags::SEEN, &[1])],
            &Requests::default(),
        );
        let append = Step::Append { uid: 10, flags: Flags::SEEN, keywords: set(&["b"]) };
        assert_eq!(steps, [Step::Reappeared { uid: 1 }, Step::Forget { uid: 2 }, append]);
    }

    #[test]
    fn names_win_except_for_keywords_without_a_letter() {
        let steps = run(vec![mail(1, Flags::SEEN, &["a", "27th"])], vec![file(1, Flags::DRAFT, &[1])], &Requests::default());
        let adopt = Step::Adopt {
            uid: 1,
            add: Flags::DRAFT,
            remove: Flags::SEEN,
            add_keywords: set(&["b"]),
            remove_keywords: set(&["a"]),
        };
        assert_eq!(steps, [adopt]);
        let quiet = run(vec![mail(1, Flags::SEEN, &["a", "27th"])], vec![file(1, Flags::SEEN, &[0])], &Requests::default());
        assert_eq!(quiet, []);
    }

    #[test]
    fn requests_and_dirty_mails_win_over_names() {
        let requests = Requests { flags: [1].into(), expunges: [2].into() };
        let dirty = IndexMail { dirty: true, ..mail(3, Flags::NONE, &[]) };
        let steps = run(
            vec![mail(1, Flags::SEEN, &["new"]), mail(2, Flags::NONE, &[]), dirty],
            vec![file(1, Flags::NONE, &[0]), file(2, Flags::SEEN, &[]), file(3, Flags::NONE, &[])],
            &requests,
        );
        assert_eq!(
            steps,
            [
                Step::Rename { uid: 1, flags: Flags::SEEN, keywords: set(&["new"]), dirty: false },
                Step::Unlink { uid: 2 },
                Step::Rename { uid: 3, flags: Flags::NONE, keywords: Keywords::NONE, dirty: true },
            ]
        );
    }

    #[test]
    fn a_private_seen_flag_is_not_in_names() {
        let table = Table::default();
        let rules = Rules { table: &table, index_next: 2, private_seen: true };
        let files = [file(1, Flags::SEEN | Flags::DRAFT, &[]), file(2, Flags::SEEN, &[])];
        let steps = merge([mail(1, Flags::NONE, &[])], files, &Requests::default(), rules);
        let adopt = Step::Adopt {
            uid: 1,
            add: Flags::DRAFT,
            remove: Flags::NONE,
            add_keywords: Keywords::NONE,
            remove_keywords: Keywords::NONE,
        };
        assert_eq!(steps, [adopt, Step::Append { uid: 2, flags: Flags::NONE, keywords: Keywords::NONE }]);
    }
}
