//! The arguments of `tidegate demo`.

use std::time::Duration;

use clap::Args;

use crate::config::duration;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate demo                                         until SIGINT
  tidegate demo --outage 10s --for 40s                  cut the uplink for 10 s; exit code 0 if nothing was lost")]
pub struct DemoArgs {
    /// Cut the uplink for so long, like 10s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub outage: Option<Duration>,
    /// End after so long, with 0 if every reading arrived once, like 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

/// A duration as in the configuration, above 0.
fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    match duration::parse(text) {
        Some(Duration::ZERO) => Err("more than 0"),
        Some(duration) => Ok(duration),
        None => Err("a number and ms, s, m, h or d, like 10s"),
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
