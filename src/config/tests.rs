//! The corpus captured from doveconf 2.3.19.1.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::value::Kind;
use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(name)
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn load(name: &str) -> Result<Loaded, Error> {
    Config::load(&Source::File(fixture(name)), &[])
}

/// All settings by their paths, defaults included.
fn dump(config: &Config) -> BTreeMap<String, String> {
    let mut all: BTreeMap<_, _> = defs::ROOT.iter().map(|d| (d.name.to_owned(), config.text(d.name).to_owned())).collect();
    let mut sections = config.namespaces();
    sections.extend(config.namespaces().iter().flat_map(Section::mailboxes).collect::<Vec<_>>());
    sections.extend(config.sections("passdb", defs::PASSDB));
    sections.extend(config.sections("userdb", defs::USERDB));
    for section in sections {
        all.extend(section.defs.iter().map(|d| (section.key(d.name), section.text(d.name).to_owned())));
    }
    all.extend(config.merged.lists.iter().map(|(path, ids)| (path.clone(), ids.join(" "))));
    let plugin = config.merged.values.iter().filter(|(path, _)| path.starts_with("plugin/"));
    all.extend(plugin.map(|(path, text)| (path.clone(), text.clone())));
    all
}

/// doveconf prints normalised values: `10 k` for `10 kB`.
fn same(path: &str, a: &str, b: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    let def = match parts[..] {
        [name] => defs::root(name),
        ["namespace", _, name] => defs::find(defs::NAMESPACE, name),
        ["namespace", _, "mailbox", _, name] => defs::find(defs::MAILBOX, name),
        _ => None,
    };
    match def.map(|d| d.kind) {
        Some(Kind::Size) => parse_size(a) == parse_size(b),
        Some(Kind::Time | Kind::MilliTime) => parse_millis(a) == parse_millis(b),
        Some(Kind::Bool) => value::parse_bool(a) == value::parse_bool(b),
        Some(Kind::UInt | Kind::Port) => value::parse_uint(a) == value::parse_uint(b),
        // The captured output was split at line ends.
        _ => a.trim_end_matches('\n') == b,
    }
}

fn differences(config: &Config, expected: &serde_json::Value) -> Vec<String> {
    let ours = dump(config);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in expected.as_object().unwrap() {
        let text = text.as_str().unwrap();
        if path == "plugin" {
            continue;
        }
        seen += 1;
        match ours.get(path) {
            Some(got) if same(path, got, text) => {}
            // `alias_for` without a value is not printed.
            got => wrong.push(format!("{path}: {got:?} instead of {text:?}")),
        }
    }
    for (path, text) in &ours {
        let printed = expected.get(path).is_some();
        if !printed && !text.is_empty() {
            wrong.push(format!("{path}: {text:?} instead of nothing"));
        }
    }
    assert!(seen > 100);
    wrong
}

#[test]
fn whole_configurations_mean_what_doveconf_says() {
    for name in ["v23-basic", "v23-split", "v23-grammar"] {
        let loaded = load(&format!("{name}/dovecot.conf")).unwrap();
        let expected = json(&format!("{name}/expected.json"));
        assert_eq!(differences(&loaded.config, &expected["settings"]), Vec::<String>::new(), "{name}");
        // doveconf also warns about an order of settings that we read as it does.
        let warnings = expected["warnings"].as_array().unwrap();
        let ambiguous = warnings.iter().filter(|w| w.as_str().unwrap().contains("Ambiguous")).count();
        assert_eq!(loaded.file_warnings.len(), ambiguous, "{name}");
    }
}

#[test]
fn defaults_are_those_of_doveconf() {
    let loaded = Config::load(&Source::None, &[]).unwrap();
    assert_eq!(differences(&loaded.config, &json("v23-defaults/defaults.json")["defaults"]), Vec::<String>::new());
}

/// We read 2.4's grammar some day, so such a file is refused in other words.
const OWN_TEXT: &[&str] = &["31-v24-file.conf"];

