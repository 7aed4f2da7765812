//! Reads and writes the fixed binary records of the tables.

use super::tables::TablesError;

/// The version byte that every record begins with.
pub(super) const VERSION: u8 = 1;

/// Begins a record: its version byte, with room for `len` more bytes.
pub(super) fn record(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + len);
    bytes.push(VERSION);
    bytes
}

/// Takes fields off the front of a stored record. Every method fails with a [`TablesError`]
/// that names the table when the bytes are too short.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    table: &'static str,
}

impl<'a> Reader<'a> {
    /// Checks the version byte.
    pub(super) fn new(bytes: &'a [u8], table: &'static str) -> Result<Reader<'a>, TablesError> {
        let mut reader = Reader { rest: bytes, table };
        match reader.u8()? {
            VERSION => Ok(reader),
            other => Err(TablesError(format!("a row of {table} has the unknown version {other}"))),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], TablesError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(self.broken("is too short")),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, TablesError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, TablesError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, TablesError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, TablesError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Checks that nothing is left.
    pub(super) fn end(self) -> Result<(), TablesError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.broken("is too long")) }
    }

    pub(super) fn broken(&self, how: &str) -> TablesError {
        TablesError(format!("a row of {} {how}", self.table))
    }
}

/// A record whose fields are one CBOR value.
pub(super) fn to_cbor<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = record(64);
    minicbor::encode(value, &mut bytes).expect("writing to memory cannot fail");
    bytes
}

/// Reads what [`to_cbor`] wrote.
pub(super) fn from_cbor<'b, T: minicbor::Decode<'b, ()>>(
    bytes: &'b [u8],
    table: &'static str,
) -> Result<T, TablesError> {
    let mut reader = Reader::new(bytes, table)?;
    let error = reader.broken("is not readable");
    minicbor::decode(reader.rest()).map_err(|_| error)
}
