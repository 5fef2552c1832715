//! Sieve scripts as attributes of INBOX (sync.md 6.6): `.../sieve/files/NAME` is a script, `.../sieve/default` says which of them
//! is active, or is the active script itself where no script of the directory is.
//!
//! Order of writes: a new file beside the script, with its time; fsync; rename. The link to the active script is renamed into
//! place the same way. A kill leaves at most a temporary file (`tmp/` of the directory, as Pigeonhole has it).

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::mail::{Attribute, AttributeKey, Class, Error, Result, Timestamp};
use crate::os::fs::{self, Modes};

use super::{Owner, Settings};

/// What all keys of scripts begin with.
const PREFIX: &str = "vendor/vendor.dovecot/pvt/server/sieve/";
/// More than any script has.
const READ_LIMIT: u64 = 64 << 20;

/// Where a user's scripts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SieveFiles {
    scripts: PathBuf,
    active: PathBuf,
}

/// Whether an attribute of INBOX is a script, or says which one is active.
#[must_use]
pub fn is_sieve(key: &AttributeKey) -> bool {
    key.private && key.key.starts_with(PREFIX)
}

impl SieveFiles {
    /// The places that `plugin/sieve` and `plugin/sieve_dir` name, by default `file:~/sieve;active=~/.dovecot.sieve`. `None`
    /// where the scripts are no files, or the setting is empty.
    #[must_use]
    pub fn of(settings: &Settings, owner: &Owner) -> Option<Self> {
        let home = owner.home.as_ref()?;
        let path = |text: &str| match text.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => home.join(text),
        };
        let scripts = || path(settings.sieve_dir.as_deref().unwrap_or("~/sieve"));
        let text = settings.sieve.as_deref().unwrap_or("file:~/sieve;active=~/.dovecot.sieve");
        let Some(rest) = text.strip_prefix("file:") else {
            let is_path = text.starts_with(['/', '~']);
            return is_path.then(|| Self { scripts: scripts(), active: path(text) });
        };
        let mut parts = rest.split(';');
        let root = parts.next().filter(|p| !p.is_empty()).map_or_else(scripts, path);
        let active = parts.find_map(|p| p.strip_prefix("active=")).unwrap_or("~/.dovecot.sieve");
        Some(Self { scripts: root, active: path(active) })
    }

    /// All scripts by name, then what is active.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn get(&self) -> Result<Vec<Attribute>> {
        let mut out = Vec::new();
        let entries = match std::fs::read_dir(&self.scripts) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(|e| failed("read", &self.scripts, e))?,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
            Err(e) => return Err(failed("read", &self.scripts, e)),
        };
        for entry in entries {
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().and_then(|n| n.strip_suffix(".sieve")).filter(|n| is_name(n)) else { continue };
            // A link that leads nowhere, and what was removed meanwhile, is no script.
            if let Some((bytes, changed)) = read(&entry.path())? {
                out.push(attribute(&format!("files/{name}"), bytes, changed));
            }
        }
        out.sort_by(|a, b| a.key.cmp(&b.key));
        out.extend(self.active()?.map(|(value, changed)| attribute("default", value, changed)));
        Ok(out)
    }

    /// What is active: `L` and the name of a script, or `S` and a script.
    fn active(&self) -> Result<Option<(Vec<u8>, Timestamp)>> {
        match std::fs::symlink_metadata(&self.active) {
            Ok(m) if m.file_type().is_symlink() => {
                let target = std::fs::read_link(&self.active).map_err(|e| failed("read the link", &self.active, e))?;
                let name = target.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".sieve"));
                Ok(name.filter(|n| is_name(n)).map(|name| (format!("L{name}").into_bytes(), seconds(&m))))
            }
            Ok(m) if m.is_file() => Ok(read(&self.active)?.map(|(bytes, changed)| ([b"S", &bytes[..]].concat(), changed))),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("stat", &self.active, e)),
        }
    }

    /// Sets or removes one of the attributes. Says whether that changed anything.
    ///
    /// # Errors
    /// A name that no script can have, and what the system says.
    pub fn set(&self, attribute: &Attribute) -> Result<bool> {
        let key = attribute.key.key.strip_prefix(PREFIX).unwrap_or_default();
        if key == "default" {
            return self.activate(attribute);
        }
        let Some(name) = key.strip_prefix("files/").filter(|n| is_name(n)) else {
            // What cannot be there need not be removed.
            return if attribute.value.is_none() { Ok(false) } else { Err(wrong(attribute, "not the name of a script")) };
        };
        let path = self.script(name);
        if read(&path)?.map(|(bytes, _)| bytes) == attribute.value {
            return Ok(false);
        }
        match &attribute.value {
            None => drop(fs::unlink_if_there(&path)?),
            Some(script) => {
                let tmp = self.scripts.join("tmp");
                fs::mkdir_all(&tmp, &self.modes())?;
                self.write(&temporary(&tmp.join(format!("{name}.sieve"))), &path, script, attribute.changed)?;
            }
        }
        Ok(true)
    }

    fn activate(&self, attribute: &Attribute) -> Result<bool> {
        if self.active()?.map(|(value, _)| value) == attribute.value {
            return Ok(false);
        }
        match attribute.value.as_deref().map(|v| v.split_first()) {
            None => drop(fs::unlink_if_there(&self.active)?),
            Some(Some((b'L', name))) => {
                let name = std::str::from_utf8(name).ok().filter(|n| is_name(n));
                let script = self.script(name.ok_or_else(|| wrong(attribute, "not the name of a script"))?);
                if !script.exists() {
                    return Err(Error::new(Class::NotFound, format!("Sieve: there is no script {}", script.display())));
                }
                let beside = self.active.parent().and_then(|dir| script.strip_prefix(dir).ok());
                let new = temporary(&self.active);
                fs::unlink_if_there(&new)?;
                fs::symlink(beside.unwrap_or(&script), &new)?;
                fs::rename(&new, &self.active)?;
            }
            Some(Some((b'S', script))) => self.write(&temporary(&self.active), &self.active, script, attribute.changed)?,
            Some(_) => return Err(wrong(attribute, "neither a link nor a script")),
        }
        Ok(true)
    }

    fn script(&self, name: &str) -> PathBuf {
        self.scripts.join(format!("{name}.sieve"))
    }

    fn write(&self, new: &Path, path: &Path, script: &[u8], changed: Timestamp) -> Result<()> {
        let mut file = fs::create(new, &self.modes())?;
        fs::write_all(&mut file, new, script)?;
        if changed != Timestamp::default() {
            fs::set_mtime(&file, new, UNIX_EPOCH + Duration::from_secs(changed.0.into()))?;
        }
        fs::fsync(&file, new)?;
        Ok(fs::rename(new, path)?)
    }

    /// Those of the directory, or of the one where it will be.
    fn modes(&self) -> Modes {
        let model = self.scripts.ancestors().find_map(|dir| std::fs::metadata(dir).ok());
        Modes { file: 0o600, dir: 0o700, ..model.map(|m| Modes::like(&m)).unwrap_or_default() }
    }
}

