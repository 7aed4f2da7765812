//! Extended attributes.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};

use super::{Calls, open};

pub fn run(c: &mut Calls) {
    c.file("f", b"x");
    fs::create_dir(c.path("d")).expect("a directory");
    symlink("f", c.path("to-f")).expect("a link");
    symlink("nothing", c.path("to-nothing")).expect("a link");
    rustix::fs::mknodat(CWD, c.path("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    let none = XattrFlags::empty();
    let long = format!("user.{}", "n".repeat(250));
    let longer = format!("user.{}", "n".repeat(251));
    let sets: [(&str, &str, &str, &[u8], XattrFlags); 18] = [
        ("set", "f", "user.a", b"1", none),
        ("set again", "f", "user.a", b"22", none),
        ("create", "f", "user.b", b"", XattrFlags::CREATE),
        ("create what is there", "f", "user.b", b"2", XattrFlags::CREATE),
        ("replace", "f", "user.b", b"3", XattrFlags::REPLACE),
        ("replace nothing", "f", "user.c", b"3", XattrFlags::REPLACE),
        ("both flags", "f", "user.c", b"3", XattrFlags::CREATE | XattrFlags::REPLACE),
        ("of a directory", "d", "user.a", b"d", none),
        ("of a pipe", "pipe", "user.a", b"d", none),
        ("trusted", "f", "trusted.a", b"t", none),
        ("trusted of a pipe", "pipe", "trusted.a", b"t", none),
        ("security", "f", "security.a", b"s", none),
        ("a space of names that is not", "f", "other.a", b"o", none),
        ("no name behind the dot", "f", "user.", b"o", none),
        ("no dot", "f", "user", b"o", none),
        ("an empty name", "f", "", b"o", none),
        ("a name of 255 bytes", "f", &long, b"o", none),
        ("a name of 256 bytes", "f", &longer, b"o", none),
    ];
    for (what, name, attribute, value, flags) in sets {
        let set = rustix::fs::setxattr(c.path(name), attribute, value, flags);
        c.call(&format!("set {what}"), set);
    }
    let set = rustix::fs::setxattr(c.path("f"), "user.big", &[7; 3000], none);
    c.call("set 3000 bytes", set);
    let set = rustix::fs::setxattr(c.path("f"), "user.huge", &[7; 65537], none);
    c.call("set 65537 bytes", set);
    let set = rustix::fs::lsetxattr(c.path("to-f"), "user.a", b"l", none);
    c.call("set user of a link itself", set);
    let set = rustix::fs::lsetxattr(c.path("to-f"), "trusted.a", b"l", none);
    c.call("set trusted of a link itself", set);
    let set = rustix::fs::setxattr(c.path("to-nothing"), "user.a", b"l", none);
    c.call("set through a dangling link", set);
    getting(c);
    let removes = [
        ("", "f", "user.b"),
        (" again", "f", "user.b"),
        (" from nothing", "none", "user.b"),
        (" of a space that is not", "f", "other.b"),
    ];
    for (what, name, attribute) in removes {
        let removed = rustix::fs::removexattr(c.path(name), attribute);
        c.call(&format!("remove{what}"), removed);
    }
    c.times("times: set", "f", |path| rustix::fs::setxattr(path, "user.t", b"1", none));
    c.times("times: set to the same", "f", |path| rustix::fs::setxattr(path, "user.t", b"1", none));
    c.times("times: get", "f", |path| rustix::fs::getxattr(path, "user.t", &mut [0_u8; 10]));
    c.times("times: remove", "f", |path| rustix::fs::removexattr(path, "user.t"));
    by_descriptor(c);
}

fn getting(c: &mut Calls) {
    let mut buffer = [0_u8; 64];
    for (what, name, attribute) in [
        ("", "f", "user.a"),
        (" nothing", "f", "user.none"),
        (" of nothing", "none", "user.a"),
        (" trusted", "f", "trusted.a"),
        (" security", "f", "security.a"),
        (" of a directory", "d", "user.a"),
        (" of a pipe", "pipe", "user.a"),
        (" of a space that is not", "f", "other.a"),
        (" an empty name", "f", ""),
    ] {
        let got = rustix::fs::getxattr(c.path(name), attribute, &mut buffer[..]);
        c.gives(&format!("get{what}"), got.map(|length| buffer[..length].to_vec()));
    }
    c.gives("the size", rustix::fs::getxattr(c.path("f"), "user.a", &mut [0_u8; 0]));
    c.gives("too little room", rustix::fs::getxattr(c.path("f"), "user.a", &mut [0_u8; 1]));
    let mut list = [0_u8; 4096];
    for name in ["f", "d", "pipe", "none"] {
        let listed = rustix::fs::listxattr(c.path(name), &mut list[..]);
        c.gives(&format!("list of {name}"), listed.map(|length| names(&list[..length])));
    }
    c.gives("too little room for a list", rustix::fs::listxattr(c.path("f"), &mut [0_u8; 3]));
    let listed = rustix::fs::llistxattr(c.path("to-f"), &mut list[..]);
    c.gives("list of a link itself", listed.map(|length| names(&list[..length])));
}

/// Sorted: the order of a list means nothing. What the machine itself adds is left out.
fn names(list: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = list
        .split(|byte| *byte == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter(|name| !name.is_empty() && name != "security.selinux")
        .collect();
    names.sort();
    names
}

fn by_descriptor(c: &mut Calls) {
    let none = XattrFlags::empty();
    if let Ok(reader) = open(&c.path("f"), OFlags::RDONLY) {
        c.call("set by a reader", rustix::fs::fsetxattr(&reader, "user.r", b"r", none));
        let mut buffer = [0_u8; 16];
        c.gives("get by a reader", rustix::fs::fgetxattr(&reader, "user.r", &mut buffer[..]));
        c.call("remove by a reader", rustix::fs::fremovexattr(&reader, "user.r"));
    }
    if let Ok(path_only) = open(&c.path("f"), OFlags::PATH) {
        c.call("set by O_PATH", rustix::fs::fsetxattr(&path_only, "user.r", b"r", none));
    }
}
