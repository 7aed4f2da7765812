//! The rings of tests, from the innermost outwards: push a test to the innermost ring that can
//! fail. Unit tests lie beside the code.

mod apps;
mod cli;
mod cluster;
mod model;
mod mount;
mod recovery;
mod sim;
mod tidy;
