//! Which requests wait, so that a signal for their callers can end them.
//!
//! The kernel tells of a signal once (FUSE_INTERRUPT), whatever the signal, and perhaps before
//! the request is known here or while it does something that ends by itself. So calls with a
//! signal are looked at again until they are over. (Asking the kernel to tell again, by EAGAIN,
//! works only on the descriptor on which the request came, and each thread has its own.)

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::Cred;
use fuser::{Errno, Request, RequestId};
use parking_lot::Mutex;

use super::signals;
use crate::ops::Call;
use crate::ops::ports::Caller;

/// The calls of one mount that wait or may come to.
#[derive(Default)]
pub struct Calls {
    open: Mutex<HashMap<RequestId, Open>>,
    /// Requests whose callers have a signal, and since when that is known.
    signalled: Mutex<Vec<(RequestId, Instant)>>,
}

struct Open {
    call: Call,
    thread: u32,
    since: Instant,
    /// Answers the caller with EINTR.
    refuse: Box<dyn FnOnce() + Send>,
}

/// The reply to a request that may wait; a signal may have used it up.
pub struct Pending<R> {
    calls: Arc<Calls>,
    request: RequestId,
    reply: Arc<Mutex<Option<R>>>,
}

impl<R> Pending<R> {
    /// The reply, unless a signal came first: then the caller has been answered.
    pub fn take(&self) -> Option<R> {
        self.reply.lock().take()
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        self.calls.open.lock().remove(&self.request);
    }
}

impl Calls {
    /// Takes a request that may wait; `error` is the reply's own.
    pub fn open<R: Send + 'static>(
        self: &Arc<Self>,
        req: &Request,
        reply: R,
        error: fn(R, Errno),
    ) -> (Caller, Pending<R>) {
        let reply = Arc::new(Mutex::new(Some(reply)));
        let unused = Arc::clone(&reply);
        let refuse = Box::new(move || {
            let reply = unused.lock().take();
            if let Some(reply) = reply {
                error(reply, Errno::EINTR);
            }
        });
        let (call, request) = (Call::default(), req.unique());
        let open = Open { call: call.clone(), thread: req.pid(), since: Instant::now(), refuse };
        self.open.lock().insert(request, open);
        let cred = Cred { uid: req.uid(), gid: req.gid() };
        let pending = Pending { calls: Arc::clone(self), request, reply };
        (Caller { cred, call: Some(call) }, pending)
    }

    /// A signal has come for the caller of `request`.
    pub fn interrupt(self: &Arc<Self>, request: RequestId) {
        if !self.ends(request) {
            self.look_again(request);
        }
    }

    /// Ends the call if it may be; false if it is not known here or may not be ended now.
    fn ends(&self, request: RequestId) -> bool {
        let call = self.open.lock().get(&request).and_then(|open| {
            let may_end =
                open.since.elapsed() >= INTERRUPT_AFTER && signals::is_pending(open.thread);
            may_end.then(|| open.call.clone())
        });
        // Not under the lock: what is taken back by this may answer the request.
        let ends = call.is_some_and(|call| call.interrupt());
        let interrupted = if ends { self.open.lock().remove(&request) } else { None };
        if let Some(open) = interrupted {
            (open.refuse)();
        }
        ends
    }

    /// Looks at the call again until it is over.
    fn look_again(self: &Arc<Self>, request: RequestId) {
        let mut signalled = self.signalled.lock();
        signalled.push((request, Instant::now()));
        if signalled.len() > 1 {
            // A thread is there that looks at all of them.
            return;
        }
        drop(signalled);
        let calls = Arc::clone(self);
        let thread = std::thread::Builder::new().name("fuse-signals".to_owned());
        if let Err(error) = thread.spawn(move || calls.watch_signalled()) {
            tracing::warn!(%error, "calls that wait cannot be interrupted");
            self.signalled.lock().clear();
        }
    }

    fn watch_signalled(&self) {
        loop {
            std::thread::sleep(AGAIN_AFTER);
            let mut signalled = self.signalled.lock();
            signalled.retain(|(request, told)| {
                let may_come = told.elapsed() < UNKNOWN_FOR;
                !self.ends(*request) && (may_come || self.open.lock().contains_key(request))
            });
            if signalled.is_empty() {
                return;
            }
        }
    }
}

/// An operation that takes less is over before anybody could wish to interrupt it, and timers
/// and profilers that send signals all the time must not end one.
const INTERRUPT_AFTER: Duration = Duration::from_millis(300);
/// What a person at a terminal does not notice.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// A request that is not known here after this time was answered before its signal.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
