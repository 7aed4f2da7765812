//! Mount options, as mount(8) and /etc/fstab hand them over with `-o`.

use crate::ops::AtimeRule;

/// How the tree is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What df(1) and mountinfo show as the source.
    pub source: String,
    /// The tree to show; `None` = the root volume.
    pub volume: Option<String>,
    pub read_only: bool,
    pub no_exec: bool,
    pub no_suid: bool,
    pub no_dev: bool,
    /// When reading moves access times.
    pub atime: AtimeRule,
    /// Whether every look shows everything that was agreed before it, in whichever zone.
    pub strict: bool,
    /// Whether users other than the one who mounted may enter. `None`: yes when root mounts,
    /// no otherwise, because /etc/fuse.conf forbids it to others by default.
    pub allow_other: Option<bool>,
    /// Threads that take requests from the kernel; at least 2, because a notification can
    /// make the kernel ask something while it is delivered.
    pub threads: usize,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            source: "fusion".to_owned(),
            volume: None,
            read_only: false,
            no_exec: false,
            no_suid: false,
            no_dev: false,
            atime: AtimeRule::Relative,
            strict: false,
            allow_other: None,
            threads: THREADS,
        }
    }
}

/// Requests never wait inside these threads, so this follows the cores, not the load. More
/// than the cores of small machines, because a request may wait for the local disk.
const THREADS: usize = 4;
const THREADS_MAX: usize = 64;

/// Why a list of options is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("unknown mount option '{0}'; see `fusion mount --help`")]
    Unknown(String),
    #[error("mount option '{option}' needs {expected}")]
    Value { option: String, expected: &'static str },
}

impl MountOptions {
    /// Takes over a comma-separated list; later options win. Options that are meant for
    /// mount(8), systemd or other filesystems in general are accepted and change nothing.
    ///
    /// # Errors
    /// [`OptionsError`] names the first option that is not understood.
    pub fn add(&mut self, list: &str) -> Result<(), OptionsError> {
        for option in list.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (option, None),
            };
            match (key, value) {
                ("defaults", None) => {}
                ("ro", None) => self.read_only = true,
                ("rw", None) => self.read_only = false,
                ("exec", None) => self.no_exec = false,
                ("noexec", None) => self.no_exec = true,
                ("suid", None) => self.no_suid = false,
                ("nosuid", None) => self.no_suid = true,
                ("dev", None) => self.no_dev = false,
                ("nodev", None) => self.no_dev = true,
                ("relatime" | "atime" | "nostrictatime", None) => self.atime = AtimeRule::Relative,
                ("strictatime" | "norelatime", None) => self.atime = AtimeRule::Strict,
                ("noatime", None) => self.atime = AtimeRule::Never,
                // As mount(8): what any user may mount brings no privileges and no devices.
                ("user" | "users" | "owner" | "group", _) => {
                    self.no_exec = true;
                    self.no_suid = true;
                    self.no_dev = true;
                }
                ("consistency", Some("strict")) => self.strict = true,
                ("consistency", Some("local")) => self.strict = false,
                ("consistency", _) => {
                    let (option, expected) = (option.to_owned(), "`strict` or `local`");
                    return Err(OptionsError::Value { option, expected });
                }
                ("allow_other", None) => self.allow_other = Some(true),
                ("noallow_other", None) => self.allow_other = Some(false),
                ("fsname" | "source", Some(name)) => self.source = name.to_owned(),
                ("volume", Some(name)) => self.volume = Some(name.to_owned()),
                ("threads", value) => {
                    self.threads = value
                        .and_then(|value| value.parse().ok())
                        .filter(|threads| (2..=THREADS_MAX).contains(threads))
                        .ok_or(OptionsError::Value {
                            option: option.to_owned(),
                            expected: "a number from 2 to 64",
                        })?;
                }
                _ if is_for_others(key) => {}
                _ => return Err(OptionsError::Unknown(option.to_owned())),
            }
        }
        Ok(())
    }

    /// Reads a comma-separated list.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn parse(list: &str) -> Result<MountOptions, OptionsError> {
        let mut options = MountOptions::default();
        options.add(list)?;
        Ok(options)
    }
}

/// Options that fstab lines carry for mount(8) and systemd, or that ask for what this tree does
/// anyway: directories have no access times of their own.
fn is_for_others(key: &str) -> bool {
    let known = [
        "_netdev",
        "nofail",
        "auto",
        "noauto",
        "nouser",
        "noowner",
        "nogroup",
        "diratime",
        "nodiratime",
        "lazytime",
        "nolazytime",
        "async",
        "sync",
        "dirsync",
        "iversion",
        "noiversion",
        "mand",
        "nomand",
        "silent",
        "loud",
        // What the kernel shows of a FUSE mount, and so mount(8) hands back at a remount.
        "default_permissions",
        "user_id",
        "group_id",
        "max_read",
        "blksize",
        "subtype",
        "comment",
    ];
    known.contains(&key) || key.starts_with("x-") || key.starts_with("X-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_fstab_line_is_understood() {
        let options =
            MountOptions::parse("defaults,ro,_netdev,nofail,x-systemd.requires=a.service,noatime")
                .unwrap();
        let atime = AtimeRule::Never;
        assert_eq!(options, MountOptions { read_only: true, atime, ..MountOptions::default() });
    }

    #[test]
    fn later_options_win() {
        let options = MountOptions::parse("ro,nosuid,rw,users,exec,allow_other").unwrap();
        assert!(!options.read_only && !options.no_exec);
        assert!(options.no_suid && options.no_dev);
        assert_eq!(options.allow_other, Some(true));
    }

    #[test]
    fn unknown_options_and_bad_values_are_named() {
        assert_eq!(MountOptions::parse("ro,turbo"), Err(OptionsError::Unknown("turbo".to_owned())));
        for bad in ["threads", "threads=1", "threads=many", "threads=65"] {
            assert!(matches!(MountOptions::parse(bad), Err(OptionsError::Value { .. })), "{bad}");
        }
        for bad in ["consistency", "consistency=some"] {
            assert!(matches!(MountOptions::parse(bad), Err(OptionsError::Value { .. })), "{bad}");
        }
        assert!(MountOptions::parse("consistency=strict").unwrap().strict);
        assert!(!MountOptions::parse("consistency=strict,consistency=local").unwrap().strict);
        assert_eq!(MountOptions::parse("threads=8,source=photos").unwrap().threads, 8);
    }
}
