//! What the compiler does not check: the order of modules inside a crate, and that `engine`
//! performs no I/O.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie in the workspace").to_owned()
}

/// The Rust files below a directory, without unit tests in files of their own.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a source directory").flatten() {
        let path = entry.path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The code of a file: no comments, and nothing from its unit tests on.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a readable source");
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim().to_owned()))
        .take_while(|(_, line)| line != "#[cfg(test)]")
        .filter(|(_, line)| !line.starts_with("//"))
        .collect()
}

/// The modules of a crate in the order in which its root declares them.
fn declared(root: &Path) -> Vec<String> {
    let declaration = |line: &str| {
        let rest = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?;
        rest.strip_suffix(';').map(str::to_owned)
    };
    code_lines(root).iter().filter_map(|(_, line)| declaration(line)).collect()
}

/// The top module that a path belongs to, as in `kernel` for `src/kernel/mount.rs`.
fn top_module(src: &Path, path: &Path) -> Option<String> {
    let inside = path.strip_prefix(src).ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    Some(first.strip_suffix(".rs").unwrap_or(first).to_owned())
}

/// The top modules that a line names, as in `use crate::kernel::device`.
fn uses(line: &str) -> Vec<String> {
    let mut named = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').and_then(|inner| inner.split('}').next());
        for item in
            list.unwrap_or(rest).split(',').take(if list.is_some() { usize::MAX } else { 1 })
        {
            let word: String =
                item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            named.push(word);
        }
    }
    named
}

/// Dependencies inside `fusefs` point up its list: whoever reads from the top never needs what
/// comes later.
#[test]
fn modules_use_only_what_is_declared_before_them() {
    let src = workspace().join("fusefs/src");
    let order: BTreeMap<String, usize> =
        declared(&src.join("lib.rs")).into_iter().zip(0..).collect();
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let Some(own) = top_module(&src, &path).and_then(|name| order.get(&name).copied()) else {
            continue;
        };
        for (at, line) in code_lines(&path) {
            for used in uses(&line).iter().filter_map(|name| order.get(name)) {
                if *used > own {
                    wrong.push(format!("{}:{at}: {line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "against the order in fusefs/src/lib.rs:\n{}", wrong.join("\n"));
}

/// What would let the engine see the outside: clocks, threads, files, sockets, randomness, and
/// the order of a hash map.
const FORBIDDEN_IN_ENGINE: [&str; 11] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "std::io",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "tokio",
];

#[test]
fn the_engine_performs_no_io() {
    let src = workspace().join("engine/src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        for (at, line) in code_lines(&path) {
            for word in FORBIDDEN_IN_ENGINE.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{at}: {word}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "engine/ takes inputs and gives effects, nothing else:\n{}",
        wrong.join("\n")
    );
}

/// `wire` and `store` never import each other, and `engine` imports none of ours.
#[test]
fn crates_depend_downwards() {
    let allowed: [(&str, &[&str]); 4] = [
        ("engine", &[]),
        ("wire", &["engine"]),
        ("store", &["engine"]),
        ("fusefs", &["engine", "store", "wire"]),
    ];
    for (name, may) in allowed {
        let manifest =
            fs::read_to_string(workspace().join(name).join("Cargo.toml")).expect("a manifest");
        for other in ["engine", "wire", "store", "fusefs", "tests"] {
            let depends =
                manifest.lines().any(|line| line.starts_with(&format!("{other}.workspace")));
            assert!(!depends || may.contains(&other), "{name} must not depend on {other}");
        }
    }
}

/// Nothing waits for a later day: what is not done yet is in docs/SEMANTICS.md.
#[test]
fn no_unfinished_work_is_left() {
    let mut wrong = Vec::new();
    for name in ["engine", "wire", "store", "fusefs", "tests"] {
        for path in sources(&workspace().join(name).join("src")) {
            let text = fs::read_to_string(&path).expect("a readable source");
            for (at, line) in text.lines().enumerate() {
                // Split, so that this file does not find itself.
                for word in [
                    concat!("TO", "DO"),
                    concat!("FIX", "ME"),
                    concat!("todo", "!("),
                    concat!("unimple", "mented!("),
                ] {
                    if line.contains(word) {
                        wrong.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "unfinished:\n{}", wrong.join("\n"));
}

#[test]
fn module_names_are_found_in_lines() {
    assert_eq!(uses("use crate::kernel::device;"), ["kernel"]);
    assert_eq!(uses("use crate::{config, node::start};"), ["config", "node"]);
    assert_eq!(uses("let x = crate::admin::f(crate::ops::g());"), ["admin", "ops"]);
}
