//! Unix sockets at any path, and where the daemons of this machine are found.
//!
//! A socket's address holds 107 bytes of path. Stores of tests and demos lie deeper than
//! that, so a long path is reached through the directory's descriptor:
//! `/proc/self/fd/N/admin.sock`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// `sun_path` without its terminating NUL.
const PATH_LEN_MAX: usize = 107;

/// A short path to the same place, valid as long as the descriptor lives.
struct Shortened {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

fn shorten(path: &Path) -> io::Result<Shortened> {
    if path.as_os_str().as_bytes().len() <= PATH_LEN_MAX {
        return Ok(Shortened { path: path.to_owned(), _directory: None });
    }
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket");
    let parent = path.parent().ok_or_else(invalid)?;
    let name = path.file_name().ok_or_else(invalid)?;
    let directory = rustix::fs::open(
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok(Shortened { path, _directory: Some(directory) })
}

/// Connects to the socket at `path`.
///
/// # Errors
/// As connect(2); `NotFound` and `ConnectionRefused` mean that no daemon is there.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let short = shorten(path)?;
    UnixStream::connect(&short.path).await
}

/// Listens at `path`, for the owner and the group `fusion` if that exists. Replaces a socket
/// that nobody listens at.
///
/// # Errors
/// `AddrInUse` if a daemon answers there; else as bind(2).
pub async fn listen(path: &Path) -> io::Result<UnixListener> {
    match connect(path).await {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("a daemon answers at {} already", path.display()),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path)?,
    }
    let short = shorten(path)?;
    let listener = UnixListener::bind(&short.path)?;
    // The group first: with the mode first, a member of the old group could slip in between.
    if let Some(group) = fusion_group() {
        // Only root may give a file to a group that it is not in; then the owner alone uses it.
        let _ = std::os::unix::fs::chown(path, None, Some(group));
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// The id of the group `fusion`, from /etc/group.
fn fusion_group() -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    group_id(&groups, "fusion")
}

fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Where running daemons leave a link to their socket, so that the command line finds them:
/// `/run/fusion` for root, else `$XDG_RUNTIME_DIR/fusion`, else a directory in /tmp that only
/// the user may write.
pub fn registry() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/fusion");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if Path::new(&directory).is_dir() => {
            PathBuf::from(directory).join("fusion")
        }
        _ => PathBuf::from(format!("/tmp/fusion-{}", rustix::process::geteuid().as_raw())),
    }
}

/// Makes the registry.
///
/// # Errors
/// If it cannot be written or belongs to somebody else.
pub fn make_registry() -> io::Result<PathBuf> {
    let directory = registry();
    std::fs::create_dir_all(&directory)?;
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(&directory)?);
    if owner != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("{} is not ours", directory.display())));
    }
    Ok(directory)
}

/// A link in the registry; removed when dropped.
pub struct Registration(PathBuf);

impl Registration {
    /// Announces the socket of the node `name` in `cluster`.
    ///
    /// # Errors
    /// If the registry cannot be used.
    pub fn announce(cluster: &str, name: &str, socket: &Path) -> io::Result<Registration> {
        let directory = make_registry()?;
        let short_cluster = cluster.get(..8).unwrap_or(cluster);
        let link = directory.join(format!("{short_cluster}-{name}.sock"));
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(socket, &link)?;
        Ok(Registration(link))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // A link that stays behind leads to a socket that nobody answers, and is skipped.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The sockets that daemons announced, by name; some may be dead.
pub fn announced() -> Vec<PathBuf> {
    let mut directories = vec![registry()];
    if !rustix::process::geteuid().is_root() {
        directories.push(PathBuf::from("/run/fusion"));
    }
    let mut sockets: Vec<PathBuf> = directories
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .collect();
    sockets.sort();
    sockets.dedup();
    sockets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nfusionists:x:7:\nfusion:x:42:alice\n";
        assert_eq!(group_id(groups, "fusion"), Some(42));
        assert_eq!(group_id(groups, "nobody"), None);
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("a deep directory");
        let path = deep.join("admin.sock");
        let _listener = listen(&path).await.expect("listens at a long path");
        connect(&path).await.expect("connects to a long path");
        let second = listen(&path).await.expect_err("the socket is in use");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("admin.sock");
        drop(listen(&path).await.expect("first daemon"));
        listen(&path).await.expect("second daemon takes the dead socket's place");
    }
}
