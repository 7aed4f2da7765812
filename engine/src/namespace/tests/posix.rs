//! What each operation does and refuses, as Linux's ext4 has it.

use super::*;

#[test]
fn make_refuses_what_exists_and_missing_parents() {
    check(
        "mkdir /a; create /a/f; symlink /a/l f; fifo /a/p; device /a/d 259
         mkdir /a = Exists; create /a/f = Exists; mkdir /a/f = Exists; symlink /a/f x = Exists
         let a /a; let f /a/f; create @f/x = NotDirectory
         unlink /a/f; unlink /a/l; unlink /a/p; unlink /a/d; rmdir /a
         create @a/x = NotFound; mkdir @a/x = NotFound; symlink @a/x y = NotFound",
    );
}

#[test]
fn open_creat_finds_a_file_and_refuses_a_directory() {
    check(
        "create /f; let f /f; open /f; same /f @f; open /new; stat /new nlink 1
         mkdir /d; open /d = IsDirectory; symlink /l f; open /l = Exists; fifo /p; open /p = Exists",
    );
}

#[test]
fn make_sets_owner_mode_links_and_times() {
    check(
        "as 5 6; mkdir /d 1777; stat /d mode 1777; stat /d uid 5; stat /d gid 6; stat /d nlink 2
         times /d amc; times / mc; stat / nlink 3; stat / uid 0
         symlink /d/l some/where; stat /d/l mode 777; stat /d/l size 10; times /d mc; stat /d nlink 2",
    );
}

#[test]
fn a_setgid_directory_passes_its_group_on() {
    check(
        "as 5 6; mkdir /d 2775; chown /d - 77; stat /d mode 2775
         create /d/f; stat /d/f gid 77; stat /d/f mode 644
         mkdir /d/s; stat /d/s gid 77; stat /d/s mode 2755; create /d/s/f; stat /d/s/f gid 77
         symlink /d/l x; stat /d/l gid 77; stat /d/l mode 777",
    );
}

#[test]
fn link_counts_and_limits() {
    check(
        "create /f; mkdir /d; link /f /d/g; same /f /d/g; stat /f nlink 2; times /f c; times /d mc
         link /f /d/g = Exists; link /d /e = NotPermitted; link /f /f = Exists; link /d /f = Exists
         let f /f; link /f @f/x = NotDirectory; unlink /f; unlink /d/g; gone @f; link @f /f = NotFound",
    );
}

#[test]
fn unlink_keeps_other_links_and_removes_with_the_last() {
    check(
        "create /f; link /f /g; let f /f; setx /f user.a 1; write /f 100
         unlink /f; stat /g nlink 1; times /g c; times / mc; unlink /g; gone @f
         unlink /g = NotFound; mkdir /d; unlink /d = IsDirectory",
    );
}

#[test]
fn rmdir_wants_an_empty_directory() {
    check(
        "mkdir /d; create /d/f; rmdir /d = NotEmpty; unlink /d/f; stat / nlink 3; rmdir /d
         stat / nlink 2; times / mc; rmdir /d = NotFound; create /f; rmdir /f = NotDirectory",
    );
}

#[test]
fn rename_to_a_free_name() {
    check(
        "mkdir /a; mkdir /b; create /a/f; let f /a/f; mv /a/f /b/g; same /b/g @f
         times /a mc; times /b mc; times /b/g c; ls /a; ls /b g
         mv /a/f /b/h = NotFound; mv-new /b/g /b/h; ls /b h",
    );
}

#[test]
fn rename_over_a_file() {
    check(
        "create /f; create /g; let f /f; let g /g; link /g /h; mv /f /g; same /g @f; times /h c
         stat /h nlink 1; mv /g /h; gone @g; same /h @f; ls / h
         create /x; mv-new /x /h = Exists; mkdir /d; mv /h /d = IsDirectory",
    );
}

#[test]
fn rename_over_a_directory() {
    check(
        "mkdir /a; mkdir /a/s; mkdir /b; let b /b; let a /a; create /f
         mv /a /f = NotDirectory; mv /b /a = NotEmpty; mv /a /b; gone @b; same /b @a; stat / nlink 3
         create @b/x = NotFound",
    );
}

