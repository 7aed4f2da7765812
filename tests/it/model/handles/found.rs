//! Sequences that once gave another answer than the model, as small as they could be made.

use super::call::{Call, Family, Mode, Object};
use super::volume::Node;

const CREATE: i32 = libc::O_CREAT | libc::O_RDONLY;

fn check(steps: &[(usize, Call)]) {
    super::run(&Node::start(), steps).unwrap_or_else(|failure| panic!("{failure}"));
}

fn open(slot: usize, path: &str, flags: i32) -> Call {
    Call::Open { slot, path: path.to_owned(), flags, mode: 0o777 }
}

fn mkdir(path: &str) -> Call {
    Call::Mkdir { path: path.to_owned(), mode: 0o777 }
}

#[test]
fn a_time_that_was_set_stays_when_the_last_name_goes() {
    check(&[
        (1, open(0, "b", CREATE)),
        (1, Call::Times { object: Object::Slot(0), seconds: None }),
        (0, Call::Unlink { path: "b".to_owned(), elsewhere: false }),
    ]);
}

#[test]
fn a_directory_that_goes_is_changed_by_that() {
    let rename =
        || Call::Rename { from: "b".to_owned(), to: "c".to_owned(), flags: 0, elsewhere: false };
    let rmdir = || Call::Rmdir { path: "c".to_owned(), elsewhere: false };
    check(&[(0, mkdir("b")), (0, mkdir("c")), (0, open(0, "c", libc::O_RDONLY)), (0, rename())]);
    check(&[(0, mkdir("c")), (0, open(0, "c", libc::O_RDONLY)), (0, rmdir())]);
}

#[test]
fn a_file_made_for_reading_is_not_taken_for_one_being_written() {
    let nobody = Call::Chown { object: Object::Slot(1), uid: None, gid: None, elsewhere: false };
    check(&[(0, open(1, "c", CREATE)), (0, nobody)]);
}

/// What waits until all that was written and closed is on its way must not wait for that.
#[test]
fn a_directory_goes_beside_a_written_file_without_a_name() {
    check(&[
        (0, mkdir("d")),
        (0, mkdir("e")),
        (1, open_unnamed()),
        (1, Call::Dup { slot: 0, to: 1 }),
        (1, Call::Write { slot: 0, len: 4093, fill: 1 }),
        (1, Call::Close { slot: 1 }),
        (0, Call::Rmdir { path: "e".to_owned(), elsewhere: false }),
    ]);
}

fn open_unnamed() -> Call {
    Call::OpenUnnamed { slot: 0, path: "d".to_owned(), exclusive: false, mode: 0o600 }
}

#[test]
fn a_lock_is_given_up_beside_a_written_file_without_a_name() {
    let lock = |mode| {
        let (slot, family, wait) = (0, Family::Posix, false);
        Call::Lock { slot, family, mode, start: 0, len: 1, wait }
    };
    check(&[
        (0, mkdir("d")),
        (0, open(0, "f", libc::O_CREAT | libc::O_RDWR)),
        // The locks are agreed: another node asks for them.
        (0, lock(Some(Mode::Exclusive))),
        (0, Call::UseLocks { slot: 0 }),
        (1, open_unnamed()),
        (1, Call::Write { slot: 0, len: 4093, fill: 1 }),
        (0, lock(None)),
    ]);
}
