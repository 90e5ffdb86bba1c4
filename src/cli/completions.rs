//! `tidegate completions`: what a shell needs to complete the command line, made of the same arguments as --help.
//! Installs nothing.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Command, ValueEnum};
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate completions bash > /etc/bash_completion.d/tidegate
  tidegate completions zsh > /usr/local/share/zsh/site-functions/_tidegate
  tidegate completions fish > ~/.config/fish/completions/tidegate.fish
The Debian package brings all three.")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// `command` is the whole command line.
pub fn run(args: &CompletionsArgs, command: Command) -> ExitCode {
    // A reader that hung up has seen enough.
    match std::io::stdout().write_all(&script(args.shell, command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn script(shell: Shell, mut command: Command) -> Vec<u8> {
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, &mut command, "tidegate", &mut script),
        Shell::Zsh => generate(Zsh, &mut command, "tidegate", &mut script),
        Shell::Fish => generate(Fish, &mut command, "tidegate", &mut script),
    }
    script
}

#[cfg(test)]
mod tests {
    use super::{Shell, script};
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn each_shell_is_told_of_each_command() {
        for (shell, opening) in [
            (Shell::Bash, "_tidegate() {"),
            (Shell::Zsh, "#compdef tidegate"),
            (Shell::Fish, "# Print an optspec"),
        ] {
            let script = String::from_utf8(script(shell, Cli::command())).expect("text");
            assert!(script.starts_with(opening), "{shell:?}: {}", script.lines().next().unwrap_or_default());
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?} lacks {}", command.get_name());
            }
        }
    }
}
