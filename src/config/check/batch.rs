//! `publish.batch` of a device: its bounds, and what it cannot be together with.

use std::ops::RangeInclusive;

use crate::base::time::Duration;
use crate::config::batch::Batch;
use crate::config::error::Problem;
use crate::config::format_problem::FormatProblem;
use crate::config::model::Format;
use crate::config::raw::Section;
use crate::config::yaml::Kind;

const KEYS: &[&str] = &["every", "readings", "size"];
const EXAMPLE: &str = "batch: { every: 10s, readings: 100 }";
const EVERY_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
const READINGS_RANGE: RangeInclusive<u32> = 2..=10_000;
const SIZE_RANGE: RangeInclusive<u64> = 1 << 10..=1 << 20;
/// Less than the clouds take that take least.
const SIZE_DEFAULT: u64 = 64 << 10;

/// Of the `publish` section; no batch becomes larger than `packet_bytes_max`, which is the broker's bound.
pub(super) fn check(publish: &Section<'_>, format: Format, packet_bytes_max: u32) -> Option<Batch> {
    let field = publish.find("batch")?;
    let section = field.section(KEYS)?;
    if format != Format::Json {
        field.fault(Problem::Format(FormatProblem::BatchNeedsJson));
    }
    if let Some(retain) = publish.find("retain").filter(|retain| *retain.kind() == Kind::Bool(true)) {
        retain.fault(Problem::Format(FormatProblem::BatchRetained));
    }
    let every = section.require("every", EXAMPLE).and_then(|field| field.duration(EVERY_RANGE));
    let readings = section.require("readings", EXAMPLE).and_then(|field| field.integer(READINGS_RANGE));
    let size = section.read_or("size", SIZE_DEFAULT, |field| field.size(SIZE_RANGE));
    Some(Batch {
        every: every?,
        readings: usize::try_from(readings?).ok()?,
        packet_bytes_max: usize::try_from(size.min(packet_bytes_max.into())).ok()?,
    })
}