#[test]
fn moving_a_directory_moves_its_dotdot() {
    check(
        "mkdir /a; mkdir /b; mkdir /a/s; stat /a nlink 3; mv /a/s /b/s; stat /a nlink 2
         stat /b nlink 3; let b /b; times /b/s c; mkdir /c; mkdir /c/s; mv /b/s /c/s; stat /c nlink 3
         stat /b nlink 2",
    );
}

#[test]
fn no_directory_comes_below_itself() {
    check(
        "mkdir /a; mkdir /a/b; mkdir /a/b/c; create /a/b/f
         mv /a /a/x = Invalid; mv /a /a/b/c/x = Invalid; mv /a/b /a/b/c/x = Invalid
         mv /a/b/c /a = NotEmpty; mv /a/b/f /a = NotEmpty; mv /a/b/c /a/b = NotEmpty
         swap /a /a/b/c = Invalid; swap /a/b/c /a = Invalid; mv /a /a",
    );
}

#[test]
fn two_names_of_one_inode_stay() {
    check(
        "create /f; link /f /g; mkdir /d; link /f /d/h; touch /d; mv /f /g; mv /f /d/h; swap /f /g
         mv /f /f; stat /f nlink 3; ls / f g d; ls /d h; mv-new /f /g = Exists; times / -",
    );
}

#[test]
fn exchange_swaps_anything() {
    check(
        "mkdir /a; mkdir /a/d; mkdir /b; create /b/f; let d /a/d; let f /b/f
         swap /a/d /b/f; same /a/d @f; same /b/f @d; stat /a nlink 2; stat /b nlink 3
         times @d c; times @f c; times /a mc; times /b mc
         swap /a/d /b/none = NotFound; swap /a/none /b/f = NotFound; swap /a /b; ls /b d",
    );
}

#[test]
fn a_listing_is_stable() {
    let ring = check(
        "mkdir /d; create /d/a; create /d/b; create /d/c; create /d/e; unlink /d/b
         mv /d/e /d/a; create /d/b; ls /d a c b; swap /d/a /d/c; ls /d a c b; mv /d/a /d/z; ls /d c b z",
    );
    let directory = ring.ino("/d");
    let mut after = 0;
    let mut names = Vec::new();
    while let [entry] = &ring.view().read_dir(directory, after, 1).expect("is sound")[..] {
        assert!(entry.cookie > after);
        after = entry.cookie;
        names.push(entry.name.to_string());
    }
    assert_eq!(names, ["c", "b", "z"]);
    assert!(ring.view().read_dir(directory, u64::MAX, 1).expect("is sound").is_empty());
}

#[test]
fn chmod_and_chown() {
    check(
        "create /f; chmod /f 6755; stat /f mode 6755; times /f c; chown /f 7 -; stat /f mode 755
         stat /f uid 7; stat /f gid 1000; chmod /f 6745; chown /f - 8; stat /f mode 2745; stat /f gid 8
         chmod /f 106644; stat /f mode 6644
         mkdir /d; chmod /d 7777; chown /d 1 1; stat /d mode 7777
         symlink /l f; chmod /l 600 = Invalid; chown /l 3 3; stat /l uid 3
         touch /f; times /f c; utimes /f -5 7; times /f c; let f /f; unlink /f; touch @f = NotFound",
    );
}

#[test]
fn truncate_hides_bytes_for_good() {
    check(
        "create /f; write /f 100; stat /f size 100; stat /f valid 100; times /f mc
         truncate /f 40; stat /f size 40; stat /f valid 40; times /f mc; stat /f version 8
         truncate /f 1000; stat /f size 1000; stat /f valid 40
         truncate /f 1000; times /f mc; stat /f version 9; truncate /f 0; stat /f valid 0; truncate /f 9; stat /f valid 0
         truncate /f 17587891077120; truncate /f 9223372036854775808 = FileTooLarge
         mkdir /d; truncate /d 0 = IsDirectory; fifo /p; truncate /p 0 = Invalid",
    );
}

