//! `dsync_remote_cmd`: the command that reaches another machine (wire.md 7.3).

use super::Config;
use super::vars::{VarError, expand_with};

/// Without a setting.
const DEFAULT: &str = "ssh -l%{login} %{host} doveadm dsync-server -u%u";

/// Whom the command concerns, and where.
#[derive(Debug, Clone, Copy, Default)]
pub struct Remote<'a> {
    /// `%u`, `%{user}`
    pub user: &'a str,
    /// `%{login}`
    pub login: &'a str,
    /// `%{host}`
    pub host: &'a str,
}

impl Remote<'_> {
    fn expand(&self, word: &str) -> Result<String, VarError> {
        expand_with(word, |name| {
            Some(match name {
                "u" | "user" => self.user,
                "login" => self.login,
                "host" => self.host,
                _ => return None,
            })
        })
    }
}

impl Config {
    fn remote_words(&self) -> impl Iterator<Item = &str> {
        // Dovecot 2.4 refuses -U. Where nobody asks for it, it is not needed: only a replicator wants to be told.
        let text = self.own("dsync_remote_cmd").unwrap_or(DEFAULT);
        text.split(' ')
    }

    /// The words of `dsync_remote_cmd`. A word that says nothing without its variables is left out when they are empty.
    ///
    /// # Errors
    /// Unknown variables.
    pub fn remote_command(&self, remote: Remote<'_>) -> Result<Vec<String>, VarError> {
        let words = self.remote_words().map(|word| one(word, remote));
        words.filter_map(Result::transpose).collect()
    }

    /// The part of `dsync_remote_cmd` behind the host's name: what ssh gives to the shell at the other end. Values of
    /// variables are quoted for it.
    ///
    /// # Errors
    /// Unknown variables.
    pub fn remote_shell_command(&self, remote: Remote<'_>) -> Result<String, VarError> {
        let all: Vec<_> = self.remote_words().collect();
        let behind = all.iter().position(|word| word.contains("%{host}")).map(|at| &all[at + 1..]);
        let words = behind.filter(|words| !words.is_empty()).unwrap_or(&["doveadm", "dsync-server", "-u%u"]);
        let quoted = words.iter().map(|word| Ok(one(word, remote)?.map(|text| if text == *word { text } else { quote(text) })));
        Ok(quoted.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?.join(" "))
    }
}

fn one(word: &str, remote: Remote<'_>) -> Result<Option<String>, VarError> {
    if !word.contains('%') {
        return Ok(Some(word.into()));
    }
    let (text, empty) = (remote.expand(word)?, Remote::default().expand(word)?);
    Ok(Some(text).filter(|text| *text != empty || empty.is_empty()))
}

fn quote(text: String) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./@+=:,%".contains(&b);
    if text.bytes().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::super::{Override, Source};
    use super::*;

    fn config(command: Option<&str>) -> Config {
        let overrides: Vec<_> = command.iter().map(|c| Override::parse(&format!("dsync_remote_cmd={c}")).unwrap()).collect();
        Config::load(&Source::None, &overrides).unwrap().config
    }

    const fn remote<'a>(user: &'a str, login: &'a str, host: &'a str) -> Remote<'a> {
        Remote { user, login, host }
    }

    #[test]
    fn words_without_a_meaning_are_left_out() {
        let config = config(Some("ssh -l%{login} %{host} doveadm dsync-server -u%u -U"));
        let words = |r| config.remote_command(r).unwrap().join("|");
        assert_eq!(words(remote("jane", "", "vm1")), "ssh|vm1|doveadm|dsync-server|-ujane|-U");
        assert_eq!(words(remote("jane", "mail", "vm1")), "ssh|-lmail|vm1|doveadm|dsync-server|-ujane|-U");
        assert_eq!(words(remote("", "", "vm1")), "ssh|vm1|doveadm|dsync-server|-U");
        assert_eq!(words(remote("jane", "", "")), "ssh||doveadm|dsync-server|-ujane|-U");
        let other = super::tests::config(Some("x  %% 100%%%{host} -l %{login}"));
        assert_eq!(other.remote_command(remote("", "", "h")).unwrap(), ["x", "", "100%h", "-l", ""]);
        let wrong = super::tests::config(Some("x %{nosuch}")).remote_command(remote("", "", "")).unwrap_err();
        assert_eq!(wrong.to_string(), "Unknown variable '%nosuch'");
    }

    #[test]
    fn nobody_asked_for_a_replicator() {
        let words = config(None).remote_command(remote("jane", "", "vm1")).unwrap();
        assert_eq!(words.join(" "), "ssh vm1 doveadm dsync-server -ujane");
    }

    #[test]
    fn what_the_other_shell_gets() {
        let command = |text, user| config(text).remote_shell_command(remote(user, "", "h")).unwrap();
        assert_eq!(command(None, "jane@example.org"), "doveadm dsync-server -ujane@example.org");
        assert_eq!(command(None, ""), "doveadm dsync-server");
        assert_eq!(command(None, "a;rm 'x"), "doveadm dsync-server '-ua;rm '\\''x'");
        assert_eq!(command(Some("ssh %{host} sudo dsync $X dsync-server -u %u"), "j"), "sudo dsync $X dsync-server -u j");
        assert_eq!(command(Some("rsh here"), "j"), "doveadm dsync-server -uj");
    }
}
