//! What an application is told when local storage says no.

use std::io;

use engine::namespace::TablesError;
use store::StoreError;

use crate::ops::ports::BodyError;

pub fn stored(error: StoreError) -> BodyError {
    match error {
        StoreError::NoSpace { .. } => BodyError::NoSpace,
        StoreError::DamagedBody { .. } => BodyError::Damaged(error.chain()),
        StoreError::Io { ref source, .. } if is_full(source) => BodyError::NoSpace,
        _ => BodyError::Storage(error.chain()),
    }
}

/// For calls on a stage's file itself.
pub fn written_to_disk(error: io::Error) -> BodyError {
    match error.kind() {
        _ if is_full(&error) => BodyError::NoSpace,
        io::ErrorKind::FileTooLarge => BodyError::TooLarge,
        _ => BodyError::Storage(error.to_string()),
    }
}

pub fn tables(error: TablesError) -> BodyError {
    BodyError::Storage(error.to_string())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
