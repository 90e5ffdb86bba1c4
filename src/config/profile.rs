//! Where profiles lie: the maps of devices that a configuration can name. Finds and reads them, those of the program
//! too; looks no further into one than what it says of itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::builtin;
use crate::config::expand::read_bounded;
use crate::config::profile_problem::ProfileProblem;
use crate::config::raw::{is_name, nearest};
use crate::config::yaml::{self, Kind, Node};

/// The map of one device; the largest that ship have 8 KiB.
const PROFILE_BYTES_MAX: u64 = 256 << 10;
/// Beside the configuration.
const OWN_FOLDER: &str = "profiles";
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/tidegate/profiles", "/usr/share/tidegate/profiles"];
const EXTENSION: &str = "yaml";

/// Where a profile was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf),
    BuiltIn,
}

/// A profile as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    pub origin: Origin,
    pub text: String,
}

impl Profile {
    /// How faults name the file.
    pub fn file(&self) -> String {
        match &self.origin {
            Origin::File(path) => path.display().to_string(),
            Origin::BuiltIn => format!("{}.{EXTENSION} (built in)", self.name),
        }
    }

    /// What relative paths in it start at.
    pub fn folder(&self) -> &Path {
        match &self.origin {
            Origin::File(path) => path.parent().unwrap_or(Path::new("")),
            Origin::BuiltIn => Path::new(""),
        }
    }
}

/// What a profile says of itself; empty where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Manufacturer and name.
    pub device: String,
    pub points: usize,
    pub manual: String,
    pub revision: String,
}

impl Profile {
    /// Of one that is no YAML nothing is known.
    pub fn head(&self) -> Head {
        let Ok(root) = yaml::parse(&self.text) else { return Head::default() };
        let word = |keys: &[&str]| match keys.iter().try_fold(&root, |node, key| node.child(key)) {
            Some(Node { kind: Kind::Text(text), .. }) => text.clone(),
            _ => String::new(),
        };
        let points = match root.child("points") {
            Some(Node { kind: Kind::Map(entries), .. }) => entries.len(),
            _ => 0,
        };
        Head {
            device: format!("{} {}", word(&["manufacturer"]), word(&["name"])).trim().to_owned(),
            points,
            manual: word(&["manual", "title"]),
            revision: word(&["manual", "revision"]),
        }
    }
}

/// What `reference` stands for: a path (it has a slash, or ends with `.yaml`), or a name. `base_dir` is the folder of
/// the configuration.
pub fn find(reference: &str, base_dir: &Path) -> Result<Profile, ProfileProblem> {
    if reference.contains('/') || has_extension(Path::new(reference)) {
        let path = base_dir.join(reference);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return read(name, path);
    }
    let origin = if is_profile_name(reference) { origin_of(reference, base_dir) } else { None };
    match origin {
        Some(Origin::File(path)) => read(reference.to_owned(), path),
        Some(Origin::BuiltIn) => builtin::text(reference)
            .map(|text| Profile { name: reference.into(), origin: Origin::BuiltIn, text: text.into() })
            .ok_or_else(|| unknown(reference, base_dir)),
        None => Err(unknown(reference, base_dir)),
    }
}

/// Every profile that can be named, and where it would be taken from.
pub fn list(base_dir: &Path) -> BTreeMap<String, Origin> {
    let mut found: BTreeMap<String, Origin> = BTreeMap::new();
    for name in builtin::names() {
        found.insert(name.to_owned(), Origin::BuiltIn);
    }
    // What is looked at first comes last, and stays.
    for folder in folders(base_dir).iter().rev() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| has_extension(path) && path.is_file()) {
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if is_profile_name(name) {
                found.insert(name.to_owned(), Origin::File(path.clone()));
            }
        }
    }
    found
}

fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

/// It names no other folder.
fn is_profile_name(name: &str) -> bool {
    is_name(name) && !name.starts_with('.')
}

fn folders(base_dir: &Path) -> Vec<PathBuf> {
    let system = SYSTEM_FOLDERS.iter().map(PathBuf::from);
    std::iter::once(base_dir.join(OWN_FOLDER)).chain(system).collect()
}

fn origin_of(name: &str, base_dir: &Path) -> Option<Origin> {
    let paths = folders(base_dir).into_iter().map(|folder| folder.join(format!("{name}.{EXTENSION}")));
    // One that is there and cannot be read is reported, not passed over.
    let path = paths.into_iter().find(|path| path.symlink_metadata().is_ok());
    path.map(Origin::File).or_else(|| builtin::text(name).map(|_| Origin::BuiltIn))
}

fn unknown(reference: &str, base_dir: &Path) -> ProfileProblem {
    let names = list(base_dir);
    let nearest = nearest(reference, names.keys().map(String::as_str)).map(Into::into);
    ProfileProblem::Unknown { name: None, nearest }
}

fn read(name: String, path: PathBuf) -> Result<Profile, ProfileProblem> {
    let file: Box<str> = path.display().to_string().into();
    let bytes = match read_bounded(&path, PROFILE_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(ProfileProblem::TooLarge { file, bytes_max: PROFILE_BYTES_MAX }),
        Err(error) => return Err(ProfileProblem::Unreadable { file, kind: error.kind() }),
    };
    let text = String::from_utf8(bytes).map_err(|_| ProfileProblem::NotUtf8 { file })?;
    Ok(Profile { name, origin: Origin::File(path), text })
}

#[cfg(test)]
mod tests {
    use super::{Origin, find, list};
    use crate::config::profile_problem::ProfileProblem;

    #[test]
    fn a_profile_beside_the_configuration_comes_before_the_one_that_is_built_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("profiles");
        let built_in = find("eastron-sdm630", folder.path()).expect("it is built in");
        assert_eq!(built_in.origin, Origin::BuiltIn);
        std::fs::create_dir(&own).expect("a folder");
        for name in ["eastron-sdm630", "mine"] {
            std::fs::write(own.join(format!("{name}.yaml")), "name: mine\n").expect("a file");
        }
        std::fs::write(own.join("notes.txt"), "").expect("a file");
        for reference in ["eastron-sdm630", "mine", "profiles/mine.yaml", "./profiles/mine.yaml"] {
            let found = find(reference, folder.path()).expect("a file");
            assert_eq!(found.text, "name: mine\n", "{reference}");
            assert_eq!(found.folder(), found.origin_folder(), "{reference}");
        }
        let listed = list(folder.path());
        assert!(matches!(listed.get("eastron-sdm630"), Some(Origin::File(_))));
        assert!(listed.contains_key("mine") && !listed.contains_key("notes"));
    }

    impl super::Profile {
        fn origin_folder(&self) -> &std::path::Path {
            let Origin::File(path) = &self.origin else { panic!("a file") };
            path.parent().expect("a folder")
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is_near() {
        let folder = tempfile::tempdir().expect("a folder");
        let unknown = |nearest: Option<&str>| {
            Err(ProfileProblem::Unknown { name: None, nearest: nearest.map(Into::into) })
        };
        assert_eq!(find("eastron-sdm63", folder.path()), unknown(Some("eastron-sdm630")));
        for reference in ["..", ".hidden", "a b", ""] {
            assert_eq!(find(reference, folder.path()), unknown(None), "{reference}");
        }
        let missing = find("../none.yaml", folder.path()).expect_err("not there");
        assert!(matches!(missing, ProfileProblem::Unreadable { .. }));
        std::fs::write(folder.path().join("large.yaml"), vec![b' '; 300 << 10]).expect("a file");
        let large = find("large.yaml", folder.path()).expect_err("too large");
        assert!(matches!(large, ProfileProblem::TooLarge { .. }));
    }
}
