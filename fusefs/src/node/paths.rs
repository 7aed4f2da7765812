//! Paths of the volume, for people: from its root, with a leading slash.

use engine::command::{Member, Name};
use engine::ids::Ino;
use engine::namespace::{FileType, Inode};

use crate::admin::control::ControlError;
use crate::admin::report::{HolderReport, HolderState, WhereReport};
use crate::ops::ports::View;

/// The inode at `path`; symbolic links are not followed.
pub fn find(view: &View, path: &str) -> Result<(Ino, Inode), ControlError> {
    let broken = |error: engine::namespace::TablesError| ControlError::failed(error.to_string());
    let mut ino = Ino::ROOT;
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let name = Name::parse(part.as_bytes())
            .map_err(|error| ControlError::usage(format!("'{part}' in the path: {error}")))?;
        ino = view
            .lookup(ino, &name)
            .map_err(broken)?
            .ok_or_else(|| ControlError::failed(format!("'{path}': there is no '{part}'")))?;
    }
    let inode = view
        .inode(ino)
        .map_err(broken)?
        .ok_or_else(|| ControlError::failed(format!("'{path}' has just gone")))?;
    Ok((ino, inode))
}

/// The path of a directory; `None` if it has gone, or the tables cannot be read. Costs a scan
/// of each directory above it.
pub fn of_directory(view: &View, directory: Ino) -> Option<String> {
    let mut parts = Vec::new();
    let mut ino = directory;
    while ino != Ino::ROOT {
        let (parent, name) = view.name_of_directory(ino).ok()??;
        parts.push(name.to_string());
        ino = parent;
    }
    parts.reverse();
    Some(format!("/{}", parts.join("/")))
}

/// A path of a file, as [`of_directory`].
pub fn of_file(view: &View, file: Ino) -> Option<String> {
    let (home, name) = view.name_of_file(file).ok()??;
    let above = of_directory(view, home)?;
    Some(format!("{}/{name}", above.trim_end_matches('/')))
}

/// The word for a file's type.
pub fn kind_word(kind: FileType) -> &'static str {
    match kind {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharDevice => "char-device",
        FileType::BlockDevice => "block-device",
    }
}

/// What `fusion where` says, without the holders' states.
pub fn where_report(
    path: &str,
    ino: Ino,
    inode: &Inode,
    writer: Option<String>,
    holders: Vec<HolderReport>,
) -> WhereReport {
    WhereReport {
        path: format!("/{}", path.trim_matches('/')),
        ino: ino.0,
        kind: kind_word(inode.file_type()).to_owned(),
        version: inode.version.0,
        size_bytes: inode.size,
        writer,
        holders,
    }
}

/// One node's line of `fusion where`.
pub fn holder(member: &Member, state: HolderState, bytes: Option<u64>) -> HolderReport {
    HolderReport { node: member.name.clone(), zone: member.zone_name.clone(), state, bytes }
}
