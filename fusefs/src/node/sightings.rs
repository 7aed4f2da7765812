//! How far other nodes were when this one last heard of them: kept on disk for the day when
//! they are gone (`fusion disaster`).

use engine::ids::{Gsn, NodeId};
use minicbor::{Decode, Encode};
use store::{Store, StoreError};

/// One node as it was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Sighting {
    #[n(0)]
    pub node: NodeId,
    /// It had applied this agreement.
    #[n(1)]
    pub gsn: Gsn,
    /// Seconds since 1970.
    #[n(2)]
    pub seen_unix_s: i64,
}

/// Local table: the sightings, in CBOR.
const SIGHTINGS_KEY: &[u8] = b"node/sightings";

/// Not made durable for its own sake: the next fsync of anything does that.
pub fn note(store: &Store, sightings: &[Sighting]) -> Result<(), StoreError> {
    store.local_put(SIGHTINGS_KEY, &minicbor::to_vec(sightings).expect("a Vec takes any bytes"))
}

/// None if nothing readable is there: sightings only inform.
pub fn read(store: &Store) -> Vec<Sighting> {
    let bytes = store.local_get(SIGHTINGS_KEY).ok().flatten().unwrap_or_default();
    minicbor::decode(&bytes).unwrap_or_default()
}
