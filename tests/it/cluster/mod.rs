//! Three zones as users have them: real daemons, real mounts, and the emulated links.
//!
//! Figures are printed, never asserted: `cargo test -p tests --test it cluster -- --nocapture`.
//! Settings, all by environment:
//! - FUSION_REQUIRE_FUSE=1: fail instead of skip where there is no FUSE,
//! - FUSION_TEST_MINUTES: how long daemons are killed; a bit more than a minute if not given,
//! - FUSION_TEST_LARGE=1: the large file has 2 GiB, not 512 MiB,
//! - FUSION_TEST_ENTRIES: how many names the large directory has,
//! - FUSION_TEST_SEED: repeats a test's random choices,
//! - FUSION_TEST_KEEP=1: a test that fails leaves its cluster up.

mod arriving;
mod attributes;
mod behind;
mod contents;
mod cut_off;
mod damaged;
mod failing_disk;
mod file_handles;
mod fragile_disk;
mod full_disk;
mod handles;
mod interrupt;
mod kill;
mod large_directory;
mod lease;
mod linearizable;
mod load;
mod locks;
mod members;
mod metrics;
mod order;
mod power_loss;
mod quotas;
mod races;
mod rules;
mod strict;
mod tree_copy;
mod turns;
mod volumes;
mod waiting;
