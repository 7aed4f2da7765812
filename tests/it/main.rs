//! The rings of tests, from the innermost outwards: push a test to the innermost ring that can
//! fail. Unit tests lie beside the code.

mod cli;
mod model;
mod mount;
mod recovery;
mod tidy;
