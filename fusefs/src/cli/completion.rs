//! `fusion completion`: a script for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit};

#[derive(Args)]
#[command(after_help = "Example:\n  fusion completion bash > /etc/bash_completion.d/fusion")]
pub struct CompletionArgs {
    shell: Shell,
}

impl CompletionArgs {
    pub fn run(self) -> Exit {
        clap_complete::generate(self.shell, &mut Cli::command(), "fusion", &mut std::io::stdout());
        Exit::Ok
    }
}
