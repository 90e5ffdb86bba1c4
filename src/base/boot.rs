//! Which boot of the machine this is: instants of two processes can be compared where it is the same.

use std::sync::OnceLock;

/// Set by the unit, which hides `/proc/sys` from the gateway.
const VARIABLE: &str = "TIDEGATE_BOOT_ID";
const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The first half of the kernel's boot id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Boot(pub u64);

impl Boot {
    /// Where the system does not say, every process is taken for a boot of its own: nothing is then told of what an
    /// earlier one has left that it could not know.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Boot> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let said = std::env::var(VARIABLE).or_else(|_| std::fs::read_to_string(FILE));
            said.ok().and_then(|text| Self::parse(&text)).unwrap_or_else(|| Self(fastrand::u64(..)))
        })
    }

    /// A UUID, with dashes or without.
    fn parse(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        (digits.len() == 32).then(|| u64::from_str_radix(digits.get(..16)?, 16).ok().map(Self))?
    }
}

#[cfg(test)]
mod tests {
    use super::Boot;

    #[test]
    fn a_boot_id_is_read_in_both_spellings_and_nothing_else_is() {
        let boot = Some(Boot(0x6080_ad91_a356_4380));
        let cases = [
            ("6080ad91-a356-4380-a1f4-fb026ce403d2\n", boot),
            ("6080ad91a3564380a1f4fb026ce403d2", boot),
            ("", None),
            ("6080ad91a3564380", None),
            ("zzzzad91-a356-4380-a1f4-fb026ce403d2", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Boot::parse(text), expected, "{text}");
        }
        assert_eq!(Boot::current(), Boot::current());
    }
}
