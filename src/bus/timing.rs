//! How long things take on a line, and waits that are exact enough for it.

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::base::time::Duration;
use crate::bus::Endpoint;
use crate::bus::framing::Framing;
use crate::config::port::{DataBits, Parity, Port, StopBits};
use crate::device::plan::Price;

/// Modbus over Serial Line 2.5.1.1: above this rate the silence is fixed.
const FIXED_SILENCE_BAUD_MIN: u32 = 19_200;
const FIXED_SILENCE: Duration = Duration::from_micros(1_750);
/// Adapters hand bytes over in packets: where it is not known that a frame has ended, a shorter pause between two of
/// them is no silence.
const DOUBTFUL_SILENCE_MIN: Duration = Duration::from_millis(4);
/// What units mostly take to answer.
const ANSWER_TIME: Duration = Duration::from_millis(5);
/// Unit and PDU of a read.
const READ_BYTES: usize = 6;
/// Unit, function code and length of its answer.
const ANSWER_BYTES: usize = 3;
/// The runtime's own timer turns once a millisecond, and comes up to two late.
const COARSE_MAX: Duration = Duration::from_millis(3);

/// A serial line whose speed is the converter's matter is taken for one of 9,600 baud.
const BEHIND_CONVERTER: Price = Price { request: 27_000, byte: 1_042 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    character: Duration,
    /// Before a request, after a frame that is known to have ended.
    pub(crate) silence: Duration,
    /// Before a request, after anything else.
    pub(crate) doubtful_silence: Duration,
    /// What the driver of the line takes to turn, in a request.
    turn: Duration,
}

impl Timing {
    /// Of a connection: its other end keeps the line's times.
    pub(crate) fn of_connection(framing: Framing) -> Self {
        let doubtful_silence = if framing == Framing::Tcp { Duration::ZERO } else { DOUBTFUL_SILENCE_MIN };
        Self { character: Duration::ZERO, silence: Duration::ZERO, doubtful_silence, turn: Duration::ZERO }
    }

    pub(crate) fn of_port(port: &Port, framing: Framing) -> Self {
        let data_bits = match port.data_bits {
            DataBits::Seven => 7,
            DataBits::Eight => 8,
        };
        let parity_bits = u32::from(port.parity != Parity::None);
        let stop_bits = match port.stop_bits {
            StopBits::One => 1,
            StopBits::Two => 2,
        };
        let bits = 1 + data_bits + parity_bits + stop_bits;
        let character = Duration::from_secs(u64::from(bits)) / port.baud_rate.max(1);
        let standard = match framing {
            // A colon begins a frame, whatever was before it.
            Framing::Ascii | Framing::Tcp => Duration::ZERO,
            // Modbus over Serial Line 2.5.1.1: 3.5 characters.
            Framing::Rtu if port.baud_rate > FIXED_SILENCE_BAUD_MIN => FIXED_SILENCE,
            Framing::Rtu => character * 7 / 2,
        };
        Self {
            character,
            silence: standard + port.turnaround,
            doubtful_silence: standard.max(DOUBTFUL_SILENCE_MIN) + port.turnaround,
            turn: port.rs485.map_or(Duration::ZERO, |rs485| rs485.delay_before_send + rs485.delay_after_send),
        }
    }

    /// What a request costs.
    fn price(self, framing: Framing) -> Price {
        let around = framing.wire_bytes(READ_BYTES) + framing.wire_bytes(ANSWER_BYTES);
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let digits = if framing == Framing::Ascii { 2 } else { 1 };
        let request = self.of_bytes(around) + self.silence * 2 + ANSWER_TIME;
        Price { request: micros(request), byte: micros(self.character * digits).max(1) }
    }

    /// How long so many bytes are on the wire.
    pub(crate) fn of_bytes(self, bytes: usize) -> Duration {
        self.character * u32::try_from(bytes).unwrap_or(u32::MAX) + self.turn
    }
}

/// What a request costs on a line.
pub(crate) fn price(endpoint: &Endpoint) -> Price {
    match endpoint {
        Endpoint::Tcp { .. } => Price::NETWORK,
        Endpoint::RtuOverTcp { .. } => BEHIND_CONVERTER,
        Endpoint::Rtu(port) | Endpoint::Ascii(port) => {
            let framing = endpoint.framing();
            Timing::of_port(port, framing).price(framing)
        }
    }
}

/// Waits to the tenth of a millisecond: at 115,200 baud a whole one is a fifth of an exchange.
pub(crate) async fn pause_until(at: Instant) {
    sleep_until(at.checked_sub(COARSE_MAX).unwrap_or(at)).await;
    let rest = at.saturating_duration_since(Instant::now());
    if !rest.is_zero() && wait_exactly(rest).await.is_err() {
        // Without a timer of the kernel there is the runtime's, which comes late.
        sleep_until(at).await;
    }
}

/// A timer of the kernel wakes this very thread: one that another thread sleeps for comes a tenth of a millisecond later.
async fn wait_exactly(rest: Duration) -> std::io::Result<()> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let once = Timespec::try_from(rest).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(
        deprecated,
        reason = "its descriptor might be closed early: this one is owned, and the other way is unsafe code"
    )]
    let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
    let setting = Itimerspec { it_interval: never, it_value: once };
    timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
    timer.readable().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::{Timing, pause_until};
    use crate::base::time::Duration;
    use crate::bus::framing::Framing;
    use crate::config::port::{DataBits, Parity, Port, StopBits};
    use tokio::time::Instant;

    #[test]
    fn silence_is_three_and_a_half_characters_but_in_doubt_never_too_short() {
        let cases = [
            (1_200, Parity::None, StopBits::One, 0, 29_166, 29_166),
            (2_400, Parity::Even, StopBits::One, 0, 16_041, 16_041),
            (9_600, Parity::None, StopBits::One, 0, 3_645, 4_000),
            (9_600, Parity::Even, StopBits::Two, 0, 4_375, 4_375),
            (115_200, Parity::None, StopBits::One, 0, 1_750, 4_000),
            (115_200, Parity::None, StopBits::One, 20, 21_750, 24_000),
        ];
        for (baud_rate, parity, stop_bits, turnaround_millis, micros, doubtful_micros) in cases {
            let port = Port {
                name: "p".into(),
                path: "/dev/null".into(),
                baud_rate,
                data_bits: DataBits::Eight,
                parity,
                stop_bits,
                turnaround: Duration::from_millis(turnaround_millis),
                rs485: None,
                share: None,
            };
            let timing = Timing::of_port(&port, Framing::Rtu);
            let silences = (timing.silence.as_micros(), timing.doubtful_silence.as_micros());
            assert_eq!(silences, (micros, doubtful_micros), "{baud_rate}");
            let ascii = Timing::of_port(&port, Framing::Ascii);
            assert_eq!(ascii.silence, port.turnaround);
        }
    }

    #[tokio::test]
    async fn a_pause_is_never_too_short() {
        for micros in [0, 100, 1_750, 4_000, 25_000, 300] {
            let at = Instant::now() + Duration::from_micros(micros);
            pause_until(at).await;
            assert!(Instant::now() >= at, "{micros}");
        }
    }
}
