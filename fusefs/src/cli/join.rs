//! `fusion join`: another node, admitted by a token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use toml::Table;

use super::{Exit, Globals, absolute, output};
use crate::admin::control::{ControlError, JoinRequest};
use crate::config::{self, Settings};
use crate::node;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion token create --zone tokyo            # on any node: prints the whole join command\n  \
    fusion join FUS1-...@host:7420 --store /var/lib/fusion --advertise tokyo1.example.com:7420")]
pub struct JoinArgs {
    /// The token that `fusion token create` printed
    token: String,
    /// Directory of the new store; must not exist or be empty
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fusion")]
    store: PathBuf,
    /// Name of this node; the host's name if not given
    #[arg(long)]
    name: Option<String>,
    /// UDP address to listen at
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// How other nodes reach it; needed unless --listen names one address
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
}

impl JoinArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let settings = globals.settings(Table::new())?.settings;
        let listen = self.listen.unwrap_or(settings.listen);
        let request = JoinRequest {
            advertise: advertised(self.advertise, &settings, listen)?,
            node: node_name(self.name)?,
            token: self.token,
            store: absolute(&self.store)?,
            listen,
        };
        let joining = tokio::time::timeout(globals.patience(), node::join(&request));
        let identity = joining.await.unwrap_or_else(|_| {
            Err(ControlError::timeout("the cluster did not admit this node in time")
                .hint("can this machine reach the token's address by UDP? wait longer: --timeout"))
        })?;
        remember(&request.store, request.listen, &request.advertise)?;
        if globals.json {
            output::print_json(&identity);
        } else if !globals.quiet {
            println!(
                "node {} in zone {} of cluster {}",
                identity.node, identity.zone, identity.cluster
            );
            println!("next fusion serve --store {} --mount DIR", request.store.display());
        }
        Ok(Exit::Ok)
    }
}

/// The given name, or the host's without its domain.
pub fn node_name(given: Option<String>) -> Result<String, ControlError> {
    if let Some(name) = given {
        return Ok(name);
    }
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    match host.split('.').next() {
        Some(name) if !name.is_empty() && name != "localhost" => Ok(name.to_owned()),
        _ => {
            Err(ControlError::usage("this host has no name of its own")
                .hint("give one: --name NAME"))
        }
    }
}

/// What other nodes will be told.
pub fn advertised(
    given: Option<String>,
    settings: &Settings,
    listen: SocketAddr,
) -> Result<String, ControlError> {
    let from_settings = (!settings.advertise.is_empty()).then(|| settings.advertise.clone());
    match given.or(from_settings) {
        Some(address) => Ok(address),
        None if listen.ip().is_unspecified() => Err(ControlError::usage(format!(
            "other nodes cannot use {listen}"
        ))
        .hint(format!("say how they reach this machine: --advertise HOST:{}", listen.port()))),
        None => Ok(listen.to_string()),
    }
}

/// Keeps the node's addresses in its store, so that `fusion serve --store DIR` is enough.
pub fn remember(store: &Path, listen: SocketAddr, advertise: &str) -> Result<(), ControlError> {
    config::write_store_file(store, listen, advertise).map_err(|error| {
        ControlError::failed(format!("cannot write {} in the store: {error}", config::STORE_FILE))
    })
}
