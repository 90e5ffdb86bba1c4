//! What the gateway's devices published against what reached the cloud: the demo's verdict.

use std::collections::BTreeMap;

/// Messages of one topic, in order, on both sides.
#[derive(Debug, Default)]
struct Line {
    published: Vec<Vec<u8>>,
    arrived: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
pub struct Books {
    lines: BTreeMap<String, Line>,
}

/// What is wrong with the messages of one topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    pub topic: String,
    pub lost: usize,
    pub repeated: usize,
    pub out_of_order: bool,
}

impl Books {
    pub fn note_published(&mut self, topic: &str, payload: &[u8]) {
        self.lines.entry(topic.to_owned()).or_default().published.push(payload.to_vec());
    }

    pub fn note_arrived(&mut self, topic: &str, payload: &[u8]) {
        self.lines.entry(topic.to_owned()).or_default().arrived.push(payload.to_vec());
    }

    pub fn published(&self) -> usize {
        self.lines.values().map(|line| line.published.len()).sum()
    }

    /// Published and not arrived yet.
    pub fn outstanding(&self) -> usize {
        self.lines.values().map(|line| line.published.len().saturating_sub(line.arrived.len())).sum()
    }

    /// Empty where every message arrived exactly once and in order.
    pub fn differences(&self) -> Vec<Difference> {
        self.lines.iter().filter(|(_, line)| line.published != line.arrived).map(difference).collect()
    }
}

fn difference((topic, line): (&String, &Line)) -> Difference {
    let count = |messages: &[Vec<u8>]| {
        let mut counts = BTreeMap::<Vec<u8>, usize>::new();
        for message in messages {
            *counts.entry(message.clone()).or_default() += 1;
        }
        counts
    };
    let (published, arrived) = (count(&line.published), count(&line.arrived));
    let surplus = |of: &BTreeMap<Vec<u8>, usize>, over: &BTreeMap<Vec<u8>, usize>| -> usize {
        of.iter().map(|(message, n)| n.saturating_sub(over.get(message).copied().unwrap_or(0))).sum()
    };
    let (lost, repeated) = (surplus(&published, &arrived), surplus(&arrived, &published));
    Difference { topic: topic.clone(), lost, repeated, out_of_order: lost == 0 && repeated == 0 }
}

#[cfg(test)]
mod tests {
    use super::{Books, Difference};

    fn books(published: &[&str], arrived: &[&str]) -> Vec<Difference> {
        let mut books = Books::default();
        for text in published {
            books.note_published("t", text.as_bytes());
        }
        for text in arrived {
            books.note_arrived("t", text.as_bytes());
        }
        books.differences()
    }

    #[test]
    fn losses_repeats_and_disorder_are_told_apart() {
        let found = |lost, repeated, out_of_order| {
            vec![Difference { topic: "t".to_owned(), lost, repeated, out_of_order }]
        };
        assert_eq!(books(&["a", "b", "a"], &["a", "b", "a"]), []);
        assert_eq!(books(&["a", "b"], &["a"]), found(1, 0, false));
        assert_eq!(books(&["a"], &["a", "a"]), found(0, 1, false));
        assert_eq!(books(&["a", "b"], &["b", "a"]), found(0, 0, true));
    }
}
