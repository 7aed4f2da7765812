//! Bodies of several nodes in one process: real stores, a made-up order and network.

mod arriving;
mod cluster;
mod crash;
mod model;
mod quota;
mod racing;
mod securing;
mod sharing;
mod writing;
