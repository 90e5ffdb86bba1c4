//! What Home Assistant is told of a device: one discovery message for all its points, made from the configuration and
//! from what the unit says of itself. Pure: never publishes, and never knows what is retained.

mod component;
mod entity;
mod units;

use serde_json::{Map, Value as Json, json};

use crate::config::instrument::Instrument;
use crate::config::model::{Device, Publish};
use crate::device::homeassistant::component::{Place, components};
use crate::device::homeassistant::entity::Entity;
use crate::device::identity::Identity;
use crate::device::topics::Topics;
use crate::mqtt::topic::TopicName;

/// Where Home Assistant says that it has come up.
pub const BIRTH_TOPIC: &str = "homeassistant/status";
pub const BIRTH_PAYLOAD: &[u8] = b"online";
/// All discovery messages of devices.
pub const DISCOVERY_FILTER: &str = "homeassistant/device/+/config";

const ORIGIN: &str = "Tidegate";
/// Vendor, product, revision.
const IDENTITY_KEYS: [&str; 3] = ["mf", "mdl", "sw"];

/// A discovery message, to be retained.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    pub topic: TopicName,
    config: Json,
}

impl Announcement {
    /// None where there is nothing to announce.
    pub fn of_device(gateway: &str, device: &Device, identity: Option<&Identity>) -> Option<Self> {
        let topics = Topics::new(gateway, device);
        let points =
            device.points.iter().map(|point| (point.publish, Entity::of_point(point, &device.publish)));
        let computed = device.computed.iter();
        let computed = computed.map(|point| (point.publish, Entity::of_computed(point, device)));
        let entities = points.chain(computed).map(|(is_public, entity)| Some(entity).filter(|_| is_public));
        Self::new((gateway, &device.name), (&device.publish, &topics), entities, identity)
    }

    pub fn of_instrument(gateway: &str, instrument: &Instrument) -> Option<Self> {
        let topics = Topics::of_instrument(gateway, instrument);
        let points = instrument.points.iter();
        let points = points.map(|point| (point.publish, Entity::of_field(point, instrument)));
        let computed = instrument.computed.iter();
        let computed =
            computed.map(|point| (point.publish, Some(Entity::of_computed_field(point, instrument))));
        let entities = points.chain(computed).map(|(is_public, entity)| entity.filter(|_| is_public));
        Self::new((gateway, &instrument.name), (&instrument.publish, &topics), entities, None)
    }

    /// The entities in the order of the topics; None: nobody is told of it.
    fn new<'a>(
        (gateway, device): (&str, &str),
        (publish, topics): (&Publish, &Topics),
        entities: impl Iterator<Item = Option<Entity<'a>>>,
        identity: Option<&Identity>,
    ) -> Option<Self> {
        let id = unique_id(gateway, device);
        let mut found = Map::new();
        for (entity, topics_of_point) in entities.zip(&topics.points) {
            let state = topics.device.as_ref().or(topics_of_point.reading());
            let (Some(entity), Some(state)) = (entity, state) else { continue };
            let command = topics_of_point.command();
            let place = Place {
                state,
                command: command.as_ref(),
                format: publish.format,
                is_shared: topics.device.is_some(),
                id: &id,
            };
            found.extend(components(&entity, &place));
        }
        if found.is_empty() {
            return None;
        }
        let config = json!({
            "dev": device_keys(&id, device, identity),
            "o": { "name": ORIGIN, "sw": env!("CARGO_PKG_VERSION") },
            "availability_topic": topics.status.as_ref()?.as_str(),
            "payload_available": "online",
            "payload_not_available": "offline",
            "cmps": found,
        });
        let topic = TopicName::new(&format!("homeassistant/device/{}/config", object_id(gateway, device)));
        Some(Self { topic: topic.ok()?, config })
    }

    /// With what an earlier message said of the unit, where nothing is known of it yet.
    #[must_use]
    pub fn recalling(&self, earlier: &[u8]) -> Self {
        let mut recalled = self.clone();
        let earlier: Json = serde_json::from_slice(earlier).unwrap_or_default();
        let known = recalled.config.get_mut("dev").and_then(Json::as_object_mut);
        let (Some(known), Some(earlier)) = (known, earlier.get("dev").and_then(Json::as_object)) else {
            return recalled;
        };
        if IDENTITY_KEYS.iter().all(|key| !known.contains_key(*key)) {
            let said =
                IDENTITY_KEYS.iter().filter_map(|key| Some(((*key).to_owned(), earlier.get(*key)?.clone())));
            known.extend(said);
        }
        recalled
    }

    pub fn payload(&self) -> String {
        self.config.to_string()
    }

    /// The same message with those components of an earlier one emptied that are no more, or are of another platform:
    /// Home Assistant forgets them by that alone. None: there are none.
    pub fn forgetting(&self, earlier: &[u8]) -> Option<String> {
        let earlier: Json = serde_json::from_slice(earlier).ok()?;
        let mut config = self.config.clone();
        let found = config.get_mut("cmps")?.as_object_mut()?;
        let mut forgotten = false;
        for (key, component) in earlier.get("cmps")?.as_object()? {
            let Some(platform) = component.get("p") else { continue };
            if found.get(key).and_then(|kept| kept.get("p")) != Some(platform) {
                found.insert(key.clone(), json!({ "p": platform }));
                forgotten = true;
            }
        }
        forgotten.then(|| config.to_string())
    }
}

/// Whether a discovery message is one of this gateway's.
pub fn is_own(gateway: &str, payload: &[u8]) -> bool {
    let Ok(config) = serde_json::from_slice::<Json>(payload) else { return false };
    let own = format!("{}/", gateway_id(gateway));
    let id = config.pointer("/dev/ids/0").and_then(Json::as_str).unwrap_or_default();
    config.pointer("/o/name").and_then(Json::as_str) == Some(ORIGIN) && id.starts_with(&own)
}

fn device_keys(id: &str, device: &str, identity: Option<&Identity>) -> Json {
    let mut keys = Map::new();
    keys.insert("ids".into(), json!([id]));
    keys.insert("name".into(), device.into());
    let said = identity.map(|identity| [&identity.vendor, &identity.product, &identity.revision]);
    for (key, text) in IDENTITY_KEYS.iter().zip(said.into_iter().flatten()) {
        keys.extend(text.as_deref().map(|text| ((*key).to_owned(), text.into())));
    }
    Json::Object(keys)
}

fn gateway_id(gateway: &str) -> String {
    format!("tidegate/{gateway}")
}

/// Names hold no slash: no two devices of any gateways have the same.
fn unique_id(gateway: &str, device: &str) -> String {
    format!("{}/{device}", gateway_id(gateway))
}

/// Home Assistant takes letters, digits, `_` and `-`. Where that could make two devices one, a hash tells them apart.
fn object_id(gateway: &str, device: &str) -> String {
    let plain = format!("{gateway}_{device}");
    if !gateway.contains('_') && !plain.contains('.') {
        return plain;
    }
    // FNV-1a: the same in every version.
    let hash = unique_id(gateway, device)
        .bytes()
        .fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}_{hash:08x}", plain.replace('.', "_"))
}
