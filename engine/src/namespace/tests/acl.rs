//! Access control lists: what they do to modes, and what new inodes get of them.

use super::*;

#[test]
fn an_access_list_sets_the_mode_and_chmod_sets_its_mask() {
    check(
        "create /f; setfacl /f 6,4,0,m6,u7:6; stat /f mode 660; acl /f 6,4,0,m6,u7:6; times /f c
         chmod /f 4750; acl /f 7,4,0,m5,u7:6; chmod /f 600; acl /f 6,4,0,m0,u7:6
         setfacl /f 7,5,5,m5; acl /f 7,5,5,m5; stat /f mode 755",
    );
}

#[test]
fn a_list_that_says_no_more_than_the_mode_is_none() {
    check(
        "create /f; setfacl /f 6,4,0,m6,u7:6; setfacl /f 7,1,2; acl /f none; stat /f mode 712
         setfacl /f 7,1,2; acl /f none; setfacl /f none; stat /f mode 712",
    );
}

/// As on Linux: the group keeps what the mask let through.
#[test]
fn without_its_access_list_a_file_keeps_the_mode() {
    check("create /f; setfacl /f 6,0,0,m6,u7:6; setfacl /f none; stat /f mode 660; acl /f none");
}

#[test]
fn a_stranger_to_the_group_loses_the_set_group_id_bit() {
    check(
        "create /f; chmod /f 2755; setfacl /f 7,5,5,m7,u7:7; stat /f mode 2775
         setfacl-by-stranger /f 7,5,5,m5,u7:7; stat /f mode 755",
    );
}

#[test]
fn what_is_made_gets_the_default_list_and_no_umask() {
    check(
        "mkdir /d; setfacl-d /d 7,5,0,m7,u7:7,g8:4; stat /d mode 755; acl /d none; umask 77
         create /d/f; stat /d/f mode 640; acl /d/f 6,5,0,m4,u7:7,g8:4; default-acl /d/f none
         mkdir /d/s; stat /d/s mode 750; acl /d/s 7,5,0,m5,u7:7,g8:4
         default-acl /d/s 7,5,0,m7,u7:7,g8:4; fifo /d/s/p; stat /d/s/p mode 600
         symlink /d/l x; stat /d/l mode 777; acl /d/l none
         setfacl-d /d none; create /d/g; stat /d/g mode 600; acl /d/g none",
    );
}

#[test]
fn a_minimal_default_list_stands_for_the_umask() {
    check(
        "mkdir /d; setfacl-d /d 7,5,1; umask 777; create /d/f; stat /d/f mode 640; acl /d/f none
         mkdir /d/s; stat /d/s mode 751; default-acl /d/s 7,5,1; umask 27; mkdir /e; stat /e mode 750",
    );
}

#[test]
fn only_directories_have_default_lists_and_symlinks_none() {
    check(
        "create /f; setfacl-d /f 7,5,0 = Denied; setfacl-d /f none
         symlink /l f; setfacl /l 7,5,0 = Invalid; setx /f system.posix_acl_access 1 = Invalid
         mkdir /d; setfacl-d /d 7,5,0,u7:7 = Invalid; setfacl /d 9,5,0 = Invalid",
    );
}

#[test]
fn lists_go_with_their_inode() {
    check(
        "create /f; setfacl /f 6,4,0,m6,u7:6; setx /f user.a 1; unlink /f
         mkdir /d; setfacl-d /d 7,5,0; setfacl /d 7,5,0,m7,u7:7; rmdir /d",
    );
}

#[test]
fn writes_and_owners_take_privileges_away() {
    check(
        "create /f; chmod /f 6755; setx /f security.capability 1; setx /f user.a 1
         kill /f; stat /f mode 755; rmx /f security.capability = NoAttribute
         setx /f security.capability 1; truncate /f 0; rmx /f security.capability = NoAttribute
         setx /f security.capability 1; chown /f 7 -; rmx /f security.capability = NoAttribute
         chmod /f 2644; kill /f; stat /f mode 2644; rmx /f user.a",
    );
}
