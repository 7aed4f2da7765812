//! A disk that forgets what was not flushed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::consensus::{Entry, Header, LogRecord, OrderRecord, Recovered};
use crate::ids::{Ballot, Gsn, Idx, LaneId};
use crate::namespace::{Changes, MemoryTables};

/// One write; writes become durable in order, as in a write-ahead log.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Log(LogRecord),
    /// `changes` are none if all nodes share their tables (`Plan::tables_shared`).
    Apply {
        record: Arc<OrderRecord>,
        header: Arc<Header>,
        changes: Changes,
    },
}

/// What survives, and what may not.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub boots: u64,
    pub durable: Durable,
    unsynced: VecDeque<Write>,
    /// Writes ever made, and how many of them are durable.
    written: u64,
    synced: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Durable {
    pub header: Arc<Header>,
    pub tables: MemoryTables,
    pub order: BTreeMap<Gsn, Arc<OrderRecord>>,
    order_kept: u64,
    promised: BTreeMap<LaneId, Ballot>,
    started: BTreeSet<LaneId>,
    forgetful: bool,
    accepted: BTreeMap<LaneId, BTreeMap<Idx, (Ballot, Entry)>>,
}

impl Disk {
    pub fn new(header: Arc<Header>, tables: MemoryTables, order_kept: u64) -> Disk {
        let durable = Durable {
            header,
            tables,
            order: BTreeMap::new(),
            order_kept,
            promised: BTreeMap::new(),
            started: BTreeSet::new(),
            forgetful: false,
            accepted: BTreeMap::new(),
        };
        Disk { boots: 0, durable, unsynced: VecDeque::new(), written: 0, synced: 0 }
    }

    pub fn write(&mut self, write: Write) {
        self.unsynced.push_back(write);
        self.written += 1;
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Everything up to the `position`th write is durable.
    pub fn sync(&mut self, position: u64) {
        while self.synced < position {
            let write = self.unsynced.pop_front().expect("it was written");
            self.durable.take(write);
            self.synced += 1;
        }
    }

    /// Power is lost: some of the unflushed writes may have made it, the first ones first.
    pub fn crash(&mut self, survivors: u64) {
        self.sync(self.synced + survivors.min(self.unsynced.len() as u64));
        self.unsynced.clear();
        self.written = self.synced;
    }

    /// Promises and votes are gone. The tables are as good as a peer's checkpoint.
    pub fn lose_log(&mut self) {
        let durable = &mut self.durable;
        durable.promised.clear();
        durable.started.clear();
        durable.accepted.clear();
        durable.forgetful = true;
    }

    /// The node may vote again.
    pub fn remember(&mut self) {
        self.durable.forgetful = false;
    }

    pub fn is_forgetful(&self) -> bool {
        self.durable.forgetful
    }

    pub fn unsynced(&self) -> u64 {
        self.unsynced.len() as u64
    }

    /// Gives up old agreements.
    pub fn truncate_order(&mut self, left: usize) {
        let order = &mut self.durable.order;
        while order.len() > left {
            order.pop_first();
        }
    }

    /// Replaces the tables by a snapshot, durably.
    pub fn install(&mut self, header: Arc<Header>, tables: MemoryTables) {
        self.sync(self.written);
        self.durable.header = header;
        self.durable.tables = tables;
        self.durable.order.clear();
    }

    /// Agreements from `from` on that the node still has, and the oldest of them.
    pub fn order(&self, from: Gsn, records_max: usize) -> (Vec<OrderRecord>, Gsn) {
        let unsynced = self.unsynced.iter().filter_map(|write| match write {
            Write::Apply { record, .. } => Some(record),
            Write::Log(_) => None,
        });
        let oldest = self.durable.order.keys().next().copied();
        let oldest = oldest.or_else(|| unsynced.clone().next().map(|record| record.gsn));
        let oldest = oldest.unwrap_or(self.durable.header.gsn.next());
        if from < oldest {
            return (Vec::new(), oldest);
        }
        let durable = self.durable.order.range(from..).map(|(_, record)| record);
        let all = durable.chain(unsynced.filter(|record| record.gsn >= from));
        (all.take(records_max).map(|record| OrderRecord::clone(record)).collect(), oldest)
    }
}

impl Durable {
    fn take(&mut self, write: Write) {
        match write {
            Write::Log(record) => self.take_log(record),
            Write::Apply { record, header, changes } => {
                self.tables.absorb(changes);
                self.header = header;
                self.order.insert(record.gsn, record);
                while self.order.len() as u64 > self.order_kept {
                    self.order.pop_first();
                }
            }
        }
    }

    fn take_log(&mut self, record: LogRecord) {
        match record {
            LogRecord::Accepted { lane, idx, ballot, entry } => {
                self.accepted.entry(lane).or_default().insert(idx, (ballot, entry));
            }
            LogRecord::Promised { lane, ballot } => {
                self.promised.insert(lane, ballot);
            }
            LogRecord::Started { lane } => {
                self.started.insert(lane);
            }
            LogRecord::Truncated { lane, upto } if upto == Idx(u64::MAX) => {
                self.accepted.remove(&lane);
            }
            LogRecord::Truncated { lane, upto } => {
                if let Some(log) = self.accepted.get_mut(&lane) {
                    *log = log.split_off(&upto.next());
                }
            }
        }
    }

    pub fn recover(&self) -> Recovered {
        Recovered {
            header: Header::clone(&self.header),
            promised: self.promised.clone(),
            started: self.started.clone(),
            accepted: self.accepted.clone(),
            forgetful: self.forgetful,
        }
    }
}
