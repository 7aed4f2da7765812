//! Runs scripts of operations against a namespace in memory.
//!
//! Statements are separated by `;` or line breaks. A path begins at `/`, or at a remembered
//! inode: `let d /a` makes `@d/x` mean "x in what /a was then". A statement may end in
//! `= Refusal`; without it the operation must succeed. After every statement the state hash
//! is computed from scratch and links, entries and cookies are counted again.

mod acl;
mod exactly_once;
mod lease;
mod locks;
mod membership;
mod posix;
mod quota;
mod random;
mod speed;
mod unnamed;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::acl::{Acl, AclKind};
use crate::command::{
    Body, Command, Cred, Kill, Kind, Member, MemberRole, Name, Op, QuotaLimits, RenameHow, SetAttr,
    XattrHow,
};
use crate::ids::{BodyId, Gsn, Ino, NodeId, OpId, Version, VolumeId, ZoneId};
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

/// Runs `script` on a new volume with the members 1, 2 and 3.
fn check(script: &str) -> Ring {
    let mut ring = Ring::new();
    for statement in script.split([';', '\n']).map(str::trim).filter(|s| !s.is_empty()) {
        ring.statement(statement);
        invariants(&ring.tables);
    }
    ring
}

struct Ring {
    tables: MemoryTables,
    gsn: Gsn,
    last_seqs: BTreeMap<NodeId, u64>,
    next_counter: u64,
    node: NodeId,
    cred: Cred,
    umask: u32,
    remembered: BTreeMap<String, Ino>,
    touched: Vec<Touched>,
}

impl Ring {
    fn new() -> Ring {
        let mut ring = Ring::without_members();
        for number in 1..=3 {
            let token = (number > 1).then(|| {
                let zone = format!("z{number}");
                let expires = Timestamp::new(1_000_000, 0);
                let id = u64::from(number);
                let (secret_hash, role) = ([0; 32], MemberRole::Voter);
                ring.succeed(Op::CreateJoinToken { id, secret_hash, zone, expires, role });
                id
            });
            ring.succeed(Op::AdmitNode { node: member(number), token });
        }
        ring
    }

    fn without_members() -> Ring {
        let time = Timestamp::new(0, 0);
        let params = VolumeParams { key: [1; 32], time, uid: 0, gid: 0, mode: 0o755 };
        let mut tables = MemoryTables::default();
        tables.absorb(genesis(&params));
        Ring {
            tables,
            gsn: Gsn(0),
            last_seqs: BTreeMap::new(),
            next_counter: 16,
            node: NodeId(1),
            cred: Cred { uid: 1000, gid: 1000 },
            umask: 0,
            remembered: BTreeMap::new(),
            touched: Vec::new(),
        }
    }

    fn view(&self) -> View<&MemoryTables> {
        View(&self.tables)
    }

    /// The current node's next command; the GSN is its time in seconds.
    fn command(&mut self, op: Op) -> Command {
        self.gsn = self.gsn.next();
        let seq = self.last_seqs.entry(self.node).or_default();
        *seq += 1;
        let id = OpId { origin: self.node, boot: 1, seq: *seq };
        Command { id, time: Timestamp::new(self.gsn.0 as i64, 0), cred: self.cred, op }
    }

    fn deliver(&mut self, command: &Command) -> Applied {
        let mut overlay = Overlay::new(&self.tables);
        let applied = apply(&mut overlay, self.gsn, command).expect("the tables are sound");
        let changes = overlay.into_changes();
        self.tables.absorb(changes);
        self.touched.clone_from(&applied.touched);
        applied
    }

    fn run(&mut self, op: Op) -> Outcome {
        let command = self.command(op);
        let applied = self.deliver(&command);
        assert!(applied.fresh);
        applied.outcome.expect("a fresh command has an outcome")
    }

    fn succeed(&mut self, op: Op) -> Outcome {
        let outcome = self.run(op.clone());
        assert!(!matches!(outcome, Outcome::Refused(_)), "{op:?} gives {outcome:?}");
        outcome
    }

