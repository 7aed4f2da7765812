//! Puts distance between nodes of one machine: a relay of UDP packets in this process, without
//! privileges.
//!
//! For each pair of nodes {a, b} there are two sockets: a sends to the one as if it were b, b
//! to the other as if it were a. What arrives at one leaves from the other after the link's
//! delay. So each node keeps its one port, and sees each peer at one address.
//!
//! Each direction of each pair has a thread that does nothing else, so that a busy link does not
//! disturb another. Reading order: [`Emulator`], [`shape`], `schedule`, `relay`, [`matrix`],
//! [`wan`].

pub mod matrix;
mod relay;
mod schedule;
pub mod shape;
pub mod wan;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use parking_lot::Mutex;

pub use matrix::Matrix;
pub use shape::{LinkShape, LinkStats};
pub use wan::{WanError, WanRow};

use relay::{Direction, Relay};

/// What to put distance between.
#[derive(Clone, Debug)]
pub struct EmulatorConfig {
    /// Names (of nodes or zones, as the caller likes) and the addresses they listen on.
    pub nodes: Vec<(String, SocketAddr)>,
    /// Where the relay listens.
    pub bind: IpAddr,
    /// The relay's ports are this one and those that follow, in the order of the pairs; `None`:
    /// any free ones.
    pub first_port: Option<u16>,
    /// Of the chance in loss and jitter.
    pub seed: u64,
}

impl EmulatorConfig {
    pub fn new(nodes: Vec<(String, SocketAddr)>) -> EmulatorConfig {
        let bind = Ipv4Addr::LOCALHOST.into();
        EmulatorConfig { nodes, bind, first_port: None, seed: 1 }
    }
}

/// A running relay. Links are perfect until told otherwise. Dropping it stops it.
pub struct Emulator {
    /// By (from, to).
    directions: BTreeMap<(String, String), Arc<Direction>>,
    /// Real addresses, by node.
    targets: BTreeMap<String, Arc<Mutex<SocketAddr>>>,
    relays: Vec<Relay>,
}

