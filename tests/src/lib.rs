//! What the rings of tests share: a cluster of real daemons, their figures, whole trees,
//! processes that lock files, waiting without sleeping, a checker of histories, and the rule for
//! machines without FUSE.

pub mod calls;
pub mod cluster;
pub mod fuse;
pub mod linearizable;
pub mod locker;
pub mod metrics;
pub mod program;
pub mod random;
pub mod tree;
pub mod wait;
