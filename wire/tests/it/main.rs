//! Whole ports against each other, over loopback and through the emulator.

mod bulk;
mod cluster;
mod emulated;
mod figures;
mod joining;
mod ring;
mod strangers;
mod victim;
