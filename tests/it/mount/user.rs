//! Calls of other users.

/// Runs `run` as another user, on a thread with a umask of its own; for root only.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], run: impl FnOnce() -> T + Send) -> T {
    let run = || {
        // Safety: plain system calls. The C library's functions would change all threads.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_FS), 0);
            let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
            assert_eq!(set, 0);
            assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
            assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
        }
        run()
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("the user's calls do not panic"))
}
