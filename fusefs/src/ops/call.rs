//! Calls that wait, and the signals that end their waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::ports::ProposeError;

/// A process's call between its request and its answer.
///
/// A signal ends it only while it waits (for the order, for a token, for bytes), and what it
/// waited for then finds it gone: exactly one of the two decides what the process is told.
#[derive(Clone, Debug, Default)]
pub struct Call(Arc<AtomicU8>);

const RUNS: u8 = 0;
const WAITS: u8 = 1;
const INTERRUPTED: u8 = 2;

impl Call {
    /// From here on a signal ends the call.
    pub fn begin_wait(&self) {
        let _ = self.0.compare_exchange(RUNS, WAITS, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// What the call waited for is there: from here on signals have to wait.
    ///
    /// # Errors
    /// [`ProposeError::Interrupted`] if one came first. The process is told so already, and the
    /// operation must not go on.
    pub fn end_wait(&self) -> Result<(), ProposeError> {
        match self.0.compare_exchange(WAITS, RUNS, Ordering::SeqCst, Ordering::SeqCst) {
            Err(INTERRUPTED) => Err(ProposeError::Interrupted),
            _ => Ok(()),
        }
    }

    pub fn is_interrupted(&self) -> bool {
        self.0.load(Ordering::SeqCst) == INTERRUPTED
    }

    /// A signal came. True if the call was waiting, and is now over.
    pub fn interrupt(&self) -> bool {
        self.0.compare_exchange(WAITS, INTERRUPTED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_waiting_call_is_interrupted() {
        let call = Call::default();
        assert!(!call.interrupt());
        call.begin_wait();
        assert!(call.end_wait().is_ok());
        assert!(!call.interrupt());
        call.begin_wait();
        assert!(call.interrupt());
        assert!(!call.interrupt());
        call.begin_wait();
        assert!(matches!(call.end_wait(), Err(ProposeError::Interrupted)));
    }
}
