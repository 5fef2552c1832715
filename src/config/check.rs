//! Settings that do not fit together (cli-config.md 10.5). The texts are Dovecot's.

use super::Config;
use super::vars;

const SPECIAL_USES: &[&str] = &["\\All", "\\Archive", "\\Drafts", "\\Flagged", "\\Important", "\\Junk", "\\Sent", "\\Trash"];

impl Config {
    /// Looks at the settings of a whole configuration.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.text("dsync_alt_char").is_empty() {
            return Err("dsync_alt_char must not be empty".into());
        }
        if self.words("dsync_hashed_headers").is_empty() {
            return Err("dsync_hashed_headers must not be empty".into());
        }
        for feature in self.words("dsync_features") {
            if !feature.eq_ignore_ascii_case("empty-header-workaround") {
                return Err(format!("dsync_features: Unknown feature: {feature}"));
            }
        }
        if self.flag("mail_nfs_index") {
            if !self.flag("mmap_disable") {
                return Err("mail_nfs_index=yes requires mmap_disable=yes".into());
            }
            if self.text("mail_fsync") != "always" {
                return Err("mail_nfs_index=yes requires mail_fsync=always".into());
            }
        }
        if let Some(name) = vars::names(self.text("pop3_uidl_format")).into_iter().find(|name| {
            !matches!(name.as_str(), "v" | "u" | "m" | "f" | "g" | "%" | "uidvalidity" | "uid" | "md5" | "filename" | "guid")
        }) {
            return Err(format!("Unknown pop3_uidl_format variable: %{name}"));
        }
        self.check_namespaces()
    }

    fn check_namespaces(&self) -> Result<(), String> {
        let namespaces = self.namespaces();
        for ns in &namespaces {
            if ns.text("separator").chars().nth(1).is_some() {
                return Err(format!("Namespace '{}': Hierarchy separator must be only one character long", ns.text("prefix")));
            }
            if let Some(target) = ns.own("alias_for") {
                let prefix = ns.text("prefix");
                match namespaces.iter().find(|other| other.text("prefix") == target) {
                    None => {
                        return Err(format!("Namespace '{prefix}': alias_for points to unknown namespace: {target}"));
                    }
                    Some(other) => {
                        if let Some(next) = other.own("alias_for") {
                            return Err(format!("Namespace '{prefix}': alias_for chaining isn't allowed: {target} -> {next}"));
                        }
                    }
                }
            }
            for mailbox in ns.mailboxes() {
                for flag in mailbox.text("special_use").split_ascii_whitespace() {
                    if !SPECIAL_USES.iter().any(|known| known.eq_ignore_ascii_case(flag)) {
                        return Err(format!("mailbox {}: unknown special_use: {flag}", mailbox.text("name")));
                    }
                }
            }
        }
        Ok(())
    }
}
