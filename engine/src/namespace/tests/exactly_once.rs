//! Duplicates, gaps, boots, and what refusals leave behind.

use super::*;

fn mkdir(ring: &mut Ring, name: &str) -> Op {
    ring.make(&format!("/{name}"), Kind::Directory, 0o755, true)
}

#[test]
fn a_duplicate_changes_nothing_and_has_the_first_outcome() {
    let mut ring = Ring::new();
    let op = mkdir(&mut ring, "a");
    let first = ring.command(op);
    let applied = ring.deliver(&first);
    let op = mkdir(&mut ring, "a");
    let refused = ring.command(op);
    ring.deliver(&refused);
    let before = ring.tables.clone();
    assert_eq!(
        ring.deliver(&first),
        Applied { outcome: applied.outcome, fresh: false, touched: Vec::new() }
    );
    let exists = Some(Outcome::Refused(Refusal::Exists));
    assert_eq!(ring.deliver(&refused).outcome, exists);
    assert_eq!(ring.view().outcome_of(refused.id).expect("is sound"), exists);
    assert_eq!(ring.tables, before);
}

#[test]
fn a_gap_is_skipped_until_it_is_filled() {
    let mut ring = Ring::new();
    let ops = [mkdir(&mut ring, "a"), mkdir(&mut ring, "b")];
    let [first, second] = ops.map(|op| ring.command(op));
    let before = ring.tables.clone();
    let skipped = Applied { outcome: None, fresh: false, touched: Vec::new() };
    assert_eq!(ring.deliver(&second), skipped);
    assert_eq!(ring.tables, before);
    assert!(ring.deliver(&first).fresh);
    assert!(ring.deliver(&second).fresh);
}

#[test]
fn a_new_boot_begins_at_one_and_ends_the_old_one() {
    let mut ring = Ring::new();
    let op = mkdir(&mut ring, "a");
    let old = ring.command(op);
    let boot = |seq| OpId { origin: NodeId(1), boot: 2, seq };
    let command = |ring: &mut Ring, name, id| Command { id, op: mkdir(ring, name), ..old.clone() };
    let late = command(&mut ring, "b", boot(2));
    let first = command(&mut ring, "c", boot(1));
    assert_eq!(ring.deliver(&late).outcome, None);
    assert!(ring.deliver(&first).fresh);
    assert!(ring.deliver(&late).fresh);
    let before = ring.tables.clone();
    assert_eq!(ring.deliver(&old).outcome, None);
    assert_eq!(ring.tables, before);
    let zero = command(&mut ring, "d", OpId { origin: NodeId(1), boot: 3, seq: 0 });
    assert_eq!(ring.deliver(&zero).outcome, None);
    assert_eq!(ring.tables, before);
    assert_eq!(
        ring.view().origin(NodeId(1)).expect("is sound"),
        Some(Origin { boot: 2, last_seq: 2 })
    );
}

#[test]
fn outcomes_are_kept_for_the_last_commands_only() {
    let mut ring = Ring::new();
    let first = ring.command(Op::Noop);
    ring.deliver(&first);
    for _ in 1..OUTCOMES_KEPT {
        ring.succeed(Op::Noop);
    }
    assert_eq!(ring.deliver(&first).outcome, Some(Outcome::Done));
    ring.succeed(Op::Noop);
    assert_eq!(ring.deliver(&first).outcome, None);
    invariants(&ring.tables);
}

#[test]
fn a_refusal_moves_only_the_sequence() {
    let mut ring = check("mkdir /a; mkdir /a/b");
    let before = ring.tables.clone();
    ring.statement("rmdir /a = NotEmpty");
    assert!(ring.touched.is_empty());
    let changed = ring.tables.0.iter().filter(|(key, value)| before.0.get(*key) != Some(value));
    let tables: String = changed.map(|(key, _)| char::from(key[0])).collect();
    assert_eq!(tables, "ORS");
}

#[test]
fn strangers_are_refused_and_counted() {
    let mut ring = Ring::new();
    ring.node = NodeId(9);
    let op = mkdir(&mut ring, "a");
    let command = ring.command(op);
    let refused = Some(Outcome::Refused(Refusal::NotPermitted));
    let applied = ring.deliver(&command);
    assert_eq!((applied.outcome, applied.fresh), (refused.clone(), true));
    let applied = ring.deliver(&command);
    assert_eq!((applied.outcome, applied.fresh), (refused, false));
    invariants(&ring.tables);
}

#[test]
fn versions_of_one_agreement_differ() {
    let mut ring = check("create /f");
    let first = ring.publish("/f", 10, Version(0));
    let first = ring.command(first);
    let Some(Outcome::Published(version)) = ring.deliver(&first).outcome else {
        panic!("it is published");
    };
    assert_eq!(version.0, ring.gsn.0);
    let second = ring.publish("/f", 20, version);
    let second = ring.command(second);
    ring.gsn = Gsn(version.0);
    let applied = ring.deliver(&second);
    assert_eq!(applied.outcome, Some(Outcome::Published(Version(version.0 + 1))));
}

#[test]
fn inode_numbers_are_the_origins_own_and_new() {
    let mut ring = check("create /f");
    let taken = ring.ino("/f");
    for (ino, refusal) in [
        (taken, Refusal::IdInUse),
        (Ino::ROOT, Refusal::Invalid),
        (Ino(0), Refusal::Invalid),
        (Ino(u64::MAX), Refusal::Invalid),
        (Ino::of(NodeId(2), 99), Refusal::Invalid),
    ] {
        let Op::Make { parent, name, kind, mode, exclusive, umask, .. } = mkdir(&mut ring, "d")
        else {
            panic!("mkdir is a make");
        };
        let outcome = ring.run(Op::Make { parent, name, ino, kind, mode, exclusive, umask });
        assert_eq!(outcome, Outcome::Refused(refusal));
    }
}

#[test]
fn broken_rows_are_errors() {
    let ring = check("mkdir /a; create /a/f; setx /a/f user.x 1");
    for key in ring.tables.0.keys() {
        for broken in [&b""[..], b"\x01", b"\x02abc", &[0xff; 40]] {
            let mut tables = ring.tables.clone();
            tables.0.insert(key.clone(), broken.to_vec());
            let view = View(&tables);
            let parent = ring.ino("/a");
            let name = Name::parse(b"f").expect("it is a name");
            let _ = (view.read_dir(parent, 0, 9), view.members(), view.state_hash());
            let _ = (view.xattr(ring.ino("/a/f"), b"user.x"), view.held(), view.volume_key());
            let _ = recompute(&tables);
            let id = OpId { origin: NodeId(1), boot: 1, seq: ring.last_seqs[&NodeId(1)] + 1 };
            let command = Command {
                id,
                time: Timestamp::new(1, 0),
                cred: Cred::SYSTEM,
                op: Op::Unlink { parent, name },
            };
            let mut overlay = Overlay::new(&tables);
            let applied = apply(&mut overlay, ring.gsn.next(), &command);
            assert!(applied.is_ok() || overlay.changes().is_empty());
        }
    }
}
