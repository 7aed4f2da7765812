//! Finds chunk borders in a stream of bytes: FastCDC (Xia et al., 2020).

use fastcdc::v2020::{MASKS, Normalization, cut, select_masks};

use super::CHUNK_LEN_MAX;

/// How large chunks are on average. The smallest is a quarter of it, the largest four times.
///
/// A new version of a body is cut as its parent was, so that unchanged parts keep their
/// chunks while the body grows over a border here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    Kib64,
    Kib256,
    Mib1,
}

impl Average {
    /// What a body of `len` bytes is cut into, without a parent: 64 KiB up to 16 MiB, 256 KiB
    /// up to 1 GiB, 1 MiB above. So a manifest stays below 0.1 % of its body, and a small edit
    /// costs little where bodies are small enough to be edited.
    pub fn of_body(len: u64) -> Average {
        match len {
            len if len <= SMALL_MAX => Average::Kib64,
            len if len <= MEDIUM_MAX => Average::Kib256,
            _ => Average::Mib1,
        }
    }

    pub const fn bytes(self) -> usize {
        match self {
            Average::Kib64 => 64 << 10,
            Average::Kib256 => 256 << 10,
            Average::Mib1 => 1 << 20,
        }
    }

    const fn min(self) -> usize {
        self.bytes() / 4
    }

    const fn max(self) -> usize {
        self.bytes() * 4
    }
}

const SMALL_MAX: u64 = 16 << 20;
const MEDIUM_MAX: u64 = 1 << 30;
const _: () = assert!(Average::Mib1.max() == CHUNK_LEN_MAX as usize);
const _: () = assert!(MASKS.len() > 22, "masks exist for two bits around 2^20");

/// Cuts what is pushed into chunks. Borders depend on the bytes since the last hole and on
/// the average alone, not on how the bytes were divided into pushes.
///
/// `emit` gets each chunk's offset in the body and its bytes, in order.
#[derive(Debug)]
pub struct Chunker {
    average: Average,
    mask_small: u64,
    mask_large: u64,
    /// Bytes not emitted yet begin at `start`.
    pending: Vec<u8>,
    start: usize,
    /// Where in the body `pending[start]` lies.
    offset: u64,
}

impl Chunker {
    pub fn new(average: Average) -> Chunker {
        let (mask_small, mask_large) = select_masks(average.bytes(), Normalization::Level1);
        Chunker { average, mask_small, mask_large, pending: Vec::new(), start: 0, offset: 0 }
    }

