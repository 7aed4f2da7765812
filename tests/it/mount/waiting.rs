//! While an operation waits for the ring, everything else goes on.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::Rig;

#[test]
fn more_waiting_operations_than_threads_hold_up_no_read() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    fs::write(rig.at("f"), "text").unwrap();
    for i in 0..40 {
        fs::create_dir(rig.at(&format!("d/{i}"))).unwrap();
    }
    let stopped = rig.ring.stop_order();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..40)
            .map(|i| {
                let path = rig.at(&format!("d/{i}/x"));
                scope.spawn(move || fs::create_dir(path))
            })
            .collect();
        for i in 0..200 {
            assert_eq!(fs::read(rig.at("f")).unwrap(), b"text");
            assert!(fs::metadata(rig.at(&format!("none{i}"))).is_err());
        }
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        drop(stopped);
        for waiting in waiting {
            waiting.join().unwrap().unwrap();
        }
    });
}

/// A directory that a waiting operation keeps locked holds up no news of other directories.
#[test]
fn a_locked_directory_holds_up_no_other_s_invalidation() {
    let Some(rig) = Rig::new() else { return };
    for directory in ["locked", "other"] {
        fs::create_dir(rig.at(directory)).unwrap();
        assert!(fs::metadata(rig.at(&format!("{directory}/new"))).is_err());
    }
    let ino = rig.ino("locked").unwrap();
    // Found while the order stands still: the kernel keeps the directory locked for it.
    let stopped = rig.ring.stop_order();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fs::create_dir(rig.at("locked/mine")));
        super::eventually("the create is on its way", || rig.ring.waiting() > 0);
        rig.kernel_hears_entry(ino, "new");
        rig.kernel_hears_entry(rig.ino("other").unwrap(), "new");
        super::eventually("the other directory is asked again", || {
            let before = rig.ring.looks();
            assert!(fs::metadata(rig.at("other/new")).is_err());
            rig.ring.looks() > before
        });
        drop(stopped);
        waiting.join().unwrap().unwrap();
    });
}

/// The signal ends the call; what it wanted happens all the same, and is seen.
#[test]
fn a_signal_ends_a_waiting_call() {
    let Some(rig) = Rig::new() else { return };
    // The kernel remembers that the names lead nowhere.
    for name in ["ended", "handled"] {
        assert!(fs::metadata(rig.at(name)).is_err());
    }
    let stopped = rig.ring.stop_order();
    let mut ended = Command::new("mkdir").arg(rig.at("ended")).spawn().unwrap();
    super::eventually("mkdir waits", || rig.ring.waiting() > 0);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&ended),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(ended.wait().unwrap().signal(), Some(libc::SIGTERM));

    extern "C" fn handled(_: libc::c_int) {}
    // Safety: the handler does nothing, and this signal means nothing to anybody here.
    unsafe { libc::signal(libc::SIGUSR2, handled as *const () as libc::sighandler_t) };
    std::thread::scope(|scope| {
        let (tell, thread) = std::sync::mpsc::channel();
        let path = rig.at("handled");
        let call = scope.spawn(move || {
            // Safety: names this thread.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            fs::create_dir(path)
        });
        let thread = thread.recv().unwrap();
        super::eventually("another call waits", || rig.ring.waiting() > 1);
        // Safety: the thread is not joined yet.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR2) }, 0);
        assert_eq!(super::errno(call.join().unwrap()), libc::EINTR);
    });
    drop(stopped);
    for name in ["ended", "handled"] {
        super::eventually("it is there after all", || fs::metadata(rig.at(name)).is_ok());
    }
}

/// Timers of a program must not end its calls: what is stopped goes on where it was.
#[test]
fn a_stopped_program_goes_on_waiting() {
    let Some(rig) = Rig::new() else { return };
    let stopped = rig.ring.stop_order();
    let mut program = Command::new("mkdir").arg(rig.at("d")).spawn().unwrap();
    super::eventually("mkdir waits", || rig.ring.waiting() > 0);
    let signal = |signal| {
        let pid = rustix::process::Pid::from_child(&program);
        rustix::process::kill_process(pid, signal).unwrap();
    };
    signal(rustix::process::Signal::STOP);
    signal(rustix::process::Signal::CONT);
    // Longer than a call must wait before a signal ends it.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(program.try_wait().unwrap().is_none());
    drop(stopped);
    assert!(program.wait().unwrap().success());
    assert!(rig.at("d").is_dir());
}