    fn statement(&mut self, statement: &str) {
        let (statement, expected) = match statement.split_once(" = ") {
            Some((statement, refusal)) => (statement.trim(), Some(refusal.trim())),
            None => (statement, None),
        };
        let words: Vec<&str> = statement.split_whitespace().collect();
        if self.assertion(&words) {
            return;
        }
        let op = self.op(&words);
        let outcome = match self.run(op) {
            Outcome::Refused(refusal) => Some(format!("{refusal:?}")),
            _ => None,
        };
        assert_eq!(outcome.as_deref(), expected, "{statement}");
    }

    /// Statements that look, or that change the runner alone.
    fn assertion(&mut self, words: &[&str]) -> bool {
        match *words {
            ["node", number] => self.node = NodeId(parse(number)),
            ["as", uid, gid] => self.cred = Cred { uid: parse(uid), gid: parse(gid) },
            ["umask", mask] => self.umask = octal(mask),
            ["acl", path, expected] => self.assert_acl(path, AclKind::Access, expected),
            ["default-acl", path, expected] => self.assert_acl(path, AclKind::Default, expected),
            ["let", name, path] => {
                let ino = self.ino(path);
                self.remembered.insert(name.to_owned(), ino);
            }
            ["stat", path, field, expected] => {
                let value = self.field(path, field);
                assert_eq!(value, expected, "{words:?}");
            }
            ["times", path, expected] => {
                let inode = self.inode(path);
                let now = Timestamp::new(self.gsn.0 as i64, 0);
                let times = [('a', inode.atime), ('m', inode.mtime), ('c', inode.ctime)];
                let moved: String =
                    times.into_iter().filter(|&(_, time)| time == now).map(|(c, _)| c).collect();
                assert_eq!(moved, expected.trim_matches('-'), "{words:?}");
            }
            ["ls", path, ref names @ ..] => {
                let entries = self.view().read_dir(self.ino(path), 0, 1000).expect("is sound");
                let listed: Vec<_> = entries.iter().map(|entry| entry.name.to_string()).collect();
                assert_eq!(listed, names, "{words:?}");
            }
            // What counts for the quota of a directory, and what is reserved of it.
            ["use", path, bytes, inodes, reserved] => {
                let quota = self.view().quota(self.ino(path)).expect("is sound");
                let quota = quota.unwrap_or_else(|| panic!("{path} has no quota"));
                let (used, expected) = (quota.used, [bytes, inodes, reserved].map(parse::<u64>));
                assert_eq!([used.bytes, used.inodes, quota.reserved], expected, "{words:?}");
            }
            ["no-quota", path] => {
                assert_eq!(self.view().quota(self.ino(path)).expect("is sound"), None);
            }
            ["count", path] => self.count_quota(self.ino(path)),
            ["same", one, other] => assert_eq!(self.ino(one), self.ino(other), "{words:?}"),
            ["gone", path] => {
                assert!(self.view().inode(self.ino(path)).expect("is sound").is_none());
            }
            _ => return false,
        }
        true
    }

    fn field(&self, path: &str, field: &str) -> String {
        let inode = self.inode(path);
        match field {
            "mode" => format!("{:o}", inode.mode),
            "uid" => inode.uid.to_string(),
            "gid" => inode.gid.to_string(),
            "nlink" => inode.nlink.to_string(),
            "size" => inode.size.to_string(),
            "valid" => inode.valid_len.to_string(),
            "writer" => inode.writer.map_or("none".into(), |node| node.to_string()),
            "parent" => inode.parent().expect("it is a directory").to_string(),
            "version" => inode.version.to_string(),
            other => panic!("unknown field {other}"),
        }
    }

