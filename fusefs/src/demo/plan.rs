//! What a demo consists of, as kept in `demo.json`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::emulator::{LinkShape, wan};

use crate::admin::control::ControlError;

/// Zones and links of one demo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    #[serde(skip)]
    pub root: PathBuf,
    /// Every node, zone by zone.
    pub zones: Vec<Zone>,
    /// The relay's ports begin here: two for each pair of nodes.
    pub relay_port: u16,
    /// One for each direction between two nodes of different zones.
    pub links: Vec<Link>,
}

/// One node. The first one of a zone has the zone's name, those after it a letter more: z1,
/// z1b, z1c.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// It votes, and has neither bodies nor a mount.
    pub witness: bool,
    /// UDP, on the loopback interface.
    pub port: u16,
    /// Its store was made completely.
    pub joined: bool,
}

/// One direction between two nodes, through the relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub from: String,
    pub to: String,
    pub shape: Shape,
}

/// What a link does to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    pub one_way_ms: f64,
    /// The delay varies by up to this much, to both sides.
    pub jitter_ms: f64,
    /// Share of packets that vanish, in percent.
    pub loss_percent: f64,
    /// Absent = as fast as the machine.
    pub rate_mbit: Option<f64>,
    pub cut: bool,
}

/// More nodes than this need more memory and disk than a demo should take.
pub const NODES_MAX: usize = 9;
/// Ports are searched here: below the kernel's usual ephemeral range, so that none is taken
/// by another program's outgoing socket while its daemon is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

impl Shape {
    /// For the emulator.
    pub fn to_link_shape(self) -> LinkShape {
        LinkShape {
            delay_us: (self.one_way_ms * 1e3).round() as u64,
            jitter_us: (self.jitter_ms * 1e3).round() as u64,
            loss: (self.loss_percent / 100.0).clamp(0.0, 1.0),
            rate_bps: self.rate_mbit.map_or(0, |rate| (rate * 1e6).round() as u64),
            up: !self.cut,
        }
    }

    pub fn from_link_shape(shape: LinkShape) -> Shape {
        Shape {
            one_way_ms: shape.delay_us as f64 / 1e3,
            jitter_ms: shape.jitter_us as f64 / 1e3,
            loss_percent: shape.loss * 100.0,
            rate_mbit: (shape.rate_bps > 0).then(|| shape.rate_bps as f64 / 1e6),
            cut: !shape.up,
        }
    }
}

