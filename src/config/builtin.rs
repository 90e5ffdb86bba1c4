//! The profiles that are part of the program: the files of `config/profiles/`, so that one binary is enough. Texts
//! alone; never reads one.

/// Sorted by name. A test compares it with the folder.
const PROFILES: &[(&str, &str)] = &[
    ("eastron-sdm630", include_str!("../../config/profiles/eastron-sdm630.yaml")),
];

pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|(name, _)| *name)
}

pub fn text(name: &str) -> Option<&'static str> {
    let at = PROFILES.binary_search_by_key(&name, |(name, _)| name).ok()?;
    PROFILES.get(at).map(|(_, text)| *text)
}
