//! What the program says of itself to shells and to `man`, made of the same flags that it parses.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Exit, complain, print};

/// What `completions` is told.
#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell that is to read the script.
    #[arg(value_enum)]
    shell: Shell,
}

/// What `man` is told.
#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// The command to describe [default: the whole program].
    command: Option<String>,
}

pub(super) fn completions(arguments: &CompletionsArguments) -> Exit {
    let mut command = super::Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "rowstream", &mut script);
    print(&script)
}

pub(super) fn man(arguments: &ManArguments) -> Exit {
    let mut program = super::Arguments::command();
    program.build();
    let described = match &arguments.command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(command) => command.clone().name(format!("rowstream-{name}")),
            None => {
                complain(&format_args!("there is no command {name:?}"));
                return Exit::Usage;
            }
        },
    };
    let mut page = Vec::new();
    match clap_mangen::Man::new(described).render(&mut page) {
        Ok(()) => print(&page),
        Err(error) => {
            complain(&error);
            Exit::Failed
        }
    }
}
