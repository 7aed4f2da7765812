//! Where settings come from, and what is wrong with them.

use std::path::Path;

use tests::program::{command, fusion};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let file = root.path().join("fusion.toml");
    std::fs::write(&file, "log = 'warn'\nseal_age_ms = 70\nlisten = '127.0.0.1:1'\n")
        .expect("a file");
    let show = ["--config", text(&file), "config", "show", "--json", "--store", "/from/the/flag"];
    let output = command(show)
        .env("FUSION_LOG", "debug")
        .env("FUSION_STORE", "/from/the/environment")
        .output()
        .expect("the program starts");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let value = |key: &str| shown[key]["value"].clone();
    let origin = |key: &str| shown[key]["origin"].as_str().unwrap_or("").to_owned();
    assert_eq!(
        (value("store").as_str(), origin("store").as_str()),
        (Some("/from/the/flag"), "command line")
    );
    assert_eq!((value("log").as_str(), origin("log").as_str()), (Some("debug"), "FUSION_LOG"));
    assert_eq!(
        (value("seal_age_ms").as_u64(), origin("seal_age_ms").as_str()),
        (Some(70), text(&file))
    );
    assert_eq!(origin("fetch_timeout_ms"), "default");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let file = root.path().join("fusion.toml");
    std::fs::write(&file, "adverties = 'a:1'\n").expect("a file");
    let run = fusion(["config", "check", text(&file)]);
    assert_eq!(run.code, 2);
    assert!(
        run.stderr.contains("'adverties'") && run.stderr.contains("'advertise'"),
        "{}",
        run.stderr
    );
}

#[test]
fn the_default_file_is_good() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let file = root.path().join("fusion.toml");
    let default = fusion(["config", "default"]).expect_ok().stdout;
    std::fs::write(&file, default).expect("a file");
    fusion(["config", "check", text(&file)]).expect_ok();
}
