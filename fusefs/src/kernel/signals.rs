//! Signals that wait for a thread of another process, as proc_pid_status(5) shows them.

use std::fs;

/// Whether a signal has come that would end an interruptible wait of `task`, as far as can be
/// told: in another PID namespace its number here is 0.
pub fn is_pending(task: u32) -> bool {
    match fs::read_to_string(format!("/proc/{task}/status")) {
        Ok(status) => deliverable(&status) != 0,
        // A thread in a call does not end before the call; what cannot be read is not ours.
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Bit n-1 is signal n. What the process ignores or blocks does not count, and neither do
/// signals that only stop it or tell profilers the time.
fn deliverable(status: &str) -> u64 {
    let mask = |field: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    let pending = mask("SigPnd") | mask("ShdPnd");
    pending & !mask("SigBlk") & !mask("SigIgn") & !HARMLESS
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

const HARMLESS: u64 = bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU)
    | bit(libc::SIGPROF)
    | bit(libc::SIGVTALRM);

#[cfg(test)]
mod tests {
    use super::*;

    fn status(thread: u64, process: u64, blocked: u64, ignored: u64) -> String {
        format!(
            "Name:\tx\nSigQ:\t0/1\nSigPnd:\t{thread:016x}\nShdPnd:\t{process:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t0\n"
        )
    }

    #[test]
    fn pending_signals_count_unless_blocked_ignored_or_harmless() {
        let (term, kill) = (bit(libc::SIGTERM), bit(libc::SIGKILL));
        assert_eq!(deliverable(&status(0, 0, 0, 0)), 0);
        assert_eq!(deliverable(&status(0, term, 0, 0)), term);
        assert_eq!(deliverable(&status(kill, 0, term, term)), kill);
        assert_eq!(deliverable(&status(0, term, term, 0)), 0);
        assert_eq!(deliverable(&status(0, term, 0, term)), 0);
        assert_eq!(deliverable(&status(0, bit(libc::SIGTSTP), 0, 0)), 0);
        assert_eq!(deliverable("no such lines"), 0);
    }

    #[test]
    fn this_thread_has_no_signal_and_no_thread_has_number_zero() {
        assert!(!is_pending(rustix::thread::gettid().as_raw_nonzero().get() as u32));
        assert!(is_pending(0));
    }
}
