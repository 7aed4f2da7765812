//! Members, join tokens and watermarks.

use super::*;
use crate::command::LockWant;
use crate::locks::{ByteRange, LockKind, LockMode};

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

fn token(id: u64, zone: &str, expires_s: i64) -> Op {
    let expires = Timestamp::new(expires_s, 0);
    let role = MemberRole::Voter;
    Op::CreateJoinToken { id, secret_hash: [9; 32], zone: zone.into(), expires, role }
}

#[test]
fn the_first_node_admits_itself_and_nobody_else_does() {
    let mut ring = Ring::without_members();
    ring.node = NodeId(2);
    let admit = |number| Op::AdmitNode { node: member(number), token: None };
    assert_eq!(ring.run(admit(1)), refused(Refusal::NotPermitted));
    assert_eq!(ring.run(Op::Noop), refused(Refusal::NotPermitted));
    ring.node = NodeId(1);
    assert_eq!(ring.run(admit(1)), Outcome::Done);
    assert_eq!(ring.touched, [Touched::Members]);
    assert_eq!(ring.run(admit(3)), refused(Refusal::BadJoinToken));
    ring.node = NodeId(3);
    assert_eq!(ring.run(admit(3)), refused(Refusal::NotPermitted));
    assert_eq!(ring.view().members().expect("is sound"), [member(1)]);
    assert_eq!(ring.view().next_node_id().expect("is sound"), Some(NodeId(4)));
}

#[test]
fn a_join_token_works_once_for_its_zone_and_in_its_time() {
    let mut ring = Ring::new();
    ring.succeed(token(7, "z4", 1000));
    assert_eq!(ring.run(token(7, "z4", 1000)), refused(Refusal::IdInUse));
    assert_eq!(ring.view().join_tokens().expect("is sound").len(), 1);
    let admit = |number, id| Op::AdmitNode { node: member(number), token: Some(id) };
    assert_eq!(ring.run(admit(5, 7)), refused(Refusal::BadJoinToken));
    ring.succeed(admit(4, 7));
    assert_eq!(ring.run(admit(6, 7)), refused(Refusal::BadJoinToken));
    ring.succeed(token(8, "z5", ring.gsn.0 as i64 + 1));
    assert_eq!(ring.run(Op::Noop), Outcome::Done);
    assert_eq!(ring.run(admit(5, 8)), refused(Refusal::BadJoinToken));
    ring.succeed(token(9, "z5", 1000));
    ring.succeed(Op::RevokeJoinToken { id: 9 });
    assert_eq!(ring.run(admit(5, 9)), refused(Refusal::BadJoinToken));
    assert_eq!(ring.run(Op::RevokeJoinToken { id: 9 }), refused(Refusal::BadJoinToken));
    invariants(&ring.tables);
}

#[test]
fn ids_names_keys_and_zones_are_unique() {
    let mut ring = Ring::new();
    ring.succeed(token(7, "z1", 1000));
    let good = Member { zone: ZoneId(1), zone_name: "z1".into(), ..member(4) };
    for (node, refusal) in [
        (Member { id: NodeId(2), ..good.clone() }, Refusal::IdInUse),
        (Member { name: "z2".into(), ..good.clone() }, Refusal::Exists),
        (Member { key_hash: [2; 32], ..good.clone() }, Refusal::Exists),
        (Member { zone: ZoneId(2), ..good.clone() }, Refusal::IdInUse),
        (Member { zone: ZoneId(9), ..good.clone() }, Refusal::IdInUse),
        (Member { id: NodeId(0), ..good.clone() }, Refusal::Invalid),
        (Member { name: "a/b".into(), ..good.clone() }, Refusal::Invalid),
        (Member { name: String::new(), ..good.clone() }, Refusal::Invalid),
        (Member { address: "a b".into(), ..good.clone() }, Refusal::Invalid),
    ] {
        let admit = Op::AdmitNode { node, token: Some(7) };
        assert_eq!(ring.run(admit.clone()), refused(refusal), "{admit:?}");
    }
    ring.succeed(Op::AdmitNode { node: good, token: Some(7) });
    assert_eq!(
        ring.view().zones().expect("is sound").into_values().collect::<Vec<_>>(),
        ["z1", "z2", "z3"]
    );
}

