//! A call that waits for a majority can be interrupted, and what became of it is not hidden.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use tests::cluster::Cluster;
use tests::wait::{wait_for, wait_until};

#[test]
fn a_signal_ends_a_call_that_waits_for_a_majority() {
    let Some(cluster) = Cluster::start() else { return };
    let z3 = cluster.mount("z3");
    // The name is looked up, so that the kernel remembers that it is not there.
    assert!(!z3.join("late").exists());
    cluster.cut("z3");
    let mut waiting = Command::new("mkdir").arg(z3.join("late")).spawn().expect("mkdir starts");
    wait_until("the command is proposed", || {
        cluster.status("z3").is_some_and(|status| status["ring"]["pending"].as_u64() >= Some(1))
    });
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    let (status, _) = wait_for("mkdir ends", || waiting.try_wait().expect("its status"));
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    // It was proposed and happens later, here as everywhere.
    cluster.heal();
    for zone in ["z1", "z2", "z3"] {
        let late = cluster.mount(zone).join("late");
        wait_until("the directory is in every zone", || late.is_dir());
    }
    cluster.wait_for_equal_state();
}
