//! A node that lost its log has forgotten what it promised and voted for. If it voted again, it
//! could help to choose a second value for a place (Lamport, Paxos Made Simple, 2.2: an
//! acceptor must remember). So it is mute: it learns, and its commands go through others.
//!
//! Lanes, ballots and votes are keyed by epoch, so it may vote in an epoch in which it cannot
//! have voted before. Which one is that? A node votes only in epochs that it has come to by
//! executing the order. A command that it proposes after the loss is executed behind everything
//! that anybody had executed before the loss, so in an epoch at or above every one that it had
//! come to. Epochs above that one are new to it. Other voters see that it waits
//! ([`super::message::Heartbeat::mute`]) and have the same membership agreed once more, as the
//! next epoch ([`super::Input::Renew`]).

use super::effect::Effect;
use super::replica::Replica;
use crate::ids::Epoch;

/// What a node knows about its own forgotten votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Whole,
    /// It may have voted in any epoch, until a command of this start is executed.
    Lost,
    /// It may have voted in epochs up to this one.
    LostUpto(Epoch),
}

impl Replica {
    /// Voters must not count on this node: it keeps silent where voters speak.
    pub(super) fn is_mute(&self) -> bool {
        match self.memory {
            Memory::Whole => false,
            Memory::Lost => true,
            Memory::LostUpto(epoch) => self.header.config.epoch <= epoch,
        }
    }

    /// A voter that another epoch of the same membership would let speak again.
    pub(super) fn wants_epoch(&self) -> bool {
        let listed = self.header.config.is_voter(self.me);
        listed && matches!(self.memory, Memory::LostUpto(_)) && self.is_mute()
    }

    /// A command of this start is executed: in the present epoch, or in one before it.
    pub(super) fn own_command_executed(&mut self) {
        if self.memory == Memory::Lost {
            self.memory = Memory::LostUpto(self.header.config.epoch);
        }
    }

    /// The order has come to another epoch.
    pub(super) fn recollect(&mut self) {
        if matches!(self.memory, Memory::LostUpto(_)) && !self.is_mute() {
            self.memory = Memory::Whole;
            self.whole_since = Some(self.header.gsn);
            self.tell_memory_whole();
        }
    }

    /// The loss may be forgotten once the tables hold the epoch durably: a node that came back
    /// with older ones would be in an epoch again in which it may have voted.
    pub(super) fn tell_memory_whole(&mut self) {
        if self.whole_since.is_some_and(|gsn| gsn <= self.durable) {
            self.whole_since = None;
            self.out.push(Effect::MemoryWhole);
        }
    }
}
