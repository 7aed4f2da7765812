//! A set of byte positions, kept as ranges.

use std::collections::BTreeMap;

use minicbor::{Decode, Decoder, Encode, Encoder};

/// Ranges `start..end`, none empty, none touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// start → end
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    pub fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        // Everything that overlaps or touches becomes one range.
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    /// Whether every position of `start..end` is in the set.
    pub fn contains(&self, start: u64, end: u64) -> bool {
        start >= end || self.ranges.range(..=start).next_back().is_some_and(|(_, &e)| end <= e)
    }

    /// How many positions are in the set.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|(s, e)| e - s).sum()
    }

    /// One above the highest position.
    pub fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, &e)| e)
    }
}

// As one flat array of starts and ends: a part of many gigabytes may have thousands.
impl<C> Encode<C> for RangeSet {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(2 * self.ranges.len() as u64)?;
        for (&start, &end) in &self.ranges {
            e.u64(start)?.u64(end)?;
        }
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for RangeSet {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<RangeSet, minicbor::decode::Error> {
        let message = minicbor::decode::Error::message;
        let len = d.array()?.ok_or_else(|| message("a range set has a length"))?;
        if len % 2 != 0 {
            return Err(message("a range has two ends"));
        }
        let mut set = RangeSet::default();
        for _ in 0..len / 2 {
            set.insert(d.u64()?, d.u64()?);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_set_of_positions(inserts in proptest::collection::vec((0u64..40, 0u64..12), 0..20)) {
            let mut set = RangeSet::default();
            let mut model = [false; 64];
            for (start, len) in inserts {
                set.insert(start, start + len);
                model[start as usize..(start + len) as usize].fill(true);
            }
            for start in 0..50u64 {
                for end in start..50 {
                    let all = model[start as usize..end as usize].iter().all(|here| *here);
                    prop_assert_eq!(set.contains(start, end), all);
                }
            }
            prop_assert_eq!(set.total(), model.iter().filter(|here| **here).count() as u64);
            let bytes = minicbor::to_vec(&set).unwrap();
            prop_assert_eq!(minicbor::decode::<RangeSet>(&bytes).unwrap(), set);
        }
    }
}
