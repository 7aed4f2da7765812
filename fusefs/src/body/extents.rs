//! Which bytes of a file lie in a layer, which are zeros, and which come from below it.
//!
//! A layer keeps its bytes at the offsets that they have in the file, so a range needs no
//! translation, only its source. Modifying a large body therefore copies nothing: the untouched
//! ranges stay [`Source::Below`].

use std::collections::BTreeMap;
use std::ops::Range;

use engine::ids::BodyId;
use minicbor::{Decode, Encode};

/// Where the bytes of a range are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In this layer, at the same offset.
    Here,
    /// Nowhere: they are zeros.
    Zero,
    /// In what this layer was put on, at the same offset.
    Below,
    /// In another file's sealed body of this many bytes, at the same offset: copied without
    /// copying.
    Shared(BodyId, u64),
}

/// A range with one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub range: Range<u64>,
    pub source: Source,
}

/// The extent map of a layer. A range that was never set reads from below up to
/// [`Self::below`], and as zeros from there on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Extents {
    /// start → extent; they neither overlap nor touch an equal neighbour.
    #[n(0)]
    set: BTreeMap<u64, Extent>,
    #[n(1)]
    below: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct Extent {
    #[n(0)]
    end: u64,
    #[n(1)]
    what: What,
}

/// What a range that was set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
enum What {
    #[n(0)]
    Here,
    #[n(1)]
    Zero,
    /// A sealed body, and its bytes.
    #[n(2)]
    Shared(#[n(0)] BodyId, #[n(1)] u64),
}

impl From<What> for Source {
    fn from(what: What) -> Source {
        match what {
            What::Here => Source::Here,
            What::Zero => Source::Zero,
            What::Shared(id, len) => Source::Shared(id, len),
        }
    }
}

impl Extents {
    /// A map that shows the first `below` bytes of what lies below, and then zeros.
    pub fn over(below: u64) -> Extents {
        Extents { set: BTreeMap::new(), below }
    }

    /// Bytes of what lies below that can still be seen.
    pub fn below(&self) -> u64 {
        self.below
    }

    /// The range was written into this layer.
    pub fn write(&mut self, range: Range<u64>) {
        self.put(range, What::Here);
    }

    /// The range became zeros.
    pub fn zero(&mut self, range: Range<u64>) {
        self.put(range, What::Zero);
    }

    /// The range became that of a sealed body of `len` bytes.
    pub fn share(&mut self, range: Range<u64>, id: BodyId, len: u64) {
        assert!(range.end <= len, "only what a body has can be shared");
        self.put(range, What::Shared(id, len));
    }

    /// The file was cut to `size` bytes: nothing at or above is seen again.
    pub fn cut(&mut self, size: u64) {
        self.below = self.below.min(size);
        self.set.split_off(&size);
        if let Some(mut last) = self.set.last_entry() {
            let end = &mut last.get_mut().end;
            *end = (*end).min(size);
        }
    }

    /// The sources of `range`, in order and without gaps.
    pub fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if range.is_empty() {
            return pieces;
        }
        let mut at = range.start;
        for (start, extent) in self.touching(range.clone()) {
            self.unset(at, start.min(range.end), &mut pieces);
            let piece = start.max(range.start)..extent.end.min(range.end);
            at = piece.end;
            pieces.push(Piece { range: piece, source: extent.what.into() });
        }
        self.unset(at, range.end, &mut pieces);
        pieces
    }

    /// True if all of `range` was written into this layer, by one extent.
    pub fn is_written(&self, range: Range<u64>) -> bool {
        let extent = self.set.range(..=range.start).next_back();
        extent.is_some_and(|(_, extent)| extent.what == What::Here && range.end <= extent.end)
    }

    /// True if every byte below `size` is this layer's own: neither from below nor another's.
    pub fn is_whole(&self, size: u64) -> bool {
        let own = |piece: &Piece| matches!(piece.source, Source::Here | Source::Zero);
        self.pieces(0..size).iter().all(own)
    }

    /// Bytes of this layer's own or shared with another file.
    pub fn written(&self) -> u64 {
        let written = self.set.iter().filter(|(_, extent)| extent.what != What::Zero);
        written.map(|(start, extent)| extent.end - start).sum()
    }