impl Emulator {
    /// # Errors
    /// If a socket or thread cannot be had; `InvalidInput` if two nodes have one name.
    pub fn start(config: EmulatorConfig) -> io::Result<Emulator> {
        let targets: BTreeMap<_, _> = config
            .nodes
            .iter()
            .map(|(name, address)| (name.clone(), Arc::new(Mutex::new(*address))))
            .collect();
        if targets.len() != config.nodes.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "two nodes have one name"));
        }
        let mut emulator = Emulator { directions: BTreeMap::new(), targets, relays: Vec::new() };
        let mut ports = config.first_port.map(|first| first..);
        let mut bind = || {
            let port = ports.as_mut().map_or(Some(0), Iterator::next).unwrap_or(0);
            UdpSocket::bind((config.bind, port))
        };
        let names: Vec<&String> = config.nodes.iter().map(|(name, _)| name).collect();
        for (at, a) in names.iter().enumerate() {
            for b in &names[at + 1..] {
                emulator.link(a, b, bind()?, bind()?, config.seed)?;
            }
        }
        Ok(emulator)
    }

    fn link(
        &mut self,
        a: &str,
        b: &str,
        a_side: UdpSocket,
        b_side: UdpSocket,
        seed: u64,
    ) -> io::Result<()> {
        let a_side = Arc::new(relay::Socket::new(a_side)?);
        let b_side = Arc::new(relay::Socket::new(b_side)?);
        for (from, to, inlet, outlet) in [(a, b, &a_side, &b_side), (b, a, &b_side, &a_side)] {
            let direction = Arc::new(Direction {
                inlet: inlet.clone(),
                outlet: outlet.clone(),
                target: self.targets[to].clone(),
                shape: Mutex::new(LinkShape::PERFECT),
                stats: Mutex::default(),
            });
            let seed = seed.wrapping_mul(0x9e37_79b9).wrapping_add(self.directions.len() as u64);
            self.relays.push(Relay::start(&format!("{from}>{to}"), direction.clone(), seed)?);
            self.directions.insert((from.to_owned(), to.to_owned()), direction);
        }
        Ok(())
    }

    fn direction(&self, from: &str, to: &str) -> Option<&Direction> {
        self.directions.get(&(from.to_owned(), to.to_owned())).map(|direction| &**direction)
    }

    /// Where `from` finds `to`.
    pub fn address(&self, from: &str, to: &str) -> Option<SocketAddr> {
        self.direction(from, to).map(|direction| direction.inlet.address())
    }

    /// Where `from` finds everybody: for [`crate::WireConfig::overrides`].
    pub fn overrides(&self, from: &str) -> HashMap<String, String> {
        let ours = self.directions.iter().filter(|((sender, _), _)| sender == from);
        ours.map(|((_, to), link)| (to.clone(), link.inlet.address().to_string())).collect()
    }

    /// Shapes one direction; others keep theirs. False if there is no such link.
    pub fn set(&self, from: &str, to: &str, shape: LinkShape) -> bool {
        let direction = self.direction(from, to);
        if let Some(direction) = direction {
            *direction.shape.lock() = shape;
        }
        direction.is_some()
    }

    /// Shapes both directions alike.
    pub fn set_both(&self, a: &str, b: &str, shape: LinkShape) -> bool {
        self.set(a, b, shape) && self.set(b, a, shape)
    }

    pub fn shape(&self, from: &str, to: &str) -> Option<LinkShape> {
        self.direction(from, to).map(|direction| *direction.shape.lock())
    }

    /// Cuts all links of a node, both ways. What is on its way is lost.
    pub fn cut(&self, node: &str) {
        self.set_up(|from, to| from == node || to == node, false);
    }

    /// Cuts one direction only.
    pub fn cut_link(&self, from: &str, to: &str) {
        self.set_up(|f, t| (f, t) == (from, to), false);
    }

    /// Ends all cuts. Delays, losses and rates stay.
    pub fn heal(&self) {
        self.set_up(|_, _| true, true);
    }

    fn set_up(&self, which: impl Fn(&str, &str) -> bool, up: bool) {
        for ((_, _), direction) in self.directions.iter().filter(|((f, t), _)| which(f, t)) {
            direction.shape.lock().up = up;
        }
    }

    /// Gives each link the delay of half its round trip. Nodes stand for the sites in order;
    /// sites beyond the nodes are left out.
    pub fn set_matrix(&self, nodes: &[&str], matrix: &Matrix) {
        for (at_from, from) in nodes.iter().enumerate() {
            for (at_to, to) in nodes.iter().enumerate().filter(|(at_to, _)| *at_to != at_from) {
                if let Some(rtt_ms) = matrix.rtt_ms(at_from, at_to) {
                    self.set(from, to, LinkShape::with_round_trip_ms(rtt_ms));
                }
            }
        }
    }

    /// Shapes links as a `wan.csv` says. A row holds for both directions, unless the other
    /// direction has a row of its own. False if a row names a link that is not there.
    pub fn set_wan(&self, rows: &[WanRow]) -> bool {
        let has_row = |from: &str, to: &str| rows.iter().any(|r| r.from == from && r.to == to);
        rows.iter().fold(true, |all, row| {
            let there = self.set(&row.from, &row.to, row.shape);
            if !has_row(&row.to, &row.from) {
                self.set(&row.to, &row.from, row.shape);
            }
            all && there
        })
    }

    /// Tells the relay that a node listens elsewhere now.
    pub fn move_node(&self, node: &str, address: SocketAddr) {
        if let Some(target) = self.targets.get(node) {
            *target.lock() = address;
        }
    }

    pub fn stats(&self, from: &str, to: &str) -> Option<LinkStats> {
        self.direction(from, to).map(|direction| *direction.stats.lock())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // All are told before the first is waited for.
        self.relays.iter().for_each(Relay::tell_stop);
        self.relays.clear();
    }
}
