//! `tidegate man`: the manual, a page a command, made of the same arguments as --help. Never says what --help does
//! not say.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::fail;

/// What opens the examples in the text behind a command's options.
pub const EXAMPLES: &str = "Examples:";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate man | man -l -
  tidegate man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write the pages of all commands into this folder, which is made where it is missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug)]
enum ManError {
    Write(PathBuf, io::Error),
    Render(io::Error),
}

impl fmt::Display for ManError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(path, error) => write!(f, "{} cannot be written: {error}", path.display()),
            Self::Render(error) => write!(f, "the page cannot be made: {error}"),
        }
    }
}

/// `command` is the whole command line.
pub fn run(args: &ManArgs, command: Command) -> ExitCode {
    let pages = match pages(command) {
        Ok(pages) => pages,
        Err(error) => return fail(ManError::Render(error)),
    };
    let Some(dir) = &args.dir else {
        // A reader that hung up has seen enough.
        let main = pages.first().map_or(&[][..], |page| &page.text);
        return match std::io::stdout().write_all(main) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    };
    match write(dir, &pages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

struct Page {
    file: String,
    text: Vec<u8>,
}

/// The main page first.
fn pages(command: Command) -> io::Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, pages: &mut Vec<Page>) -> io::Result<()> {
    pages.push(page(command)?);
    command.get_subcommands().try_for_each(|below| add_pages(below, pages))
}

fn page(command: &Command) -> io::Result<Page> {
    let source = concat!("tidegate ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).source(source).manual("Tidegate");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::default();
    if let Some(after) = command.get_after_help() {
        add_after_help(&after.to_string(), &mut rest);
    }
    if command.get_display_name().is_some_and(|name| name.contains('-')) {
        rest.control("SH", ["SEE ALSO"]).text([bold("tidegate"), roman("(1)")]);
    }
    rest.to_writer(&mut text)?;
    Ok(Page { file: page.get_filename(), text })
}

/// Indented lines are what somebody types, and stay as they are; the rest is prose.
fn add_after_help(text: &str, page: &mut Roff) {
    let mut is_typed = false;
    if !text.starts_with(EXAMPLES) {
        page.control("SH", ["NOTES"]);
    }
    for line in text.lines().filter(|line| !line.is_empty()) {
        let typed = line.strip_prefix("  ");
        if is_typed != typed.is_some() {
            is_typed = typed.is_some();
            page.control(if is_typed { "nf" } else { "fi" }, []);
        }
        match typed {
            Some(typed) => page.text([roman(typed)]),
            None if line == EXAMPLES => page.control("SH", ["EXAMPLES"]),
            None => page.control("PP", []).text([roman(line)]),
        };
    }
    if is_typed {
        page.control("fi", []);
    }
}

fn write(dir: &Path, pages: &[Page]) -> Result<(), ManError> {
    std::fs::create_dir_all(dir).map_err(|error| ManError::Write(dir.to_owned(), error))?;
    for page in pages {
        let path = dir.join(&page.file);
        std::fs::write(&path, &page.text).map_err(|error| ManError::Write(path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Roff, add_after_help, pages};
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn each_command_has_a_page() {
        let pages = pages(Cli::command()).expect("pages");
        let text = |file: &str| {
            let page = pages.iter().find(|page| page.file == file).expect(file);
            String::from_utf8(page.text.clone()).expect("text")
        };
        assert_eq!(pages[0].file, "tidegate.1");
        for command in Cli::command().get_subcommands() {
            let page = text(&format!("tidegate-{}.1", command.get_name()));
            assert!(page.contains(".SH EXAMPLES"), "{page}");
        }
        assert!(text("tidegate.1").contains("tidegate\\-run(1)"));
        let import = text("tidegate-buffer-import.1");
        assert!(import.contains("\\-\\-config"), "what serves all of `buffer` is missing: {import}");
        assert!(import.contains(".SH \"SEE ALSO\""), "{import}");
    }

    #[test]
    fn what_is_typed_stays_as_it_is() {
        let mut page = Roff::default();
        add_after_help("It ends.\n\nExamples:\n  a -b 'c'   d\n  e\nSo it is.", &mut page);
        let sections =
            ".SH NOTES\n.PP\nIt ends.\n.SH EXAMPLES\n.nf\na \\-b \\*(Aqc\\*(Aq   d\ne\n.fi\n.PP\nSo it is.\n";
        assert!(page.render().ends_with(sections), "{}", page.render());
    }
}
