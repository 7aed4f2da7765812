//! The thread that moves one direction's packets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use quinn::udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::sockopt;

use super::schedule::{Packet, Schedule};
use super::shape::{LinkShape, LinkStats};

/// A socket with segmentation offload in both directions: on one machine up to 64 packets
/// cross the kernel as one.
pub(crate) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// One direction of a link, as its thread and its controller share it.
pub(crate) struct Direction {
    /// Where the sender sends to.
    pub(crate) inlet: Arc<Socket>,
    /// Where the receiver sees packets come from.
    pub(crate) outlet: Arc<Socket>,
    /// The receiver's real address.
    pub(crate) target: Arc<Mutex<SocketAddr>>,
    pub(crate) shape: Mutex<LinkShape>,
    pub(crate) stats: Mutex<LinkStats>,
}

/// Holds what a busy sender sends while the thread is not scheduled.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// The largest UDP packet, or train of packets that the kernel delivers as one.
const TRAIN_MAX_BYTES: usize = 65_536;

impl Socket {
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Socket> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        // As much as the system grants: small buffers lose packets under load, as real ones do.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        }
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        Ok(Socket { socket, state })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has an address")
    }

    /// Sends packets of `segment` bytes each (the last may be shorter); those that the kernel
    /// does not take are lost, as on a network.
    fn send(&self, to: SocketAddr, ecn: Option<EcnCodepoint>, segment: usize, bytes: &[u8]) {
        let train = segment * self.state.max_gso_segments();
        for contents in bytes.chunks(train) {
            let segment_size = (contents.len() > segment).then_some(segment);
            let transmit = Transmit { destination: to, ecn, contents, segment_size, src_ip: None };
            let _ = self.state.send(UdpSockRef::from(&self.socket), &transmit);
        }
    }
}

/// Packets of one size from one sender: a train, or a single one.
struct Train {
    ecn: Option<EcnCodepoint>,
    segment: usize,
    contents: Box<[u8]>,
}

impl Packet for Train {
    fn bytes(&self) -> usize {
        self.contents.len()
    }
}

/// A running thread; dropping it stops it.
pub(crate) struct Relay {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

struct Stop {
    told: AtomicBool,
    event: OwnedFd,
}

impl Relay {
    pub(crate) fn start(name: &str, direction: Arc<Direction>, seed: u64) -> io::Result<Relay> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new(Stop { told: AtomicBool::new(false), event });
        let (told, start) = (stop.clone(), Instant::now());
        let mover = Mover { direction, schedule: Schedule::new(seed), start };
        let thread = std::thread::Builder::new()
            .name(format!("wan {name}"))
            .spawn(move || mover.run(&told))?;
        Ok(Relay { stop, thread: Some(thread) })
    }

    pub(crate) fn tell_stop(&self) {
        self.stop.told.store(true, Ordering::Release);
        // Fails only if it has been told 2^64 - 2 times.
        let _ = rustix::io::write(&self.stop.event, &1u64.to_ne_bytes());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tell_stop();
        if let Some(thread) = self.thread.take() {
            // It panicked at worst; its packets are lost with it.
            let _ = thread.join();
        }
    }
}

struct Mover {
    direction: Arc<Direction>,
    schedule: Schedule<Train>,
    start: Instant,
}

impl Mover {
    fn run(mut self, stop: &Stop) {
        exact_timers();
        let mut buffers: Vec<Vec<u8>> = vec![vec![0; TRAIN_MAX_BYTES]; BATCH_SIZE];
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        while !stop.told.load(Ordering::Acquire) {
            self.deliver();
            let received = self.receive(&mut buffers, &mut metas);
            for (buffer, meta) in buffers.iter().zip(&metas).take(received) {
                self.accept(&buffer[..meta.len], meta);
            }
            if received == 0 {
                self.wait(stop);
            }
        }
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Waits for a packet, or until one is due.
    fn wait(&self, stop: &Stop) {
        let timeout = self.schedule.next_due_us().map(|due_us| {
            let wait_us = due_us.saturating_sub(self.now_us());
            Timespec {
                tv_sec: (wait_us / 1_000_000) as i64,
                tv_nsec: (wait_us % 1_000_000 * 1000) as i64,
            }
        });
        let inlet = self.direction.inlet.socket.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(inlet, PollFlags::IN),
            PollFd::new(&stop.event, PollFlags::IN),
        ];
        // A signal only ends the wait early.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// Takes what has arrived; returns how many buffers it fills.
    fn receive(&self, buffers: &mut [Vec<u8>], metas: &mut [RecvMeta; BATCH_SIZE]) -> usize {
        let inlet = &self.direction.inlet;
        let mut slices: Vec<io::IoSliceMut> =
            buffers.iter_mut().map(|buffer| io::IoSliceMut::new(buffer)).collect();
        // Errors tell of earlier sends (a node that is not there): nothing to do with what
        // arrives.
        inlet.state.recv(UdpSockRef::from(&inlet.socket), &mut slices, metas).unwrap_or(0)
    }

    fn accept(&mut self, bytes: &[u8], meta: &RecvMeta) {
        let shape = *self.direction.shape.lock();
        let segment = meta.stride.max(1);
        let at_once = shape.is_alike_for_all() && shape.delay_us == 0 && shape.up;
        if at_once && self.schedule.is_empty() {
            self.send(meta.ecn, segment, bytes);
        } else if shape.is_alike_for_all() {
            self.schedule(&shape, meta.ecn, segment, bytes);
        } else {
            // Chance and rate concern single packets.
            for packet in bytes.chunks(segment) {
                self.schedule(&shape, meta.ecn, packet.len(), packet);
            }
        }
    }

    fn schedule(
        &mut self,
        shape: &LinkShape,
        ecn: Option<EcnCodepoint>,
        segment: usize,
        bytes: &[u8],
    ) {
        let train = Train { ecn, segment, contents: bytes.into() };
        let now_us = self.now_us();
        if !self.schedule.push(now_us, shape, train) {
            self.lose(segment, bytes.len());
        }
    }

    /// Lets go what is due.
    fn deliver(&mut self) {
        if self.schedule.is_empty() {
            return;
        }
        let now_us = self.now_us();
        while let Some(train) = self.schedule.pop(now_us) {
            // A cut also takes what is on its way.
            if self.direction.shape.lock().up {
                self.send(train.ecn, train.segment, &train.contents);
            } else {
                self.lose(train.segment, train.contents.len());
            }
        }
    }

    fn send(&self, ecn: Option<EcnCodepoint>, segment: usize, bytes: &[u8]) {
        let target = *self.direction.target.lock();
        // First, so that whoever has a packet finds it counted.
        let mut stats = self.direction.stats.lock();
        stats.passed_packets += bytes.len().div_ceil(segment) as u64;
        stats.passed_bytes += bytes.len() as u64;
        drop(stats);
        self.direction.outlet.send(target, ecn, segment, bytes);
    }

    fn lose(&self, segment: usize, bytes: usize) {
        self.direction.stats.lock().lost_packets += bytes.div_ceil(segment).max(1) as u64;
    }
}

/// Asks for timers without the slack of 50 us that threads have by default.
fn exact_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes a number of nanoseconds and touches no memory of ours.
    let refused = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1u64) };
    if refused != 0 {
        tracing::debug!("timers keep their slack");
    }
}
