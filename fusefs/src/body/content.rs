//! Immutable content, and the plan of a read: which piece of it comes from where.

use std::ops::Range;
use std::sync::Arc;

use engine::command::Body;
use engine::ids::BodyId;
use engine::namespace::Inode;
use store::StoreError;

use super::extents::Source;
use super::layer::{Data, Layer, StageFile};

/// One version's bytes as the namespace names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub body: Body,
    /// Bytes of the body that still show; zeros follow.
    pub valid_len: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the body that are stored; the rest are holes.
    pub stored_len: u64,
}

/// A layer that does not change any more, with what it lies over.
#[derive(Debug)]
pub struct Frozen {
    pub layer: Layer,
    pub below: Content,
}

/// What a layer lies over.
#[derive(Clone, Debug)]
pub enum Below {
    Content(Content),
    Frozen(Arc<Frozen>),
}

/// A part of a read.
#[derive(Clone, Debug)]
pub struct Segment {
    /// In the file.
    pub range: Range<u64>,
    pub from: From,
}

/// Where a segment's bytes are, always at the file's own offsets.
#[derive(Clone, Debug)]
pub enum From {
    Zero,
    Memory(Arc<Vec<u8>>),
    File(Arc<StageFile>),
    /// A sealed body of this many bytes.
    Body(BodyId, u64),
}

impl Content {
    pub fn of(inode: &Inode) -> Content {
        let stored = match &inode.body {
            Body::Empty => 0,
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Sealed { len, .. } => *len,
        };
        Content {
            body: inode.body.clone(),
            // The tables promise both; a reader must not depend on it.
            valid_len: inode.valid_len.min(stored).min(inode.size),
            size: inode.size,
            stored_len: inode.stored_len,
        }
    }

    /// The segments of `range`, which lies within the file.
    pub fn plan(&self, range: Range<u64>, plan: &mut Vec<Segment>) {
        let border = self.valid_len.clamp(range.start, range.end);
        if range.start < border {
            let from = match &self.body {
                Body::Empty => From::Zero,
                Body::Inline(bytes) => From::Memory(Arc::new(bytes.clone())),
                Body::Sealed { id, len } => From::Body(*id, *len),
            };
            plan.push(Segment { range: range.start..border, from });
        }
        if border < range.end {
            plan.push(Segment { range: border..range.end, from: From::Zero });
        }
    }
}

impl Below {
    pub fn size(&self) -> u64 {
        match self {
            Below::Content(content) => content.size,
            Below::Frozen(frozen) => frozen.layer.size(),
        }
    }

    /// Bytes from which on there are only zeros.
    pub fn stored(&self) -> u64 {
        match self {
            Below::Content(content) => content.valid_len,
            Below::Frozen(frozen) => frozen.layer.size(),
        }
    }

    /// Bytes that it takes, at most: what quotas count.
    pub fn charge(&self) -> u64 {
        match self {
            Below::Content(content) => content.stored_len.min(content.valid_len),
            Below::Frozen(frozen) => {
                frozen.layer.charge(frozen.below.stored_len.min(frozen.below.valid_len))
            }
        }
    }

    /// Bytes that are stored, as far as is known without looking.
    pub fn stored_len(&self) -> u64 {
        match self {
            Below::Content(content) => content.stored_len.min(content.valid_len),
            Below::Frozen(frozen) => frozen.stored_len(),
        }
    }

    /// As [`Content::plan`].
    pub fn plan(&self, range: Range<u64>, plan: &mut Vec<Segment>) {
        match self {
            Below::Content(content) => content.plan(range, plan),
            Below::Frozen(frozen) => frozen.plan(range, plan),
        }
    }
}

impl Frozen {
    /// As [`Below::stored_len`].
    pub fn stored_len(&self) -> u64 {
        self.layer.allocated(self.below.stored_len.min(self.below.valid_len))
    }

    /// As [`Content::plan`].
    pub fn plan(&self, range: Range<u64>, plan: &mut Vec<Segment>) {
        plan_layer(&self.layer, &|range, plan| self.below.plan(range, plan), range, plan);
    }
}

/// The segments of a layer over something, for a range within the file.
pub fn plan_layer(
    layer: &Layer,
    below: &dyn Fn(Range<u64>, &mut Vec<Segment>),
    range: Range<u64>,
    plan: &mut Vec<Segment>,
) {
    for piece in layer.extents().pieces(range) {
        match piece.source {
            Source::Below => below(piece.range, plan),
            Source::Zero => plan.push(Segment { range: piece.range, from: From::Zero }),
            Source::Shared(id, len) => {
                plan.push(Segment { range: piece.range, from: From::Body(id, len) });
            }
            Source::Here => {
                let from = match layer.data() {
                    Data::Memory(bytes) => From::Memory(Arc::clone(bytes)),
                    Data::File(file) => From::File(Arc::clone(file)),
                };
                plan.push(Segment { range: piece.range, from });
            }
        }
    }
}

/// Copies the bytes of `plan` into `bytes`, whose first byte is the plan's first.
///
/// # Errors
/// What the store or `read_body` says.
pub fn fill<E: std::convert::From<StoreError>>(
    plan: &[Segment],
    bytes: &mut [u8],
    read_body: &dyn Fn(BodyId, u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = bytes;
    for segment in plan {
        let Range { start, end } = segment.range;
        let (part, others) = rest.split_at_mut((end - start) as usize);
        rest = others;
        match &segment.from {
            From::Zero => part.fill(0),
            From::Memory(memory) => {
                let memory = &memory[start as usize..];
                part.copy_from_slice(&memory[..part.len()]);
            }
            From::File(file) => file.read_at(part, start)?,
            From::Body(id, _) => read_body(*id, start, part)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::layer::{LayerId, MemoryBudget};
    use super::*;

    #[test]
    fn a_truncated_version_reads_zeros_behind_what_is_valid() {
        let content = Content {
            body: Body::Inline(b"abcdef".to_vec()),
            valid_len: 3,
            size: 8,
            stored_len: 6,
        };
        assert_eq!(read(&Below::Content(content)), b"abc\0\0\0\0\0");
    }

    #[test]
    fn layers_show_what_lies_below_them() {
        let below = Content {
            body: Body::Inline(b"abcdef".to_vec()),
            valid_len: 6,
            size: 6,
            stored_len: 6,
        };
        let mut layer = Layer::over(LayerId(1), 6, 6, &MemoryBudget::default());
        layer.write_memory(1, b"XY");
        layer.truncate(5, true);
        layer.write_memory(7, b"Z");
        let frozen = Below::Frozen(Arc::new(Frozen { layer, below }));
        assert_eq!(read(&frozen), b"aXYde\0\0Z");
        let budget = MemoryBudget::default();
        let mut top = Layer::over(LayerId(2), frozen.stored(), frozen.size(), &budget);
        top.zero(0, 2, true);
        let mut plan = Vec::new();
        plan_layer(&top, &|range, plan| frozen.plan(range, plan), 0..top.size(), &mut plan);
        assert_eq!(bytes(&plan), b"\0\0Yde\0\0Z");
    }

    fn read(below: &Below) -> Vec<u8> {
        let mut plan = Vec::new();
        below.plan(0..below.size(), &mut plan);
        bytes(&plan)
    }

    fn bytes(plan: &[Segment]) -> Vec<u8> {
        let mut bytes = vec![9; plan.last().map_or(0, |segment| segment.range.end as usize)];
        fill::<StoreError>(plan, &mut bytes, &|_, _, _| panic!("no sealed body here"))
            .expect("memory can be read");
        bytes
    }
}
