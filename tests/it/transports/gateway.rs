//! A whole gateway with listeners of the test's choice, in a folder of its own.

use std::path::Path;
use std::sync::Arc;

use tidegate::app::Gateway;
use tidegate::base::time::Clock;
use tidegate::config::expand::Environment;
use tidegate::config::load::parse;

struct Nothing;

impl Environment for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn host_name(&self) -> Option<String> {
        Some("test".to_owned())
    }
}

/// `listeners` is the inside of a YAML list; paths start at `folder`.
pub fn start(folder: &Path, listeners: &str, anonymous: &str) -> Gateway {
    let text = format!(
        "gateway: {{ data_dir: data, durability: none }}\n\
         broker:\n  listeners: [{listeners}]\n  authentication: {{ anonymous: {anonymous} }}\n"
    );
    let config = parse("test.yaml", &text, folder, &Nothing).unwrap_or_else(|faults| panic!("{faults}"));
    let prepared = Gateway::prepare(Arc::new(config), Clock::start()).unwrap();
    prepared.start().unwrap()
}
