//! One walk over the tree before any key is looked at: repeated keys are reported and dropped, merge keys
//! refused, variables expanded. Knows no key; what it has reported says nothing more afterwards.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::error::Problem;
use crate::config::expand::{Environment, expand, holds_variable};
use crate::config::raw::{Report, join_path};
use crate::config::yaml::{Entry, Kind, Node};

/// What the walk needs besides the tree.
pub struct Settler<'a> {
    pub base_dir: &'a Path,
    pub environment: &'a dyn Environment,
    pub report: &'a Report,
}

impl Settler<'_> {
    pub fn settle(&self, node: &mut Node, path: &str) {
        match &mut node.kind {
            Kind::Text(text) if holds_variable(text) => {
                node.kind = match expand(text, self.base_dir, self.environment) {
                    Ok(expanded) => Kind::Expanded(expanded),
                    Err(problem) => {
                        self.report.add(node.position, path, problem);
                        Kind::Faulty
                    }
                };
            }
            Kind::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.settle(item, &format!("{path}[{index}]"));
                }
            }
            Kind::Map(entries) => self.settle_entries(entries, path),
            _ => {}
        }
    }

    fn settle_entries(&self, entries: &mut Vec<Entry>, path: &str) {
        let mut lines = BTreeMap::new();
        entries.retain_mut(|entry| {
            let path = join_path(path, &entry.key);
            if entry.key == "<<" {
                self.report.add(entry.position, &path, Problem::MergeKey);
                return false;
            }
            if let Some(first_line) = lines.get(&entry.key) {
                self.report.add(entry.position, &path, Problem::DuplicateKey { first_line: *first_line });
                return false;
            }
            lines.insert(entry.key.clone(), entry.position.line);
            self.settle(&mut entry.value, &path);
            true
        });
    }
}
