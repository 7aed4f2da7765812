//! `fusion init`: a new cluster.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use toml::Table;

use super::{Exit, Globals, absolute, join, output};
use crate::admin::control::{ControlError, InitRequest};
use crate::node;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion init --store /var/lib/fusion --zone tokyo --advertise tokyo1.example.com:7420\n  \
    fusion serve --store /var/lib/fusion --mount /srv/tree")]
pub struct InitArgs {
    /// Directory of the new store; must not exist or be empty
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fusion")]
    store: PathBuf,
    /// Zone of this node
    #[arg(long)]
    zone: String,
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

impl InitArgs {
    pub fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let settings = globals.settings(Table::new())?.settings;
        let listen = self.listen.unwrap_or(settings.listen);
        let store = absolute(&self.store)?;
        let request = InitRequest {
            advertise: join::advertised(self.advertise, &settings, listen)?,
            node: join::node_name(self.name)?,
            zone: self.zone,
            listen,
            store,
        };
        let identity = node::init(&request)?;
        join::remember(&request.store, request.listen, &request.advertise)?;
        if globals.json {
            output::print_json(&identity);
        } else if !globals.quiet {
            let store = request.store.display();
            println!(
                "cluster {} with its first node {} in zone {}",
                identity.cluster, identity.node, identity.zone
            );
            println!("store   {store}");
            println!("next    fusion serve --store {store} --mount DIR");
            println!("        fusion token create --zone OTHER-ZONE     (while it serves)");
        }
        Ok(Exit::Ok)
    }
}
