//! The agreement protocol: merged lanes.

pub mod entry;
pub mod record;
