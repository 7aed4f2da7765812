//! rename(2) and its flags.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{CWD, OFlags, RenameFlags};

use super::{Calls, open};

pub fn run(c: &mut Calls) {
    lay_out(c);
    let cases = [
        ("a file", "f", "f-new"),
        ("back", "f-new", "f"),
        ("over a file", "f", "g"),
        ("nothing", "none", "x"),
        ("into nothing", "g", "none/x"),
        ("below a file", "g", "h/x"),
        ("from below a file", "h/x", "y"),
        ("a file over a directory", "g", "d"),
        ("a file over an empty directory", "g", "empty"),
        ("a directory over a file", "d", "g"),
        ("a directory over an empty one", "d", "empty"),
        ("a directory over a full one", "empty", "full"),
        ("a directory into itself", "full", "full/x"),
        ("a directory deep into itself", "full", "full/deep/x"),
        ("a directory onto its parent", "full/deep", "full"),
        ("a directory over its own child", "full", "full/deep"),
        ("a dot", "full/.", "x"),
        ("two dots", "full/..", "x"),
        ("to a dot", "empty", "full/."),
        ("to two dots", "empty", "full/.."),
        ("a file with a slash", "g/", "x"),
        ("a file to a slash", "g", "x/"),
        ("a directory with a slash", "empty/", "dir2"),
        ("a directory to a slash", "dir2", "dir3/"),
        ("a file to itself", "g", "g"),
        ("a file to its other name", "g", "g2"),
        ("a directory to itself", "full", "full"),
        ("a link", "to-h", "to-h2"),
        ("a link over its target", "to-h2", "h"),
        ("a dangling link over a file", "to-nothing", "k"),
        ("a link to a directory with a slash", "to-full/", "x"),
        ("over a link to a directory", "m", "to-full"),
        ("a directory over a link to one", "full", "to-full2"),
        ("a pipe over a file", "pipe", "n"),
    ];
    for (what, from, to) in cases {
        let renamed = rustix::fs::rename(c.path(from), c.path(to));
        c.call(what, renamed);
    }
    c.gives(
        "both names stay",
        Ok::<_, std::io::Error>(["g", "g2"].map(|name| c.path(name).exists())),
    );
    let across = rustix::fs::rename("/proc/self/status", c.path("across"));
    c.call("from elsewhere", across);
    let long = "n".repeat(256);
    let renamed = rustix::fs::rename(c.path("g"), c.path(&long));
    c.call("to a name that is too long", renamed);

    flags(c);
    counts(c);
    open_ones(c);
}

fn lay_out(c: &Calls) {
    for name in ["f", "g", "h", "k", "m", "n"] {
        c.file(name, name.as_bytes());
    }
    fs::hard_link(c.path("g"), c.path("g2")).expect("a link");
    fs::remove_file(c.path("g2")).expect("goes");
    for name in ["d", "empty", "full", "full/deep"] {
        fs::create_dir(c.path(name)).expect("a directory");
    }
    for (target, name) in
        [("h", "to-h"), ("nothing", "to-nothing"), ("full", "to-full"), ("full", "to-full2")]
    {
        symlink(target, c.path(name)).expect("a link");
    }
    rustix::fs::mknodat(CWD, c.path("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("a pipe");
}

fn flags(c: &mut Calls) {
    for name in ["x1", "x2", "x3"] {
        c.file(name, name.as_bytes());
    }
    fs::create_dir_all(c.path("xd/in")).expect("directories");
    let (keep, exchange) = (RenameFlags::NOREPLACE, RenameFlags::EXCHANGE);
    let cases = [
        ("no replace, there", "x1", "x2", keep),
        ("no replace, new", "x1", "x4", keep),
        ("no replace, itself", "x2", "x2", keep),
        ("no replace, over a directory", "x2", "xd", keep),
        ("exchange", "x2", "x3", exchange),
        ("exchange a file and a directory", "x2", "xd", exchange),
        ("exchange back", "x2", "xd", exchange),
        ("exchange with nothing", "x2", "none", exchange),
        ("exchange with itself", "x2", "x2", exchange),
        ("exchange with its child", "xd", "xd/in", exchange),
        ("exchange with its parent", "xd/in", "xd", exchange),
        ("exchange across directories", "x2", "xd/in", exchange),
        ("exchange, no replace", "x2", "x3", exchange | keep),
        ("whiteout, exchange", "x2", "x3", exchange | RenameFlags::WHITEOUT),
        ("an unknown flag", "x2", "x3", RenameFlags::from_bits_retain(1 << 10)),
    ];
    for (what, from, to, flags) in cases {
        let renamed = rustix::fs::renameat_with(CWD, c.path(from), CWD, c.path(to), flags);
        c.call(what, renamed);
    }
    for name in ["x2", "x3", "x4", "xd/in"] {
        c.gives(&format!("what {name} is"), fs::read_to_string(c.path(name)));
    }
}

/// Directories count the directories in them, wherever these go.
fn counts(c: &mut Calls) {
    fs::create_dir_all(c.path("one/sub")).expect("directories");
    fs::create_dir_all(c.path("two/sub2")).expect("directories");
    let links = |c: &mut Calls, what: &str| {
        let found = ["one", "two"].map(|name| c.path(name).metadata().map_or(0, |m| m.nlink()));
        c.note(&format!("links {what}"), &format!("{found:?}"));
    };
    links(c, "before");
    c.call("move", fs::rename(c.path("one/sub"), c.path("two/sub")));
    links(c, "after a move");
    c.call("move over", fs::rename(c.path("two/sub"), c.path("two/sub2")));
    links(c, "after a move over");
    c.file("one/f", b"");
    let exchange = RenameFlags::EXCHANGE;
    let swapped =
        rustix::fs::renameat_with(CWD, c.path("one/f"), CWD, c.path("two/sub2"), exchange);
    c.call("exchange with a file", swapped);
    links(c, "after an exchange");
    let up = c.path("one/f/..").metadata().map(|found| found.ino());
    let parent = c.path("one").metadata().map(|found| found.ino());
    c.note("its parent", &(up.ok() == parent.ok()).to_string());
}

fn open_ones(c: &mut Calls) {
    c.file("old", b"old");
    c.file("over", b"over");
    let (Ok(old), Ok(over)) = (c.open("old", OFlags::RDWR), open(&c.path("over"), OFlags::RDWR))
    else {
        return;
    };
    c.call("rename over what is open", fs::rename(c.path("old"), c.path("over")));
    let mut bytes = [0; 4];
    c.gives("the moved one", rustix::io::pread(&old, &mut bytes, 0).map(|_| bytes));
    c.gives("the replaced one", rustix::io::pread(&over, &mut bytes, 0).map(|_| bytes));
    c.gives("write to the replaced one", rustix::io::pwrite(&over, b"dead", 0));
    c.gives("links of the replaced one", rustix::fs::fstat(&over).map(|stat| stat.st_nlink));
    c.gives("write to the moved one", rustix::io::pwrite(&old, b"live", 0));
    c.gives("by name", fs::read_to_string(c.path("over")));
}
