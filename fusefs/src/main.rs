//! `fusion`: the daemon, its command line, and the mount helper.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    fusefs::cli::main()
}
