//! Has what was written proposed before a change of names that would show it to other nodes.
//!
//! A program that writes beside a file and renames over it, or that takes its lock file away,
//! says with that name: it is done. The versions go into this node's lane ahead of that change,
//! so every node sees them first. It costs a seal, which would come anyway, and no round trip.

use std::sync::Arc;
use std::time::Instant;

use super::BodyService;
use super::layer::LayerId;
use super::state::State;
use super::table::OpenBody;
use crate::ops::ports::{Offer, OfferDone};

impl BodyService {
    /// Runs `done` when everything that `what` names and that is written now is proposed; at
    /// the latest after the fetch timeout, since a seal may need bytes that nobody gives.
    pub(super) fn offer_bodies(self: &Arc<Self>, what: Offer, done: OfferDone) {
        let awaited = self.unproposed(what);
        if awaited.is_empty() {
            return done();
        }
        let service = Arc::clone(self);
        self.runtime.spawn(async move {
            let all = async {
                // Queued before the first wait, so that they share a seal's syncs.
                for (body, _) in &awaited {
                    service.queue.add(body.ino, Instant::now());
                }
                for (body, upto) in &awaited {
                    service.proposed(body, *upto).await;
                }
            };
            if tokio::time::timeout(service.settings.fetch_timeout, all).await.is_err() {
                tracing::warn!("a change of names goes ahead of what was written before it");
            }
            for (body, _) in awaited {
                service.table.forget_if_idle(body);
            }
            done();
        });
    }

    /// The files to wait for, and up to which layer each.
    fn unproposed(&self, what: Offer) -> Vec<(Arc<OpenBody>, LayerId)> {
        let last = |body: Arc<OpenBody>, wanted: fn(&State) -> Option<LayerId>| {
            let last = wanted(&*body.loaded()?)?;
            Some((body, last))
        };
        match what {
            Offer::File(ino) => {
                let body = self.table.find(ino);
                body.and_then(|body| last(body, State::unproposed)).into_iter().collect()
            }
            Offer::ClosedBut(removed) => {
                let others = self.table.all().into_iter().filter(|body| Some(body.ino) != removed);
                others.filter_map(|body| last(body, State::unproposed_and_closed)).collect()
            }
        }
    }

    async fn proposed(&self, body: &OpenBody, upto: LayerId) {
        loop {
            // Registered before the look, so that no news is missed.
            let settled = body.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let last = body.loaded().and_then(|state| state.first_unproposed());
            if last.is_none_or(|first| first > upto) {
                return;
            }
            self.queue.add(body.ino, Instant::now());
            settled.await;
        }
    }
}
