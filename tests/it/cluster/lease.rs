//! Zones that are silent for longer than their lease: what others get, and what they find when
//! they are back. docs/SEMANTICS.md, *Leases*.

use std::fs::{self, File};
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use rustix::fs::{FlockOperation, flock};
use tests::cluster::Cluster;
use tests::wait::{PATIENCE, wait_until};

use super::locks::{A_WHILE, locker, lockers};

/// Runs `call` on a thread of its own.
fn begin<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, answer) = channel();
    std::thread::spawn(move || sender.send(call()));
    answer
}

fn conflicts(cluster: &Cluster, zone: &str) -> Vec<serde_json::Value> {
    // Exit code 3 says that there are some.
    let run = cluster.fusion(zone, &["--json", "conflicts"]);
    let list = serde_json::from_str::<serde_json::Value>(&run.stdout).expect("a list in JSON");
    list.as_array().expect("a list").clone()
}

/// Its locks, the locks that it kept and its write tokens are free for who asks, and nothing
/// else; what it had synced and published to nobody is kept as a conflict.
#[test]
fn what_a_dead_zone_had_goes_to_who_asks_for_it() {
    let Some(cluster) = Cluster::start() else { return };
    let [mut one, mut two, mut three] = lockers(&cluster, "agreed");
    let [mut kept, ..] = lockers(&cluster, "kept");
    let [.., untouched] = lockers(&cluster, "untouched");
    assert_eq!(two.ask("posix x 5 1"), "ok");
    assert_eq!(one.ask("posix x 0 1"), "ok");
    assert_eq!(kept.ask("posix x 0 0"), "ok");
    for name in ["written", "untouched"] {
        fs::write(cluster.mount("z1").join(name), "first\n").expect("z1 writes");
    }
    cluster.wait_for_equal_state();
    cluster.cut("z1");
    for name in ["written", "untouched"] {
        let path = cluster.mount("z1").join(name);
        let mut file = File::options().append(true).open(path).expect("z1 has the token");
        file.write_all(b"of z1, unpublished\n").expect("a line");
        file.sync_all().expect("z1's disk works");
    }
    cluster.kill("z1");
    cluster.heal();
    drop((one, kept, untouched));

    // A waiter, who asks once for all, a keeper's place, and the write token.
    two.begin("posix x 0 1 wait");
    let mut other = locker(&cluster, "z2", "kept");
    other.begin("posix x 0 0 wait");
    let path = cluster.mount("z3").join("written");
    let appended = begin(move || {
        let mut file = File::options().append(true).open(path)?;
        file.write_all(b"of z3\n")
    });
    assert_eq!(three.ask("posix x 0 1"), "EAGAIN", "it is z1's still");
    assert_eq!(two.answer(), "ok");
    assert_eq!(other.answer(), "ok");
    appended.recv_timeout(PATIENCE).expect("it ends").expect("z3 appends");
    // Nobody waits any more, and who only asks gets it as well.
    let mut asks = locker(&cluster, "z3", "kept");
    assert_eq!(asks.ask("posix x 0 0"), "EAGAIN", "z2 has it");
    assert_eq!(three.ask("posix x 5 1"), "EAGAIN", "z2 is alive");
    assert_eq!(two.ask("posix u 0 0"), "ok");
    assert_eq!(three.ask("posix x 0 0"), "ok");

    cluster.start_missing();
    cluster.wait_for_equal_state();
    for (name, expected) in
        [("written", "first\nof z3\n"), ("untouched", "first\nof z1, unpublished\n")]
    {
        for zone in ["z1", "z2", "z3"] {
            let path = cluster.mount(zone).join(name);
            wait_until(&format!("{name} is whole in {zone}"), || {
                fs::read_to_string(&path).is_ok_and(|text| text == expected)
            });
        }
    }
    wait_until("z1 keeps what came too late", || !conflicts(&cluster, "z1").is_empty());
    let kept = conflicts(&cluster, "z1");
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0]["path"], "/written", "{kept:?}");
    let place = kept[0]["kept_at"].as_str().expect("a path");
    let bytes = fs::read_to_string(place).expect("it is there");
    assert_eq!(bytes, "first\nof z1, unpublished\n");
    assert_eq!(three.ask("posix u 0 0"), "ok");
}

