//! getfacl, setfacl, cp and rsync: ACLs come through programs unchanged.

use tests::cluster::Cluster;

use super::shell;

#[test]
fn acls_survive_a_round_trip_through_every_program() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    shell(
        &z1,
        "mkdir tree; setfacl -m u:daemon:rwx,g:bin:r-x,d:u:daemon:rwx,d:g:bin:r,d:o::- tree; \
         umask 077; echo text >tree/f; mkdir tree/d; setfacl -m u:bin:- tree/d; \
         chmod g-w tree/f; setfacl -b -k tree/d; ln -s f tree/l",
    );
    let acls = "getfacl --omit-header --absolute-names";
    let list = |dir: &std::path::Path, tree: &str| {
        shell(dir, &format!("cd {tree} && find . | sort | xargs {acls} && ls -lR --time-style=+"))
    };
    let expected = list(&z1, "tree");
    assert!(expected.contains("user:daemon:rwx\t#effective:r--"), "{expected}");
    assert!(expected.contains("default:group:bin:r--"), "{expected}");

    shell(&z1, "getfacl -R tree >all.acl; cp -a tree copy; cp -r tree bare; mv bare restored");
    assert_eq!(list(&z1, "copy"), expected);
    shell(&z1, "sed s/tree/restored/ all.acl | setfacl --restore=-");
    assert_eq!(list(&z1, "restored"), expected);
    shell(&z1, "tar --acls -cf a.tar tree && mkdir out && tar --acls -xpf a.tar -C out");
    assert_eq!(list(&z1, "out/tree"), expected);

    cluster.wait_for_equal_state();
    let z3 = cluster.mount("z3");
    assert_eq!(list(&z3, "tree"), expected);
    if shell(&z3, "command -v rsync || true").is_empty() {
        eprintln!("SKIPPED, not tested: rsync is missing");
        return;
    }
    shell(&z3, "rsync -aHAX tree/ synced/ && test -z \"$(rsync -aHAXni --delete tree/ synced/)\"");
    assert_eq!(list(&z3, "synced"), expected);
}
