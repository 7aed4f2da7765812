//! The agreed tables as ordered byte keys, read through a trait so that the same code runs
//! over RocksDB, over a delegation's overlay and over memory.

use std::collections::BTreeMap;
use std::ops::Bound;

/// The tables cannot be read: the local database is broken. The node must stop applying; the
/// tables of the other nodes are not affected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the namespace tables cannot be read: {0}")]
pub struct TablesError(pub String);

/// Ordered byte keys to byte values.
pub trait Tables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError>;

    /// Visits keys in `from ..= prefix*` order: every key `>= from` that starts with `prefix`,
    /// ascending, until `visit` returns false.
    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError>;
}

impl<T: Tables + ?Sized> Tables for &T {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        (**self).get(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        (**self).scan(prefix, from, visit)
    }
}

/// Keys that were put (`Some`) or deleted (`None`).
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Changes on top of a base. Apply writes here; the store takes the changes in one batch.
pub struct Overlay<T> {
    base: T,
    changes: Changes,
}

impl<T: Tables> Overlay<T> {
    pub fn new(base: T) -> Overlay<T> {
        Overlay { base, changes: Changes::new() }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    pub fn into_changes(self) -> Changes {
        self.changes
    }
}

impl<T: Tables> Tables for Overlay<T> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        let start = if from > prefix { from } else { prefix };
        let mut changed = self
            .changes
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        let mut going = true;
        self.base.scan(prefix, start, &mut |key, value| {
            while let Some((changed_key, change)) = changed.next_if(|(k, _)| k.as_slice() < key) {
                if let Some(changed_value) = change {
                    going = visit(changed_key, changed_value);
                    if !going {
                        return false;
                    }
                }
            }
            going = match changed.next_if(|(k, _)| k.as_slice() == key) {
                Some((_, None)) => true,
                Some((_, Some(changed_value))) => visit(key, changed_value),
                None => visit(key, value),
            };
            going
        })?;
        for (key, change) in changed {
            if !going {
                break;
            }
            if let Some(value) = change {
                going = visit(key, value);
            }
        }
        Ok(())
    }
}

/// Tables in memory, for tests and the simulator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTables(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl MemoryTables {
    /// Takes over what an [`Overlay`] collected.
    pub fn absorb(&mut self, changes: Changes) {
        for (key, change) in changes {
            match change {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
}

impl Tables for MemoryTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        let start = if from > prefix { from } else { prefix };
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)) {
            if !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