#[test]
fn a_watermark_only_grows_and_is_the_nodes_own() {
    let mut ring = Ring::new();
    let held = |node, gsn| Op::HeldUpto { node: NodeId(node), gsn: Gsn(gsn) };
    assert_eq!(ring.run(held(2, 1)), refused(Refusal::NotPermitted));
    assert_eq!(ring.run(held(1, 1_000)), refused(Refusal::Invalid));
    ring.succeed(held(1, 4));
    assert_eq!(ring.touched, [Touched::Held { node: NodeId(1) }]);
    ring.succeed(held(1, 3));
    assert_eq!(ring.view().held_upto(NodeId(1)).expect("is sound"), Gsn(4));
    assert_eq!(ring.view().held().expect("is sound"), [(NodeId(1), Gsn(4))]);
}

#[test]
fn a_join_token_is_for_one_role() {
    let mut ring = Ring::new();
    let expires = Timestamp::new(1000, 0);
    let role = MemberRole::Witness;
    ring.succeed(Op::CreateJoinToken {
        id: 7,
        secret_hash: [9; 32],
        zone: "z4".into(),
        expires,
        role,
    });
    let admit = |role| Op::AdmitNode { node: Member { role, ..member(4) }, token: Some(7) };
    assert_eq!(ring.run(admit(MemberRole::Voter)), refused(Refusal::BadJoinToken));
    ring.succeed(admit(MemberRole::Witness));
    let set = |role| Op::SetMember { node: NodeId(4), role: Some(role), draining: None };
    assert_eq!(ring.run(set(MemberRole::Observer)), refused(Refusal::Invalid));
    let witness = ring.view().member(NodeId(4)).expect("is sound").expect("it is a member");
    assert!(witness.may_vote() && !witness.takes_bodies());
}

#[test]
fn a_draining_member_takes_neither_votes_nor_bodies() {
    let mut ring = Ring::new();
    let set = |node, role, draining| Op::SetMember { node: NodeId(node), role, draining };
    ring.succeed(set(2, None, Some(true)));
    assert_eq!(ring.touched, [Touched::Members]);
    let drained = ring.view().member(NodeId(2)).expect("is sound").expect("it is a member");
    assert!(!drained.may_vote() && !drained.takes_bodies() && drained.keeps_bodies());
    ring.node = NodeId(2);
    let op = ring.op(&["mkdir", "/d"]);
    assert_eq!(ring.run(op), refused(Refusal::Draining));
    ring.succeed(Op::HeldUpto { node: NodeId(2), gsn: Gsn(1) });
    ring.node = NodeId(1);
    let op = ring.op(&["mkdir", "/d"]);
    ring.succeed(op);
    ring.succeed(set(2, Some(MemberRole::Observer), Some(false)));
    let observer = ring.view().member(NodeId(2)).expect("is sound").expect("it is a member");
    assert!(!observer.may_vote() && observer.takes_bodies());
    assert_eq!(ring.run(set(9, None, Some(true))), refused(Refusal::NotFound));
    assert_eq!(ring.run(set(3, Some(MemberRole::Witness), None)), refused(Refusal::Invalid));
}

#[test]
fn a_removed_node_leaves_nothing_but_its_id() {
    let mut ring = check(
        "as 0 0; create /f; release /f; mkdir /q; quota /q 1000 none; count /q; reserve /q 20 20
         node 2; reserve /q 30 30; use /q 0 1 50; tmpfile / t 600; take /f",
    );
    let ino = ring.ino("/f");
    let (kind, mode, range) = (LockKind::Record, LockMode::Exclusive, ByteRange::WHOLE);
    let want = LockWant { owner: 1, kind, mode, range, pid: 1, solo: false };
    ring.succeed(Op::Lock { ino, want, wait: None });
    ring.succeed(Op::HeldUpto { node: NodeId(2), gsn: Gsn(1) });
    let last = ring.view().origin(NodeId(2)).expect("is sound").expect("it proposed");
    let gsn = ring.gsn.next();
    let removed = BTreeSet::from([NodeId(2), NodeId(77)]);
    let mut overlay = Overlay::new(&ring.tables);
    let touched = retire(&mut overlay, gsn, &removed).expect("is sound");
    assert!(touched.contains(&Touched::Members));
    assert!(retire(&mut overlay, gsn.next(), &removed).expect("is sound").is_empty());
    let changes = overlay.into_changes();
    ring.tables.absorb(changes);
    ring.gsn = gsn;
    invariants(&ring.tables);
    let view = ring.view();
    assert_eq!(view.member(NodeId(2)).expect("is sound"), None);
    assert_eq!(view.held_upto(NodeId(2)).expect("is sound"), Gsn(0));
    assert_eq!(view.token_holder(ino).expect("is sound"), None);
    assert_eq!(view.origin(NodeId(2)).expect("is sound"), None);
    assert_eq!(view.locked().expect("is sound"), []);
    assert_eq!(view.unnamed(NodeId(2)).expect("is sound"), []);
    assert_eq!(view.reservations().expect("is sound").len(), 1);
    let departed = view.departed().expect("is sound");
    assert_eq!((departed[0].0, departed[0].1.gsn, departed.len()), (NodeId(2), gsn, 1));

    // What it still sends is skipped, whatever number it has, and changes nothing.
    let before = view.state_hash().expect("is sound");
    for seq in [1, last.last_seq + 1] {
        let id = OpId { origin: NodeId(2), boot: last.boot, seq };
        let op = Op::TakeToken { ino, node: NodeId(2) };
        let command = Command { id, time: Timestamp::new(1, 0), cred: Cred::SYSTEM, op };
        let mut overlay = Overlay::new(&ring.tables);
        let applied = apply(&mut overlay, gsn.next(), &command).expect("is sound");
        assert_eq!(applied, Applied { outcome: None, fresh: false, touched: Vec::new() });
        assert_eq!(View::new(&overlay).state_hash().expect("is sound"), before);
    }

    // The token is free, the id is not.
    ring.node = NodeId(1);
    ring.statement("use /q 0 1 20");
    ring.succeed(Op::TakeToken { ino, node: NodeId(1) });
    ring.succeed(token(7, "z2", 1000));
    let again = Op::AdmitNode { node: member(2), token: Some(7) };
    assert_eq!(ring.run(again), refused(Refusal::IdInUse));
    assert_eq!(ring.view().next_node_id().expect("is sound"), Some(NodeId(4)));
    let fresh = Member { id: NodeId(4), ..member(2) };
    ring.succeed(Op::AdmitNode { node: fresh, token: Some(7) });
}

