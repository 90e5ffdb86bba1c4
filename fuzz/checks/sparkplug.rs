//! Sparkplug payloads. Any bytes are one or are refused; what was read is written, and reads the same again. What a
//! session makes of it names no metric by two aliases.

use tidegate::base::time::Now;
use tidegate::sparkplug::payload::Payload;
use tidegate::sparkplug::session::{Definition, Session};
use tidegate::sparkplug::topic::{EdgeNode, Kind};

pub fn check(input: &[u8]) {
    let Ok(payload) = Payload::decode(input) else { return };
    let again = Payload::decode(&payload.encode()).expect("what we write we read");
    // As text: a float that is no number is not equal to itself.
    assert_eq!(format!("{again:?}"), format!("{payload:?}"));
    let node = EdgeNode { group: "g".into(), node: "n".into() };
    let mut session = Session::new(&Definition { node, devices: Vec::new() }, None, |_| true);
    session.begin();
    session.births(Now::default());
    let now = Now::default();
    let said = session.data("d", &payload, (now.instant, 0), now);
    session.learn(Kind::DeviceBirth, "d", &payload);
    let birth = session.device_birth("d", now).expect("the node is born");
    let birth = Payload::decode(&birth.payload).expect("what we write we read");
    let mut names: Vec<_> = birth.metrics.iter().map(|metric| metric.name.clone()).collect();
    let mut aliases: Vec<_> = birth.metrics.iter().map(|metric| metric.alias).collect();
    names.sort();
    aliases.sort_unstable();
    assert!(
        names.windows(2).all(|pair| pair[0] != pair[1]) && aliases.windows(2).all(|pair| pair[0] != pair[1])
    );
    for one in said {
        let told = Payload::decode(&one.payload).expect("what we write we read");
        assert!(told.metrics.iter().all(|metric| aliases.contains(&metric.alias)));
    }
}
