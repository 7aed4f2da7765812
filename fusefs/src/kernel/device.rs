//! Attaching to the kernel: mount(2) with an own /dev/fuse descriptor as root, fusermount3 for
//! everybody else; and detaching.
//!
//! fuser's own mount is not used: as root it shows the type `fuse`, fails on a dead mount, and
//! its automatic unmount leaves dead mounts behind.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;

use super::options::MountOptions;
use crate::ops::AtimeRule;

/// Why the tree could not be mounted or unmounted; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{0} does not exist; create it with `mkdir -p`")]
    NoMountPoint(PathBuf),
    #[error("{0} is not a directory; mount on a directory")]
    NotDirectory(PathBuf),
    #[error("{path} is mounted already (type {kind}); unmount it with `umount` first")]
    Mounted { path: PathBuf, kind: String },
    #[error("/dev/fuse is missing; load the kernel module with `modprobe fuse`")]
    NoDevice,
    #[error(
        "/dev/fuse may not be opened by this user; run as root, or `chmod 666 /dev/fuse` as root"
    )]
    DeviceForbidden(#[source] io::Error),
    #[error("fusermount3 is missing; install the package fuse3, or run as root")]
    NoHelper,
    #[error(
        "other users may not be let in; add the line `user_allow_other` to /etc/fuse.conf, or \
         leave out allow_other"
    )]
    AllowOtherForbidden,
    #[error("fusermount3 refused: {0}")]
    Helper(String),
    #[error("mount at {path} failed")]
    Mount { path: PathBuf, source: io::Error },
    #[error("{0} is in use; close what uses it (`fuser -vm`), or unmount it lazily")]
    Busy(PathBuf),
    #[error("remount of {path} failed: {source}")]
    Remount { path: PathBuf, source: io::Error },
    #[error("unmount of {path} failed")]
    Unmount { path: PathBuf, source: io::Error },
    #[error("the kernel did not start a FUSE session")]
    Session(#[source] io::Error),
}

/// The largest READ; the same as the largest WRITE.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Mounts at `path` and gives the descriptor on which the kernel now sends requests. A dead
/// mount of an earlier daemon is removed first.
///
/// # Errors
/// [`MountError`], with nothing mounted.
pub fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let path = settle(path)?;
    clear_dead(&path)?;
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(MountError::NotDirectory(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::NoMountPoint(path));
        }
        Err(source) => return Err(MountError::Mount { path, source }),
    }
    if let Some(kind) = kind_at(&path).filter(|kind| kind == KIND) {
        return Err(MountError::Mounted { path, kind });
    }
    match rustix::process::geteuid().is_root() {
        true => mount_as_root(&path, options),
        false => mount_by_helper(&path, options),
    }
}

/// Unmounts what is mounted at `path`. Nothing there is fine. With `lazy` it vanishes from the
/// tree at once and ends with its last user.
///
/// # Errors
/// [`MountError::Busy`] unless `lazy`, when something still uses it.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let path = settle(path)?;
    if rustix::process::geteuid().is_root() {
        return unmount_as_root(&path, lazy);
    }
    if kind_at(&path).is_none() {
        return Ok(());
    }
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(&path).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            match said.contains("busy") {
                true => Err(MountError::Busy(path)),
                false => Err(MountError::Helper(said)),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(MountError::NoHelper),
        Err(source) => Err(MountError::Unmount { path, source }),
    }
}

/// Gives the mount at `path` other flags (read-only, no set-id programs and so on).
///
/// # Errors
/// [`MountError::Remount`]; for everybody but root.
pub fn remount(path: &Path, options: &MountOptions) -> Result<(), MountError> {
    let path = settle(path)?;
    rustix::mount::mount_remount(&path, flags(options), "")
        .map_err(|e| MountError::Remount { path, source: e.into() })
}

/// The type of the uppermost mount at `path`, from mountinfo.
pub fn kind_at(path: &Path) -> Option<String> {
    uppermost_at(path).map(|(_, kind)| kind)
}

/// The kernel's number of the FUSE connection of the uppermost mount at `path`.
pub fn connection_at(path: &Path) -> Option<u32> {
    let (device, kind) = uppermost_at(path)?;
    // FUSE without a block device: the major number is 0, the minor one the connection's.
    let minor = device.strip_prefix("0:").filter(|_| kind == KIND)?;
    minor.parse().ok()
}

/// Device (major:minor) and type of the uppermost mount at `path`.
fn uppermost_at(path: &Path) -> Option<(String, String)> {
    let info = std::fs::read("/proc/self/mountinfo").ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut uppermost = None;
    for line in info.split(|byte| *byte == b'\n') {
        // | id | parent | major:minor | root | mount point | options | fields .. | - | type | ..
        let mut fields = line.split(|byte| *byte == b' ');
        let (Some(device), Some(point)) = (fields.nth(2), fields.nth(1)) else { continue };
        if unescape(point) != path.as_os_str().as_bytes() {
            continue;
        }
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        uppermost = kind.map(|kind| (text(device), text(kind)));
    }
    uppermost
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

/// Makes `path` absolute through its parent, because asking a dead mount itself fails.
fn settle(path: &Path) -> Result<PathBuf, MountError> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    let settled = match path.file_name() {
        Some(name) => parent.canonicalize().map(|parent| parent.join(name)),
        None => path.canonicalize(),
    };
    let settled = settled.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MountError::NoMountPoint(path.to_owned()),
        _ => MountError::Mount { path: path.to_owned(), source },
    })?;
    // A symbolic link to the mount point: follow it unless what it leads to is dead.
    Ok(settled.canonicalize().unwrap_or(settled))
}

