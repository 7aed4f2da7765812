//! Whether this user can mount, and what earlier mounts left behind.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, Verdict};
use crate::mount_table;

/// Whether this user can mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FuseAccess {
    Allowed,
    /// Why not, and what to do.
    Forbidden {
        detail: String,
        fix: String,
    },
}

/// Opens /dev/fuse and looks for fusermount3, as a mount would.
pub fn fuse_access() -> FuseAccess {
    let findings = [device(), helper()];
    match findings.into_iter().find(|finding| finding.verdict == Verdict::Bad) {
        Some(finding) => FuseAccess::Forbidden { detail: finding.detail, fix: finding.fix },
        None => FuseAccess::Allowed,
    }
}

pub fn examine() -> Vec<Finding> {
    let mut findings = vec![device(), helper(), configuration()];
    findings.extend(mounts());
    findings
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn device() -> Finding {
    const DEVICE: &str = "/dev/fuse";
    match std::fs::File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => Finding::good(DEVICE, "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::wrong(
            Verdict::Bad,
            DEVICE,
            "/dev/fuse may not be opened by this user",
            "as root: chmod 0666 /dev/fuse   (or run as root)",
        ),
        Err(error) => Finding::wrong(
            Verdict::Bad,
            DEVICE,
            format!("/dev/fuse cannot be opened: {error}"),
            "as root: modprobe fuse   (in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN)",
        ),
    }
}

/// Root mounts by itself; everybody else needs the set-uid helper.
fn helper() -> Finding {
    const SUBJECT: &str = "fusermount3";
    let Some(path) = find_program(SUBJECT) else {
        let verdict = if is_root() { Verdict::Doubtful } else { Verdict::Bad };
        return Finding::wrong(
            verdict,
            SUBJECT,
            "fusermount3 is not installed: only root can mount",
            "as root: apt-get install fuse3",
        );
    };
    let set_uid =
        std::fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o4000 != 0 && meta.uid() == 0);
    if set_uid {
        Finding::good(SUBJECT, format!("{} is set-uid root", path.display()))
    } else {
        let verdict = if is_root() { Verdict::Doubtful } else { Verdict::Bad };
        Finding::wrong(
            verdict,
            SUBJECT,
            format!("{} is not set-uid root: only root can mount", path.display()),
            format!("as root: chown root {0} && chmod u+s {0}", path.display()),
        )
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places)
        .chain([PathBuf::from("/bin"), PathBuf::from("/usr/bin")])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

fn configuration() -> Finding {
    const FILE: &str = "/etc/fuse.conf";
    let permits = std::fs::read_to_string(FILE).is_ok_and(|text| permits_allow_other(&text));
    match (permits, is_root()) {
        (true, _) => Finding::good(FILE, "users may let other users use their mounts"),
        (false, true) => Finding::good(FILE, "only root's mounts are for other users"),
        (false, false) => Finding::wrong(
            Verdict::Doubtful,
            FILE,
            "this user's mounts are only for this user, not even for root",
            "as root: echo user_allow_other >> /etc/fuse.conf",
        ),
    }
}

/// Whether fuse.conf has the line `user_allow_other`.
fn permits_allow_other(text: &str) -> bool {
    text.lines().any(|line| line.trim() == "user_allow_other")
}

fn mounts() -> Vec<Finding> {
    let mounts = match mount_table::ours() {
        Ok(mounts) => mounts,
        Err(error) => {
            return vec![Finding::wrong(
                Verdict::Doubtful,
                "mounts",
                format!("cannot be listed: {error}"),
                "mount -t proc proc /proc",
            )];
        }
    };
    mounts.iter().map(|mount| one_mount(&mount.directory)).collect()
}

fn one_mount(directory: &Path) -> Finding {
    let subject = format!("mount {}", directory.display());
    if mount_table::is_dead(directory) {
        let fix = format!(
            "fusion umount --lazy {}   (the next start of its daemon does it too)",
            directory.display()
        );
        Finding::wrong(Verdict::Bad, subject, "its daemon is gone", fix)
    } else {
        Finding::good(subject, "answers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commented_line_permits_nothing() {
        assert!(!permits_allow_other("#user_allow_other\n# user_allow_other allows ...\n"));
        assert!(permits_allow_other("mount_max = 10\n user_allow_other \n"));
    }
}
