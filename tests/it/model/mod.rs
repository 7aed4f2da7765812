//! Any sequence of operations: the namespace gives the errno and the tree of a plain POSIX
//! model that knows nothing of its tables.
//!
//! Operations name inodes that exist, that existed, and that never did, since a node's kernel
//! may hold any of them when its command is agreed. `PROPTEST_CASES` scales the number of
//! sequences.

mod compare;
mod handles;
mod mounted;
mod operation;
mod posix;

use engine::command::{Command, Member, MemberRole, Op};
use engine::ids::{Gsn, Ino, NodeId, OpId, Version, ZoneId};
use engine::namespace::{MemoryTables, Overlay, View, VolumeParams, apply, genesis, recompute};
use engine::outcome::Outcome;
use engine::time::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use compare::{compare_outcome, compare_tree};
use operation::{Operation, operation};
use posix::Posix;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8 * ProptestConfig::default().cases,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_namespace_is_the_posix_model(operations in prop::collection::vec(operation(), 1..80)) {
        let mut namespace = Namespace::new();
        let mut model = Posix::new(&NODES.map(NodeId));
        for operation in &operations {
            let command = namespace.command(operation);
            let before = namespace.tables.clone();
            let outcome = namespace.apply(&command);
            let expected = model.apply(&command, operation.is_stale());
            compare_outcome(&command, &outcome, expected);
            compare_tree(&View(&namespace.tables), &model);
            let hash = View(&namespace.tables).state_hash().expect("is sound");
            assert_eq!(recompute(&namespace.tables).expect("is sound").0, hash);
            namespace.check_duplicate(&command, &outcome);
            if expected.is_err() {
                namespace.check_nothing_changed_since(&before);
            }
        }
        namespace.check_replay_in_batches();
    }
}

/// `cases` sequences, more or fewer as `PROPTEST_CASES` (256) says: the same each time, so that a
/// change is judged by what the one before was, unless `PROPTEST_RNG_SEED` chooses others.
fn repeatable(cases: u32, shrinks_max: u32) -> ProptestConfig {
    let defaults = ProptestConfig::default();
    ProptestConfig {
        cases: (cases * defaults.cases).div_ceil(256),
        rng_seed: match defaults.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            given => given,
        },
        max_shrink_iters: shrinks_max,
        failure_persistence: None,
        ..defaults
    }
}

const NODES: [u16; 3] = [1, 2, 3];

/// A namespace in memory, and the order that made it.
struct Namespace {
    start: MemoryTables,
    tables: MemoryTables,
    order: Vec<(Gsn, Command)>,
    /// Every inode number that was proposed, whether it was made or not.
    known: Vec<Ino>,
}

impl Namespace {
    /// A volume with the members [`NODES`] and an empty root.
    fn new() -> Namespace {
        let time = Timestamp::new(0, 0);
        let params = VolumeParams { key: [0; 32], time, uid: 0, gid: 0, mode: 0o755 };
        let mut tables = MemoryTables::default();
        tables.absorb(genesis(&params));
        let mut namespace =
            Namespace { start: tables.clone(), tables, order: Vec::new(), known: vec![Ino::ROOT] };
        for node in NODES.map(NodeId) {
            let token = (node.0 > 1).then_some(u64::from(node.0));
            let zone = format!("z{node}");
            if let Some(id) = token {
                let expires = Timestamp::new(i64::MAX, 0);
                let zone = zone.clone();
                let op = Op::CreateJoinToken {
                    id,
                    secret_hash: [0; 32],
                    zone,
                    expires,
                    role: MemberRole::Voter,
                };
                namespace.succeed(op);
            }
            let member = Member {
                id: node,
                name: format!("n{node}"),
                zone: ZoneId(node.0),
                zone_name: zone,
                address: format!("127.0.0.1:{node}"),
                key_hash: [node.0 as u8; 32],
                role: MemberRole::Voter,
                draining: false,
            };
            namespace.succeed(Op::AdmitNode { node: member, token });
        }
        namespace
    }

    fn succeed(&mut self, op: Op) {
        let command = self.next(NodeId(1), Default::default(), op);
        assert_eq!(self.apply(&command), Outcome::Done);
    }

    fn command(&mut self, operation: &Operation) -> Command {
        let view = View(&self.tables);
        let version = |ino| {
            let inode = view.inode(ino).expect("the tables are sound");
            inode.map_or(Version(0), |inode| inode.version)
        };
        let new = Ino::of(operation.node, 16 + self.order.len() as u64);
        let mut files = Vec::new();
        view.inodes(Ino(0), &mut |ino, inode| {
            files.extend(inode.is_file().then_some(ino));
            true
        })
        .expect("the tables are sound");
        let op = operation.op(&self.known, &files, new, version);
        if let Op::Make { ino, .. } = op {
            self.known.push(ino);
        }
        self.next(operation.node, operation.cred, op)
    }

    /// The next command of `node`; its time grows with the order.
    fn next(&self, node: NodeId, cred: engine::command::Cred, op: Op) -> Command {
        let seq = self.order.iter().filter(|(_, command)| command.id.origin == node).count();
        let id = OpId { origin: node, boot: 1, seq: seq as u64 + 1 };
        Command { id, time: Timestamp::new(self.order.len() as i64 + 1, 0), cred, op }
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        // Three commands share an agreement, as in a batch.
        let gsn = Gsn(self.order.len() as u64 / 3 + 1);
        let mut overlay = Overlay::new(&self.tables);
        let applied = apply(&mut overlay, gsn, command).expect("the tables are sound");
        assert!(applied.fresh);
        let changes = overlay.into_changes();
        self.tables.absorb(changes);
        self.order.push((gsn, command.clone()));
        applied.outcome.expect("a fresh command has an outcome")
    }

    /// The command again, and the one after the next, change nothing.
    fn check_duplicate(&self, command: &Command, outcome: &Outcome) {
        let (gsn, _) = self.order[self.order.len() - 1];
        let mut late = command.clone();
        late.id.seq += 2;
        for (command, outcome) in [(command, Some(outcome)), (&late, None)] {
            let mut overlay = Overlay::new(&self.tables);
            let applied = apply(&mut overlay, gsn, command).expect("the tables are sound");
            assert!(!applied.fresh);
            assert_eq!(applied.outcome.as_ref(), outcome);
            assert!(overlay.changes().is_empty());
        }
    }

    /// A refusal changes the origin's sequence (O, R) and the summary (S), nothing else.
    fn check_nothing_changed_since(&self, before: &MemoryTables) {
        let state = |tables: &MemoryTables| {
            let mut tables = tables.0.clone();
            tables.retain(|key, _| !matches!(key[0], b'O' | b'R' | b'S'));
            tables
        };
        assert_eq!(state(&self.tables), state(before));
    }

    /// Another node applies whole agreements at once, with duplicates in them.
    fn check_replay_in_batches(&self) {
        let mut replica = self.start.clone();
        for batch in self.order.chunk_by(|one, other| one.0 == other.0) {
            let mut overlay = Overlay::new(&replica);
            for (gsn, command) in batch.iter().chain(&self.order[..1]).chain(batch) {
                apply(&mut overlay, *gsn, command).expect("the tables are sound");
            }
            let changes = overlay.into_changes();
            replica.absorb(changes);
        }
        assert_eq!(replica, self.tables);
    }
}
