//! Opens the store; a database that is damaged, or that is not to be believed, is given up for
//! other nodes' state, without an operator.

use std::path::Path;

use engine::ids::NodeId;
use store::{Options, Store, StoreError};

use super::roster;
use super::setup::failed;
use crate::admin::control::ControlError;

/// Opens the store of node `me` in `dir`, repaired if it must be.
///
/// # Errors
/// When the store cannot be used, and when it is damaged and holds a volume that no other node
/// is known to have.
pub fn open(dir: &Path, me: NodeId) -> Result<Store, ControlError> {
    let damage = match open_checked(dir) {
        Ok(store) => return Ok(store),
        Err(StoreError::Damaged { what, detail }) => format!("{what}: {detail}"),
        Err(error) => return Err(failed(error)),
    };
    let volumes = roster::volumes(dir);
    let elsewhere = volumes.iter().all(|volume| {
        let members = roster::load(dir, *volume).unwrap_or_default();
        members.iter().any(|member| member.id != me)
    });
    if volumes.is_empty() || !elsewhere {
        return Err(ControlError::failed(format!("the store is damaged: {damage}")).hint(
            "no other node is known that has all of its volumes: keep the directory for a \
             diagnosis",
        ));
    }
    tracing::error!(damage, "the database is given up; this node takes a peer's state");
    let repaired = Store::repair(dir, &damage, &Options::default()).map_err(failed)?;
    tracing::warn!(kept_at = %repaired.kept_at.display(), log_kept = repaired.log_kept,
        local_kept = repaired.local_kept, "the damaged database was replaced");
    if !repaired.log_kept {
        tracing::warn!(
            "promises and votes may be forgotten: this node does not vote before the ring has \
             agreed on another epoch"
        );
    }
    open_checked(dir).map_err(failed)
}

/// Reads what the replicas will start from: damage there must be found before they vote.
fn open_checked(dir: &Path) -> Result<Store, StoreError> {
    let store = Store::open(dir, &Options::default())?;
    for volume in store.volumes() {
        store.recover(volume)?;
    }
    Ok(store)
}
