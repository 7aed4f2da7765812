//! While an operation waits for the ring, everything else goes on.

use std::fs;

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
