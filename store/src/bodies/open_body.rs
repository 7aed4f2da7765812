//! A sealed body, open for reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Stays readable after the body was deleted. Clones share it.
#[derive(Clone)]
pub struct OpenBody {
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Packed(Arc<[u8]>),
    Contained { file: Arc<File>, len: u64 },
}

impl OpenBody {
    pub(super) fn packed(bytes: Vec<u8>) -> OpenBody {
        OpenBody { bytes: Bytes::Packed(bytes.into()) }
    }

    pub(super) fn contained(file: File, len: u64) -> OpenBody {
        OpenBody { bytes: Bytes::Contained { file: Arc::new(file), len } }
    }

    /// Bytes of the body.
    pub fn len(&self) -> u64 {
        match &self.bytes {
            Bytes::Packed(bytes) => bytes.len() as u64,
            Bytes::Contained { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The container, if the body has one: the body lies at its beginning, and more follows
    /// it. For reads by the kernel itself.
    pub fn file(&self) -> Option<&Arc<File>> {
        match &self.bytes {
            Bytes::Packed(_) => None,
            Bytes::Contained { file, .. } => Some(file),
        }
    }

    /// Reads at `offset`; less than `buf` only at the body's end.
    ///
    /// # Errors
    /// An error of the disk, or `UnexpectedEof` if the container was cut off under us.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.len().saturating_sub(offset);
        let wanted = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let buf = &mut buf[..wanted];
        match &self.bytes {
            Bytes::Packed(bytes) if wanted > 0 => {
                let start = usize::try_from(offset).expect("it is below the length");
                buf.copy_from_slice(&bytes[start..start + wanted]);
            }
            Bytes::Packed(_) => {}
            Bytes::Contained { file, .. } => file.read_exact_at(buf, offset)?,
        }
        Ok(wanted)
    }
}
