//! Tests on real mounts, on machines that may not have FUSE.

/// Whether real mounts can be tested here.
///
/// Says loudly that the calling test is skipped where they cannot, and panics instead if
/// FUSION_REQUIRE_FUSE=1 (continuous integration).
pub fn usable() -> bool {
    let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") else {
        return true;
    };
    let required = std::env::var_os("FUSION_REQUIRE_FUSE").is_some_and(|value| value == "1");
    assert!(!required, "FUSION_REQUIRE_FUSE=1, but /dev/fuse: {error}");
    eprintln!("SKIPPED, nothing was tested: /dev/fuse: {error}");
    false
}