    /// Takes the next bytes of the body.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(u64, &[u8])) {
        // Fed piece by piece, so that the buffer stays within two of the largest chunks.
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(self.average.max()));
            bytes = rest;
            self.compact();
            self.pending.extend_from_slice(piece);
            // A border is final once it cannot depend on bytes that are still to come.
            while self.pending.len() - self.start >= self.average.max() {
                self.emit_one(&mut emit);
            }
        }
    }

    /// Passes over `len` bytes that are a hole: they are in no chunk.
    pub fn hole(&mut self, len: u64, emit: impl FnMut(u64, &[u8])) {
        self.drain(emit);
        self.offset = self.offset.checked_add(len).expect("a body's length fits 64 bits");
    }

    /// Ends the body; its length is the answer.
    pub fn finish(mut self, emit: impl FnMut(u64, &[u8])) -> u64 {
        self.drain(emit);
        self.offset
    }

    fn drain(&mut self, mut emit: impl FnMut(u64, &[u8])) {
        while self.pending.len() > self.start {
            self.emit_one(&mut emit);
        }
        self.compact();
    }

    fn emit_one(&mut self, emit: &mut impl FnMut(u64, &[u8])) {
        let rest = &self.pending[self.start..];
        let (small, large) = (self.mask_small, self.mask_large);
        let (_, len) = cut(
            rest,
            self.average.min(),
            self.average.bytes(),
            self.average.max(),
            small,
            large,
            small << 1,
            large << 1,
        );
        emit(self.offset, &rest[..len]);
        self.start += len;
        self.offset += len as u64;
    }

    fn compact(&mut self) {
        self.pending.drain(..self.start);
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without a pattern, the same everywhere.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn borders(average: Average, body: &[u8], piece: usize) -> Vec<(u64, usize)> {
        let mut chunker = Chunker::new(average);
        let mut found = Vec::new();
        let mut rebuilt = Vec::new();
        let mut emit = |offset: u64, chunk: &[u8]| {
            assert_eq!(offset, rebuilt.len() as u64);
            rebuilt.extend_from_slice(chunk);
            found.push((offset, chunk.len()));
        };
        for part in body.chunks(piece) {
            chunker.push(part, &mut emit);
        }
        assert_eq!(chunker.finish(&mut emit), body.len() as u64);
        assert_eq!(rebuilt, body);
        found
    }

    #[test]
    fn borders_do_not_depend_on_how_bytes_are_pushed() {
        let body = noise(3 << 20);
        let whole = borders(Average::Kib64, &body, body.len());
        for piece in [1 << 10, 4095, 128 << 10, 1 << 20] {
            assert_eq!(borders(Average::Kib64, &body, piece), whole);
        }
        for &(_, len) in &whole[..whole.len() - 1] {
            assert!((16 << 10..=256 << 10).contains(&len));
        }
        let reference = fastcdc::v2020::FastCDC::new(&body, 16 << 10, 64 << 10, 256 << 10);
        assert!(reference.map(|chunk| (chunk.offset as u64, chunk.length)).eq(whole));
    }

    /// Borders are stored state: if this fails, new bodies share no chunk with old ones.
    #[test]
    fn golden_borders() {
        let body = noise(1 << 20);
        let lens = |average| {
            borders(average, &body, 1 << 16).into_iter().map(|(_, len)| len).collect::<Vec<_>>()
        };
        assert_eq!(lens(Average::Kib64), GOLDEN_KIB64);
        assert_eq!(lens(Average::Kib256), GOLDEN_KIB256);
        let large = noise(8 << 20);
        let lens = borders(Average::Mib1, &large, 1 << 20);
        assert_eq!(lens.into_iter().map(|(_, len)| len).collect::<Vec<_>>(), GOLDEN_MIB1);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(4 << 20);
        let mut after = before.clone();
        after.splice(1_000_000..1_000_000, *b"inserted");
        let chunks = |body: &[u8]| {
            let mut chunks = std::collections::BTreeSet::new();
            let mut chunker = Chunker::new(Average::Kib64);
            let mut emit = |_, chunk: &[u8]| {
                chunks.insert(blake3::hash(chunk).to_hex().to_string());
            };
            chunker.push(body, &mut emit);
            chunker.finish(&mut emit);
            chunks
        };
        let (before, after) = (chunks(&before), chunks(&after));
        assert!(after.difference(&before).count() <= 3);
    }

    #[test]
    fn a_hole_ends_a_chunk_and_is_in_none() {
        let mut chunker = Chunker::new(Average::Kib64);
        let mut found = Vec::new();
        let mut emit = |offset, chunk: &[u8]| found.push((offset, chunk.len()));
        chunker.hole(4096, &mut emit);
        chunker.push(b"abc", &mut emit);
        chunker.hole(1 << 40, &mut emit);
        chunker.push(b"de", &mut emit);
        assert_eq!(chunker.finish(&mut emit), (1 << 40) + 4096 + 5);
        assert_eq!(found, [(4096, 3), ((1 << 40) + 4099, 2)]);
    }

    #[test]
    fn constant_bytes_give_largest_chunks() {
        let found = borders(Average::Kib64, &vec![0; 600 << 10], 1 << 20);
        assert_eq!(found, [(0, 256 << 10), (256 << 10, 256 << 10), (512 << 10, 88 << 10)]);
    }

    #[test]
    #[ignore = "a measurement"]
    fn bytes_chunked_and_hashed_per_second() {
        let body = noise(256 << 20);
        let key = super::super::ContentKey::new([0; 32]);
        for average in [Average::Kib64, Average::Kib256, Average::Mib1] {
            let begin = std::time::Instant::now();
            let mut chunker = Chunker::new(average);
            let mut ids = Vec::new();
            for piece in body.chunks(1 << 20) {
                chunker.push(piece, |_, chunk| ids.push(key.chunk_id(chunk)));
            }
            chunker.finish(|_, chunk| ids.push(key.chunk_id(chunk)));
            let rate = 256.0 / begin.elapsed().as_secs_f64();
            println!("{average:?}: {rate:.0} MiB/s, {} chunks", ids.len());
        }
    }

    const GOLDEN_KIB64: &[usize] = &[
        74076, 101526, 32578, 48426, 83135, 41775, 40289, 102718, 58575, 52916, 40424, 115622,
        67724, 122128, 66664,
    ];
    const GOLDEN_KIB256: &[usize] = &[208180, 213625, 161293, 465478];
    const GOLDEN_MIB1: &[usize] =
        &[421805, 1547194, 1371359, 1004380, 1126391, 500676, 1357544, 1059259];
}
