//! The relay between the zones: a process of its own, so that links can be changed live and
//! outlive the daemons.
//!
//! `wan.toml` holds the links to begin with. On the control socket one line asks and one line
//! answers, both JSON: [`Request`], [`Answer`].

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use wire::Emulator;
use wire::emulator::EmulatorConfig;

use super::plan::{Link, Plan, Zone, loopback};
use crate::admin::control::ControlError;
use crate::admin::socket;

/// `wan.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// Its ports begin here, two for each pair in the order of `zone`.
    pub port: u16,
    pub zone: Vec<Zone>,
    pub link: Vec<Link>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Gives every named link its shape.
    Shape(Vec<Link>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Done,
    Failed(String),
}

/// Bytes of a request at most.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// Writes `wan.toml`.
///
/// # Errors
/// `Failed` if the root cannot be written.
pub fn write_config(plan: &Plan) -> Result<(), ControlError> {
    let config =
        RelayConfig { port: plan.relay_port, zone: plan.zones.clone(), link: plan.links.clone() };
    let text = toml::to_string(&config).expect("links have TOML forms");
    std::fs::write(plan.relay_config(), text).map_err(|error| {
        ControlError::failed(format!(
            "{} cannot be written: {error}",
            plan.relay_config().display()
        ))
    })
}

/// Tells the running relay the links' present shapes.
///
/// # Errors
/// `NoDaemon` if no relay answers.
pub async fn reshape(plan: &Plan) -> Result<(), ControlError> {
    let gone = |error: std::io::Error| {
        ControlError::no_daemon(format!("the relay between the zones does not answer: {error}"))
            .hint("start what is missing: fusion demo up")
    };
    let request =
        serde_json::to_string(&Request::Shape(plan.links.clone())).expect("links have JSON forms");
    let mut stream = BufReader::new(socket::connect(&plan.relay_socket()).await.map_err(gone)?);
    stream.write_all(format!("{request}\n").as_bytes()).await.map_err(gone)?;
    let mut line = String::new();
    stream.read_line(&mut line).await.map_err(gone)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Failed(message)) => Err(ControlError::failed(message)),
        Err(error) => {
            Err(ControlError::failed(format!("the relay's answer cannot be read: {error}")))
        }
    }
}

/// Relays until SIGTERM or SIGINT.
///
/// # Errors
/// `Failed` if the file cannot be read, or a port or the socket cannot be had.
pub async fn serve(config: &Path, control: &Path) -> Result<(), ControlError> {
    let failed = |what: &Path, error: &dyn std::fmt::Display| {
        ControlError::failed(format!("{}: {error}", what.display()))
    };
    let text = std::fs::read_to_string(config).map_err(|error| failed(config, &error))?;
    let config: RelayConfig = toml::from_str(&text).map_err(|error| failed(config, &error))?;
    let nodes = config.zone.iter().map(|zone| (zone.name.clone(), loopback(zone.port))).collect();
    let emulator = Emulator::start(EmulatorConfig {
        first_port: Some(config.port),
        ..EmulatorConfig::new(nodes)
    });
    let emulator = Arc::new(emulator.map_err(|error| {
        ControlError::failed(format!("the relay's UDP ports from {} on: {error}", config.port))
            .hint("another program has one of them; make the demo anew: fusion demo down --purge")
    })?);
    set_shapes(&emulator, &config.link).map_err(ControlError::usage)?;
    let listener = socket::listen(control).await.map_err(|error| failed(control, &error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(control, &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed(control, &error))?;
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).map_err(|error| failed(control, &error))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(|error| failed(control, &error))?;
                tokio::spawn(converse(stream, emulator.clone()));
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let _ = std::fs::remove_file(control);
    Ok(())
}

/// Answers one request per line until the other side closes.
async fn converse(stream: UnixStream, emulator: Arc<Emulator>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(REQUEST_BYTES_MAX)).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(Request::Shape(links)) => match set_shapes(&emulator, &links) {
                Ok(()) => Answer::Done,
                Err(message) => Answer::Failed(message),
            },
            Err(error) => Answer::Failed(error.to_string()),
        };
        let text = serde_json::to_string(&answer).expect("answers have JSON forms");
        write.write_all(format!("{text}\n").as_bytes()).await?;
    }
    Ok(())
}

fn set_shapes(emulator: &Emulator, links: &[Link]) -> Result<(), String> {
    for link in links {
        if !emulator.set(&link.from, &link.to, link.shape.to_link_shape()) {
            return Err(format!("there is no link from {} to {}", link.from, link.to));
        }
    }
    Ok(())
}
