//! Numbers that must outlive the database, each in a file of its own beside it: a node that
//! counted anew would give its commands and inodes names that it has given before.
//!
//! `| the number in decimal | \n | "crc32c " and 8 hexadecimal digits of the line | \n |`

use std::fs;
use std::path::Path;

use crate::StoreError;
use crate::layout::write_atomic;

/// # Errors
/// [`StoreError::Damaged`] if the file is missing or not what was written.
pub fn read(path: &Path) -> Result<u64, StoreError> {
    let damaged = |detail: &str| StoreError::damaged(path.display().to_string(), detail);
    let bytes = fs::read(path).map_err(|error| damaged(&error.to_string()))?;
    let content = str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
    let count = content.split_once('\n').and_then(|(line, _)| line.parse().ok());
    match count {
        Some(count) if text(count) == content => Ok(count),
        _ => Err(damaged("its checksum does not match")),
    }
}

/// Durably.
pub fn write(path: &Path, count: u64) -> Result<(), StoreError> {
    write_atomic(path, text(count).as_bytes())
}

fn text(count: u64) -> String {
    let line = format!("{count}\n");
    let checksum = crc32c::crc32c(line.as_bytes());
    format!("{line}crc32c {checksum:08x}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boots");
        write(&path, 77).unwrap();
        assert_eq!(read(&path).unwrap(), 77);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(read(&path).is_err(), "byte {at} changed unnoticed");
        }
    }
}
