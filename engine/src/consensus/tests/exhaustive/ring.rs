//! Small rings, and what may happen in them.

use std::collections::BTreeMap;

use crate::consensus::entry::Config;
use crate::consensus::mutation::Mutation;
use crate::consensus::record::{ActiveLane, Header};
use crate::ids::{Idx, LaneId, NodeId, Term, Ts};

/// A small ring. Everything in `may` happens once or not at all, at any moment.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Nodes 1, 2, ...
    pub nodes: u16,
    /// The first of them vote; the others know the order from the beginning, too.
    pub voters: u16,
    /// Who has an active lane at first.
    pub owners: Vec<u16>,
    pub may: Vec<May>,
    /// Whose disk is flushed at any moment. All others' disks are flushed after each step.
    pub slow: Vec<u16>,
    pub mutation: Option<Mutation>,
}

/// One of `who` does `what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct May {
    pub what: What,
    pub who: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A command enters the own lane, for somebody who will not repeat it.
    Propose,
    /// An own command, which goes out again until it is executed, through others if need be.
    Command,
    /// A heartbeat, with promises and votes.
    Beat,
    /// The clock moves on by [`ADVANCE_US`].
    Advance,
    /// The present lane of that node is taken over, or once more.
    Takeover { of: u16 },
    /// The ballot that `taker` would ask for to close the lane of `of` is promised to it.
    Unasked { taker: u16, of: u16 },
    /// What was not flushed is lost; also in the middle of a step.
    Crash,
    /// A membership with these voters is asked for.
    Members(Vec<u16>),
    /// The order is asked for from that node.
    Fetch { from: u16 },
}

/// What of a node's past can still decide something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Needs {
    /// It may crash: what is on its disk.
    pub disk: bool,
    /// It may choose a ballot: which ones it has heard of.
    pub ballots: bool,
}

impl Ring {
    /// Three voters, of which `owners` have lanes.
    pub fn new(owners: &[u16]) -> Ring {
        let owners = owners.to_vec();
        Ring { nodes: 3, voters: 3, owners, may: vec![], slow: vec![], mutation: None }
    }

    pub fn may(mut self, what: What, who: &[u16]) -> Ring {
        self.may.push(May { what, who: who.to_vec() });
        self
    }

    pub fn proposes(self, who: u16) -> Ring {
        self.may(What::Propose, &[who])
    }

    pub fn takes_over(self, who: &[u16], of: u16) -> Ring {
        self.may(What::Takeover { of }, who)
    }

    pub fn crashes(self, who: &[u16]) -> Ring {
        self.may(What::Crash, who)
    }

    pub fn members(self, who: u16, voters: &[u16]) -> Ring {
        self.may(What::Members(voters.to_vec()), &[who])
    }

    pub fn slow(mut self, who: u16) -> Ring {
        self.slow.push(who);
        self
    }

    pub fn broken(self, mutation: Mutation) -> Ring {
        Ring { mutation: Some(mutation), ..self }
    }

    pub fn header(&self) -> Header {
        let mut header = Header::genesis(NodeId(self.owners[0]));
        header.config.voters = weights(1..=self.voters);
        header.config.promise_lead_us = LEAD_US;
        header.active = self.owners.iter().map(|&node| (lane_of(node), START)).collect();
        header.next_terms = self.owners.iter().map(|&node| (NodeId(node), Term(1))).collect();
        header.position = (START.start, NodeId(0));
        header
    }

    /// What the events in `left` may ask of a node's past.
    pub fn needs(&self, node: NodeId, left: u32) -> Needs {
        let may = (0..).zip(&self.may).filter(|(number, _): &(u32, _)| left & 1 << number != 0);
        let mine = may.map(|(_, may)| may).filter(|may| may.who.contains(&node.0));
        mine.fold(Needs::default(), |needs, may| match may.what {
            What::Crash => Needs { disk: true, ..needs },
            What::Takeover { .. } | What::Unasked { .. } => Needs { ballots: true, ..needs },
            _ => needs,
        })
    }

    /// A bit of each event.
    pub fn all(&self) -> u32 {
        (1 << self.may.len()) - 1
    }

    pub fn is_slow(&self, node: NodeId) -> bool {
        self.slow.contains(&node.0)
    }
}

pub fn weights(voters: impl IntoIterator<Item = u16>) -> BTreeMap<NodeId, u32> {
    voters.into_iter().map(|node| (NodeId(node), 1)).collect()
}

pub fn lane_of(node: u16) -> LaneId {
    LaneId { epoch: Config::genesis(NodeId(1)).epoch, node: NodeId(node), term: Term(0) }
}

pub const CLOCK_US: u64 = 1_000_000;
pub const START: ActiveLane = ActiveLane { next: Idx(1), start: Ts(CLOCK_US) };

/// Of a promise over the last chosen entry; small, so that it is reached.
pub const LEAD_US: u64 = 2;

/// Beyond [`LEAD_US`].
pub const ADVANCE_US: u64 = 4;
