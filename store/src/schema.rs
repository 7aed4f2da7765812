//! The bytes of keys and records in the database. `docs/FORMAT.md` draws them.
//!
//! Keys are fixed binary, so that their order is the order of what they name. Records are
//! `| version u8 | CBOR .. | crc32c u32 le |`; the checksum covers the key too, so that a
//! record that turns up under another key is found as well as a flipped bit.
//!
//! A new field gets a new CBOR index and an `Option`: an old reader skips it, a new reader
//! finds it missing in old data. A changed meaning gets a new record version.

use std::collections::BTreeMap;

use engine::consensus::entry::Entry;
use engine::consensus::record::Header;
use engine::ids::{Ballot, Epoch, Gsn, Idx, LaneId, NodeId, Term, VolumeId};
use engine::outcome::Verdict;
use minicbor::{CborLen, Decode, Encode};

use crate::StoreError;

/// Version of every record in this file.
const RECORD_VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// Encodes a record for `key`.
pub fn seal<T: Encode<()>>(key: &[u8], record: &T) -> Vec<u8> {
    let mut bytes = vec![RECORD_VERSION];
    minicbor::encode(record, &mut bytes).expect("a Vec takes any bytes");
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Decodes what [`seal`] made for the same key. `what` names the record in the error.
pub fn unseal<T: for<'b> Decode<'b, ()>>(
    what: &str,
    key: &[u8],
    bytes: &[u8],
) -> Result<T, StoreError> {
    let damaged = |detail: String| {
        StoreError::damaged(what, format!("{detail} (key {})", crate::identity::hex(key)))
    };
    let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(damaged("the record is too short".to_owned()));
    };
    if crc32c::crc32c_append(crc32c::crc32c(key), content) != u32::from_le_bytes(*checksum) {
        return Err(damaged("the record's checksum does not match".to_owned()));
    }
    match content.split_first() {
        Some((&RECORD_VERSION, cbor)) => {
            minicbor::decode(cbor).map_err(|error| damaged(format!("cannot be decoded: {error}")))
        }
        Some((version, _)) => Err(damaged(format!("record version {version} is unknown"))),
        None => Err(damaged("the record is empty".to_owned())),
    }
}

/// What a key of the `log` family names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKey {
    Accepted(LaneId, Idx),
    Promised(LaneId),
    Started(LaneId),
}

const ACCEPTED: u8 = 1;
const PROMISED: u8 = 2;
const STARTED: u8 = 3;

impl LogKey {
    /// `| volume u32 | kind u8 | epoch u32 | node u16 | term u32 | (idx u64) |`, big endian.
    pub fn encode(self, volume: VolumeId) -> Vec<u8> {
        let (kind, lane, idx) = match self {
            LogKey::Accepted(lane, idx) => (ACCEPTED, lane, Some(idx)),
            LogKey::Promised(lane) => (PROMISED, lane, None),
            LogKey::Started(lane) => (STARTED, lane, None),
        };
        let mut key = volume_prefix(volume).to_vec();
        key.push(kind);
        key.extend_from_slice(&lane.epoch.0.to_be_bytes());
        key.extend_from_slice(&lane.node.0.to_be_bytes());
        key.extend_from_slice(&lane.term.0.to_be_bytes());
        if let Some(idx) = idx {
            key.extend_from_slice(&idx.0.to_be_bytes());
        }
        key
    }

    /// Reads a key that begins with its volume.
    pub fn decode(key: &[u8]) -> Result<LogKey, StoreError> {
        let parse = || {
            let (_volume, rest) = key.split_first_chunk::<4>()?;
            let (kind, rest) = rest.split_first()?;
            let (epoch, rest) = rest.split_first_chunk::<4>()?;
            let (node, rest) = rest.split_first_chunk::<2>()?;
            let (term, rest) = rest.split_first_chunk::<4>()?;
            let lane = LaneId {
                epoch: Epoch(u32::from_be_bytes(*epoch)),
                node: NodeId(u16::from_be_bytes(*node)),
                term: Term(u32::from_be_bytes(*term)),
            };
            match (*kind, rest.len()) {
                (ACCEPTED, 8) => {
                    let idx = u64::from_be_bytes(rest.try_into().ok()?);
                    Some(LogKey::Accepted(lane, Idx(idx)))
                }
                (PROMISED, 0) => Some(LogKey::Promised(lane)),
                (STARTED, 0) => Some(LogKey::Started(lane)),
                _ => None,
            }
        };
        parse().ok_or_else(|| {
            StoreError::damaged("the agreement log", format!("key {}", crate::identity::hex(key)))
        })
    }
}