/// Programs of a zone that is cut off for longer than its lease wait, and go on as if nothing had
/// been where nobody else wanted anything. Where somebody did, they are told.
#[test]
fn a_zone_cut_off_for_longer_than_its_lease_goes_on_where_nobody_else_did() {
    let Some(cluster) = Cluster::start() else { return };
    let z3 = cluster.mount("z3");
    for name in ["wanted", "own", "kept"] {
        fs::write(z3.join(name), "first;").expect("z3 writes");
        cluster.wait_for_path("z1", name);
    }
    cluster.wait_for_equal_state();
    // What a quiet zone holds it keeps, because its node renews its lease.
    let [mut waits, mut quiet, _] = lockers(&cluster, "quiet");
    assert_eq!(quiet.ask("posix x 0 1"), "ok");
    assert_eq!(waits.ask("posix x 0 1"), "EAGAIN");
    waits.begin("posix x 0 1 wait");
    let append = |name: &str| {
        File::options().read(true).append(true).open(z3.join(name)).expect("z3 has the token")
    };
    let (mut wanted, mut own) = (append("wanted"), append("own"));
    for file in [&wanted, &own] {
        flock(file, FlockOperation::LockExclusive).expect("a lock that z3 keeps");
    }
    let mut kept = locker(&cluster, "z3", "kept");
    assert_eq!(kept.ask("posix x 0 1"), "ok");
    assert_eq!(kept.ask("posix u 0 1"), "ok");
    cluster.cut("z3");
    wanted.write_all(b"too late;").expect("its lease stands");
    assert_eq!(kept.ask("posix x 1 1"), "ok", "it is the keeper, and its lease stands");

    // z1 gets the lock when the lease has ended, and with it the file.
    let mut one = locker(&cluster, "z1", "wanted");
    assert_eq!(one.ask("flock x wait"), "ok");
    assert_eq!(one.ask("append of_z1"), "ok");
    assert_eq!(waits.answer_within(A_WHILE), None);
    drop(quiet);
    assert_eq!(waits.answer(), "ok");

    // In z3 no lock is granted and nothing written any more.
    kept.begin("posix x 2 1");
    assert_eq!(kept.answer_within(A_WHILE), None);
    assert_eq!(fs::read_to_string(z3.join("own")).expect("z3 reads"), "first;");
    let appended = begin(move || (own.write_all(b"in time;"), own));
    let nothing = appended.recv_timeout(A_WHILE).err();
    assert_eq!(nothing, Some(RecvTimeoutError::Timeout));
    cluster.heal();
    assert_eq!(kept.answer(), "ok");
    let (written, own) = appended.recv_timeout(PATIENCE).expect("it ends");
    written.expect("nobody else wanted it");
    flock(&own, FlockOperation::NonBlockingLockExclusive).expect("it has the lock still");
    let mut two = locker(&cluster, "z2", "own");
    assert_eq!(two.ask("flock x"), "EAGAIN", "the lock is z3's still");
    drop(own);
    assert_eq!(two.ask("flock x wait"), "ok");
    assert_eq!(two.ask("read"), "first;in time;");

    // The lock and the bytes of the other file are lost, and this handle says so.
    cluster.wait_for_equal_state();
    let error = wanted.write_all(b"more;").expect_err("the lock is z1's");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    let error = wanted.sync_all().expect_err("what it wrote is lost");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    drop(wanted);
    wait_until("z3 keeps what came too late", || !conflicts(&cluster, "z3").is_empty());
    let mut again = locker(&cluster, "z3", "wanted");
    assert_eq!(again.ask("flock x"), "EAGAIN", "z1 has it");
    assert_eq!(one.ask("flock u"), "ok");
    assert_eq!(again.ask("flock x wait"), "ok");
    assert_eq!(again.ask("append again"), "ok");
    let text = fs::read_to_string(z3.join("wanted")).expect("z3 reads");
    assert!(!text.contains("too late") && text.ends_with("again"), "{text:?}");
    wait_until("all zones have the same", || {
        let of = |zone: &str| fs::read_to_string(cluster.mount(zone).join("wanted")).ok();
        of("z1") == Some(text.clone()) && of("z2") == Some(text.clone())
    });
}
