//! Something like a process: a thread with its own user, umask, working directory and files.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::call::{Call, SLOTS};

/// Runs calls, one after the other.
pub struct Process {
    calls: Sender<Call>,
    answers: Receiver<Answer>,
}

/// What a call says, as far as POSIX decides it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Names(BTreeSet<Vec<u8>>),
    Stat {
        mode: u32,
        links: u64,
        uid: u32,
        gid: u32,
        size: u64,
    },
    Errno(i32),
    /// The slot has no open file.
    Nothing,
}

impl Process {
    /// A process of the user and group `id`, in `directory`.
    pub fn start(directory: PathBuf, id: u32) -> Process {
        let (calls, inbox) = channel::<Call>();
        let (outbox, answers) = channel();
        std::thread::spawn(move || {
            become_user(&directory, id);
            let mut files: [Option<OwnedFd>; SLOTS] = Default::default();
            for call in inbox {
                let answer = run(&call, &mut files);
                let answer = answer.unwrap_or_else(|error| {
                    Answer::Errno(error.raw_os_error().expect("the kernel's errors have numbers"))
                });
                if outbox.send(answer).is_err() {
                    return;
                }
            }
        });
        Process { calls, answers }
    }

    pub fn run(&self, call: &Call) -> Answer {
        self.calls.send(call.clone()).expect("the process lives");
        self.answers.recv().expect("the process answers")
    }
}

/// Of this thread alone: libc's own calls would change all of them.
fn become_user(directory: &std::path::Path, id: u32) {
    let directory = CString::new(directory.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: plain system calls on this thread's own state; the path ends with a NUL.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_FS), 0, "unshare: {}", io::Error::last_os_error());
        assert_eq!(libc::chdir(directory.as_ptr()), 0, "chdir: {}", io::Error::last_os_error());
        libc::umask(0o022);
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
        libc::syscall(libc::SYS_setfsgid, id);
        // Takes the capabilities over files away, too.
        libc::syscall(libc::SYS_setfsuid, id);
    }
}

fn run(call: &Call, files: &mut [Option<OwnedFd>; SLOTS]) -> io::Result<Answer> {
    let file = |slot: &usize| files[*slot].as_ref().map(|file| file.as_raw_fd());
    match call {
        Call::Open { slot, path, flags, mode } => {
            let path = text(path);
            // SAFETY: the path ends with a NUL.
            let fd = unsafe { libc::open(path.as_ptr(), *flags | libc::O_CLOEXEC, *mode) };
            number(fd.into())?;
            // SAFETY: it was just opened, and nobody else has it.
            files[*slot] = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(Answer::Done)
        }
        Call::Close { slot } => {
            files[*slot] = None;
            Ok(Answer::Done)
        }
        Call::Umask { mask } => {
            // SAFETY: changes a number of this thread.
            unsafe { libc::umask(*mask) };
            Ok(Answer::Done)
        }
        Call::Read { slot, .. }
        | Call::ReadAt { slot, .. }
        | Call::Write { slot, .. }
        | Call::WriteAt { slot, .. }
        | Call::Seek { slot, .. }
        | Call::TruncateOpen { slot, .. }
        | Call::ChmodOpen { slot, .. }
        | Call::StatOpen { slot }
        | Call::Sync { slot } => match file(slot) {
            Some(fd) => on_file(call, fd),
            None => Ok(Answer::Nothing),
        },
        _ => on_path(call),
    }
}

fn on_file(call: &Call, fd: i32) -> io::Result<Answer> {
    match call {
        Call::Read { len, .. } => {
            let mut bytes = vec![0; *len];
            // SAFETY: the buffer has that length.
            let read = number(unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), *len) } as i64)?;
            bytes.truncate(read as usize);
            Ok(Answer::Bytes(bytes))
        }
        Call::ReadAt { offset, len, .. } => {
            let mut bytes = vec![0; *len];
            let read = borrowed(fd).read_at(&mut bytes, *offset)?;
            bytes.truncate(read);
            Ok(Answer::Bytes(bytes))
        }
        Call::Write { len, fill, .. } => {
            let bytes = vec![*fill; *len];
            // SAFETY: the buffer has that length.
            let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), *len) };
            Ok(Answer::Number(number(written as i64)?))
        }
        Call::WriteAt { offset, len, fill, .. } => {
            let written = borrowed(fd).write_at(&vec![*fill; *len], *offset)?;
            Ok(Answer::Number(written as u64))
        }
        Call::Seek { offset, whence, .. } => {
            // Positions in a directory mean something only to their own filesystem.
            let is_directory = borrowed(fd).metadata()?.is_dir();
            if is_directory && *whence != libc::SEEK_SET {
                return Ok(Answer::Nothing);
            }
            // SAFETY: plain system call.
            Ok(Answer::Number(number(unsafe { libc::lseek(fd, *offset, *whence) })?))
        }
        Call::TruncateOpen { size, .. } => {
            // SAFETY: plain system call.
            number(unsafe { libc::ftruncate(fd, *size as i64) }.into()).map(|_| Answer::Done)
        }
        Call::ChmodOpen { mode, .. } => {
            // SAFETY: plain system call.
            number(unsafe { libc::fchmod(fd, *mode) }.into()).map(|_| Answer::Done)
        }
        Call::StatOpen { .. } => Ok(stat(&borrowed(fd).metadata()?)),
        Call::Sync { .. } => borrowed(fd).sync_all().map(|()| Answer::Done),
        other => panic!("{other:?} is about a path"),
    }
}

