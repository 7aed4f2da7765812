//! How fast apply is in memory. Run with `--ignored --nocapture`; it asserts only that it ends.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "a measurement"]
fn creates_per_second() {
    const BATCH: u64 = 100;
    const BATCHES: u64 = 2_000;
    let mut ring = Ring::new();
    let mut commands = Vec::new();
    for number in 0..BATCH * BATCHES {
        let op = ring.make(&format!("/file-{number:08}"), Kind::File, 0o644, true);
        commands.push(ring.command(op));
    }
    let begin = Instant::now();
    for batch in commands.chunks(BATCH as usize) {
        let mut overlay = Overlay::new(&ring.tables);
        ring.gsn = ring.gsn.next();
        for command in batch {
            let applied = apply(&mut overlay, ring.gsn, command).expect("the tables are sound");
            assert!(matches!(applied.outcome, Some(Outcome::Made { created: true, .. })));
        }
        let changes = overlay.into_changes();
        ring.tables.absorb(changes);
    }
    let rate = (BATCH * BATCHES) as f64 / begin.elapsed().as_secs_f64();
    println!("{rate:.0} creates/s in one directory, in memory");
}
