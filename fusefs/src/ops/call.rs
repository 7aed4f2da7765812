//! Calls that wait, and the signals that end their waits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use super::ports::ProposeError;

/// A process's call between its request and its answer.
///
/// A signal ends it only while it waits (for the order, for a token, for bytes), and what it
/// waited for then finds it gone: exactly one of the two decides what the process is told.
#[derive(Clone, Default)]
pub struct Call(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: AtomicU8,
    /// Takes back what the call waits for.
    withdraw: Mutex<Option<Withdraw>>,
}

type Withdraw = Box<dyn FnOnce() + Send>;

const RUNS: u8 = 0;
const WAITS: u8 = 1;
const INTERRUPTED: u8 = 2;

impl Call {
    /// From here on a signal ends the call.
    pub fn begin_wait(&self) {
        let _ = self.0.state.compare_exchange(RUNS, WAITS, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// What the call waited for is there: from here on signals have to wait.
    ///
    /// # Errors
    /// [`ProposeError::Interrupted`] if one came first. The process is told so already, and the
    /// operation must not go on.
    pub fn end_wait(&self) -> Result<(), ProposeError> {
        match self.0.state.compare_exchange(WAITS, RUNS, Ordering::SeqCst, Ordering::SeqCst) {
            Err(INTERRUPTED) => Err(ProposeError::Interrupted),
            _ => Ok(()),
        }
    }

    pub fn is_interrupted(&self) -> bool {
        self.0.state.load(Ordering::SeqCst) == INTERRUPTED
    }

    /// Has `withdraw` run once by the signal that ends the call, before its process hears of that.
    pub fn on_interrupt(&self, withdraw: impl FnOnce() + Send + 'static) {
        *self.0.withdraw.lock() = Some(Box::new(withdraw));
        if self.is_interrupted() {
            self.withdraw();
        }
    }

    /// A signal came. True if the call was waiting, and is now over.
    pub fn interrupt(&self) -> bool {
        let (from, to) = (WAITS, INTERRUPTED);
        let ends =
            self.0.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if ends {
            self.withdraw();
        }
        ends
    }

    fn withdraw(&self) {
        let withdraw = self.0.withdraw.lock().take();
        if let Some(withdraw) = withdraw {
            withdraw();
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Call").field(&self.0.state).finish()
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

    #[test]
    fn what_an_interrupted_call_waits_for_is_taken_back_once() {
        let taken_back = Arc::new(AtomicU8::new(0));
        let count = |call: &Call| {
            let taken_back = Arc::clone(&taken_back);
            call.on_interrupt(move || {
                taken_back.fetch_add(1, Ordering::SeqCst);
            });
        };
        let call = Call::default();
        count(&call);
        assert!(!call.interrupt());
        assert_eq!(taken_back.load(Ordering::SeqCst), 0);
        call.begin_wait();
        assert!(call.interrupt());
        assert!(!call.interrupt());
        assert_eq!(taken_back.load(Ordering::SeqCst), 1);
        // The signal came before anything was waited for.
        count(&call);
        assert_eq!(taken_back.load(Ordering::SeqCst), 2);
    }
}