#[test]
fn a_node_moves() {
    let mut ring = Ring::new();
    let move_node = |node, address: &str| Op::MoveNode { node, address: address.into() };
    ring.succeed(move_node(NodeId(2), "[::1]:9"));
    let moved = ring.view().member(NodeId(2)).expect("is sound").expect("it is a member");
    assert_eq!(moved.address, "[::1]:9");
    assert_eq!(ring.run(move_node(NodeId(8), "a:1")), refused(Refusal::NotFound));
    assert_eq!(ring.run(move_node(NodeId(2), "")), refused(Refusal::Invalid));
}

#[test]
fn a_node_takes_and_publishes_for_itself() {
    let mut ring = check("create /f; release /f");
    let ino = ring.ino("/f");
    let take = Op::TakeToken { ino, node: NodeId(2) };
    assert_eq!(ring.run(take), refused(Refusal::NotPermitted));
    let release = Op::ReleaseToken { ino, node: NodeId(2) };
    assert_eq!(ring.run(release), refused(Refusal::NotPermitted));
    let Op::Publish { base, body, size, mtime, stored_len, .. } = ring.publish("/f", 5, Version(0))
    else {
        panic!("it is a publish");
    };
    let publish =
        Op::Publish { ino, base, body, size, mtime, holder: NodeId(9), stored_len, ctime: mtime };
    assert_eq!(ring.run(publish), refused(Refusal::Invalid));
    let body = Body::Inline(vec![0; Body::INLINE_MAX_BYTES + 1]);
    let publish =
        Op::Publish { ino, base, body, size, mtime, holder: NodeId(1), stored_len, ctime: mtime };
    assert_eq!(ring.run(publish), refused(Refusal::Invalid));
}

#[test]
fn a_volume_takes_members_of_the_cluster_and_a_name_of_its_own() {
    let mut ring = Ring::new();
    let make = |id: u32, name: &str, nodes: &[u16]| Op::CreateVolume {
        id: VolumeId(id),
        name: name.to_owned(),
        members: nodes.iter().map(|node| NodeId(*node)).collect(),
        creator: NodeId(nodes[0]),
    };
    ring.succeed(make(2, "pair", &[1, 2]));
    assert_eq!(ring.touched, [Touched::Volumes]);
    assert_eq!(ring.run(make(2, "other", &[1])), refused(Refusal::IdInUse));
    assert_eq!(ring.run(make(3, "pair", &[1])), refused(Refusal::Exists));
    assert_eq!(ring.run(make(3, "far", &[1, 99])), refused(Refusal::NotFound));
    assert_eq!(ring.run(make(3, "two", &[2, 1])), refused(Refusal::Invalid));
    assert_eq!(ring.run(make(1, "root", &[1])), refused(Refusal::Invalid));
    assert_eq!(ring.run(make(3, "a/b", &[1])), refused(Refusal::Invalid));
    let volumes = ring.view().volumes().expect("is sound");
    assert_eq!(volumes.len(), 1);
    assert_eq!((volumes[0].0, volumes[0].1.members.len()), (VolumeId(2), 2));
}
