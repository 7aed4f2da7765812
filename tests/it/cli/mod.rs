//! The command line as scripts and people meet it: answers, exit codes, the mount helper.

mod demo;
mod mounting;
mod settings;
mod usage;
mod vagrant;
