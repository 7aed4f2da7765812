//! FusionFS's core, without any I/O.
//!
//! What it is: the agreement protocol ([`consensus`]), the namespace that agreed commands
//! change ([`namespace`]), locks of files ([`locks`]), the rules that say which zone holds what ([`placement`]), the
//! cutting of bodies into chunks ([`chunking`]), and a simulator for whole rings
//! ([`simulator`]).
//!
//! What it never does: read a clock, draw a random number from the system, open a file or a
//! socket, start a thread, or depend on the iteration order of a hash map. Inputs and time
//! come in, effects go out in order; the driver in `fusefs/src/node/` executes them.
//!
//! Reading order: [`ids`], [`time`], [`acl`], [`command`], [`outcome`], [`consensus`], [`namespace`].

pub mod acl;
pub mod chunking;
pub mod command;
pub mod consensus;
pub mod ids;
pub mod locks;
pub mod namespace;
pub mod outcome;
pub mod placement;
pub mod simulator;
pub mod time;
