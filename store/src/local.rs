//! Tables of this node alone: not agreed, not sent to anybody.

use rocksdb::WriteBatch;

use crate::database::Family;
use crate::{Store, StoreError};

/// First byte of the keys in the `local` family: who they belong to.
pub mod owner {
    pub const CALLER: u8 = b'u';
    pub const BODY: u8 = b'b';
    pub const PACK: u8 = b'k';
    pub const PART: u8 = b'p';
    pub const STAGE: u8 = b's';
}

/// Puts and deletes that happen together.
#[derive(Clone, Debug, Default)]
pub struct LocalBatch {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl LocalBatch {
    pub fn new() -> LocalBatch {
        LocalBatch::default()
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> &mut LocalBatch {
        self.changes.push((owned(key), Some(value.to_vec())));
        self
    }

    pub fn delete(&mut self, key: &[u8]) -> &mut LocalBatch {
        self.changes.push((owned(key), None));
        self
    }
}

impl Store {
    pub fn local_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db().get(Family::Local, &owned(key))
    }

    /// Not durable before [`Store::sync`].
    pub fn local_put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.local_write(LocalBatch::new().put(key, value), false)
    }

    /// Not durable before [`Store::sync`].
    pub fn local_delete(&self, key: &[u8]) -> Result<(), StoreError> {
        self.local_write(LocalBatch::new().delete(key), false)
    }

    /// Visits the keys that start with `prefix`, ascending, until `visit` returns false.
    pub fn local_scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let prefix = owned(prefix);
        self.db()
            .scan(Family::Local, &prefix, &prefix, &mut |key, value| Ok(visit(&key[1..], value)))
    }

    /// Writes the batch: all of it or nothing after a crash. Durable when it returns if
    /// `sync` is set.
    pub fn local_write(&self, batch: &LocalBatch, sync: bool) -> Result<(), StoreError> {
        let db = self.db();
        let family = db.family(Family::Local);
        let mut write = WriteBatch::default();
        for (key, change) in &batch.changes {
            match change {
                Some(value) => write.put_cf(family, key, value),
                None => write.delete_cf(family, key),
            }
        }
        db.write(write)?;
        if sync { db.sync() } else { Ok(()) }
    }
}

fn owned(key: &[u8]) -> Vec<u8> {
    [&[owner::CALLER], key].concat()
}
