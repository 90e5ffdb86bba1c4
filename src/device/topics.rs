//! The topics of one device: where its readings go, where its commands come in and are answered. Plain values,
//! made once from the configuration; never publishes anything.

use crate::base::time::Now;
use crate::config::instrument::Instrument;
use crate::config::model::{Device, Format, Publish};
use crate::config::template::Part;
use crate::device::command::{self, COMMAND_SUFFIX, CommandError, RESULT_SUFFIX};
use crate::device::value::Value;
use crate::mqtt::message::Message;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Commands are rare and points many: what they need is made of one name when it is asked for.
#[derive(Debug)]
pub(crate) struct PointTopics {
    /// None: a template that makes no topic, which the check of the configuration refuses.
    base: Option<TopicName>,
    /// The device's message tells of no point, and somebody is to be told.
    is_told: bool,
}

impl PointTopics {
    /// None, too, where nobody is told, or the device's message tells of all points.
    pub(crate) fn reading(&self) -> Option<&TopicName> {
        self.base.as_ref().filter(|_| self.is_told)
    }

    pub(crate) fn command(&self) -> Option<TopicName> {
        suffixed(self.base.as_ref(), COMMAND_SUFFIX)
    }

    pub(crate) fn result(&self) -> Option<TopicName> {
        suffixed(self.base.as_ref(), RESULT_SUFFIX)
    }
}

#[derive(Debug)]
pub(crate) struct Topics {
    /// In the order of the configuration; the computed ones behind the others.
    pub(crate) points: Vec<PointTopics>,
    /// Where the template has no `{point}`.
    pub(crate) device: Option<TopicName>,
    pub(crate) status: Option<TopicName>,
    /// Commands to whatever point. None where a point's name is only part of a level.
    pub(crate) any_command: Option<TopicFilter>,
}

impl Topics {
    pub(crate) fn new(gateway: &str, settings: &Device) -> Self {
        let points = settings.points.iter().map(|point| (&*point.name, point.publish));
        let computed = settings.computed.iter().map(|point| (&*point.name, point.publish));
        Self::of((gateway, &settings.name), &settings.publish, points.chain(computed))
    }

    pub(crate) fn of_instrument(gateway: &str, settings: &Instrument) -> Self {
        let points = settings.points.iter().map(|point| (&*point.name, point.publish));
        let computed = settings.computed.iter().map(|point| (&*point.name, point.publish));
        Self::of((gateway, &settings.name), &settings.publish, points.chain(computed))
    }

    /// Of the device of this name in this gateway, and of its points: their names, and whether the world is told.
    pub(crate) fn of<'a>(
        (gateway, device): (&str, &str),
        publish: &Publish,
        points: impl Iterator<Item = (&'a str, bool)>,
    ) -> Self {
        let template = &publish.topic;
        let topic_of = |point: &str| template.render_reading(gateway, device, point).ok();
        let is_per_point = template.holds(&Part::Point);
        let points = points.map(|(name, is_public)| {
            let topic = topic_of(name);
            let base = match publish.format {
                // Its topics are Sparkplug's alone.
                Format::Sparkplug => TopicName::new(&format!("devices/{device}/{name}")).ok(),
                Format::Json | Format::Plain if is_per_point => topic,
                // Without `{point}` the topic names no point: its name follows.
                Format::Json | Format::Plain => suffixed(topic.as_ref(), &format!("/{name}")),
            };
            PointTopics { base, is_told: is_per_point && is_public }
        });
        let any_point = match publish.format {
            Format::Sparkplug => format!("devices/{device}/+"),
            Format::Json | Format::Plain => {
                let any_point = template.fill_reading(gateway, device, "+");
                if is_per_point { any_point } else { any_point + "/+" }
            }
        };
        Self {
            points: points.collect(),
            device: topic_of("").filter(|_| !is_per_point),
            status: TopicName::new(&format!("devices/{device}/status")).ok(),
            any_command: TopicFilter::new(&(any_point + COMMAND_SUFFIX)).ok(),
        }
    }

    pub(crate) fn commands(&self) -> impl Iterator<Item = TopicName> {
        self.points.iter().filter_map(PointTopics::command)
    }

    /// The point that a command is for.
    pub(crate) fn point_of_command(&self, topic: &TopicName) -> Option<usize> {
        let base = topic.as_str().strip_suffix(COMMAND_SUFFIX)?;
        self.points.iter().position(|point| point.base.as_ref().is_some_and(|known| known.as_str() == base))
    }
}

/// The answer to a command for the point of this name and these topics; None: it names none. None where there is no
/// topic to answer to.
pub(crate) fn answer(
    known: Option<(&str, &PointTopics)>,
    message: &Message,
    outcome: Result<&Value, &CommandError>,
    now: Now,
) -> Option<Message> {
    let (name, topic) = match known {
        Some((name, topics)) => (name, topics.result()),
        None => (message.topic.as_str(), result_topic_of(&message.topic)),
    };
    command::answer(message, topic, outcome.map_err(|error| (name, error)), now)
}

/// Where a command is answered that names no point.
fn result_topic_of(command: &TopicName) -> Option<TopicName> {
    let base = command.as_str().strip_suffix(COMMAND_SUFFIX)?;
    TopicName::new(&format!("{base}{RESULT_SUFFIX}")).ok()
}

fn suffixed(topic: Option<&TopicName>, suffix: &str) -> Option<TopicName> {
    TopicName::new(&format!("{}{suffix}", topic?.as_str())).ok()
}
