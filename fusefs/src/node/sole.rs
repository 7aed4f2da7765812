//! Which bodies only some nodes have: what a removal of them would lose, and what a drain
//! waits for.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use engine::command::{Body, Member};
use engine::ids::{BodyId, Ino, NodeId};
use wire::{Ask, Request, Response, Wire};

use super::setup::failed;
use super::volume::{Volume, Volumes};
use crate::admin::control::ControlError;
use crate::admin::report::{SoleFile, SoleReport};
use crate::ops::ports::Ring;

pub struct SoleCopies {
    pub root: Arc<dyn Ring>,
    pub wire: Arc<Wire>,
    pub volumes: Arc<Volumes>,
}

/// Files named in a report.
const EXAMPLES: usize = 10;
/// A node that does not answer in this time counts as having nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Files of one question to the others.
struct Page {
    files: Vec<(Ino, BodyId, u64)>,
    /// Where to go on.
    next: Option<Ino>,
}

impl SoleCopies {
    /// Asks every other node that keeps bodies for all that the tables name, in each volume that
    /// runs here, and counts what none of them has. Only what a node says now counts: not what
    /// it should hold, and not what one that does not answer may have.
    pub async fn of(&self, nodes: &BTreeSet<NodeId>) -> Result<SoleReport, ControlError> {
        let mut report = SoleReport::default();
        for volume in self.volumes.all() {
            self.of_volume(&volume, nodes, &mut report).await?;
        }
        report.silent.sort_unstable();
        report.silent.dedup();
        Ok(report)
    }

    async fn of_volume(
        &self,
        volume: &Volume,
        nodes: &BTreeSet<NodeId>,
        report: &mut SoleReport,
    ) -> Result<(), ControlError> {
        // Roles and drains are those of the cluster.
        let cluster = self.root.view().members().map_err(failed)?;
        let part = volume.ring.view().members().map_err(failed)?;
        let takes_part = |member: &Member| part.iter().any(|other| other.id == member.id);
        let mut others: Vec<Member> = cluster
            .into_iter()
            .filter(|member| member.takes_bodies() && !nodes.contains(&member.id))
            .filter(takes_part)
            .collect();
        let mut from = Ino(0);
        loop {
            let page = page(volume, from).await?;
            report.checked_files += page.files.len() as u64;
            self.count(volume, &page.files, &mut others, report).await;
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Counts what of `files` none of `others` has. Who does not answer is not asked again.
    async fn count(
        &self,
        volume: &Volume,
        files: &[(Ino, BodyId, u64)],
        others: &mut Vec<Member>,
        report: &mut SoleReport,
    ) {
        let mut sole: HashSet<BodyId> = files.iter().map(|(_, id, _)| *id).collect();
        let mut silent = Vec::new();
        for other in others.iter() {
            if sole.is_empty() {
                break;
            }
            let asked: Vec<BodyId> = sole.iter().copied().collect();
            match self.which(volume, other.id, &asked).await {
                Some(held) => {
                    for (id, _) in asked.iter().zip(held).filter(|(_, held)| *held) {
                        sole.remove(id);
                    }
                }
                None => silent.push(other.id),
            }
        }
        for other in others.iter().filter(|other| silent.contains(&other.id)) {
            report.silent.push(other.name.clone());
        }
        others.retain(|other| !silent.contains(&other.id));
        for (ino, id, len) in files {
            if sole.contains(id) {
                report.files += 1;
                report.bytes += len;
                if report.examples.len() < EXAMPLES {
                    report.examples.push(SoleFile { ino: ino.0, size_bytes: *len });
                }
            }
        }
    }

    async fn which(&self, volume: &Volume, node: NodeId, bodies: &[BodyId]) -> Option<Vec<bool>> {
        if node == volume.ring.me() {
            return Some(bodies.iter().map(|id| volume.bodies.holds(*id)).collect());
        }
        let ask = Ask::Which { bodies: bodies.to_vec() };
        let request = Request::new(volume.id, volume.ring.applied_gsn(), ask);
        match tokio::time::timeout(ANSWER_TIMEOUT, self.wire.call(node, request)).await {
            Ok(Ok(Response::Which(held))) if held.len() == bodies.len() => Some(held),
            _ => None,
        }
    }
}

async fn page(volume: &Volume, from: Ino) -> Result<Page, ControlError> {
    let ring = volume.ring.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut page = Page { files: Vec::new(), next: None };
        ring.view().inodes(from, &mut |ino, inode| {
            if page.files.len() == Ask::WHICH_MAX_COUNT {
                page.next = Some(ino);
                return false;
            }
            if let Body::Sealed { id, len } = inode.body {
                page.files.push((ino, id, len));
            }
            true
        })?;
        Ok::<Page, engine::namespace::TablesError>(page)
    });
    read.await.map_err(failed)?.map_err(failed)
}
