//! This node's own commands until they are executed.

use std::collections::VecDeque;

use crate::command::{Command, Op};
use crate::ids::{NodeId, OpId};

/// Own commands in the order of their sequence numbers, without gaps.
#[derive(Clone, Debug)]
pub(super) struct OwnCommands {
    origin: NodeId,
    boot: u64,
    /// The last sequence number that was executed.
    finished: u64,
    /// Commands `finished + 1`, `finished + 2`, ...
    pending: VecDeque<Command>,
    /// How many of `pending` were handed on, to the own lane or to another node.
    submitted: usize,
}

impl OwnCommands {
    pub fn new(origin: NodeId, boot: u64) -> OwnCommands {
        OwnCommands { origin, boot, finished: 0, pending: VecDeque::new(), submitted: 0 }
    }

    pub fn push(&mut self, command: Command) {
        let seq = self.finished + self.pending.len() as u64 + 1;
        let expected = OpId { origin: self.origin, boot: self.boot, seq };
        assert_eq!(command.id, expected, "own commands are numbered without gaps");
        self.pending.push_back(command);
    }

    /// A command was executed; mirrors the rule by which the namespace applies each command
    /// of an origin once and in order (a gap is skipped, and comes again).
    pub fn executed(&mut self, id: OpId) -> bool {
        let next = OpId { origin: self.origin, boot: self.boot, seq: self.finished + 1 };
        if id != next {
            return false;
        }
        self.finished = id.seq;
        self.pending.pop_front().expect("only commands that were given can be executed");
        self.submitted = self.submitted.saturating_sub(1);
        true
    }

    /// The tables were replaced: everything up to `finished` is in them.
    pub fn skip_to(&mut self, finished: u64) {
        assert!(finished >= self.finished, "a snapshot does not go back");
        for _ in self.finished..finished {
            let next = OpId { origin: self.origin, boot: self.boot, seq: self.finished + 1 };
            self.executed(next);
        }
        self.resubmit();
    }

    /// What was handed on may be lost: everything pending is to be handed on again, in order.
    pub fn resubmit(&mut self) {
        self.submitted = 0;
    }

    /// The next commands to hand on: at most [`BATCH_COMMANDS_MAX`] and about
    /// [`BATCH_BYTES_MAX`], and not more than [`WINDOW_COMMANDS`] on their way. Empty if there
    /// are none.
    pub fn submit(&mut self) -> Vec<Command> {
        let room = WINDOW_COMMANDS.saturating_sub(self.submitted).min(BATCH_COMMANDS_MAX);
        let mut bytes = 0;
        let waiting = self.pending.iter().skip(self.submitted).take(room);
        let batch: Vec<Command> = waiting
            .take_while(|command| {
                let fits = bytes < BATCH_BYTES_MAX;
                bytes += command.size_hint();
                fits
            })
            .cloned()
            .collect();
        self.submitted += batch.len();
        batch
    }

    /// Some commands wait to be handed on.
    pub fn has_unsubmitted(&self) -> bool {
        self.submitted < self.pending.len()
    }

    /// Some commands are worth a lane of their own: somebody waits for them.
    pub fn wants_lane(&self) -> bool {
        self.pending.iter().any(deserves_lane)
    }

    pub fn has_submitted(&self) -> bool {
        self.submitted > 0
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

/// A report of held bodies comes from every zone after each write anywhere. If it opened a lane
/// or kept one open, no zone would ever be idle, and the loss of any would cost the others a
/// pause.
pub(super) fn deserves_lane(command: &Command) -> bool {
    !matches!(command.op, Op::HeldUpto { .. })
}

/// At 100 ms round trip it allows 40,000 commands per second; the namespace keeps the last 4096
/// outcomes of an origin.
pub(super) const WINDOW_COMMANDS: usize = 4000;
pub(super) const BATCH_COMMANDS_MAX: usize = 256;
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Cred;
    use crate::ids::Gsn;
    use crate::time::Timestamp;

    fn queue(commands: u64) -> OwnCommands {
        let mut queue = OwnCommands::new(NodeId(1), 7);
        for seq in 1..=commands {
            let id = OpId { origin: NodeId(1), boot: 7, seq };
            let time = Timestamp::default();
            queue.push(Command { id, time, cred: Cred::SYSTEM, op: Op::Noop });
        }
        queue
    }

    fn id(boot: u64, seq: u64) -> OpId {
        OpId { origin: NodeId(1), boot, seq }
    }

    #[test]
    fn commands_finish_once_and_in_order() {
        let mut queue = queue(3);
        assert_eq!(queue.submit().len(), 3);
        assert!(!queue.executed(id(7, 2)));
        assert!(!queue.executed(id(6, 1)));
        assert!(queue.executed(id(7, 1)));
        assert!(!queue.executed(id(7, 1)));
        queue.resubmit();
        let again: Vec<u64> = queue.submit().iter().map(|command| command.id.seq).collect();
        assert_eq!(again, [2, 3]);
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn reports_of_held_bodies_want_no_lane() {
        let mut queue = queue(0);
        assert!(!queue.wants_lane());
        let report = Op::HeldUpto { node: NodeId(1), gsn: Gsn(1) };
        for (seq, op) in [(1, report), (2, Op::Noop)] {
            assert!(!queue.wants_lane());
            let time = Timestamp::default();
            queue.push(Command { id: id(7, seq), time, cred: Cred::SYSTEM, op });
        }
        assert!(queue.wants_lane());
    }

    #[test]
    fn batches_and_the_window_are_bounded() {
        let mut queue = queue(10_000);
        let mut submitted = 0;
        loop {
            let batch = queue.submit();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= BATCH_COMMANDS_MAX);
            submitted += batch.len();
        }
        assert_eq!(submitted, WINDOW_COMMANDS);
        assert!(queue.executed(id(7, 1)));
        assert_eq!(queue.submit().len(), 1);
    }

    #[test]
    fn a_snapshot_finishes_what_it_contains() {
        let mut queue = queue(5);
        queue.submit();
        queue.skip_to(3);
        let left: Vec<u64> = queue.submit().iter().map(|command| command.id.seq).collect();
        assert_eq!(left, [4, 5]);
    }
}