/// An accepted value.
#[derive(Encode, Decode)]
#[cbor(array)]
pub struct AcceptedRecord {
    #[n(0)]
    pub ballot: Ballot,
    #[n(1)]
    pub entry: Entry,
}

#[derive(Encode, Decode)]
#[cbor(array)]
pub struct PromisedRecord {
    #[n(0)]
    pub ballot: Ballot,
}

/// The key says all.
#[derive(Encode, Decode)]
#[cbor(array)]
pub struct StartedRecord {}

/// `| volume u32 | gsn u64 |`, big endian.
pub fn order_key(volume: VolumeId, gsn: Gsn) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&volume_prefix(volume));
    key[4..].copy_from_slice(&gsn.0.to_be_bytes());
    key
}

/// The GSN of an order key.
pub fn order_key_gsn(key: &[u8]) -> Result<Gsn, StoreError> {
    let gsn = key.split_first_chunk::<4>().and_then(|(_, gsn)| gsn.try_into().ok());
    gsn.map(|gsn| Gsn(u64::from_be_bytes(gsn))).ok_or_else(|| {
        StoreError::damaged("the stored order", format!("key {}", crate::identity::hex(key)))
    })
}

/// An agreement as it is kept: the engine's own form, and behind it what came of it. A reader
/// of the engine's form skips that.
#[derive(Encode)]
#[cbor(array)]
pub struct OrderRowRef<'a> {
    #[n(0)]
    pub gsn: Gsn,
    #[n(1)]
    pub lane: LaneId,
    #[n(2)]
    pub idx: Idx,
    #[n(3)]
    pub entry: &'a Entry,
    /// See [`OrderRow::verdicts`].
    #[n(4)]
    pub verdicts: Option<&'a BTreeMap<u32, Verdict>>,
}

/// What [`OrderRowRef`] wrote.
#[derive(Decode)]
#[cbor(array)]
pub struct OrderRow {
    #[n(0)]
    pub gsn: Gsn,
    #[n(1)]
    pub lane: LaneId,
    #[n(2)]
    pub idx: Idx,
    #[n(3)]
    pub entry: Entry,
    /// Of the commands that were not simply done, by their place in the agreement; `None` in a
    /// row that was written before they were kept.
    #[n(4)]
    pub verdicts: Option<BTreeMap<u32, Verdict>>,
}

/// Where a volume's tables stand, and which generation of keys is the live one. In the same
/// column family and batch as the tables, so that they cannot disagree.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(array)]
pub struct VolumeRecord {
    #[n(0)]
    pub generation: u8,
    #[n(1)]
    pub header: Header,
    /// Bytes of all order records that were ever stored here: see [`order_mark_key`].
    #[n(2)]
    pub order_bytes: Option<u64>,
}

/// A checkpoint that is being written into the generation that is not live.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(array)]
pub struct InstallRecord {
    #[n(0)]
    pub generation: u8,
    #[n(1)]
    pub header: Header,
    /// The last key that was written.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub after: Option<Vec<u8>>,
    #[n(3)]
    pub complete: bool,
    /// Bytes of keys and values that were written.
    #[n(4)]
    pub bytes: Option<u64>,
}

/// A counter or another single number.
#[derive(Clone, Copy, Debug, Encode, Decode, CborLen)]
#[cbor(array)]
pub struct Number {
    #[n(0)]
    pub value: u64,
}

/// Whose database it is: must equal the `format` file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct IdentityRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub cluster: [u8; 16],
    #[n(1)]
    pub node: NodeId,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub incarnation: [u8; 16],
}

pub const BOOT_KEY: &[u8] = b"boot";
pub const IDENTITY_KEY: &[u8] = b"identity";
/// The log was lost; followed by a volume: the node votes there again.
pub const AMNESIA_KEY: &[u8] = b"amnesia";

/// The part of a volume's keys in `tables` that is the store's own.
const SYSTEM_GENERATION: u8 = 0;

/// The generations that alternate.
pub fn other_generation(generation: u8) -> u8 {
    if generation == 1 { 2 } else { 1 }
}

pub fn volume_prefix(volume: VolumeId) -> [u8; 4] {
    volume.0.to_be_bytes()
}

