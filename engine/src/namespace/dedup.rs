//! Exactly once, and in each origin's own order.
//!
//! The tables keep, for each origin, how far its commands were applied. The next number is
//! applied; a number at or below is a duplicate; one further on leaves a gap and is skipped:
//! its origin sends everything from the gap again, in order. A new boot begins at 1.

use super::codec::{Reader, record};
use super::keys;
use super::state::State;
use super::tables::{Tables, TablesError};
use crate::ids::{NodeId, OpId};
use crate::outcome::Outcome;

/// How many outcomes are kept for each origin. An origin has fewer commands than this in
/// flight, so that a duplicate that anybody waits for finds its outcome.
pub const OUTCOMES_KEPT: u64 = 4096;

/// How far the commands of one node were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub boot: u64,
    /// Of that boot; 0 = none yet.
    pub last_seq: u64,
}

impl Origin {
    fn encode(self) -> Vec<u8> {
        let mut out = record(16);
        out.extend_from_slice(&self.boot.to_be_bytes());
        out.extend_from_slice(&self.last_seq.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Origin, TablesError> {
        let mut reader = Reader::new(bytes, "origins")?;
        let origin = Origin { boot: reader.u64()?, last_seq: reader.u64()? };
        reader.end()?;
        Ok(origin)
    }
}

/// What to do with a command.
pub(super) enum Admission {
    Apply,
    /// Change nothing; the outcome of its first application, if it had one and it is kept.
    Skip(Option<Outcome>),
}

/// Decides by the command's place in its origin's sequence.
pub(super) fn admit<T: Tables>(
    state: &mut State<'_, T>,
    id: OpId,
) -> Result<Admission, TablesError> {
    let origin = state.get(keys::origin(id.origin))?.map(Origin::decode).transpose()?;
    let last_seq = match origin {
        Some(origin) if id.boot < origin.boot => return Ok(Admission::Skip(None)),
        Some(origin) if id.boot == origin.boot => origin.last_seq,
        _ => 0,
    };
    if id.seq <= last_seq {
        return Ok(Admission::Skip(outcome_of(state.before(), id)?));
    }
    Ok(if id.seq == last_seq + 1 { Admission::Apply } else { Admission::Skip(None) })
}

/// Moves the origin on and keeps the outcome.
pub(super) fn remember<T: Tables>(
    state: &mut State<'_, T>,
    id: OpId,
    outcome: &Outcome,
) -> Result<(), TablesError> {
    let origin = Origin { boot: id.boot, last_seq: id.seq };
    state.put(keys::origin(id.origin), origin.encode())?;
    let mut value = record(48);
    value.extend_from_slice(&id.boot.to_be_bytes());
    value.extend_from_slice(&id.seq.to_be_bytes());
    minicbor::encode(outcome, &mut value).expect("writing to memory cannot fail");
    state.put(outcome_key(id.origin, id.seq), value)
}

/// The kept outcome of `id`, if any.
pub(super) fn outcome_of<T: Tables>(tables: &T, id: OpId) -> Result<Option<Outcome>, TablesError> {
    let Some(value) = tables.get(&outcome_key(id.origin, id.seq))? else { return Ok(None) };
    let mut reader = Reader::new(&value, "outcomes")?;
    if (reader.u64()?, reader.u64()?) != (id.boot, id.seq) {
        return Ok(None);
    }
    let error = reader.broken("is not readable");
    minicbor::decode(reader.rest()).map(Some).map_err(|_| error)
}

fn outcome_key(origin: NodeId, seq: u64) -> Vec<u8> {
    let slot = u16::try_from(seq % OUTCOMES_KEPT).expect("slots fit 16 bits");
    keys::outcome(origin, slot)
}