impl Plan {
    /// The plan at `root`, if there is a demo.
    ///
    /// # Errors
    /// `Failed` if the file cannot be read or understood.
    pub fn load(root: &Path) -> Result<Option<Plan>, ControlError> {
        let path = root.join("demo.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(ControlError::failed(format!(
                    "{} cannot be read: {error}",
                    path.display()
                )));
            }
        };
        let mut plan: Plan = serde_json::from_str(&text).map_err(|error| {
            ControlError::failed(format!("{} is damaged: {error}", path.display()))
                .hint("remove the demo and start anew: fusion demo down --purge")
        })?;
        root.clone_into(&mut plan.root);
        Ok(Some(plan))
    }

    /// The plan at `root`.
    ///
    /// # Errors
    /// `NoDaemon` if there is no demo.
    pub fn existing(root: &Path) -> Result<Plan, ControlError> {
        Plan::load(root)?.ok_or_else(|| {
            ControlError::no_daemon(format!("there is no demo at {}", root.display()))
                .hint("start one: fusion demo up   (another place: --root DIR)")
        })
    }

    /// A new plan with free ports; nothing is written yet.
    ///
    /// # Errors
    /// `Failed` if no ports are free.
    pub fn new(root: &Path, size: Size) -> Result<Plan, ControlError> {
        let Size { zones: zone_count, nodes_per_zone, witness } = size;
        let names = (1..=zone_count).flat_map(|number| {
            let zone = format!("z{number}");
            let witness = witness && number == zone_count;
            let count = if witness { 1 } else { nodes_per_zone };
            ('a'..).take(count).map(move |letter| {
                let suffix = if letter == 'a' { String::new() } else { letter.to_string() };
                (format!("{zone}{suffix}"), zone.clone(), witness)
            })
        });
        let names: Vec<(String, String, bool)> = names.collect();
        // One for each node and two for each pair.
        let base = free_ports(root, names.len() * names.len())?;
        let zones: Vec<Zone> = (base..)
            .zip(names)
            .map(|(port, (name, zone, witness))| Zone { name, zone, witness, port, joined: false })
            .collect();
        let relay_port = zones.last().map_or(base, |zone| zone.port + 1);
        let mut links = Vec::new();
        for from in &zones {
            for to in zones.iter().filter(|to| to.zone != from.zone) {
                links.push(Link {
                    from: from.name.clone(),
                    to: to.name.clone(),
                    shape: Shape::default(),
                });
            }
        }
        Ok(Plan { root: root.to_owned(), zones, relay_port, links })
    }

    /// Writes the plan, whole or not at all.
    ///
    /// # Errors
    /// `Failed` if the root cannot be written.
    pub fn save(&self) -> Result<(), ControlError> {
        let text = serde_json::to_string_pretty(self).expect("a plan has a JSON form");
        let write = || -> io::Result<()> {
            let new = self.root.join("demo.json.new");
            std::fs::write(&new, text)?;
            std::fs::rename(&new, self.root.join("demo.json"))
        };
        write().map_err(|error| {
            ControlError::failed(format!("{} cannot be written: {error}", self.root.display()))
                .hint("choose another place: --root DIR")
        })
    }

    /// # Errors
    /// `Usage` if there is no such zone.
    pub fn zone(&self, name: &str) -> Result<&Zone, ControlError> {
        self.zones.iter().find(|zone| zone.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.zones.iter().map(|zone| zone.name.as_str()).collect();
            ControlError::usage(format!("there is no zone or node '{name}'"))
                .hint(format!("there are {}", names.join(", ")))
        })
    }

    /// Where the relay listens for what the node `from` sends to the node `to`: the emulator
    /// numbers the sides of the pairs in their order.
    pub fn relay_port_of(&self, from: &str, to: &str) -> Option<u16> {
        let nodes: Vec<&str> = self.zones.iter().map(|zone| zone.name.as_str()).collect();
        let sides =
            pairs_of(&nodes).into_iter().flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)]);
        (self.relay_port..)
            .zip(sides)
            .find(|(_, (f, t))| f == from && t == to)
            .map(|(port, _)| port)
    }

    /// The pairs of zones, each once: z1 z2, z1 z3, z2 z3, as `--rtt` counts them.
    pub fn pairs(&self) -> Vec<(String, String)> {
        pairs_of(&self.zone_names())
    }

    /// The zones, each once, in order.
    pub fn zone_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.zones.iter().map(|zone| zone.zone.as_str()).collect();
        names.dedup();
        names
    }

    /// Both directions between two zones, or between single nodes.
    pub fn links_between(&mut self, a: &str, b: &str) -> impl Iterator<Item = &mut Link> {
        let (a, b) = (self.nodes_of(a), self.nodes_of(b));
        self.links.iter_mut().filter(move |link| {
            (a.contains(&link.from) && b.contains(&link.to))
                || (b.contains(&link.from) && a.contains(&link.to))
        })
    }

    /// The nodes of the zone `name`, or the node of that name.
    pub fn nodes_of(&self, name: &str) -> Vec<String> {
        let of_zone = self.zones.iter().filter(|zone| zone.zone == name);
        let nodes: Vec<String> = of_zone.map(|zone| zone.name.clone()).collect();
        if nodes.is_empty() { vec![name.to_owned()] } else { nodes }
    }

    /// Sets every pair's round trip, in the order of [`Self::pairs`].
    ///
    /// # Errors
    /// `Usage` if the number of values is wrong.
    pub fn set_round_trips(&mut self, round_trips_ms: &[f64]) -> Result<(), ControlError> {
        let pairs = self.pairs();
        if pairs.len() != round_trips_ms.len() {
            let names: Vec<String> = pairs.iter().map(|(a, b)| format!("{a}-{b}")).collect();
            return Err(ControlError::usage(format!(
                "--rtt needs {} values, not {}",
                pairs.len(),
                round_trips_ms.len()
            ))
            .hint(format!("in this order: {}", names.join(", "))));
        }
        for ((a, b), round_trip_ms) in pairs.iter().zip(round_trips_ms) {
            for link in self.links_between(a, b) {
                link.shape.one_way_ms = round_trip_ms / 2.0;
            }
        }
        Ok(())
    }

    pub fn store(&self, zone: &str) -> PathBuf {
        self.root.join("store").join(zone)
    }

    pub fn mount(&self, zone: &str) -> PathBuf {
        self.root.join("mnt").join(zone)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.pid"))
    }

    pub fn socket(&self, zone: &str) -> PathBuf {
        self.store(zone).join("admin.sock")
    }

    pub fn relay_socket(&self) -> PathBuf {
        self.root.join("run").join("wan.sock")
    }

    pub fn relay_config(&self) -> PathBuf {
        self.root.join("wan.toml")
    }
}

/// How large a new demo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub zones: usize,
    pub nodes_per_zone: usize,
    /// The last zone is a witness.
    pub witness: bool,
}

