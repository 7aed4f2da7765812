//! The namespace: what agreed commands change.

pub mod tables;
