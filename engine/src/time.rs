//! Times as files carry them.

use minicbor::{Decode, Encode};

/// A point in time: seconds since the Unix epoch (negative before it) and nanoseconds, as in
/// `struct timespec`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
#[cbor(array)]
pub struct Timestamp {
    #[n(0)]
    pub seconds: i64,
    /// 0 ..= 999_999_999
    #[n(1)]
    pub nanos: u32,
}

impl Timestamp {
    pub fn new(seconds: i64, nanos: u32) -> Timestamp {
        assert!(nanos < 1_000_000_000, "nanoseconds are below one second");
        Timestamp { seconds, nanos }
    }
}
