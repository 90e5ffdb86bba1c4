//! What can be wrong with how a device is published, and with what carries it, in words that name a way out.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatProblem {
    PlainNeedsPoint,
    SparkplugTopic,
    OtherGroup {
        by: Box<str>,
    },
    SparkplugExactly,
    SparkplugRetained,
    SparkplugRenamed,
    /// A bridge has one last will.
    WillTaken,
    NothingForHost,
    BatchNeedsJson,
    BatchRetained,
    BatchAnnounced,
}

impl fmt::Display for FormatProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PlainNeedsPoint => "`plain` needs a message a point (put `{point}` into `topic`)",
            Self::SparkplugTopic => "no topic of Sparkplug's (spBv1.0/GROUP/DDATA/{gateway}/{device})",
            Self::OtherGroup { by } => {
                return write!(f, "device `{by}` is in another group (one group a gateway: it is one edge node)");
            }
            Self::SparkplugExactly => {
                "a reading that is sent again has a number of its own in Sparkplug, so that none is sent exactly once (0 or 1)"
            }
            Self::SparkplugRetained => "Sparkplug retains nothing (leave `retain` out)",
            Self::SparkplugRenamed => {
                "the rule takes readings of Sparkplug devices, and their topics cannot have other names (leave `to` out)"
            }
            Self::WillTaken => {
                "the bridge carries Sparkplug, and its last will is NDEATH (leave `status_topic` out: NBIRTH and NDEATH say it)"
            }
            Self::NothingForHost => {
                "no forward rule takes readings of a Sparkplug device (topic: \"spBv1.0/GROUP/#\", and publish.format: sparkplug)"
            }
            Self::BatchNeedsJson => {
                "a batch is an array of JSON (format: json, or leave `batch` out; Sparkplug has many metrics a message anyway)"
            }
            Self::BatchRetained => {
                "a batch is never retained: who finds it later would take old readings for new ones (leave `retain` or `batch` out)"
            }
            Self::BatchAnnounced => {
                "Home Assistant reads one reading a message (leave `homeassistant` or `publish.batch` out)"
            }
        })
    }
}
