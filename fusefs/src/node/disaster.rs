//! The last resort, offline: one survivor goes on alone when a majority is lost for good.

use std::collections::BTreeSet;
use std::path::Path;

use engine::command::{Body, Member};
use engine::consensus::entry::EntryKind;
use engine::consensus::record::{Header, OrderRecord, Recovered};
use engine::ids::{Ino, NodeId, Ts, VolumeId};
use engine::namespace::tables::{Overlay, Tables};
use engine::namespace::{View, apply, retire};
use store::{AppliedRecord, Options, Store};

use super::report::node_name;
use super::setup::{failed, own_member};
use super::{clock, farewell, sightings};
use crate::admin::control::ControlError;
use crate::admin::report::{DisasterReport, OtherReport};

/// Agreements that only this node's log still knows of, and their effect.
struct Salvage {
    header: Header,
    records: Vec<OrderRecord>,
}

/// Says what a forced epoch on the store in `dir` would keep and lose. Changes nothing.
///
/// # Errors
/// When the store cannot be opened (a daemon may serve it) or read, and for a removed node.
pub fn look(dir: &Path) -> Result<DisasterReport, ControlError> {
    let store = open(dir)?;
    let me = own_member(&store)?.id;
    let recovered = store.recover(VolumeId::ROOT).map_err(failed)?;
    report(&store, me, &recovered)
}

/// Makes this node the only voter of a new epoch, and removes all others.
///
/// # Errors
/// As [`look`].
pub fn force(dir: &Path) -> Result<DisasterReport, ControlError> {
    let store = open(dir)?;
    let me = own_member(&store)?.id;
    let recovered = store.recover(VolumeId::ROOT).map_err(failed)?;
    let mut report = report(&store, me, &recovered)?;
    let mut overlay = Overlay::new(store.tables(VolumeId::ROOT));
    let Salvage { header, mut records } = salvage(&recovered, &mut overlay)?;
    let members = View::new(&overlay).members().map_err(failed)?;
    let voters = header.config.voters.keys().copied();
    let others: BTreeSet<NodeId> =
        members.iter().map(|member| member.id).chain(voters).filter(|node| *node != me).collect();
    let now = clock::timestamp();
    let now_us = u64::try_from(now.seconds).unwrap_or(0) * 1_000_000 + u64::from(now.nanos) / 1000;
    let (header, record) = header.force(me, &others, Ts(now_us));
    retire(&mut overlay, record.gsn, &header.config.removed).map_err(failed)?;
    records.push(record);
    let records: Vec<AppliedRecord> = records.into_iter().map(AppliedRecord::from).collect();
    store.apply(VolumeId::ROOT, overlay.changes(), &header, &records).map_err(failed)?;
    store.sync().map_err(failed)?;
    report.forced_epoch = Some(header.config.epoch.0);
    report.forced_gsn = Some(header.gsn.0);
    Ok(report)
}

fn open(dir: &Path) -> Result<Store, ControlError> {
    let store = Store::open(dir, &Options::default()).map_err(|error| {
        failed(error).hint("the node's daemon must not run: stop it first (systemctl stop fusion)")
    })?;
    farewell::check(&store)?;
    if store.header(VolumeId::ROOT).map_err(failed)?.is_none() {
        return Err(ControlError::refused("this node never got the tree: it cannot go on alone")
            .hint("use another survivor"));
    }
    Ok(store)
}

/// Executes what this node accepted and never saw agreed. Some of it was agreed and perhaps
/// acknowledged; nobody is left who would know otherwise about the rest.
fn salvage<T: Tables>(
    recovered: &Recovered,
    overlay: &mut Overlay<T>,
) -> Result<Salvage, ControlError> {
    let mut header = recovered.header.clone();
    let mut records = Vec::new();
    loop {
        let heads = header.active.iter().filter_map(|(&lane, active)| {
            let (_, entry) = recovered.accepted.get(&lane)?.get(&active.next)?;
            let record = OrderRecord {
                gsn: header.gsn.next(),
                lane,
                idx: active.next,
                entry: entry.clone(),
            };
            header.admits(&record).then_some(record)
        });
        let Some(record) = heads.min_by_key(|record| (record.entry.ts, record.lane.node)) else {
            return Ok(Salvage { header, records });
        };
        match &record.entry.kind {
            EntryKind::Commands { commands, .. } => {
                for command in commands {
                    apply(overlay, record.gsn, command).map_err(failed)?;
                }
            }
            // The forced membership takes its place.
            EntryKind::Reconfigure(_) => return Ok(Salvage { header, records }),
            EntryKind::Tick | EntryKind::End { .. } => {}
        }
        header.execute(&record);
        records.push(record);
    }
}

fn report(
    store: &Store,
    me: NodeId,
    recovered: &Recovered,
) -> Result<DisasterReport, ControlError> {
    let view = View::new(store.tables(VolumeId::ROOT));
    let members = view.members().map_err(failed)?;
    let salvaged =
        salvage(recovered, &mut Overlay::new(store.tables(VolumeId::ROOT)))?.records.len();
    let now = clock::timestamp();
    let header = &recovered.header;
    let seen = sightings::read(store);
    let others = members.iter().filter(|member| member.id != me).map(|member| {
        let sighting = seen.iter().find(|sighting| sighting.node == member.id);
        OtherReport {
            node: member.name.clone(),
            zone: member.zone_name.clone(),
            voter: header.config.voters.contains_key(&member.id),
            gsn: sighting.map(|sighting| sighting.gsn.0),
            seen_seconds_ago: sighting.map(|sighting| now.seconds - sighting.seen_unix_s),
        }
    });
    let (missing_files, missing_bytes) = missing(store, &view)?;
    let own = members.iter().find(|member| member.id == me);
    Ok(DisasterReport {
        node: node_name(&members, me),
        witness: own.is_some_and(|own: &Member| !own.keeps_bodies()),
        epoch: header.config.epoch.0,
        voters: header.config.voters.keys().map(|node| node_name(&members, *node)).collect(),
        gsn: header.gsn.0,
        age_seconds: now.seconds as f64 - header.position.0.0 as f64 / 1e6,
        salvaged: salvaged as u64,
        others: others.collect(),
        missing_files,
        missing_bytes,
        forced_epoch: None,
        forced_gsn: None,
    })
}

/// Files whose newest content is not in this store, and its bytes.
fn missing<T: Tables>(store: &Store, view: &View<T>) -> Result<(u64, u64), ControlError> {
    let (mut files, mut bytes) = (0, 0);
    let mut broken = None;
    let mut look = |_: Ino, inode: engine::namespace::Inode| {
        if let Body::Sealed { id, len } = inode.body {
            match store.bodies().has(id) {
                Ok(true) => {}
                Ok(false) => {
                    files += 1;
                    bytes += len;
                }
                Err(error) => broken = Some(error),
            }
        }
        broken.is_none()
    };
    view.inodes(Ino(0), &mut look).map_err(failed)?;
    match broken {
        Some(error) => Err(failed(error)),
        None => Ok((files, bytes)),
    }
}
