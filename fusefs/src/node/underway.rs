//! Own commands between their proposal and their agreement, measured.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::Command;
use engine::consensus::{Entry, EntryKind};
use engine::ids::NodeId;

use super::stage::Stage;

/// The ring thread's own list. Sequence numbers are agreed in order, each once at first.
pub struct Underway {
    me: NodeId,
    boot: u64,
    stage: Arc<Stage>,
    since: VecDeque<(u64, Instant)>,
}

impl Underway {
    pub fn new(me: NodeId, boot: u64, stage: Arc<Stage>) -> Underway {
        Underway { me, boot, stage, since: VecDeque::new() }
    }

    /// The ring takes up these commands, which have waited for it.
    pub fn proposed(&mut self, commands: &[Command], waited: Duration) {
        let now = Instant::now();
        self.since.extend(commands.iter().map(|command| (command.id.seq, now)));
        self.stage.entered(commands.len());
        self.stage.wait.observe(waited);
    }

    /// What is agreed may be this node's own.
    pub fn agreed(&mut self, entry: &Entry) {
        let EntryKind::Commands { commands, .. } = &entry.kind else { return };
        for command in commands {
            if (command.id.origin, command.id.boot) == (self.me, self.boot) {
                self.finished(command.id.seq);
            }
        }
    }

    /// Everything up to `seq` is agreed.
    pub fn finished(&mut self, seq: u64) {
        while let Some((first, since)) = self.since.front()
            && *first <= seq
        {
            self.stage.service.observe(since.elapsed());
            self.stage.left(1);
            self.since.pop_front();
        }
    }
}