    fn op(&mut self, words: &[&str]) -> Op {
        match *words {
            ["mkdir", path] => self.make(path, Kind::Directory, 0o755, true),
            ["mkdir", path, mode] => self.make(path, Kind::Directory, octal(mode), true),
            ["create", path] => self.make(path, Kind::File, 0o644, true),
            ["open", path] => self.make(path, Kind::File, 0o644, false),
            ["fifo", path] => self.make(path, Kind::Fifo, 0o600, true),
            ["device", path, rdev] => self.make(path, Kind::CharDevice(parse(rdev)), 0o600, true),
            ["symlink", path, target] => {
                self.make(path, Kind::Symlink(target.as_bytes().to_vec()), 0, true)
            }
            ["link", path, new] => {
                let (parent, name) = self.place(new);
                Op::Link { ino: self.ino(path), parent, name }
            }
            ["unlink", path] => {
                let (parent, name) = self.place(path);
                Op::Unlink { parent, name }
            }
            ["rmdir", path] => {
                let (parent, name) = self.place(path);
                Op::Rmdir { parent, name, victim: None }
            }
            ["mv", from, to] => self.rename(from, to, RenameHow::Replace),
            ["mv-new", from, to] => self.rename(from, to, RenameHow::NoReplace),
            ["swap", from, to] => self.rename(from, to, RenameHow::Exchange),
            ["chmod", path, mode] => {
                self.set(path, SetAttr { mode: Some(octal(mode)), ..SetAttr::default() })
            }
            ["chown", path, uid, gid] => {
                let (uid, gid) = (uid.parse().ok(), gid.parse().ok());
                self.set(path, SetAttr { uid, gid, ..SetAttr::default() })
            }
            ["truncate", path, size] => {
                self.set(path, SetAttr { size: Some(parse(size)), ..SetAttr::default() })
            }
            ["utimes", path, atime, mtime] => {
                let time = |text| Some(Timestamp::new(parse::<i64>(text), 0));
                let (atime, mtime) = (time(atime), time(mtime));
                self.set(path, SetAttr { atime, mtime, ..SetAttr::default() })
            }
            ["touch", path] => self.set(path, SetAttr::default()),
            ["write", path, len] => self.publish(path, parse(len), self.inode(path).version),
            ["write-on", path, base, len] => self.publish(path, parse(len), Version(parse(base))),
            ["setx", path, name, value] => self.set_xattr(path, name, value, XattrHow::Set),
            ["setx-new", path, name, value] => self.set_xattr(path, name, value, XattrHow::Create),
            ["setx-old", path, name, value] => self.set_xattr(path, name, value, XattrHow::Replace),
            ["rmx", path, name] => {
                Op::RemoveXattr { ino: self.ino(path), name: name.as_bytes().to_vec() }
            }
            ["setfacl", path, acl] => self.set_acl(path, AclKind::Access, acl, false),
            ["setfacl-by-stranger", path, acl] => self.set_acl(path, AclKind::Access, acl, true),
            ["setfacl-d", path, acl] => self.set_acl(path, AclKind::Default, acl, false),
            ["kill", path] => {
                self.set(path, SetAttr { kill: Some(Kill::SetId), ..SetAttr::default() })
            }
            ["whiteout", from, to] => self.whiteout(from, to, true),
            ["whiteout-new", from, to] => self.whiteout(from, to, false),
            ["tmpfile", parent, name, mode] => {
                let ino = Ino::of(self.node, self.next_counter);
                self.next_counter += 1;
                self.remembered.insert(name.to_owned(), ino);
                let (mode, umask) = (octal(mode), self.umask);
                Op::MakeUnnamed { parent: self.ino(parent), ino, mode, umask }
            }
            ["drop", path] => Op::DropUnnamed { ino: self.ino(path) },
            ["reap"] => Op::ReapUnnamed { limit: 2 },
            ["expire", node, path] => self.expire(NodeId(parse(node)), self.ino(path)),
            ["take", path] => Op::TakeToken { ino: self.ino(path), node: self.node },
            ["quota", path, "none"] => Op::SetQuota { directory: self.ino(path), limits: None },
            ["quota", path, bytes, inodes] => {
                let limits = QuotaLimits { bytes: bytes.parse().ok(), inodes: inodes.parse().ok() };
                Op::SetQuota { directory: self.ino(path), limits: Some(limits) }
            }
            ["mark", quota, path, after, through] => Op::MarkQuota {
                quota: self.ino(quota),
                directory: self.ino(path),
                after: parse(after),
                through: parse(through),
            },
            ["reserve", path, needed, wanted] => Op::ReserveQuota {
                quota: self.ino(path),
                needed: parse(needed),
                wanted: parse(wanted),
            },
            ["return", path, bytes] => {
                Op::ReturnQuota { quota: self.ino(path), bytes: parse(bytes), answers: None }
            }
            ["release", path] => Op::ReleaseToken { ino: self.ino(path), node: self.node },
            _ => panic!("unknown statement {words:?}"),
        }
    }

