//! Numbers for new inodes, chosen by the node that proposes them.

use engine::ids::{Ino, NodeId};
use engine::namespace::View;
use parking_lot::Mutex;
use store::{Store, StoreError};

/// Hands out inode numbers that this node has never handed out before, over restarts too: a
/// block of numbers is reserved on disk before its first number is used.
pub struct InodeNumbers {
    node: NodeId,
    store: Store,
    range: Mutex<Range>,
}

struct Range {
    next: u64,
    reserved_upto: u64,
}

/// Numbers that this node may have used for inodes that are gone, or that are being made, when
/// the reservation was lost.
const LOST_MARGIN: u64 = 16 * BLOCK;
/// One synced write for so many inodes. A crash wastes at most one block of the 2^40 numbers
/// of a node: 16 million crashes.
const BLOCK: u64 = 1 << 16;

impl InodeNumbers {
    pub fn open(node: NodeId, store: Store) -> Result<InodeNumbers, StoreError> {
        let next = match store.inodes_reserved() {
            Ok(next) => next,
            Err(StoreError::Damaged { what, detail }) => {
                let next = beyond_used(node, &store)?;
                tracing::warn!(what, detail, next, "inode numbers go on above those in use");
                next
            }
            Err(error) => return Err(error),
        };
        let range = Range { next, reserved_upto: next };
        Ok(InodeNumbers { node, store, range: Mutex::new(range) })
    }

    /// # Errors
    /// If the reservation of a new block cannot be made durable.
    pub fn next(&self) -> Result<Ino, StoreError> {
        let mut range = self.range.lock();
        if range.next == range.reserved_upto {
            let upto = range.reserved_upto + BLOCK;
            self.store.reserve_inodes(upto)?;
            range.reserved_upto = upto;
        }
        let counter = range.next;
        range.next += 1;
        Ok(Ino::of(self.node, counter))
    }
}

/// A number above all that the tables know of this node.
fn beyond_used(node: NodeId, store: &Store) -> Result<u64, StoreError> {
    let first = Ino::of(node, Ino::FIRST_COUNTER);
    let mut newest = None;
    for volume in store.volumes() {
        let view = View::new(store.snapshot(volume)?);
        let visited = view.inodes(first, &mut |ino, _| {
            let own = ino.node() == Some(node);
            newest = if own { newest.max(Some(ino)) } else { newest };
            own
        });
        visited.map_err(|error| StoreError::Invalid(error.to_string()))?;
    }
    // It may have used numbers that the tables do not show (any more).
    Ok(newest.unwrap_or(first).0 - first.0 + Ino::FIRST_COUNTER + LOST_MARGIN)
}
