//! The marks of the gateways that a message went through: where they stand in a message, and how two gateways write them
//! into topics over MQTT 3.1.1, which has no other place for them. Never decides what a mark means.
//!
//! `$tidegate-via/MARK,MARK/TOPIC` is a message on TOPIC that went through both. It passes between a bridge that greets as
//! [`Role::Gateway`](crate::mqtt::packet::connect::Role) and a gateway that answers as one, never anywhere else; there
//! each topic is written so, so that none can be taken for what it is not.

use std::sync::Arc;

use crate::mqtt::message::{MessageProperties, VIA};
use crate::mqtt::topic::TopicName;

const PREFIX: &str = "$tidegate-via/";
/// Marks that one topic carries. Of more the last ones: a ring of so many gateways ends all the same.
const MARKS_MAX: usize = 64;
const MARK_BYTES_MAX: usize = 64;

type Properties = Option<Box<MessageProperties>>;

/// The gateway of this mark sends it on.
pub fn add_mark(properties: &mut Properties, mark: &Arc<str>) {
    properties.get_or_insert_default().user_properties.push((VIA.into(), Arc::clone(mark)));
}

/// The topic with the marks of `properties`. None: it has none, or grows too long by them.
pub fn with_marks(topic: &TopicName, properties: &Properties) -> Option<TopicName> {
    let user_properties = properties.as_deref().map(|properties| &properties.user_properties[..]);
    let marks = user_properties.unwrap_or_default().iter().filter(|(name, _)| &**name == VIA);
    let marks: Vec<&str> = marks.map(|(_, mark)| &**mark).filter(|mark| is_mark(mark)).collect();
    if marks.is_empty() {
        return None;
    }
    let last = marks[marks.len().saturating_sub(MARKS_MAX)..].join(",");
    TopicName::new(&format!("{PREFIX}{last}/{}", topic.as_str())).ok()
}

/// Takes the marks out of a topic and adds them to `properties`. A topic without any stays what it is.
pub fn take_marks(topic: &mut TopicName, properties: &mut Properties) {
    let Some((marks, plain)) = topic.as_str().strip_prefix(PREFIX).and_then(|rest| rest.split_once('/'))
    else {
        return;
    };
    let marks: Vec<Arc<str>> =
        marks.split(',').take(MARKS_MAX).filter(|mark| is_mark(mark)).map(Arc::from).collect();
    let Ok(plain) = TopicName::new(plain) else { return };
    for mark in &marks {
        add_mark(properties, mark);
    }
    *topic = plain;
}

/// A client of 5.0 may write anything in its place.
fn is_mark(text: &str) -> bool {
    (1..=MARK_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::{MARKS_MAX, add_mark, take_marks, with_marks};
    use crate::mqtt::topic::TopicName;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).expect("a valid topic")
    }

    #[test]
    fn marks_go_into_a_topic_and_come_out_of_it() {
        for plain in ["x", "a/b/c", "/", "$SYS/x", "$tidegate-via/aa/x", "$tidegate-via/", "ä,b/c"] {
            for count in [1, 2, MARKS_MAX] {
                let mut properties = None;
                for number in 0..count {
                    add_mark(&mut properties, &format!("{number:016x}").into());
                }
                let mut topic = with_marks(&name(plain), &properties).expect("it fits");
                let mut found = None;
                take_marks(&mut topic, &mut found);
                assert_eq!((topic.as_str(), &found), (plain, &properties));
            }
        }
    }

    #[test]
    fn what_is_no_mark_is_left_out_and_the_last_ones_stay() {
        let mut properties = None;
        assert_eq!(with_marks(&name("x"), &properties), None);
        for odd in ["", "a/b", "a,b", "a+", "ä", &"a".repeat(65)] {
            add_mark(&mut properties, &odd.into());
        }
        assert_eq!(with_marks(&name("x"), &properties), None);
        for number in 0..=MARKS_MAX {
            add_mark(&mut properties, &format!("m{number}").into());
        }
        let topic = with_marks(&name("x"), &properties).expect("it fits");
        assert!(topic.as_str().starts_with("$tidegate-via/m1,m2,"), "{topic:?}");
        assert!(topic.as_str().ends_with(&format!(",m{MARKS_MAX}/x")), "{topic:?}");
        assert_eq!(with_marks(&name(&"x".repeat(65_530)), &properties), None);
    }

    #[test]
    fn a_topic_that_only_looks_like_it_stays() {
        for odd in ["x", "$tidegate-via", "$tidegate-via/aa", "$tidegate-via/aa/", "$tidegate-viaaa/x"] {
            let (mut topic, mut properties) = (name(odd), None);
            take_marks(&mut topic, &mut properties);
            assert_eq!((topic.as_str(), properties), (odd, None));
        }
    }
}