fn on_path(call: &Call) -> io::Result<Answer> {
    // SAFETY (all of these): paths and names end with a NUL, buffers have their length.
    let code = unsafe {
        match call {
            Call::Truncate { path, size } => libc::truncate(text(path).as_ptr(), *size as i64),
            Call::Unlink { path } => libc::unlink(text(path).as_ptr()),
            Call::Rmdir { path } => libc::rmdir(text(path).as_ptr()),
            Call::Mkdir { path, mode } => libc::mkdir(text(path).as_ptr(), *mode),
            Call::Rename { from, to, flags } => {
                let (from, to) = (text(from), text(to));
                let (from, to) = (from.as_ptr(), to.as_ptr());
                libc::renameat2(libc::AT_FDCWD, from, libc::AT_FDCWD, to, *flags)
            }
            Call::Link { from, to } => libc::link(text(from).as_ptr(), text(to).as_ptr()),
            Call::Symlink { path, to } => libc::symlink(text(to).as_ptr(), text(path).as_ptr()),
            Call::Chmod { path, mode } => libc::chmod(text(path).as_ptr(), *mode),
            Call::Chown { path, uid, gid } => libc::lchown(text(path).as_ptr(), *uid, *gid),
            Call::Access { path, mode } => {
                libc::faccessat(libc::AT_FDCWD, text(path).as_ptr(), *mode, libc::AT_EACCESS)
            }
            Call::SetXattr { path, name, value, flags } => libc::setxattr(
                text(path).as_ptr(),
                xattr(*name).as_ptr(),
                std::ptr::from_ref(value).cast(),
                1,
                *flags,
            ),
            Call::RemoveXattr { path, name } => {
                libc::removexattr(text(path).as_ptr(), xattr(*name).as_ptr())
            }
            Call::GetXattr { path, name } => {
                let mut value = [0_u8; 8];
                let (path, name) = (text(path), xattr(*name));
                let got =
                    libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), 8);
                return Ok(Answer::Bytes(value[..number(got as i64)? as usize].to_vec()));
            }
            Call::ReadLink { path } => {
                let target = fs::read_link(path)?;
                return Ok(Answer::Bytes(target.into_os_string().into_encoded_bytes()));
            }
            Call::Stat { path, follow: true } => return Ok(stat(&fs::metadata(path)?)),
            Call::Stat { path, follow: false } => return Ok(stat(&fs::symlink_metadata(path)?)),
            Call::List { path } => {
                let names = fs::read_dir(path)?
                    .map(|entry| Ok(entry?.file_name().into_encoded_bytes()))
                    .collect::<io::Result<Vec<_>>>()?;
                let count = names.len();
                let names: BTreeSet<_> = names.into_iter().collect();
                assert_eq!(names.len(), count, "a name is listed twice");
                return Ok(Answer::Names(names));
            }
            other => panic!("{other:?} is about an open file"),
        }
    };
    number(code.into()).map(|_| Answer::Done)
}

/// Sizes of directories are the filesystem's own.
fn stat(metadata: &fs::Metadata) -> Answer {
    Answer::Stat {
        mode: metadata.mode(),
        links: metadata.nlink(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: if metadata.is_dir() { 0 } else { metadata.len() },
    }
}

fn number(code: i64) -> io::Result<u64> {
    u64::try_from(code).map_err(|_| io::Error::last_os_error())
}

fn text(path: &str) -> CString {
    CString::new(path).expect("no NUL")
}

fn xattr(name: u8) -> CString {
    text(&format!("user.{name}"))
}

/// The file behind a descriptor that somebody else closes.
fn borrowed(fd: i32) -> std::mem::ManuallyDrop<fs::File> {
    // SAFETY: it is open, and never closed through this.
    std::mem::ManuallyDrop::new(unsafe { fs::File::from_raw_fd(fd) })
}