/// `| volume u32 | generation u8 |`: precedes the namespace's keys.
pub fn tables_prefix(volume: VolumeId, generation: u8) -> [u8; 5] {
    let [a, b, c, d] = volume_prefix(volume);
    [a, b, c, d, generation]
}

pub fn volume_record_key(volume: VolumeId) -> Vec<u8> {
    [&tables_prefix(volume, SYSTEM_GENERATION)[..], b"volume"].concat()
}

pub fn install_record_key(volume: VolumeId) -> Vec<u8> {
    [&tables_prefix(volume, SYSTEM_GENERATION)[..], b"install"].concat()
}

/// At some GSNs, the value that [`VolumeRecord::order_bytes`] had there: tells how large a part
/// of the stored order is, without reading it.
pub fn order_mark_key(volume: VolumeId, gsn: Gsn) -> Vec<u8> {
    [&order_marks_prefix(volume)[..], &gsn.0.to_be_bytes()].concat()
}

/// The GSN of a mark's key.
pub fn order_mark_gsn(key: &[u8]) -> Result<Gsn, StoreError> {
    let gsn = key.last_chunk::<8>().map(|gsn| Gsn(u64::from_be_bytes(*gsn)));
    gsn.ok_or_else(|| {
        StoreError::damaged("the marks of the order", format!("key {}", crate::identity::hex(key)))
    })
}

pub fn order_marks_prefix(volume: VolumeId) -> Vec<u8> {
    [&tables_prefix(volume, SYSTEM_GENERATION)[..], b"order"].concat()
}

/// The least key above every key that starts with `prefix`; `None` if there is none.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use engine::consensus::entry::EntryKind;
    use engine::consensus::record::OrderRecord;
    use engine::ids::Ts;
    use engine::outcome::Refusal;

    use super::*;

    const LANE: LaneId = LaneId { epoch: Epoch(1), node: NodeId(2), term: Term(3) };

    #[test]
    fn log_keys_round_trip_and_sort() {
        let keys = [
            LogKey::Accepted(LANE, Idx(1)),
            LogKey::Accepted(LANE, Idx(256)),
            LogKey::Promised(LANE),
            LogKey::Started(LANE),
        ];
        let encoded = keys.map(|key| key.encode(VolumeId(9)));
        assert!(encoded.is_sorted());
        for (key, bytes) in keys.iter().zip(&encoded) {
            assert_eq!(LogKey::decode(bytes).unwrap(), *key);
            assert!(LogKey::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn rows_of_the_order_are_read_with_and_without_verdicts() {
        let entry = Entry { ts: Ts(7), kind: EntryKind::Tick };
        let old = OrderRecord { gsn: Gsn(5), lane: LANE, idx: Idx(3), entry: entry.clone() };
        let verdicts = BTreeMap::from([(2, Verdict::Refused(Refusal::Exists))]);
        for verdicts in [None, Some(BTreeMap::new()), Some(verdicts)] {
            let row = OrderRowRef {
                gsn: old.gsn,
                lane: old.lane,
                idx: old.idx,
                entry: &entry,
                verdicts: verdicts.as_ref(),
            };
            let sealed = seal(b"key", &row);
            assert_eq!(unseal::<OrderRecord>("x", b"key", &sealed).unwrap(), old);
            assert_eq!(unseal::<OrderRow>("x", b"key", &sealed).unwrap().verdicts, verdicts);
        }
        let before = unseal::<OrderRow>("x", b"key", &seal(b"key", &old)).unwrap();
        assert_eq!((before.gsn, before.entry, before.verdicts), (old.gsn, entry, None));
    }

    #[test]
    fn any_flipped_bit_of_a_record_is_found() {
        let key = LogKey::Promised(LANE).encode(VolumeId(1));
        let good = seal(&key, &PromisedRecord { ballot: Ballot(77) });
        let record: PromisedRecord = unseal("x", &key, &good).unwrap();
        assert_eq!(record.ballot, Ballot(77));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<PromisedRecord>("x", &key, &bad).is_err());
        }
        for len in 0..good.len() {
            assert!(unseal::<PromisedRecord>("x", &key, &good[..len]).is_err());
        }
        let other = LogKey::Promised(LaneId { term: Term(4), ..LANE }).encode(VolumeId(1));
        assert!(unseal::<PromisedRecord>("x", &other, &good).is_err());
    }

    #[test]
    fn successor_of_a_prefix() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(&[1, 0xff]), Some(vec![2]));
        assert_eq!(successor(&[0xff]), None);
    }
}
