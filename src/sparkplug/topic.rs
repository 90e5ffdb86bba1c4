//! Sparkplug's topics: `spBv1.0/GROUP/TYPE/NODE[/DEVICE]`. Never knows payloads.

use std::sync::Arc;

use crate::mqtt::topic::{TopicFilter, TopicName};

pub const NAMESPACE: &str = "spBv1.0";
/// What a group, a node, a device or a host may not hold.
const RESERVED: [char; 3] = ['/', '+', '#'];

/// Whether a text can stand between two slashes.
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && !text.contains(RESERVED)
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NodeBirth,
    NodeDeath,
    NodeData,
    NodeCommand,
    DeviceBirth,
    DeviceDeath,
    DeviceData,
    DeviceCommand,
}

const NAMES: [(&str, Kind); 8] = [
    ("NBIRTH", Kind::NodeBirth),
    ("NDEATH", Kind::NodeDeath),
    ("NDATA", Kind::NodeData),
    ("NCMD", Kind::NodeCommand),
    ("DBIRTH", Kind::DeviceBirth),
    ("DDEATH", Kind::DeviceDeath),
    ("DDATA", Kind::DeviceData),
    ("DCMD", Kind::DeviceCommand),
];

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeBirth => "NBIRTH",
            Self::NodeDeath => "NDEATH",
            Self::NodeData => "NDATA",
            Self::NodeCommand => "NCMD",
            Self::DeviceBirth => "DBIRTH",
            Self::DeviceDeath => "DDEATH",
            Self::DeviceData => "DDATA",
            Self::DeviceCommand => "DCMD",
        }
    }

    const fn is_of_device(self) -> bool {
        matches!(self, Self::DeviceBirth | Self::DeviceDeath | Self::DeviceData | Self::DeviceCommand)
    }
}

/// Who speaks: a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeNode {
    pub group: Arc<str>,
    pub node: Arc<str>,
}

impl EdgeNode {
    /// The node whose device a topic of readings names.
    pub fn of_device_data(topic: &str) -> Option<(Self, &str)> {
        let levels: Vec<&str> = topic.split('/').collect();
        match levels[..] {
            [NAMESPACE, group, "DDATA", node, device] if [group, node, device].into_iter().all(is_id) => {
                Some((Self { group: group.into(), node: node.into() }, device))
            }
            _ => None,
        }
    }

    /// None where a name is none.
    pub fn topic(&self, kind: Kind) -> Option<TopicName> {
        TopicName::new(&format!("{NAMESPACE}/{}/{}/{}", self.group, kind.as_str(), self.node)).ok()
    }

    /// None where a name is none.
    pub fn device_topic(&self, kind: Kind, device: &str) -> Option<TopicName> {
        let Self { group, node } = self;
        TopicName::new(&format!("{NAMESPACE}/{group}/{}/{node}/{device}", kind.as_str())).ok()
    }

    /// Where commands to the node and to its devices come in.
    pub fn command_filters(&self) -> impl Iterator<Item = TopicFilter> {
        let Self { group, node } = self;
        let texts =
            [format!("{NAMESPACE}/{group}/NCMD/{node}"), format!("{NAMESPACE}/{group}/DCMD/{node}/+")];
        texts.into_iter().filter_map(|text| TopicFilter::new(&text).ok())
    }

    /// What a topic of this very node says, and of which device.
    pub fn parse<'a>(&self, topic: &'a TopicName) -> Option<(Kind, Option<&'a str>)> {
        let rest = topic.as_str().strip_prefix(NAMESPACE)?.strip_prefix('/')?;
        let rest = rest.strip_prefix(&*self.group)?.strip_prefix('/')?;
        let (name, rest) = rest.split_once('/')?;
        let (_, kind) = NAMES.iter().find(|(known, _)| *known == name)?;
        let (node, device) = rest.split_once('/').map_or((rest, None), |(node, device)| (node, Some(device)));
        (node == &*self.node && kind.is_of_device() == device.is_some()).then_some((*kind, device))
    }
}

/// Where a host says whether it is there.
pub fn state_topic(host: &str) -> Option<TopicName> {
    TopicName::new(&format!("{NAMESPACE}/STATE/{host}")).ok()
}

#[cfg(test)]
mod tests {
    use super::{EdgeNode, Kind};
    use crate::mqtt::topic::TopicName;

    #[test]
    fn topics_name_their_node_or_nobody() {
        let (node, device) = EdgeNode::of_device_data("spBv1.0/plant/DDATA/gw/meter").expect("one of ours");
        assert_eq!((&*node.group, &*node.node, device), ("plant", "gw", "meter"));
        for other in
            ["spBv1.0/plant/DDATA/gw", "spBv1.0//DDATA/gw/m", "spAv1.0/p/DDATA/g/m", "spBv1.0/p/DBIRTH/g/m"]
        {
            assert_eq!(EdgeNode::of_device_data(other), None, "{other}");
        }
        let cases = [
            ("spBv1.0/plant/NBIRTH/gw", Some((Kind::NodeBirth, None))),
            ("spBv1.0/plant/DCMD/gw/meter", Some((Kind::DeviceCommand, Some("meter")))),
            ("spBv1.0/plant/NCMD/gw/meter", None),
            ("spBv1.0/plant/DCMD/gw", None),
            ("spBv1.0/plant/NCMD/gw2", None),
            ("spBv1.0/plant2/NCMD/gw", None),
            ("spBv1.0/plant/OTHER/gw", None),
            ("spBv1.0/STATE/gw", None),
        ];
        for (text, expected) in cases {
            let topic = TopicName::new(text).expect("a valid topic");
            assert_eq!(node.parse(&topic), expected, "{text}");
        }
        let topic = node.device_topic(Kind::DeviceBirth, "meter").expect("a topic");
        assert_eq!(node.parse(&topic), Some((Kind::DeviceBirth, Some("meter"))));
    }
}
