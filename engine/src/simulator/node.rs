//! One simulated node: a disk, a clock, and while it runs a process.

use std::collections::{BTreeMap, VecDeque};

use super::disk::{Disk, Write};
use super::workload::FIRST_INO;
use crate::consensus::{Message, Replica};
use crate::ids::{Gsn, NodeId};
use crate::namespace::MemoryTables;

pub(super) struct Node {
    pub disk: Disk,
    /// The own clock less true time, µs.
    pub clock_us: i64,
    /// Flushes take so many times longer.
    pub slow: u64,
    /// Faults that let flushes fail.
    pub disk_fails: u32,
    /// After a graceful end it starts again so much later, µs.
    pub down_us: u64,
    /// Everything that concerns the node waits until then.
    pub paused_until_us: u64,
    pub process: Option<Process>,
    /// Points passed at which a process can crash, over all starts: see `World::crashes_here`.
    pub points: u64,
    /// The point at which it does, and how long it is down then, µs.
    pub crash_at: Option<(u64, u64)>,
    /// Next unused inode number, over all starts.
    pub ino_counter: u64,
}

/// What a crash takes away.
pub(super) struct Process {
    /// Tells events of this process from those of its predecessors.
    pub life: u64,
    pub boot: u64,
    pub replica: Replica,
    /// Tables as they are after the last agreement, durable or not; empty if they are shared.
    pub tables: MemoryTables,
    /// Agreements that are still to be written to the tables.
    pub applying: VecDeque<Write>,
    /// Messages that wait for the write at their position.
    pub outbox: VecDeque<(u64, NodeId, Message)>,
    /// The write up to which a flush is under way.
    pub syncing: Option<u64>,
    /// The true time of the timer event that counts.
    pub timer_us: Option<u64>,
    pub next_seq: u64,
    /// Own commands without an answer.
    pub waiting: BTreeMap<u64, Waiting>,
}

/// When a command was proposed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// What was acknowledged anywhere by then.
    pub floor: Gsn,
    /// True time, µs.
    pub since_us: u64,
}

impl Node {
    pub fn new(disk: Disk, clock_us: i64) -> Node {
        Node {
            disk,
            clock_us,
            slow: 1,
            disk_fails: 0,
            down_us: 0,
            paused_until_us: 0,
            process: None,
            points: 0,
            crash_at: None,
            ino_counter: FIRST_INO,
        }
    }

    /// What the node's clock shows at true time `now_us`.
    pub fn local_us(&self, now_us: u64) -> u64 {
        (EPOCH_US + now_us).saturating_add_signed(self.clock_us)
    }

    /// The true time, not before `now_us`, at which the clock shows `local_us`.
    pub fn true_us(&self, now_us: u64, local_us: u64) -> u64 {
        now_us + local_us.saturating_sub(self.local_us(now_us))
    }

    /// Writes what was agreed to the tables.
    pub fn apply_waiting(&mut self) {
        let waiting = self.process.as_mut().map(|process| std::mem::take(&mut process.applying));
        waiting.into_iter().flatten().for_each(|write| self.disk.write(write));
    }

    /// Starts the node from its disk.
    pub fn start(&mut self, me: NodeId, life: u64) -> &mut Process {
        self.disk.boots += 1;
        let boot = self.disk.boots;
        let replica = Replica::recover(me, boot, self.disk.durable.recover(), life);
        self.process.insert(Process {
            life,
            boot,
            replica,
            tables: self.disk.durable.tables.clone(),
            applying: VecDeque::new(),
            outbox: VecDeque::new(),
            syncing: None,
            timer_us: None,
            next_seq: 1,
            waiting: BTreeMap::new(),
        })
    }
}

/// Some day in 2025.
const EPOCH_US: u64 = 1_750_000_000_000_000;