    /// What a node proposes that has heard nothing of `node` since its last command.
    fn expire(&self, node: NodeId, ino: Ino) -> Op {
        let seq = self.last_seqs.get(&node).copied().unwrap_or_default();
        Op::Expire { ino, node, boot: 1, seq }
    }

    /// Walks below a quota as the daemon does, and finishes it.
    fn count_quota(&mut self, quota: Ino) {
        let row = self.view().quota(quota).expect("is sound").expect("there is a quota");
        let mut directories = vec![quota];
        while let Some(directory) = directories.pop() {
            self.run(Op::MarkQuota { quota, directory, after: 0, through: 0 });
            let mut after = 0;
            loop {
                let page = self.view().read_dir(directory, after, 2).expect("is sound");
                let Some(last) = page.last() else { break };
                self.run(Op::MarkQuota { quota, directory, after, through: last.cookie });
                after = last.cookie;
                let inner = page.iter().filter(|entry| entry.kind == FileType::Directory);
                directories.extend(inner.map(|entry| entry.ino));
            }
        }
        self.succeed(Op::FinishQuota { quota, began: row.began });
    }

    fn make(&mut self, path: &str, kind: Kind, mode: u32, exclusive: bool) -> Op {
        let (parent, name) = self.place(path);
        let ino = Ino::of(self.node, self.next_counter);
        self.next_counter += 1;
        Op::Make { parent, name, ino, kind, mode, exclusive, umask: self.umask }
    }

    fn rename(&self, from: &str, to: &str, how: RenameHow) -> Op {
        let (from_parent, from_name) = self.place(from);
        let (to_parent, to_name) = self.place(to);
        Op::Rename { from_parent, from_name, to_parent, to_name, how, victim: None, source: None }
    }

    fn whiteout(&mut self, from: &str, to: &str, replace: bool) -> Op {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.place(from), self.place(to));
        let ino = Ino::of(self.node, self.next_counter);
        self.next_counter += 1;
        Op::Whiteout { from_parent, from_name, to_parent, to_name, replace, ino, source: None }
    }

    fn set_acl(&self, path: &str, kind: AclKind, text: &str, kill_sgid: bool) -> Op {
        Op::SetAcl { ino: self.ino(path), kind, acl: acl(text), kill_sgid }
    }

    fn assert_acl(&self, path: &str, kind: AclKind, expected: &str) {
        let (ino, inode) = (self.ino(path), self.inode(path));
        let stored = self.view().acl(ino, &inode, kind).expect("the tables are sound");
        assert_eq!(stored, acl(expected), "{path}");
    }

    fn set(&self, path: &str, set: SetAttr) -> Op {
        Op::SetAttr { ino: self.ino(path), set }
    }

    fn set_xattr(&self, path: &str, name: &str, value: &str, how: XattrHow) -> Op {
        let (name, value) = (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        Op::SetXattr { ino: self.ino(path), name, value, how }
    }

    fn publish(&self, path: &str, len: u64, base: Version) -> Op {
        let body = Body::Sealed { id: BodyId([len as u8; 32]), len };
        let mtime = Timestamp::new(self.gsn.0 as i64 + 1, 0);
        Op::Publish {
            ino: self.ino(path),
            base,
            body,
            size: len,
            mtime,
            holder: self.node,
            stored_len: len,
            ctime: mtime,
        }
    }

    /// The directory and the last name of a path.
    fn place(&self, path: &str) -> (Ino, Name) {
        let (parent, name) = path.rsplit_once('/').expect("paths have a slash");
        (self.ino(parent), Name::parse(name.as_bytes()).expect("scripts have good names"))
    }

    fn ino(&self, path: &str) -> Ino {
        let mut parts = path.split('/');
        let mut ino = match parts.next().and_then(|start| start.strip_prefix('@')) {
            Some(name) => self.remembered[name],
            None => Ino::ROOT,
        };
        for part in parts.filter(|part| !part.is_empty()) {
            let name = Name::parse(part.as_bytes()).expect("scripts have good names");
            let next = self.view().lookup(ino, &name).expect("the tables are sound");
            ino = next.unwrap_or_else(|| panic!("there is no {path}"));
        }
        ino
    }

    fn inode(&self, path: &str) -> Inode {
        let inode = self.view().inode(self.ino(path)).expect("the tables are sound");
        inode.unwrap_or_else(|| panic!("{path} is gone"))
    }
}

