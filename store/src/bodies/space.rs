//! Refuses bodies before the disk is so full that the log can no longer be written.

use std::path::PathBuf;

use parking_lot::Mutex;

use crate::StoreError;

/// What the filesystem of the store has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// Free for an ordinary user.
    pub free_bytes: u64,
    /// Of that, what bodies may not use.
    pub reserve_bytes: u64,
}

/// How much may be admitted between two looks at the disk, in which others may fill it: well
/// below the reserve.
const ADMIT_BYTES_MAX: u64 = 64 << 20;

pub struct SpaceGuard {
    dir: PathBuf,
    reserve_bytes: u64,
    /// Admitted without another look.
    budget_bytes: Mutex<u64>,
}

impl SpaceGuard {
    pub fn new(dir: PathBuf, reserve_bytes: u64) -> SpaceGuard {
        SpaceGuard { dir, reserve_bytes, budget_bytes: Mutex::new(0) }
    }

    pub fn space(&self) -> Result<Space, StoreError> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|error| StoreError::io("measure", &self.dir)(error.into()))?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            reserve_bytes: self.reserve_bytes,
        })
    }

    /// Asks for room for `bytes` more. Looks at the disk only now and then, so it may stand
    /// before every write.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if they would eat into the reserve.
    pub fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let mut budget = self.budget_bytes.lock();
        if let Some(rest) = budget.checked_sub(bytes) {
            *budget = rest;
            return Ok(());
        }
        let space = self.space()?;
        let usable = space.free_bytes.saturating_sub(space.reserve_bytes);
        let Some(rest) = usable.checked_sub(bytes) else {
            *budget = 0;
            return Err(StoreError::NoSpace {
                needed_bytes: bytes,
                free_bytes: space.free_bytes,
                reserve_bytes: space.reserve_bytes,
            });
        };
        *budget = rest.min(ADMIT_BYTES_MAX);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let roomy = SpaceGuard::new(dir.path().to_owned(), 0);
        roomy.admit(4096).unwrap();
        let total = roomy.space().unwrap().total_bytes;
        assert!(matches!(roomy.admit(total + 1), Err(StoreError::NoSpace { .. })));
        let full = SpaceGuard::new(dir.path().to_owned(), u64::MAX);
        assert!(matches!(full.admit(1), Err(StoreError::NoSpace { .. })));
    }
}