#[test]
fn wrong_files_are_refused_in_doveconfs_words() {
    let expected = json("v23-errors/expected.json");
    let files = expected["files"].as_object().unwrap();
    assert_eq!(files.len(), 41);
    let mut wrong = Vec::new();
    for (name, case) in files {
        let path = fixture("v23-errors").join(name);
        let text = match load(&format!("v23-errors/{name}")) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => {
                assert!(error.is_in_files(), "{error}");
                format!("doveconf: Fatal: {error}").replace(&format!("{}", path.display()), name)
            }
        };
        let want = case["expanding"].as_str().unwrap();
        // The text for a file that cannot be read is the only one with the path of another file.
        let text = text.replace(&format!("{}/", fixture("v23-errors").display()), "");
        if text != want && !OWN_TEXT.contains(&name.as_str()) {
            wrong.push(format!("{text}\n    instead of {want}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `config` with this text in a file.
fn read(text: &str) -> Result<Loaded, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(&Source::File(file.path().into()), &[])
}

fn override_(text: &str) -> Override {
    Override::parse(text).unwrap()
}

#[test]
fn overrides_win_and_are_literal() {
    let vars = Vars { user: "tim".into(), ..Vars::default() };
    let source = Source::File(fixture("v23-basic/dovecot.conf"));
    let overrides = [
        "mail=maildir:~/x-%u",
        "namespace/inbox/separator=.",
        "namespace/2/prefix=P/",
        "namespace/inbox/mailbox/Trash/special_use=\\Junk",
        "plugin/quota=x %u",
        "nosuch=1",
        "namespace/nosuch/prefix=x",
    ]
    .map(override_);
    let loaded = Config::load(&source, &overrides).unwrap();
    let config = &loaded.config;
    assert_eq!(config.expanded("mail_location", &vars).unwrap(), "maildir:~/x-%u");
    assert_eq!(config.expanded("mail_home", &vars).unwrap(), "/srv/mail//tim");
    assert_eq!(config.plugin_expanded("quota", &vars).unwrap().unwrap(), "x %u");
    let namespaces = config.namespaces();
    assert_eq!(namespaces[0].text("separator"), ".");
    assert_eq!(namespaces[2].text("prefix"), "P/");
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
}

#[test]
fn wrong_overrides_fail_when_dovecot_notices_them() {
    let error = |text: &str| {
        let source = Source::None;
        match Config::load(&source, &[override_(text)]) {
            Err(error) => format!("start: {error}"),
            Ok(loaded) => match loaded.config.check_user() {
                Err(error) => format!("user: {error}"),
                Ok(()) => "fine".into(),
            },
        }
    };
    assert_eq!(
        error("mail_max_lock_timeout=xx"),
        "user: Error reading configuration: Invalid -o parameter mail_max_lock_timeout=xx: Invalid time interval: xx"
    );
    assert_eq!(
        error("dsync_hashed_headers="),
        "start: Error reading configuration: Invalid settings: dsync_hashed_headers must not be empty"
    );
    assert_eq!(
        error("dsync_features=foo"),
        "start: Error reading configuration: Invalid settings: dsync_features: Unknown feature: foo"
    );
    assert_eq!(
        error("doveadm_port=x"),
        "start: Error reading configuration: Invalid -o parameter doveadm_port=x: Invalid port number x"
    );
    assert_eq!(error("dsync_alt_char=xy"), "fine");
    assert_eq!(
        Override::parse("xx").unwrap_err().to_string(),
        "Error reading configuration: Invalid -o parameter xx: Missing '='"
    );
    assert_eq!(
        Override::parse("=x").unwrap_err().to_string(),
        "Error reading configuration: Invalid -o parameter =x: Missing key name ('=' at the beginning of line)"
    );
}

#[test]
fn a_socket_is_refused_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = Config::load(&Source::File(path), &[]).unwrap_err().to_string();
    assert!(error.contains("is a socket, and asking Dovecot's config service is not supported"), "{error}");
}

#[test]
fn what_other_programs_need_passes() {
    let text = "
        service imap-login {\n inet_listener imap {\n port = 0\n }\n }\n
        imap_hibernate_timeout = 5 secs\n managesieve_notify_capability = x\n ssl_protocols = !SSLv3\n
        metric m {\n filter = event=x\n }\n protocol sieve {\n managesieve_max_line_length = 1\n }\n
        mail_plugins = $mail_plugins quota\n";
    let config = read(text).unwrap().config;
    assert_eq!(config.text("mail_plugins"), " quota");
}

#[test]
fn hostile_files_are_refused_or_read() {
    assert!(read(&"namespace a {\n".repeat(100_000)).is_err());
    assert!(read(&"service a {\n".repeat(100_000)).unwrap_err().to_string().contains("nested too deeply"));
    let error = read(&"mail_home = $mail_home $mail_home x\n".repeat(40)).unwrap_err().to_string();
    assert!(error.ends_with("The value is too long"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    for i in 0..100 {
        std::fs::write(dir.path().join(format!("{i}.conf")), format!("!include {}.conf\n!include {}.conf\n", i + 1, i + 1))
            .unwrap();
    }
    let error = Config::load(&Source::File(dir.path().join("0.conf")), &[]).unwrap_err().to_string();
    assert!(error.contains("Too many include files"), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in r#"((mail_home|namespace|plugin|protocol|mailbox|list|inbox|prefix|!include|a|\}|=|\{|\$mail_home|"|'|#|\\|\n|\n| )){0,40}"#) {
        let _ = read(&text);
    }
}
