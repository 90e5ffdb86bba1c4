//! `tidegate profiles`: the profiles that a configuration can name, and what stands in one. Never changes any.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value as Json, json};

use crate::cli::table::{Align, Table};
use crate::cli::{fail, wrong_usage};
use crate::config::profile::{Head, Origin, Profile, find, list};
use crate::config::profile_problem::ProfileProblem;

#[derive(Debug, Args)]
#[command(
    after_help = "Looked for in profiles/ beside the configuration, /etc/tidegate/profiles, /usr/share/tidegate/profiles, \
and the program itself, in this order.

Examples:
  tidegate profiles
  tidegate profiles eastron-sdm630 > /etc/tidegate/profiles/my-meter.yaml"
)]
pub struct ProfilesArgs {
    /// Print this one, to be copied and changed
    name: Option<String>,
    /// The configuration, beside which profiles may lie; it need not be there
    #[arg(short, long, value_name = "FILE", default_value = "/etc/tidegate/tidegate.yaml")]
    config: PathBuf,
    /// Print JSON
    #[arg(long, conflicts_with = "name")]
    json: bool,
}

pub fn run(args: &ProfilesArgs) -> ExitCode {
    let base_dir = args.config.parent().unwrap_or(Path::new(""));
    let text = match &args.name {
        Some(name) => match find(name, base_dir) {
            Ok(profile) => profile.text,
            Err(ProfileProblem::Unknown { nearest, .. }) => {
                return wrong_usage(ProfileProblem::Unknown { name: Some(name.as_str().into()), nearest });
            }
            Err(problem) => return fail(problem),
        },
        None if args.json => {
            format!("{}\n", json!({ "profiles": rows(base_dir).map(json_of).collect::<Vec<Json>>() }))
        }
        None => table(base_dir),
    };
    // A reader that hung up has seen enough.
    if std::io::stdout().write_all(text.as_bytes()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rows(base_dir: &Path) -> impl Iterator<Item = (Profile, Head)> {
    let found = list(base_dir).into_keys().filter_map(move |name| find(&name, base_dir).ok());
    found.map(|profile| {
        let head = profile.head();
        (profile, head)
    })
}

fn table(base_dir: &Path) -> String {
    use Align::{Left, Right};
    let titles = [("PROFILE", Left), ("DEVICE", Left), ("POINTS", Right), ("REVISION", Left), ("FROM", Left)];
    let mut table = Table::new(titles);
    for (profile, Head { device, points, revision, .. }) in rows(base_dir) {
        table.push([profile.name.clone(), device, points.to_string(), revision, origin(&profile)]);
    }
    table.render()
}

fn json_of((profile, head): (Profile, Head)) -> Json {
    json!({
        "profile": profile.name,
        "device": head.device,
        "points": head.points,
        "manual": head.manual,
        "revision": head.revision,
        "from": origin(&profile),
    })
}

fn origin(profile: &Profile) -> String {
    match &profile.origin {
        Origin::BuiltIn => "built in".to_owned(),
        Origin::File(path) => path.display().to_string(),
    }
}