/// A script and its time; none where there is no file.
fn read(path: &Path) -> Result<Option<(Vec<u8>, Timestamp)>> {
    let read = || -> io::Result<Option<(Vec<u8>, Timestamp)>> {
        let file = std::fs::File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        if file.take(READ_LIMIT).read_to_end(&mut bytes)? as u64 == READ_LIMIT {
            return Err(io::Error::other("too large for a Sieve script"));
        }
        Ok(Some((bytes, seconds(&meta))))
    };
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map_err(|e| failed("read", path, e)),
    }
}

fn failed(what: &'static str, path: &Path, e: io::Error) -> Error {
    fs::Error::new(what, path, e).into()
}

fn wrong(attribute: &Attribute, what: &str) -> Error {
    Error::new(Class::NotPossible, format!("Sieve: {what}: {}", attribute.key.key))
}

fn attribute(key: &str, value: Vec<u8>, changed: Timestamp) -> Attribute {
    Attribute { key: AttributeKey { private: true, key: format!("{PREFIX}{key}") }, value: Some(value), changed }
}

fn seconds(meta: &std::fs::Metadata) -> Timestamp {
    Timestamp(u32::try_from(meta.mtime()).unwrap_or_default())
}

/// As Pigeonhole names scripts: no directories, no control characters, 256 bytes at most with what is added.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 240 && !name.starts_with('.') && !name.contains(|c: char| c == '/' || c.is_control())
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".dsync.{}", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(home: &Path, sieve: Option<&str>) -> Option<SieveFiles> {
        let settings = Settings { sieve: sieve.map(Into::into), ..Settings::default() };
        SieveFiles::of(&settings, &Owner { name: "u".into(), home: Some(home.into()) })
    }

    #[test]
    fn where_scripts_are() {
        let files = |text| of(Path::new("/h"), text).map(|f| [f.scripts, f.active].map(|p| p.display().to_string()).join(" "));
        let usual = Some("/h/sieve /h/.dovecot.sieve".to_owned());
        assert_eq!(files(None), usual);
        // Debian's 90-sieve.conf, and the way it was written before 2.2.
        assert_eq!(files(Some("file:~/sieve;active=~/.dovecot.sieve")), usual);
        assert_eq!(files(Some("~/.dovecot.sieve")), usual);
        assert_eq!(files(Some("file:/s/u;name=x;active=/s/u.sieve")).as_deref(), Some("/s/u /s/u.sieve"));
        assert_eq!((files(Some("")), files(Some("ldap:/etc/x"))), (None, None));
    }

    /// The files of the recorded scenarios `sieve` and `sieve-file`, the keys of the recorded dialogue 14 (wire.md).
    #[test]
    fn scripts_go_from_one_home_to_another() {
        let homes = [tempfile::tempdir().expect("scratch"), tempfile::tempdir().expect("scratch")];
        let [a, b] = homes.each_ref().map(|h| h.path());
        std::fs::create_dir(a.join("sieve")).expect("made");
        std::fs::write(a.join("sieve/main.sieve"), "keep;\n").expect("written");
        std::fs::write(a.join("sieve/other.sieve"), "discard;\n").expect("written");
        std::fs::write(a.join("sieve/other.svbin"), "compiled").expect("written");
        std::os::unix::fs::symlink("sieve/main.sieve", a.join(".dovecot.sieve")).expect("linked");
        let [from, to] = [a, b].map(|h| of(h, None).expect("usable"));
        let scripts = from.get().expect("readable");
        let keys: Vec<_> = scripts.iter().map(|s| s.key.key.strip_prefix("vendor/vendor.dovecot/pvt/server/sieve/")).collect();
        assert_eq!(keys, [Some("files/main"), Some("files/other"), Some("default")]);
        assert_eq!(scripts[2].value.as_deref(), Some(&b"Lmain"[..]));
        let dangling = to.set(&scripts[2]).expect_err("no such script");
        assert_eq!(dangling.class(), Class::NotFound);
        for script in &scripts {
            assert!(to.set(script).expect("set"));
            assert!(!to.set(script).expect("the same"));
        }
        let timeless = |all: Vec<Attribute>| -> Vec<_> { all.into_iter().map(|a| (a.key, a.value)).collect() };
        assert_eq!(timeless(to.get().expect("readable")), timeless(scripts.clone()));
        assert_eq!(to.get().expect("readable")[0].changed, scripts[0].changed);
        assert_eq!(std::fs::read_link(b.join(".dovecot.sieve")).expect("a link"), Path::new("sieve/main.sieve"));

        let plain = Attribute { value: Some(b"Sstop;\n".to_vec()), ..scripts[2].clone() };
        assert!(to.set(&plain).expect("set"));
        assert_eq!(std::fs::read(b.join(".dovecot.sieve")).expect("a file"), b"stop;\n");
        for script in &scripts {
            assert!(to.set(&Attribute { value: None, ..script.clone() }).expect("removed"));
        }
        assert!(to.get().expect("readable").is_empty());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let home = tempfile::tempdir().expect("scratch");
        let files = of(home.path(), None).expect("usable");
        let long = "x".repeat(300);
        for name in ["../x", "a/b", "", ".x", "a\nb", &long] {
            let one = attribute(&format!("files/{name}"), b"keep;".to_vec(), Timestamp(1));
            assert_eq!(files.set(&one).expect_err(name).class(), Class::NotPossible);
            let link = attribute("default", format!("L{name}").into_bytes(), Timestamp(1));
            assert_eq!(files.set(&link).expect_err(name).class(), Class::NotPossible);
        }
        assert_eq!(std::fs::read_dir(home.path()).expect("there").count(), 0);
    }
}
