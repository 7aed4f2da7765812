//! `fusion version`: of this program and of the daemon.

use super::{Exit, Globals, find, output};
use crate::admin::control::ControlError;

pub async fn run(globals: &Globals) -> Result<Exit, ControlError> {
    let program = env!("CARGO_PKG_VERSION");
    let status = match find::daemon(globals).await {
        Ok(client) => client.status().await.ok(),
        Err(_) => None,
    };
    let daemon = status.map(|status| status.version);
    if globals.json {
        output::print_json(&serde_json::json!({ "program": program, "daemon": daemon }));
    } else {
        println!("fusion {program}");
        match daemon {
            Some(version) => println!("daemon {version}"),
            None => println!("daemon not running"),
        }
    }
    Ok(Exit::Ok)
}