/// What holds after every command.
fn invariants(tables: &MemoryTables) {
    let view = View(tables);
    let counted = recompute(tables).expect("the tables are sound");
    assert_eq!(view.state_hash().expect("is sound"), counted.0, "running hash and rows differ");
    assert_eq!(view.usage().expect("is sound"), counted.1, "running usage and inodes differ");

    let mut inodes = BTreeMap::new();
    view.inodes(Ino(0), &mut |ino, inode| inodes.insert(ino, inode).is_none()).expect("is sound");
    let mut links: BTreeMap<Ino, u32> = BTreeMap::from([(Ino::ROOT, 2)]);
    for (&ino, inode) in inodes.iter().filter(|(_, inode)| inode.is_directory()) {
        let entries = view.read_dir(ino, 0, usize::MAX).expect("is sound");
        let directory = inode.directory.expect("a directory's inode has its part");
        assert_eq!(directory.entries, entries.len() as u64);
        let names: BTreeSet<_> = entries.iter().map(|entry| &entry.name).collect();
        assert_eq!(names.len(), entries.len(), "a name is listed twice");
        for entry in &entries {
            assert!(Directory::FIRST_COOKIE <= entry.cookie);
            assert!(entry.cookie < directory.next_cookie);
            let found = view.entry(ino, &entry.name).expect("is sound");
            assert_eq!(found, Some((entry.ino, entry.kind)), "listing and lookup differ");
            let child = &inodes[&entry.ino];
            assert_eq!(child.file_type(), entry.kind);
            *links.entry(entry.ino).or_default() += if child.is_directory() { 2 } else { 1 };
            if child.is_directory() {
                assert_eq!(child.parent(), Some(ino));
                *links.entry(ino).or_default() += 1;
            }
        }
    }
    for (ino, inode) in &inodes {
        let unnamed = keys::unnamed(*ino).is_some_and(|key| tables.0.contains_key(&key));
        assert_eq!(unnamed, inode.nlink == 0, "{ino} has no name and is not known for it");
        let counted = links.get(ino).copied().unwrap_or(0);
        assert_eq!(counted, inode.nlink, "links of {ino} are miscounted");
        assert!(inode.valid_len <= inode.size);
        assert!(inode.valid_len <= body_len(&inode.body), "more is visible than there is");
        let names = view.xattrs(*ino).expect("is sound");
        let listed: usize = names.iter().map(|name| name.len() + 1).sum();
        assert_eq!(listed, inode.xattr_list_len as usize);
    }
    assert!(links.keys().all(|ino| inodes.contains_key(ino)), "a name leads nowhere");
    for key in tables.0.keys().filter(|key| key[0] == b'U') {
        let ino = keys::unnamed_ino(key).expect("an inode number");
        assert!(inodes.contains_key(&ino), "a row outlives its inode");
    }
    quota_invariants(&view, &inodes);
    let mut waits = BTreeSet::new();
    for (ino, row) in view.locked().expect("is sound") {
        assert!(row.keeper.is_none() || row.locks.is_empty(), "locks in two places");
        let detecting = row.locks.waiting().iter().filter(|waiter| waiter.detects);
        waits.extend(detecting.map(|waiter| (waiter.lock.owner, ino)));
        for (at, held) in row.locks.held().iter().enumerate() {
            let others = &row.locks.held()[at + 1..];
            assert!(others.iter().all(|other| !held.conflicts(other)), "{held:?} is held twice");
        }
    }
    let wait_keys: BTreeSet<Vec<u8>> =
        waits.iter().map(|(owner, ino)| keys::lock_wait(*owner, *ino)).collect();
    let stored = tables.0.keys().filter(|key| key[0] == b'G').cloned().collect();
    assert_eq!(wait_keys, stored, "the graph of waits and the rows differ");
    let of_inodes = |key: &&Vec<u8>| b"XNCLQB".contains(&key[0]);
    for key in tables.0.keys().filter(of_inodes) {
        let ino = key[1..9].try_into().map(u64::from_be_bytes).expect("an inode number");
        assert!(inodes.contains_key(&Ino(ino)), "a row outlives its inode");
    }
}

