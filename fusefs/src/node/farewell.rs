//! A node that was removed: how it knows, and what it says from then on.

use engine::ids::Gsn;
use store::{LocalBatch, Store, StoreError};

use crate::admin::control::ControlError;

/// Local table: the agreement that removed this node, as 8 bytes, big-endian.
const REMOVED_KEY: &[u8] = b"node/removed";

/// What the operator reads at this node.
pub fn sentence(gsn: Gsn) -> String {
    format!("this node was removed at GSN {gsn}; join as a new node")
}

/// Remembers the removal, so that the next start need not ask anybody.
pub fn note(store: &Store, gsn: Gsn) -> Result<(), StoreError> {
    let mut batch = LocalBatch::new();
    batch.put(REMOVED_KEY, &gsn.0.to_be_bytes());
    store.local_write(&batch, true)
}

/// Refuses to start a node that knows of its removal.
///
/// # Errors
/// `Refused` with the sentence; `Failed` if the store cannot be read.
pub fn check(store: &Store) -> Result<(), ControlError> {
    let noted = store.local_get(REMOVED_KEY).map_err(super::setup::failed)?;
    match noted.as_deref().and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes) {
        None => Ok(()),
        Some(gsn) => Err(ControlError::refused(sentence(Gsn(gsn))).hint(
            "keep the store for what it may still hold, and make another: `fusion token create` \
             on a member, then `fusion join TOKEN --store DIR`",
        )),
    }
}
