//! Many gateways that lose one cloud at one moment, and find it again: they must not come back at one moment.

use tidegate::base::backoff::BackoffBounds;
use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::bridge::effect::Effects;
use tidegate::bridge::fault::LinkFault;
use tidegate::bridge::{Bridge, Settings};
use tidegate::mqtt::packet::Version;

use super::world::{DEAD, SPOOL, config};

const GATEWAYS: u64 = 5000;
const OUTAGE_SECS: u64 = 3600;
const BOUNDS: BackoffBounds = BackoffBounds { min: Duration::from_secs(1), max: Duration::from_secs(120) };

/// When a gateway of this seed finds the cloud again, from the cloud's return on.
fn returns_after(seed: u64) -> Duration {
    let mut bridge = config(Version::V5);
    bridge.reconnect = BOUNDS;
    let settings = Settings {
        bridge,
        index: 0,
        gateway: "plant-7".into(),
        mark: "plant-7-mark".into(),
        may_return: false,
        seed,
        node: None,
        holder: None,
    };
    let at = |instant| Now { instant, wall: Timestamp::from_millis(1_795_255_200_000) };
    let start = Instant::from_nanos(1_000_000_000);
    let back = start + Duration::from_secs(OUTAGE_SECS);
    let mut out = Effects::default();
    let mut bridge = Bridge::new(settings, (SPOOL, None), (DEAD, None), at(start), &mut out);
    let mut now = start;
    while now < back {
        assert!(std::mem::take(&mut out.connect), "it tries");
        bridge.handle_disconnected(LinkFault::Closed, at(now), &mut out);
        now = bridge.next_deadline().expect("a next try").0;
        bridge.handle_timeout(at(now), &mut out);
    }
    now.since(back)
}

/// Of waits that are uniform up to `max`, what is left of one at any moment has its density highest at once, with
/// 2 / `max`: so many gateways a second is the most that full jitter can promise.
#[test]
fn a_thousand_gateways_do_not_come_back_at_once() {
    let theory = 2 * GATEWAYS / BOUNDS.max.as_secs();
    let mut by_second = vec![0; 1 + usize::try_from(BOUNDS.max.as_secs()).expect("small")];
    for seed in 0..GATEWAYS {
        let second = usize::try_from(returns_after(seed).as_secs()).expect("small");
        by_second[second] += 1;
    }
    let peak = by_second.iter().copied().max().unwrap_or_default();
    eprintln!("{GATEWAYS} gateways: at most {peak} a second, full jitter's own peak is {theory}");
    assert!(peak <= theory * 14 / 10, "{by_second:?}");
    let half = GATEWAYS / 2;
    let first_third: u64 = by_second.iter().take(by_second.len() / 3).sum();
    assert!(first_third > half, "they take no longer than they must: {by_second:?}");
}