/// Detaches mounts whose daemon is gone ("transport endpoint is not connected").
fn clear_dead(path: &Path) -> Result<(), MountError> {
    // Each daemon that died there may have left one.
    for _ in 0..DEAD_MOUNTS_MAX {
        if !kind_at(path).is_some_and(|kind| kind.starts_with("fuse")) {
            break;
        }
        // Not stat(2): the kernel would answer that from what it has cached.
        match rustix::fs::statfs(path) {
            Err(rustix::io::Errno::NOTCONN) => unmount(path, true)?,
            _ => break,
        }
    }
    Ok(())
}

fn mount_as_root(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = File::options().read(true).write(true).open(DEVICE).map_err(device_error)?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read={REQUEST_BYTES_MAX}{}",
        device.as_raw_fd(),
        if options.allow_other.unwrap_or(true) { ",allow_other" } else { "" },
    );
    let data = std::ffi::CString::new(data).expect("the data holds no NUL");
    let flags = flags(options);
    rustix::mount::mount(options.source.as_str(), path, KIND, flags, Some(data.as_c_str()))
        .map_err(|e| MountError::Mount { path: path.to_owned(), source: e.into() })?;
    Ok(device.into())
}

fn flags(options: &MountOptions) -> MountFlags {
    // For people to see: the kernel leaves access times to FUSE filesystems.
    let mut flags = match options.atime {
        AtimeRule::Relative => MountFlags::RELATIME,
        AtimeRule::Strict => MountFlags::STRICTATIME,
        AtimeRule::Never => MountFlags::NOATIME,
    };
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    flags.set(MountFlags::NOSUID, options.no_suid);
    flags.set(MountFlags::NODEV, options.no_dev);
    flags
}

fn unmount_as_root(path: &Path, lazy: bool) -> Result<(), MountError> {
    use rustix::mount::UnmountFlags;
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    match rustix::mount::unmount(path, flags) {
        Ok(()) => Ok(()),
        // Nothing is mounted there, or it is not there at all.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(MountError::Busy(path.to_owned())),
        Err(e) => Err(MountError::Unmount { path: path.to_owned(), source: e.into() }),
    }
}

/// Lets the set-uid program fusermount3 mount. It sends the descriptor over the socket that
/// `_FUSE_COMMFD` names (libfuse, mount.c).
fn mount_by_helper(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::Mount { path: path.to_owned(), source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    // The socket must stay open over exec.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(|e| failed(e.into()))?;
    // A comma would start another option.
    let source = options.source.replace(',', "_");
    let mut list = OsString::from(format!(
        "default_permissions,fsname={source},subtype=fusion,max_read={REQUEST_BYTES_MAX}"
    ));
    for (on, option) in [
        (options.allow_other.unwrap_or(false), ",allow_other"),
        (options.read_only, ",ro"),
        (options.no_exec, ",noexec"),
        (options.atime == AtimeRule::Never, ",noatime"),
    ] {
        if on {
            list.push(option);
        }
    }
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(&list)
        .arg("--")
        .arg(path)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => MountError::NoHelper,
            _ => failed(e),
        })?;
    // With our copy closed, the end of the helper ends the receive below.
    drop(theirs);
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(failed)?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        _ => Err(helper_error(&String::from_utf8_lossy(&output.stderr))),
    }
}

/// Receives one descriptor; `None` when the other end closed without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [io::IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn helper_error(said: &str) -> MountError {
    match said {
        said if said.contains("user_allow_other") => MountError::AllowOtherForbidden,
        said if said.contains("device not found") => MountError::NoDevice,
        said if said.contains("/dev/fuse") && said.contains("ermission denied") => {
            MountError::DeviceForbidden(io::Error::from(io::ErrorKind::PermissionDenied))
        }
        said => MountError::Helper(said.trim().trim_start_matches("fusermount3: ").to_owned()),
    }
}

fn device_error(e: io::Error) -> MountError {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
        _ => MountError::DeviceForbidden(e),
    }
}

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// The type that mountinfo shows.
pub const KIND: &str = "fuse.fusion";
const DEAD_MOUNTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes_are_undone() {
        assert_eq!(unescape(b"/mnt/with\\040space\\134"), b"/mnt/with space\\");
        assert_eq!(unescape(b"/plain\\9"), b"/plain\\9");
    }

    #[test]
    fn the_root_is_mounted_and_a_plain_directory_is_not() {
        assert!(kind_at(Path::new("/")).is_some());
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(kind_at(&directory.path().canonicalize().unwrap()), None);
    }

    #[test]
    fn the_helper_s_refusals_say_what_to_do() {
        let said = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n";
        assert!(matches!(helper_error(said), MountError::AllowOtherForbidden));
        let said = "fusermount3: failed to open /dev/fuse: Permission denied\n";
        assert!(matches!(helper_error(said), MountError::DeviceForbidden(_)));
    }
}
