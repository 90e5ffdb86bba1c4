//! The profile that a device names: read once, and laid beneath the device's own keys. What is wrong in it is reported
//! with its own file, line and column.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::check::point;
use crate::config::error::Problem;
use crate::config::expand::Environment;
use crate::config::profile::{self, Profile};
use crate::config::profile_problem::ProfileProblem;
use crate::config::raw::{Field, Report, Section};
use crate::config::settle::Settler;
use crate::config::yaml::{self, Kind, Node};

/// What a profile says of itself, and what it can say of a device.
const KEYS: &[&str] = &[
    "name",
    "manufacturer",
    "manual",
    "notes",
    "poll",
    "timeout",
    "retries",
    "offline_after",
    "reconnect",
    "read",
    "word_order",
    "byte_order",
    "address_base",
    "points",
];
const MANUAL_KEYS: &[&str] = &["title", "revision", "date"];

/// The profiles that the devices name, by the words that name them.
pub(super) struct Profiles {
    read: BTreeMap<String, Option<(Node, Report)>>,
}

impl Profiles {
    /// Reads what the devices name. One that cannot be read is reported where it is named first.
    pub(super) fn read(
        devices: &[(&str, Field<'_>)],
        base_dir: &Path,
        environment: &dyn Environment,
        report: &Report,
    ) -> Self {
        let mut read: BTreeMap<String, Option<(Node, Report)>> = BTreeMap::new();
        for (_, device) in devices {
            let keys = device.named_keys();
            // It means nothing with a serial instrument, which says so.
            if keys.iter().any(|(key, _)| *key == "serial") {
                continue;
            }
            let Some((_, field)) = keys.iter().find(|(key, _)| *key == "profile") else { continue };
            let Some(reference) = field.filled_text().filter(|reference| !read.contains_key(*reference))
            else {
                continue;
            };
            let found = match profile::find(reference, base_dir) {
                Ok(found) => parse(&found, environment, report),
                Err(ProfileProblem::Unknown { nearest, .. }) => {
                    let problem = ProfileProblem::Unknown { name: field.shown(), nearest };
                    field.fault(Problem::Profile(problem));
                    None
                }
                Err(problem) => {
                    field.fault(Problem::Profile(problem));
                    None
                }
            };
            read.insert(reference.to_owned(), found);
        }
        Self { read }
    }

    /// The device with its profile beneath, where it has one that could be read.
    pub(super) fn beneath<'a>(&'a self, device: Section<'a>) -> Section<'a> {
        let profile = device.find("profile").and_then(|field| match field.kind() {
            Kind::Text(text) | Kind::Expanded(text) => self.read.get(text)?.as_ref(),
            _ => None,
        });
        let section = profile.and_then(|(node, report)| Field::root(node, report).section(KEYS));
        match section {
            Some(section) => {
                check_head(&section);
                device.over(section)
            }
            None => device,
        }
    }
}

fn parse(found: &Profile, environment: &dyn Environment, report: &Report) -> Option<(Node, Report)> {
    let report = report.of_file(&found.file());
    match yaml::parse(&found.text) {
        Ok(mut node) => {
            Settler { base_dir: found.folder(), environment, report: &report }.settle(&mut node, "");
            Some((node, report))
        }
        Err(error) => {
            report.add(error.position, "", error.problem);
            None
        }
    }
}

/// What it says of itself: for people alone.
fn check_head(profile: &Section<'_>) {
    if let Some(name) = profile.require("name", "name: SDM630-Modbus V2") {
        name.filled_text();
    }
    for key in ["manufacturer", "notes"] {
        profile.read(key, Field::filled_text);
    }
    profile.read_section("manual", MANUAL_KEYS, |manual| {
        for key in MANUAL_KEYS {
            manual.read(key, Field::filled_text);
        }
    });
    profile.require("points", "points: { voltage: { input: 0, type: f32 } }");
}

/// A point of a device, from its own file or from its profile's.
pub(super) struct NamedPoint<'a> {
    pub(super) name: &'a str,
    pub(super) field: Field<'a>,
    /// What the profile has under this name, where the device only changes some of its keys.
    changed: Option<Field<'a>>,
    /// Where it lies stands in the profile.
    pub(super) is_of_profile: bool,
}

impl<'a> NamedPoint<'a> {
    /// The keys that it has, with those that it only changes beneath.
    pub(super) fn section(&self, known: &'static [&'static str]) -> Option<Section<'a>> {
        let section = self.field.section(known)?;
        match self.changed.as_ref().map(|changed| changed.section(known)) {
            Some(Some(changed)) => Some(section.over(changed)),
            Some(None) => None,
            None => Some(section),
        }
    }
}

/// The profile's points in their order, then what the device adds. The device's own point of the same name stands in
/// the place of the profile's; where it does not say from where it is read it changes only the keys that it has, and
/// where it says nothing at all there is none. `named` tells the names and fields of a map of points.
pub(super) fn points_of<'a>(
    device: &Section<'a>,
    named: impl Fn(&Field<'a>) -> Vec<(&'a str, Field<'a>)>,
) -> Vec<NamedPoint<'a>> {
    let own = device.find_own("points").map(|field| named(&field)).unwrap_or_default();
    let beneath = device.beneath().and_then(|profile| profile.find("points"));
    let beneath = beneath.map(|field| named(&field)).unwrap_or_default();
    let mut points: Vec<NamedPoint<'a>> = Vec::new();
    for (name, field) in &beneath {
        let Some((_, changed)) = own.iter().find(|(own, _)| own == name) else {
            let (name, field) = (*name, field.clone());
            points.push(NamedPoint { name, field, changed: None, is_of_profile: true });
            continue;
        };
        let (name, own) = (*name, changed.clone());
        match changed.kind() {
            Kind::Null => {}
            Kind::Map(entries) if !entries.iter().any(|entry| point::says_where(&entry.key)) => {
                let changed = Some(field.clone());
                points.push(NamedPoint { name, field: own, changed, is_of_profile: true });
            }
            _ => points.push(NamedPoint { name, field: own, changed: None, is_of_profile: false }),
        }
    }
    let added = own.into_iter().filter(|(name, _)| !beneath.iter().any(|(known, _)| known == name));
    points.extend(added.map(|(name, field)| NamedPoint { name, field, changed: None, is_of_profile: false }));
    points
}
