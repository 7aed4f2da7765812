//! A mail directory: deliverers in two zones, a reader in the third; no message is lost, none
//! comes twice, none is seen before it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tests::cluster::Cluster;

use super::hand_over;

const MESSAGES: usize = 60;
const DELIVERERS: [(&str, &str); 4] =
    [("z1", "link"), ("z1", "rename"), ("z2", "link"), ("z2", "rename")];

#[test]
fn mail_delivered_in_two_zones_is_read_once_in_the_third() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1").join("mail");
    for name in ["", "tmp", "new", "cur"] {
        fs::create_dir(z1.join(name)).expect("a directory");
    }
    cluster.wait_for_equal_state();
    let delivered = AtomicBool::new(false);
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let dir = cluster.mount("z3").join("mail");
            let mut read = BTreeMap::new();
            loop {
                let last = delivered.load(Ordering::Acquire);
                collect(&dir, &mut read).expect("reading goes on");
                if last && read.len() == DELIVERERS.len() * MESSAGES {
                    return read;
                }
            }
        });
        let deliverers = DELIVERERS.map(|(zone, how)| {
            let dir = cluster.mount(zone).join("mail");
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    deliver(&dir, &format!("{number}.{how}.{zone}"), how).expect("delivery");
                }
            })
        });
        for deliverer in deliverers {
            deliverer.join().expect("a deliverer does not panic");
        }
        delivered.store(true, Ordering::Release);
        reader.join().expect("the reader does not panic")
    });
    for (name, times) in &read {
        assert_eq!(*times, 1, "{name} was read once");
    }
    hand_over(&cluster, "z3", "mail");
    for zone in ["z1", "z2", "z3"] {
        let count = |name: &str| {
            fs::read_dir(cluster.mount(zone).join("mail").join(name)).expect("readable").count()
        };
        let counts = ["tmp", "new", "cur"].map(count);
        assert_eq!(counts, [0, 0, DELIVERERS.len() * MESSAGES], "in {zone}");
    }
}

fn text(name: &str) -> String {
    format!("From: {name}\n\n{}", format!("a line of {name}\n").repeat(100))
}

/// As qmail and postfix deliver: written and synced below tmp, then named below new.
fn deliver(dir: &Path, name: &str, how: &str) -> io::Result<()> {
    let tmp = dir.join("tmp").join(name);
    let mut file = File::create_new(&tmp)?;
    file.write_all(text(name).as_bytes())?;
    file.sync_all()?;
    drop(file);
    let new = dir.join("new").join(name);
    match how {
        "link" => {
            fs::hard_link(&tmp, new)?;
            fs::remove_file(tmp)
        }
        _ => fs::rename(tmp, new),
    }
}

/// Reads what is new, and files it under cur.
fn collect(dir: &Path, read: &mut BTreeMap<String, usize>) -> io::Result<()> {
    for entry in fs::read_dir(dir.join("new"))? {
        let name = entry?.file_name().into_string().expect("plain names");
        let found = fs::read_to_string(dir.join("new").join(&name))?;
        assert!(found == text(&name), "{name} is whole: {} bytes", found.len());
        fs::rename(dir.join("new").join(&name), dir.join("cur").join(format!("{name}:2,S")))?;
        *read.entry(name).or_default() += 1;
    }
    Ok(())
}