fn pairs_of(names: &[&str]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (at, a) in names.iter().enumerate() {
        for b in &names[at + 1..] {
            pairs.push(((*a).to_owned(), (*b).to_owned()));
        }
    }
    pairs
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The first of `count` UDP ports in a row that nobody has now. The search begins at a place
/// that depends on the root, so that demos side by side rarely meet.
fn free_ports(root: &Path, count: usize) -> Result<u16, ControlError> {
    let count = u16::try_from(count).expect("a demo has few zones");
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    let span = u64::from(PORTS.end - PORTS.start - count);
    let start = PORTS.start + u16::try_from(hasher.finish() % span).expect("below the span");
    let all_free = |base: &u16| {
        let sockets: Result<Vec<UdpSocket>, io::Error> =
            (*base..base + count).map(|port| UdpSocket::bind(loopback(port))).collect();
        sockets.is_ok()
    };
    (start..PORTS.end - count).chain(PORTS.start..start).find(all_free).ok_or_else(|| {
        ControlError::failed(format!(
            "no {count} UDP ports in a row are free on the loopback interface"
        ))
    })
}

/// Shapes links as a `wan.csv` says. A row holds for both directions, unless the other one has
/// a row of its own.
///
/// # Errors
/// `Usage` naming the line, or the link that is not there.
pub fn apply_csv(plan: &mut Plan, text: &str) -> Result<(), ControlError> {
    let rows = wan::parse(text).map_err(|error| {
        ControlError::usage(format!("wan file, {error}"))
            .hint("a line is: from, to, one-way ms, jitter ms, loss, rate; as in z1, z2, 10, 0.2, 0.1%, 100M")
    })?;
    for row in &rows {
        plan.zone(&row.from)?;
        plan.zone(&row.to)?;
        let back_has_its_own =
            rows.iter().any(|other| other.from == row.to && other.to == row.from);
        for link in plan.links_between(&row.from, &row.to) {
            if link.from == row.from || !back_has_its_own {
                link.shape = Shape::from_link_shape(row.shape);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(zones: usize) -> Size {
        Size { zones, nodes_per_zone: 1, witness: false }
    }

    #[test]
    fn nodes_of_a_zone_share_its_links_and_have_none_between_them() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let size = Size { zones: 3, nodes_per_zone: 2, witness: true };
        let mut plan = Plan::new(root.path(), size).expect("free ports");
        let names: Vec<&str> = plan.zones.iter().map(|zone| zone.name.as_str()).collect();
        assert_eq!(names, ["z1", "z1b", "z2", "z2b", "z3"]);
        assert!(plan.zones[4].witness && !plan.zones[3].witness);
        assert_eq!(plan.links.len(), 16);
        plan.set_round_trips(&[20.0, 80.0, 90.0]).expect("three pairs of zones");
        let link = plan.links.iter().find(|link| link.from == "z1b" && link.to == "z3");
        assert_eq!(link.expect("it is there").shape.one_way_ms, 40.0);
        assert_eq!(plan.links_between("z1", "z2").count(), 8);
        assert_eq!(plan.links_between("z1b", "z2").count(), 4);
        let ports: std::collections::BTreeSet<Option<u16>> =
            plan.links.iter().map(|link| plan.relay_port_of(&link.from, &link.to)).collect();
        assert_eq!(ports.len(), plan.links.len());
    }

    #[test]
    fn round_trips_go_to_the_pairs_in_order() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut plan = Plan::new(root.path(), zones(3)).expect("free ports");
        plan.set_round_trips(&[20.0, 80.0, 90.0]).expect("three values for three pairs");
        let one_way = |from: &str, to: &str| {
            let link = plan.links.iter().find(|link| link.from == from && link.to == to);
            link.expect("every direction has a link").shape.one_way_ms
        };
        assert_eq!(
            (one_way("z1", "z2"), one_way("z3", "z1"), one_way("z3", "z2")),
            (10.0, 40.0, 45.0)
        );
        assert!(plan.set_round_trips(&[1.0]).is_err());
    }

    #[test]
    fn a_saved_plan_is_read_back() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let plan = Plan::new(root.path(), zones(2)).expect("free ports");
        assert_eq!(Plan::load(root.path()), Ok(None));
        plan.save().expect("the root is writable");
        assert_eq!(Plan::load(root.path()), Ok(Some(plan)));
    }

    #[test]
    fn a_csv_shapes_both_directions_unless_each_has_a_row() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut plan = Plan::new(root.path(), zones(2)).expect("free ports");
        apply_csv(&mut plan, "z1, z2, 10, 1, 0.5%, 100M").expect("a good line");
        assert_eq!(plan.links[0].shape, plan.links[1].shape);
        assert_eq!(plan.links[0].shape.loss_percent, 0.5);
        apply_csv(&mut plan, "z1,z2,10\nz2,z1,12").expect("good lines");
        assert_eq!((plan.links[0].shape.one_way_ms, plan.links[1].shape.one_way_ms), (10.0, 12.0));
        assert!(apply_csv(&mut plan, "z1,z9,1").is_err());
    }
}