#[test]
fn xattrs() {
    check(
        "create /f; setx /f user.a 1; times /f c; setx-new /f user.a 2 = Exists; setx-old /f user.b 2 = NoAttribute
         setx-new /f user.b 2; setx-old /f user.b 3; rmx /f user.a; times /f c; rmx /f user.a = NoAttribute
         link /f /g; unlink /f; let g /g; unlink /g; setx @g user.a 1 = NotFound; rmx @g user.b = NotFound",
    );
}

#[test]
fn publish_takes_the_current_base_only() {
    check(
        "create /f; stat /f version 0; write-on /f 0 10; write-on /f 0 20 = Superseded(w7)
         write-on /f 7 20; stat /f version 9; stat /f size 20; write-on /f 9 0; stat /f valid 0
         let f /f; mkdir /d; write /d 1 = IsDirectory; fifo /p; write /p 1 = Invalid
         unlink /f; write-on @f 9 1 = NotFound",
    );
}

#[test]
fn a_file_is_at_home_where_it_was_made_or_moved_to() {
    let home = |ring: &Ring, path: &str| ring.inode(path).home;
    let ring = check("mkdir /a; mkdir /b; create /a/f; create /b/g; link /a/f /b/l");
    assert_eq!(home(&ring, "/b/l"), ring.ino("/a"), "another name moves nothing");
    let ring = check("mkdir /a; mkdir /b; create /a/f; create /b/g; mv /a/f /b/f");
    assert_eq!(home(&ring, "/b/f"), ring.ino("/b"));
    let ring = check("mkdir /a; mkdir /b; create /a/f; create /b/g; swap /a/f /b/g");
    assert_eq!(home(&ring, "/b/g"), ring.ino("/b"));
    assert_eq!(home(&ring, "/a/f"), ring.ino("/a"));
}

#[test]
fn a_body_shorter_than_the_file_shows_no_more_than_it_has() {
    let mut ring = check("create /f");
    let Op::Publish { ino, base, body, mtime, holder, stored_len, ctime, .. } =
        ring.publish("/f", 10, Version(0))
    else {
        panic!("it is a publish");
    };
    for (size, valid_len) in [(30, 10), (4, 4), (0, 0)] {
        let base = ring.view().inode(ino).expect("is sound").map_or(base, |inode| inode.version);
        ring.succeed(Op::Publish {
            ino,
            base,
            body: body.clone(),
            size,
            mtime,
            holder,
            stored_len,
            ctime,
        });
        let inode = ring.inode("/f");
        assert_eq!((inode.size, inode.valid_len), (size, valid_len));
        assert_eq!(inode.body == Body::Empty, size == 0);
        invariants(&ring.tables);
    }
}

#[test]
fn links_of_files_are_limited_and_those_of_directories_are_not() {
    let mut ring = check("create /f; mkdir /d");
    for path in ["/f", "/d"] {
        let mut inode = ring.inode(path);
        inode.nlink = LINKS_MAX;
        ring.tables.0.insert(keys::inode(ring.ino(path)), inode.encode());
    }
    ring.statement("link /f /g = TooManyLinks");
    ring.statement("mkdir /d/s");
    ring.statement("stat /d nlink 65001");
}

#[test]
fn xattrs_are_limited() {
    let mut ring = check("create /f");
    let ino = ring.ino("/f");
    let mut set = |name: Vec<u8>, len| {
        ring.run(Op::SetXattr { ino, name, value: vec![0; len], how: XattrHow::Set })
    };
    let refused = Outcome::Refused;
    assert_eq!(set(vec![], 1), refused(Refusal::Invalid));
    assert_eq!(set(vec![b'n'; 256], 1), refused(Refusal::Invalid));
    assert_eq!(set(b"a\0b".to_vec(), 1), refused(Refusal::Invalid));
    assert_eq!(set(b"a".to_vec(), (64 << 10) + 1), refused(Refusal::AttributeTooLarge));
    for number in 0..256u32 {
        let mut name = vec![b'n'; 255];
        name[..4].copy_from_slice(format!("{number:04}").as_bytes());
        assert_eq!(set(name, 64 << 10), Outcome::Done);
    }
    assert_eq!(set(b"a".to_vec(), 1), refused(Refusal::NoSpace));
    assert_eq!(ring.inode("/f").xattr_list_len, XATTR_LIST_LEN_MAX);
    invariants(&ring.tables);
    ring.statement("unlink /f");
    invariants(&ring.tables);
}

