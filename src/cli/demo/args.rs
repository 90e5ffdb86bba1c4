//! The arguments of `tidegate demo`.

use std::time::Duration;

use clap::Args;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Cut the uplink for so long, like 10s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub outage: Option<Duration>,
    /// End after so long, with 0 if every reading arrived once, like 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

/// `500ms`, `10s`, `2m`, `1h`: a whole number above 0 and its unit.
fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis_of_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number and ms, s, m or h, like 10s"),
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis_of_unit));
    match millis {
        Some(millis @ 1..) => Ok(Duration::from_millis(millis)),
        Some(0) => Err("more than 0"),
        None => Err("a number and ms, s, m or h, like 10s"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_duration;
    use std::time::Duration;

    #[test]
    fn durations_have_a_unit() {
        let cases = [
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("0s", None),
            ("10", None),
            ("s", None),
            ("1.5s", None),
            ("18446744073709551615h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
    }
}
