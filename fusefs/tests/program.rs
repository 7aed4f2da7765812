//! The program starts. That this package has an integration test also makes `cargo test
//! --workspace` build `fusion`, which the cluster tests run.

use std::process::Command;

#[test]
fn the_program_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_fusion")).arg("--version").output();
    let output = output.expect("the program starts");
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        format!("fusion {}", env!("CARGO_PKG_VERSION"))
    );
}
