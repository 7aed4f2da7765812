//! Finds waits that would never end.

use std::collections::BTreeSet;

use super::file_locks::{FileLocks, Waiter};
use super::lock::LockOwner;

/// Owners looked at in one search: a longer chain is taken for no cycle, as a bound on what one
/// command costs.
const OWNERS_MAX: usize = 1024;

/// Whether `waiter`, when it waits on `locks`, closes a cycle of owners that wait for each
/// other. `waits_for` gives the owners that an owner waits for already.
///
/// # Errors
/// Those of `waits_for`.
pub fn closes_cycle<E>(
    waiter: &Waiter,
    locks: &FileLocks,
    mut waits_for: impl FnMut(LockOwner) -> Result<Vec<LockOwner>, E>,
) -> Result<bool, E> {
    if !waiter.detects {
        return Ok(false);
    }
    let mut open: Vec<LockOwner> = locks.blockers(waiter).collect();
    let mut seen: BTreeSet<LockOwner> = open.iter().copied().collect();
    while let Some(owner) = open.pop() {
        if owner == waiter.lock.owner {
            return Ok(true);
        }
        for next in waits_for(owner)? {
            if seen.len() < OWNERS_MAX && seen.insert(next) {
                open.push(next);
            }
        }
    }
    Ok(false)
}