#[test]
fn symlink_targets_are_limited() {
    let mut ring = check("mkdir /d");
    for (target, expected) in [
        (vec![b't'; SYMLINK_LEN_MAX], None),
        (vec![b't'; SYMLINK_LEN_MAX + 1], Some(Refusal::Invalid)),
        (vec![], Some(Refusal::Invalid)),
        (b"a\0".to_vec(), Some(Refusal::Invalid)),
    ] {
        let op = ring.make("/d/l", Kind::Symlink(target), 0o777, true);
        match (ring.run(op), expected) {
            (Outcome::Made { .. }, None) => ring.statement("unlink /d/l"),
            (Outcome::Refused(refusal), Some(expected)) => assert_eq!(refusal, expected),
            (outcome, _) => panic!("{outcome:?}"),
        }
    }
}

#[test]
fn times_out_of_range_are_refused() {
    let mut ring = check("create /f");
    let ino = ring.ino("/f");
    let bad = Timestamp { seconds: 0, nanos: 1_000_000_000 };
    let set = SetAttr { mtime: Some(bad), ..SetAttr::default() };
    assert_eq!(ring.run(Op::SetAttr { ino, set }), Outcome::Refused(Refusal::Invalid));
    let mut command = ring.command(Op::Noop);
    command.time = bad;
    assert_eq!(ring.deliver(&command).outcome, Some(Outcome::Refused(Refusal::Invalid)));
}

#[test]
fn touched_names_what_changed() {
    let mut ring = check("mkdir /d; create /d/f; create /g; link /g /h");
    let (root, d, f, g) = (Ino::ROOT, ring.ino("/d"), ring.ino("/d/f"), ring.ino("/g"));
    let entry = |parent, name: &str| Touched::Entry {
        parent,
        name: Name::parse(name.as_bytes()).expect("it is a name"),
    };
    let mut touched = |statement: &str| {
        ring.statement(statement);
        ring.touched.clone()
    };
    let attr = |ino| Touched::Attr { ino };
    assert_eq!(
        touched("mv /d/f /g"),
        [attr(d), entry(d, "f"), attr(root), entry(root, "g"), attr(g), attr(f)]
    );
    let gone = touched("unlink /h");
    assert_eq!(gone[..2], [attr(root), entry(root, "h")]);
    assert!(matches!(&gone[2..], [Touched::Gone { ino, last }] if *ino == g && last.nlink == 0));
    let written = touched("write /g 9");
    assert!(matches!(
        written[..],
        [Touched::Attr { ino }, Touched::Content { ino: content, .. }] if ino == f && content == f
    ));
    assert_eq!(touched("touch /g"), [attr(f)]);
    assert_eq!(touched("release /g"), [Touched::Token { ino: f, holder: None }]);
    assert_eq!(touched("mv /g /g"), []);
}

#[test]
fn a_token_excludes_other_writers() {
    check(
        "create /f; stat /f writer 1; node 2; write /f 10 = TokenHeld(n1); truncate /f 0 = TokenHeld(n1)
         take /f = TokenHeld(n1); release /f; stat /f writer 1; chmod /f 600
         node 1; take /f; release /f; stat /f writer none; node 2; take /f; stat /f writer 2; write /f 10
         node 1; write /f 11 = TokenHeld(n2); node 2; release /f; node 3; write /f 12; stat /f writer none
         mkdir /d; take /d = IsDirectory; fifo /p; take /p = Invalid",
    );
}

