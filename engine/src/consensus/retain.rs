//! How long accepted entries are kept: until the tables hold their effect durably.

use std::collections::{BTreeMap, VecDeque};

use super::record::{Header, LogRecord};
use super::replica::Replica;
use crate::ids::{Gsn, Idx, LaneId, StateHash};

/// Marks along the executed order.
#[derive(Clone, Debug)]
pub(super) struct Retained {
    /// At some GSNs, each active lane's next entry.
    marks: VecDeque<(Gsn, BTreeMap<LaneId, Idx>)>,
    /// Lanes that are over since a GSN.
    over: VecDeque<(Gsn, LaneId)>,
    /// Order hashes of the newest agreements.
    hashes: VecDeque<(Gsn, StateHash)>,
}

impl Retained {
    /// `over`: lanes of which the disk still holds entries, but which are over at `header`.
    pub fn new(header: &Header, over: Vec<LaneId>) -> Retained {
        Retained {
            marks: VecDeque::from([mark(header)]),
            over: over.into_iter().map(|lane| (header.gsn, lane)).collect(),
            hashes: VecDeque::from([(header.gsn, header.order_hash)]),
        }
    }

    pub fn executed(&mut self, header: &Header) {
        self.hashes.push_back((header.gsn, header.order_hash));
        if self.hashes.len() > HASHES {
            self.hashes.pop_front();
        }
        let newest = self.marks.back().map_or(Gsn(0), |(gsn, _)| *gsn);
        if header.gsn.0 >= newest.0 + MARK_EVERY {
            self.marks.push_back(mark(header));
        }
    }

    pub fn over(&mut self, gsn: Gsn, lane: LaneId) {
        self.over.push_back((gsn, lane));
    }

    /// Our order hash at `gsn`, if that is not too long ago.
    pub fn order_hash(&self, gsn: Gsn) -> Option<StateHash> {
        let (oldest, _) = self.hashes.front()?;
        let position = gsn.0.checked_sub(oldest.0)?;
        self.hashes.get(usize::try_from(position).ok()?).map(|(_, hash)| *hash)
    }

    /// What need not be kept any more when the tables are durable at `gsn`.
    fn release(&mut self, gsn: Gsn) -> Vec<(LaneId, Idx)> {
        let mut released = Vec::new();
        // The newest durable mark stays: peers that lag a little can still be told entries.
        while self.marks.get(1).is_some_and(|(mark, _)| *mark <= gsn) {
            let (_, lanes) = self.marks.pop_front().expect("there are two");
            let lanes = lanes.into_iter().filter(|(_, next)| *next > Idx(1));
            released.extend(lanes.map(|(lane, next)| (lane, Idx(next.0 - 1))));
        }
        while let Some(&(over, lane)) = self.over.front()
            && over <= gsn
        {
            released.push((lane, Idx(u64::MAX)));
            self.over.pop_front();
        }
        released
    }
}

fn mark(header: &Header) -> (Gsn, BTreeMap<LaneId, Idx>) {
    let lanes = header.active.iter().map(|(&lane, active)| (lane, active.next));
    (header.gsn, lanes.collect())
}

impl Replica {
    pub(super) fn truncate(&mut self, durable: Gsn) {
        assert!(durable <= self.header.gsn, "only what was agreed can be applied");
        for (lane, upto) in self.retained.release(durable) {
            if let Some(log) = self.lanes.get_mut(&lane) {
                if log.truncated >= upto {
                    continue;
                }
                log.truncate(upto);
            }
            self.persist(LogRecord::Truncated { lane, upto });
        }
    }
}

/// Entries kept beyond need are 256 to 512: a second at some hundred agreements.
const MARK_EVERY: u64 = 256;

/// Peers are compared at the GSN that their heartbeat carries, which is seconds old at most.
const HASHES: usize = 4096;
