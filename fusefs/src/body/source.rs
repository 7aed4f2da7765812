//! Other nodes as sources of bytes: which one to ask, and how the asking is done.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::Member;
use engine::ids::{BodyId, NodeId};
use engine::placement::{Placement, fetch_order, should_hold};
use parking_lot::Mutex;
use wire::{Ask, Class, Request, Response, Wire};

use super::BodyService;
use super::error::tables;
use super::fetch::Remote;
use crate::ops::ports::BodyError;

/// The way to other nodes.
pub trait Peers: Send + Sync {
    /// Asks `to`, and waits for the answer as long as the connection lives.
    fn ask(&self, to: NodeId, request: Request) -> Asking;

    /// Smoothed round trips of the links that are up; 0 where none is measured yet.
    fn links(&self) -> Vec<(NodeId, Duration)>;
}

/// An answer in the making; with the reason if there is none.
pub type Asking = Pin<Box<dyn Future<Output = Result<Response, String>> + Send>>;

impl Peers for Arc<Wire> {
    fn ask(&self, to: NodeId, request: Request) -> Asking {
        let wire = Arc::clone(self);
        Box::pin(async move { wire.call(to, request).await.map_err(|error| error.to_string()) })
    }

    fn links(&self) -> Vec<(NodeId, Duration)> {
        let peers = self.stats().peers;
        let up = peers.into_iter().filter(|peer| peer.connected);
        up.map(|peer| (peer.node, Duration::from_micros(peer.rtt_us))).collect()
    }
}

/// Remembers who failed lately, so that the next question goes to somebody else first.
#[derive(Debug, Default)]
pub struct Reputation {
    failed: Mutex<HashMap<NodeId, Instant>>,
}

impl Reputation {
    pub fn failed(&self, node: NodeId) {
        self.failed.lock().insert(node, Instant::now());
    }

    pub fn answered(&self, node: NodeId) {
        self.failed.lock().remove(&node);
    }

    fn is_doubtful(&self, node: NodeId) -> bool {
        self.failed.lock().get(&node).is_some_and(|when| when.elapsed() < DOUBT)
    }

    /// Whom to ask for a body, best first: in the order of [`fetch_order`], but those that are
    /// known to hold it before the others, and those that failed lately last. Nodes without a
    /// link are left out. `holds` says who has confirmed this version.
    ///
    /// [`fetch_order`]: engine::placement::fetch_order
    pub fn order(
        &self,
        near: Vec<NodeId>,
        links: &[(NodeId, Duration)],
        holds: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let mut order = near;
        order.retain(|node| links.iter().any(|(linked, _)| linked == node));
        // Stable: nearness decides among equals.
        order.sort_by_key(|node| (self.is_doubtful(*node), !holds(*node)));
        order
    }
}

impl BodyService {
    /// One question. `None`, and the node is asked last for a while, if it does not answer;
    /// `None` too if it has nothing to give.
    pub(super) async fn ask(
        self: &Arc<Self>,
        node: NodeId,
        ask: Ask,
        class: Class,
    ) -> Option<Response> {
        let mut request = Request::new(self.settings.volume, self.ring.applied_gsn(), ask);
        request.class = class;
        match self.peers.ask(node, request).await {
            Ok(Response::Refused { code, message }) => {
                tracing::debug!(%node, ?code, message, "a question was refused");
                None
            }
            Ok(response) => Some(response),
            Err(error) => {
                tracing::debug!(%node, error, "a question had no answer");
                self.reputation.failed(node);
                None
            }
        }
    }

    /// Whom to ask for a body, best first.
    pub(super) fn sources(&self, remote: Remote) -> Result<Vec<NodeId>, BodyError> {
        // A node that drains still has what it had.
        let members: Vec<Member> =
            self.members()?.iter().filter(|member| member.keeps_bodies()).cloned().collect();
        let held = self.ring.view().held().map_err(tables)?;
        let links = self.peers.links();
        let placement = Placement::everywhere(&members);
        let rtt_us = |node: NodeId| {
            let (_, rtt) = links.iter().find(|(linked, _)| *linked == node)?;
            u64::try_from(rtt.as_micros()).ok()
        };
        let me = self.ring.me();
        let near = fetch_order(me, remote.id, &members, &placement, remote.holder, rtt_us);
        Ok(self.reputation.order(near, &links, |node| {
            remote.holder == Some(node)
                || held.iter().any(|&(other, upto)| other == node && upto.0 >= remote.version.0)
        }))
    }

    /// Whether placement names this node for the body.
    pub(super) fn should_hold(&self, id: BodyId) -> Result<bool, BodyError> {
        let members = self.takers()?;
        let placement = Placement::everywhere(&members);
        Ok(should_hold(self.ring.me(), id, &members, &placement))
    }
}

/// As long as a peer that failed is asked last.
const DOUBT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_holder_that_works_is_asked_first() {
        let near = [4, 3, 2, 5, 6].map(NodeId).to_vec();
        let links = [2, 3, 4, 5].map(|node| (NodeId(node), Duration::from_millis(9)));
        let reputation = Reputation::default();
        let order = |reputation: &Reputation| {
            let order = reputation.order(near.clone(), &links, |node| node.0 != 4);
            order.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        assert_eq!(order(&reputation), [3, 2, 5, 4]);
        reputation.failed(NodeId(3));
        assert_eq!(order(&reputation), [2, 5, 4, 3]);
        reputation.answered(NodeId(3));
        assert_eq!(order(&reputation), [3, 2, 5, 4]);
    }
}