/// A version is agreed some time after the write that it holds, which has shown its ctime
/// already (tar takes a file whose ctime moves for one that is being changed).
#[test]
fn a_publish_keeps_the_time_of_the_change_and_never_goes_back() {
    let mut ring = check("create /f");
    let Op::Publish { ino, base, body, size, mtime, holder, stored_len, .. } =
        ring.publish("/f", 9, Version(0))
    else {
        panic!("it is a publish");
    };
    let made = ring.inode("/f").ctime;
    let written = Timestamp::new(made.seconds, made.nanos + 1);
    let mut version = base;
    for (ctime, expected) in [(written, written), (made, written)] {
        let body = body.clone();
        ring.succeed(Op::Publish {
            ino,
            base: version,
            body,
            size,
            mtime,
            holder,
            stored_len,
            ctime,
        });
        version = ring.inode("/f").version;
        assert_eq!(ring.inode("/f").ctime, expected);
    }
    let future = Timestamp::new(i64::MAX, 0);
    ring.succeed(Op::Publish {
        ino,
        base: version,
        body,
        size,
        mtime,
        holder,
        stored_len,
        ctime: future,
    });
    assert!(ring.inode("/f").ctime < future, "no later than the command");
}

#[test]
fn a_directory_goes_only_if_it_is_the_one_that_was_meant() {
    let mut ring = check("mkdir /a; mkdir /b; mkdir /c; mkdir /c/in");
    let (a, b) = (ring.ino("/a"), ring.ino("/b"));
    let name = |text: &[u8]| Name::parse(text).expect("a name");
    let rmdir = |victim| Op::Rmdir { parent: Ino::ROOT, name: name(b"b"), victim };
    assert_eq!(ring.run(rmdir(Some(a))), Outcome::Refused(Refusal::Overtaken));
    let rename = |to: &[u8], victim| Op::Rename {
        from_parent: Ino::ROOT,
        from_name: name(b"c"),
        to_parent: Ino::ROOT,
        to_name: name(to),
        how: RenameHow::Replace,
        victim,
        source: None,
    };
    assert_eq!(ring.run(rename(b"b", Some(a))), Outcome::Refused(Refusal::Overtaken));
    assert_eq!(ring.run(rename(b"new", Some(a))), Outcome::Refused(Refusal::Overtaken));
    assert_eq!(ring.run(rename(b"b", Some(b))), Outcome::Done);
    assert_eq!(
        ring.run(Op::Rmdir { parent: Ino::ROOT, name: name(b"a"), victim: Some(a) }),
        Outcome::Done
    );
}

#[test]
fn a_name_moves_only_with_the_inode_that_was_meant() {
    let mut ring = check("create /a; create /b");
    let (a, b) = (ring.ino("/a"), ring.ino("/b"));
    let name = |text: &[u8]| Name::parse(text).expect("a name");
    let rename = |from: &[u8], to: &[u8], how, source, victim| Op::Rename {
        from_parent: Ino::ROOT,
        from_name: name(from),
        to_parent: Ino::ROOT,
        to_name: name(to),
        how,
        victim,
        source,
    };
    let overtaken = Outcome::Refused(Refusal::Overtaken);
    let (replace, exchange) = (RenameHow::Replace, RenameHow::Exchange);
    assert_eq!(ring.run(rename(b"a", b"c", replace, Some(b), None)), overtaken);
    // Nothing to move is said first.
    let missing = Outcome::Refused(Refusal::NotFound);
    assert_eq!(ring.run(rename(b"none", b"c", replace, Some(b), None)), missing);
    assert_eq!(ring.run(rename(b"a", b"b", exchange, Some(a), Some(a))), overtaken);
    assert_eq!(ring.run(rename(b"a", b"b", exchange, Some(a), Some(b))), Outcome::Done);
    assert_eq!(ring.run(rename(b"b", b"c", replace, Some(a), None)), Outcome::Done);
    let node = ring.node;
    let whiteout = |counter, source| Op::Whiteout {
        from_parent: Ino::ROOT,
        from_name: name(b"a"),
        to_parent: Ino::ROOT,
        to_name: name(b"d"),
        replace: true,
        ino: Ino::of(node, counter),
        source,
    };
    assert_eq!(ring.run(whiteout(900, Some(a))), overtaken);
    assert_eq!(ring.run(whiteout(901, Some(b))), Outcome::Done);
}
