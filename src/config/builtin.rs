//! The profiles that are part of the program: the files of `config/profiles/`, so that one binary is enough. Texts
//! alone; never reads one.

/// Sorted by name. A test compares it with the folder.
const PROFILES: &[(&str, &str)] = &[
    ("carlo-gavazzi-em340", include_str!("../../config/profiles/carlo-gavazzi-em340.yaml")),
    ("eastron-sdm120", include_str!("../../config/profiles/eastron-sdm120.yaml")),
    ("eastron-sdm230", include_str!("../../config/profiles/eastron-sdm230.yaml")),
    ("eastron-sdm630", include_str!("../../config/profiles/eastron-sdm630.yaml")),
    ("eletechsup-pta8c04", include_str!("../../config/profiles/eletechsup-pta8c04.yaml")),
    ("janitza-umg96rm", include_str!("../../config/profiles/janitza-umg96rm.yaml")),
    ("schneider-atv320", include_str!("../../config/profiles/schneider-atv320.yaml")),
    ("schneider-iem3155", include_str!("../../config/profiles/schneider-iem3155.yaml")),
    ("shelly-pro-3em", include_str!("../../config/profiles/shelly-pro-3em.yaml")),
    ("sunspec-battery", include_str!("../../config/profiles/sunspec-battery.yaml")),
    ("sunspec-inverter", include_str!("../../config/profiles/sunspec-inverter.yaml")),
    ("waveshare-relay-8ch", include_str!("../../config/profiles/waveshare-relay-8ch.yaml")),
    ("xy-md02", include_str!("../../config/profiles/xy-md02.yaml")),
];

pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|(name, _)| *name)
}

pub fn text(name: &str) -> Option<&'static str> {
    let at = PROFILES.binary_search_by_key(&name, |(name, _)| name).ok()?;
    PROFILES.get(at).map(|(_, text)| *text)
}
