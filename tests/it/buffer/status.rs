//! What `tidegate status` says, and to whom.

use std::os::unix::fs::PermissionsExt;

use super::plant::Plant;

/// Nothing answers there.
const BRIDGE: &str = "bridges: { cloud: { url: 'mqtt://127.0.0.1:9', forward: [{ topic: '#' }] } }";

#[test]
fn a_gateway_without_http_tells_its_status() {
    let mut plant = Plant::new(BRIDGE);
    plant.start();
    let text = plant.say(&["status"]);
    assert!(text.starts_with("gateway plant-7, tidegate "), "{text}");
    let bridge = text.lines().find(|line| line.starts_with("cloud ")).unwrap();
    assert!(bridge.contains("0 B"), "{bridge}");
    let status = plant.json(&["status", "--json"]);
    assert_eq!(status["gateway"], "plant-7");
    assert_eq!(status["bridges"][0]["name"], "cloud");
    assert_eq!(std::fs::metadata(plant.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    plant.stop();
    assert!(!plant.socket().exists());
}

#[test]
fn a_gateway_that_does_not_run_is_no_status() {
    let mut plant = Plant::new(BRIDGE);
    let (code, said) = plant.refusal(&["status"]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("error: no gateway runs: "), "{said}");
    // One that was killed leaves its socket, which the next one takes over.
    plant.start();
    plant.kill();
    assert!(plant.socket().exists());
    let (_, said) = plant.refusal(&["status", "--json"]);
    assert!(said.starts_with("error: no gateway runs: "), "{said}");
    plant.start();
    plant.stop();
}