    /// Number of extents.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.set.len()
    }

    /// False for a map that did not come from this program: its extents overlap, touch, or are
    /// empty.
    pub fn is_sound(&self) -> bool {
        let mut at = None;
        self.set.iter().all(|(&start, extent)| {
            let is_in_body = match extent.what {
                What::Shared(_, len) => extent.end <= len,
                What::Here | What::Zero => true,
            };
            let sound = start < extent.end && at.is_none_or(|end| end <= start) && is_in_body;
            at = Some(extent.end);
            sound
        })
    }

    /// Extents that share a byte with `range`, ascending.
    fn touching(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Extent)> {
        let first = match self.set.range(..=range.start).next_back() {
            Some((&start, extent)) if extent.end > range.start => start,
            _ => range.start,
        };
        self.set.range(first..range.end.max(first)).map(|(&start, &extent)| (start, extent))
    }

    fn unset(&self, start: u64, end: u64, pieces: &mut Vec<Piece>) {
        let border = self.below.clamp(start, end.max(start));
        if start < border {
            pieces.push(Piece { range: start..border, source: Source::Below });
        }
        if border < end {
            pieces.push(Piece { range: border..end, source: Source::Zero });
        }
    }

    fn put(&mut self, range: Range<u64>, what: What) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Extents of the same kind that touch the range join it, others lose what is in it.
        if let Some((&left, &extent)) = self.set.range(..start).next_back()
            && extent.end >= start
        {
            if extent.what == what {
                start = left;
                end = end.max(extent.end);
            } else {
                self.set.insert(left, Extent { end: start, ..extent });
                if extent.end > end {
                    self.set.insert(end, extent);
                }
            }
        }
        while let Some((&inner, &extent)) = self.set.range(start..end).next_back() {
            self.set.remove(&inner);
            if extent.what == what {
                end = end.max(extent.end);
            } else if extent.end > end {
                self.set.insert(end, extent);
            }
        }
        if let Some(&extent) = self.set.get(&end)
            && extent.what == what
        {
            self.set.remove(&end);
            end = extent.end;
        }
        self.set.insert(start, Extent { end, what });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACE: u64 = 64;

    #[derive(Clone, Debug)]
    enum Change {
        Write(Range<u64>),
        Zero(Range<u64>),
        Share(Range<u64>, u8),
        Cut(u64),
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..SPACE, 0..SPACE).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            range().prop_map(Change::Write),
            range().prop_map(Change::Zero),
            (range(), 0..2_u8).prop_map(|(range, body)| Change::Share(range, body)),
            (0..SPACE).prop_map(Change::Cut),
        ]
    }

    proptest! {
        #[test]
        fn extents_equal_a_source_per_byte(
            below in 0..SPACE,
            changes in prop::collection::vec(change(), 0..40),
            asked in range(),
        ) {
            let mut extents = Extents::over(below);
            let mut model: Vec<Source> = (0..SPACE)
                .map(|at| if at < below { Source::Below } else { Source::Zero })
                .collect();
            for change in changes {
                match change {
                    Change::Write(range) => {
                        extents.write(range.clone());
                        range.for_each(|at| model[at as usize] = Source::Here);
                    }
                    Change::Zero(range) => {
                        extents.zero(range.clone());
                        range.for_each(|at| model[at as usize] = Source::Zero);
                    }
                    Change::Share(range, body) => {
                        let id = BodyId([body; 32]);
                        extents.share(range.clone(), id, SPACE);
                        range.for_each(|at| model[at as usize] = Source::Shared(id, SPACE));
                    }
                    Change::Cut(size) => {
                        extents.cut(size);
                        (size..SPACE).for_each(|at| model[at as usize] = Source::Zero);
                    }
                }
                prop_assert!(extents.is_sound(), "{extents:?}");
            }
            let mut at = asked.start;
            for piece in extents.pieces(asked.clone()) {
                prop_assert_eq!(piece.range.start, at);
                prop_assert!(piece.range.start < piece.range.end);
                for byte in piece.range.clone() {
                    prop_assert_eq!(model[byte as usize], piece.source, "byte {}", byte);
                }
                at = piece.range.end;
            }
            prop_assert_eq!(at, asked.end);
        }
    }

    #[test]
    fn a_file_written_in_order_is_one_extent() {
        let mut extents = Extents::default();
        for at in 0..1000 {
            extents.write(at * 4096..(at + 1) * 4096);
        }
        assert_eq!(extents.count(), 1);
        assert!(extents.is_whole(4096 * 1000));
    }
}
