//! The kernel's list of mounts, as far as it is about ours.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::kernel::{KIND, unescape};

/// One of our mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountLine {
    pub directory: PathBuf,
    pub source: String,
}

/// Our mounts in the order in which they were made.
///
/// # Errors
/// If /proc is not there.
pub fn ours() -> io::Result<Vec<MountLine>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_line).collect())
}

/// Whether one of our mounts is at exactly `directory` (absolute, without links). Does not
/// touch the mount, so it cannot hang or fail on a dead one.
pub fn is_mounted(directory: &Path) -> bool {
    ours().is_ok_and(|mounts| mounts.iter().any(|mount| mount.directory == directory))
}

/// Our mount that `path` (absolute, without links) is in.
pub fn containing(path: &Path) -> Option<MountLine> {
    let mounts = ours().ok()?;
    let inside = mounts.into_iter().filter(|mount| path.starts_with(&mount.directory));
    inside.max_by_key(|mount| mount.directory.as_os_str().len())
}

/// Whether the daemon behind a mount is gone ("transport endpoint is not connected").
pub fn is_dead(directory: &Path) -> bool {
    // Not stat(2): the kernel would answer that from what it has cached.
    matches!(rustix::fs::statfs(directory), Err(rustix::io::Errno::NOTCONN))
}

/// Makes a path absolute and free of links, also when its last part is a dead mount, which
/// realpath(3) cannot enter.
///
/// # Errors
/// If the parent directory does not exist.
pub fn resolve(directory: &Path) -> io::Result<PathBuf> {
    match directory.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(directory)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// See proc_pid_mountinfo(5): `id parent dev root DIRECTORY options [tags] - TYPE SOURCE super`.
fn parse_line(line: &str) -> Option<MountLine> {
    let text = |field: &str| OsString::from_vec(unescape(field.as_bytes()));
    let (place, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    if filesystem.next()? != KIND {
        return None;
    }
    let source = text(filesystem.next()?).to_string_lossy().into_owned();
    Some(MountLine { directory: text(place.split(' ').nth(4)?).into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ours_is_read_with_its_spaces() {
        let line =
            r"36 35 0:52 / /mnt/a\040b rw,nosuid shared:1 - fuse.fusion my\040store rw,user_id=0";
        let mount = parse_line(line).expect("one of ours");
        assert_eq!(mount.directory, PathBuf::from("/mnt/a b"));
        assert_eq!(mount.source, "my store");
    }

    #[test]
    fn other_filesystems_are_not_ours() {
        assert_eq!(parse_line("36 35 98:0 / /mnt rw - ext4 /dev/root rw"), None);
        assert_eq!(parse_line("nonsense"), None);
    }
}
