//! The files of a configuration that are secret, and which of them the system shows to others. Reads modes alone,
//! never what a file holds; changes none.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::model::Config;
use crate::config::written::{SECRET_KEYS, without_credentials};
use crate::config::yaml::{Kind, Node};

const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
const OTHERS_ENTER: u32 = 0o001;

/// A file or folder that others than its owner and group get at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    path: PathBuf,
    mode: u32,
    is_folder: bool,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, mode, is_folder } = self;
        let path = path.display();
        let can = match (mode & OTHERS_READ != 0 || *is_folder, mode & OTHERS_WRITE != 0) {
            (true, true) => "read and change",
            (true, false) => "read",
            (false, _) => "change",
        };
        let right = if *is_folder { "700" } else { "640" };
        write!(f, "{path}: mode {mode:04o}, others can {can} it (chmod {right} {path})")
    }
}

/// What stands open. A folder above that keeps others out does not count: it is changed more easily than forgotten.
pub fn exposures(config: &Config) -> Vec<Exposure> {
    let files = config.guarded.iter().filter_map(|path| exposure(path, OTHERS_READ | OTHERS_WRITE));
    let folder = exposure(&config.gateway.data_dir, OTHERS_READ | OTHERS_WRITE | OTHERS_ENTER);
    files.chain(folder).collect()
}

/// None too where there is nothing to look at.
fn exposure(path: &Path, open: u32) -> Option<Exposure> {
    let found = std::fs::metadata(path).ok()?;
    let mode = found.permissions().mode() & 0o7777;
    (mode & open != 0).then(|| Exposure { path: path.to_owned(), mode, is_folder: found.is_dir() })
}

/// Which files of a configuration are secret: those that it names, and itself.
#[derive(Debug, Default)]
pub struct Guarded {
    /// Each once, in the order of the configuration.
    pub files: Vec<PathBuf>,
    /// A secret stands in it as it is.
    is_secret: bool,
}

impl Guarded {
    /// Before references are expanded: what is a reference is no secret yet, and what it names is one.
    pub fn see_written(&mut self, node: &Node, key: &str, base_dir: &Path) {
        match &node.kind {
            Kind::Text(text) => {
                for (_, behind) in
                    text.match_indices("${file:").map(|(at, open)| text.split_at(at + open.len()))
                {
                    if let Some((path, _)) = behind.split_once('}') {
                        self.add(base_dir.join(path));
                    }
                }
                let is_secret = SECRET_KEYS.contains(&key) || without_credentials(text) != *text;
                self.is_secret |= is_secret && !text.is_empty() && !text.contains("${");
            }
            Kind::List(items) => items.iter().for_each(|item| self.see_written(item, key, base_dir)),
            Kind::Map(entries) => {
                for entry in entries {
                    self.see_written(&entry.value, &entry.key, base_dir);
                }
            }
            _ => {}
        }
    }

    /// Once references are expanded: the paths that keys name.
    pub fn see_settled(&mut self, node: &Node, base_dir: &Path) {
        match &node.kind {
            Kind::List(items) => items.iter().for_each(|item| self.see_settled(item, base_dir)),
            Kind::Map(entries) => {
                let text_of = |key: &str| {
                    let value = node.child(key)?;
                    if let Kind::Text(text) | Kind::Expanded(text) = &value.kind { Some(text) } else { None }
                };
                // The key of other algorithms is a public one.
                let key = text_of("key").filter(|_| text_of("algorithm").is_some_and(|name| name == "HS256"));
                let named = [text_of("password_file"), text_of("private_key"), key];
                named.into_iter().flatten().for_each(|path| self.add(base_dir.join(path)));
                for entry in entries {
                    self.see_settled(&entry.value, base_dir);
                }
            }
            _ => {}
        }
    }

    /// With the configuration itself, `file`, where it is one of them.
    pub fn into_files(mut self, file: &str) -> Vec<PathBuf> {
        if self.is_secret {
            self.files.insert(0, PathBuf::from(file));
        }
        self.files
    }

    fn add(&mut self, path: PathBuf) {
        if !self.files.contains(&path) {
            self.files.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::{Guarded, exposure};
    use crate::config::yaml::parse;

    fn files(yaml: &str) -> Vec<String> {
        let node = parse(yaml).expect("good YAML");
        let mut guarded = Guarded::default();
        guarded.see_written(&node, "", Path::new("/etc/t"));
        guarded.see_settled(&node, Path::new("/etc/t"));
        guarded.into_files("t.yaml").iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn secret_files_are_those_that_hold_one() {
        let cases = [
            ("gateway: { id: a }", &[][..]),
            ("bridges: { a: { password: x } }", &["t.yaml"]),
            ("bridges: { a: { password: '${P}' }, b: { password: '' } }", &[]),
            ("bridges: { a: { password: '${file:p}' }, b: { password: '${file:p}' } }", &["/etc/t/p"]),
            ("http: { password_hash: $argon2id$x }", &["t.yaml"]),
            ("bridges: { a: { proxy: 'http://u:p@h' } }", &["t.yaml"]),
            ("bridges: { a: { url: ['wss://h/mqtt?token=x'] } }", &["t.yaml"]),
            ("bridges: { a: { tls: { private_key: a.key, certificate: a.crt } } }", &["/etc/t/a.key"]),
            ("broker: { authentication: { password_file: /p } }", &["/p"]),
            ("jwt: { algorithm: HS256, key: k }", &["/etc/t/k"]),
            ("jwt: { algorithm: RS256, key: k }", &[]),
        ];
        for (yaml, expected) in cases {
            assert_eq!(files(yaml), expected, "{yaml}");
        }
    }

    #[test]
    fn what_others_get_at_is_named_with_what_would_be_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, data) = (folder.path().join("f"), folder.path().join("d"));
        write(&file, "x").expect("a file");
        create_dir(&data).expect("a folder");
        let said = |path: &Path, mode: u32| {
            set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
            exposure(path, if path == data { 0o007 } else { 0o006 }).map(|found| found.to_string())
        };
        let (name, folder_name) = (file.display().to_string(), data.display().to_string());
        assert_eq!(said(&file, 0o640), None);
        assert_eq!(said(&file, 0o600), None);
        let read = format!("{name}: mode 0644, others can read it (chmod 640 {name})");
        assert_eq!(said(&file, 0o644), Some(read));
        let both = format!("{name}: mode 0666, others can read and change it (chmod 640 {name})");
        assert_eq!(said(&file, 0o666), Some(both));
        assert_eq!(said(&data, 0o750), None);
        let open = format!("{folder_name}: mode 0755, others can read it (chmod 700 {folder_name})");
        assert_eq!(said(&data, 0o755), Some(open));
        assert_eq!(exposure(&folder.path().join("none"), 0o006), None);
    }
}
