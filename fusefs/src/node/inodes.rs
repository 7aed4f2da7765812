//! Numbers for new inodes, chosen by the node that proposes them.

use engine::ids::{Ino, NodeId};
use engine::namespace::View;
use parking_lot::Mutex;
use store::{LocalBatch, Store, StoreError};

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

const KEY: &[u8] = b"inode-numbers";
/// Numbers that this node may have used for inodes that are gone, or that are being made, when
/// the reservation was lost with the database.
const LOST_MARGIN: u64 = 16 * BLOCK;
/// One synced write for so many inodes. A crash wastes at most one block of the 2^40 numbers
/// of a node: 16 million crashes.
const BLOCK: u64 = 1 << 16;
const FIRST: u64 = 16;

impl InodeNumbers {
    pub fn open(node: NodeId, store: Store) -> Result<InodeNumbers, StoreError> {
        let next = match store.local_get(KEY)? {
            Some(bytes) => u64::from_be_bytes(bytes.as_slice().try_into().map_err(|_| {
                StoreError::Invalid("the reservation of inode numbers is not 8 bytes".into())
            })?),
            None => beyond_used(node, &store)?,
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
            let mut batch = LocalBatch::new();
            batch.put(KEY, &upto.to_be_bytes());
            self.store.local_write(&batch, true)?;
            range.reserved_upto = upto;
        }
        let counter = range.next;
        range.next += 1;
        Ok(Ino::of(self.node, counter))
    }
}

/// A number above all that the tables know of this node.
fn beyond_used(node: NodeId, store: &Store) -> Result<u64, StoreError> {
    let first = Ino::of(node, FIRST);
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
    Ok(newest.map_or(FIRST, |ino| ino.0 - first.0 + FIRST + LOST_MARGIN))
}
