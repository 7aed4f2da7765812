//! `fusion wan`: the relay between the zones of a demo.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, ignore_broken_pipes};
use crate::admin::control::ControlError;
use crate::demo::wan;

#[derive(Args)]
pub struct WanArgs {
    /// The links to begin with
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Unix socket for changes
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
}

impl WanArgs {
    pub async fn run(self) -> Result<Exit, ControlError> {
        ignore_broken_pipes();
        wan::serve(&self.config, &self.control).await?;
        Ok(Exit::Ok)
    }
}