/// Counts again what counts for each quota.
fn quota_invariants(view: &View<&MemoryTables>, inodes: &BTreeMap<Ino, Inode>) {
    let quotas: BTreeMap<Ino, Quota> = view.quotas().expect("is sound").into_iter().collect();
    let mut counted: BTreeMap<Ino, (QuotaUse, u64)> =
        quotas.keys().map(|directory| (*directory, Default::default())).collect();
    let mut count = |mark: Ino, add: &dyn Fn(&mut (QuotaUse, u64))| {
        let mut at = Some(mark);
        while let Some(directory) = at
            && let Some(quota) = quotas.get(&directory)
        {
            add(counted.get_mut(&directory).expect("it is a quota"));
            at = quota.parent;
        }
    };
    for inode in inodes.values() {
        count(inode.quota, &|(used, _)| {
            used.bytes += inode.charge();
            used.inodes += 1;
        });
    }
    for (directory, _, reservation) in view.reservations().expect("is sound") {
        assert!(reservation.bytes > 0, "an empty reservation is kept");
        assert!(quotas.contains_key(&directory), "a reservation outlives its quota");
        count(directory, &|(_, reserved)| *reserved += reservation.bytes);
    }
    for (directory, quota) in &quotas {
        assert_eq!(counted[directory], (quota.used, quota.reserved), "quota {directory:?}");
    }
}

fn body_len(body: &Body) -> u64 {
    match body {
        Body::Empty => 0,
        Body::Inline(bytes) => bytes.len() as u64,
        Body::Sealed { len, .. } => *len,
    }
}

fn member(number: u16) -> Member {
    Member {
        id: NodeId(number),
        name: format!("z{number}"),
        zone: ZoneId(number),
        zone_name: format!("z{number}"),
        address: format!("127.0.0.1:{}", 7000 + number),
        key_hash: [number as u8; 32],
        role: MemberRole::Voter,
        draining: false,
    }
}

/// `none`, or owner,group,other and then `m` mask, `u` uid or `g` gid with permissions, as in
/// `7,5,0,m7,u1000:6`.
fn acl(text: &str) -> Option<Acl> {
    let parts: Vec<&str> = text.split(',').collect();
    let [owner, group, other, named @ ..] = &parts[..] else { return None };
    let (mut mask, mut users, mut groups) = (None, Vec::new(), Vec::new());
    for part in named {
        match (part.as_bytes()[0], part[1..].split_once(':')) {
            (b'm', None) => mask = Some(parse(&part[1..])),
            (b'u', Some((id, perm))) => users.push((parse(id), parse(perm))),
            (b'g', Some((id, perm))) => groups.push((parse(id), parse(perm))),
            _ => panic!("{part} is no entry"),
        }
    }
    let (owner, group, other) = (parse(owner), parse(group), parse(other));
    Some(Acl { owner, group, other, mask, users, groups })
}

fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn octal(text: &str) -> u32 {
    u32::from_str_radix(text, 8).expect("modes are octal")
}
