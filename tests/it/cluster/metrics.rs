//! The figures of a node: all that are documented are served, and they move.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tests::cluster::Cluster;
use tests::metrics::{of_stage, samples, scrape};
use tests::wait::wait_until;

use super::load::Load;

fn families(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The names in the first column of the tables of docs/OPERATIONS.md.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let columns = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let names = columns.flat_map(|column| column.split('`')).filter(|it| it.starts_with("fusion_"));
    names.map(|name| name.split('{').next().expect("a name").to_owned()).collect()
}

const STAGES: [&str; 6] = ["received", "proposed", "persisted", "agreed", "applied", "replied"];

#[test]
fn every_documented_figure_is_served_and_the_stages_move() {
    let Some(cluster) = Cluster::start() else { return };
    let text = scrape(&cluster.store("z1"));
    assert_eq!(families(&text), documented(), "docs/OPERATIONS.md and what is served");

    let before = samples(&text);
    let load = Load::start(&cluster, &["z1", "z2", "z3"]);
    load.wait_for_more("z1", 200);
    load.stop();
    cluster.wait_for_equal_state();
    let after = samples(&scrape(&cluster.store("z1")));
    for stage in STAGES {
        for part in ["wait", "service"] {
            let name = format!("fusion_stage_{part}_seconds_count");
            let [was, is] = [&before, &after].map(|samples| of_stage(samples, &name, stage));
            assert!(is > was, "{name} of {stage}: {was}, then {is}");
            let name = format!("fusion_stage_{part}_seconds_sum");
            let [was, is] = [&before, &after].map(|samples| of_stage(samples, &name, stage));
            assert!(is > was, "{name} of {stage}: {was}, then {is}");
        }
    }
    // Each of these is a command that is proposed, agreed and answered here.
    for number in 0..20 {
        fs::create_dir(cluster.mount("z1").join(format!("d{number}"))).expect("a directory");
    }
    wait_until("all of them are counted", || {
        let now = samples(&scrape(&cluster.store("z1")));
        let served =
            |samples, stage| of_stage(samples, "fusion_stage_service_seconds_count", stage);
        let count = |stage| served(&now, stage) - served(&after, stage);
        count("proposed") >= 20.0 && count("replied") >= 20.0
    });
    let gsn = after["fusion_gsn_applied{volume=\"root\"}"];
    assert!(gsn > before["fusion_gsn_applied{volume=\"root\"}"]);
    assert!(after["fusion_link_sent_bytes_total{peer=\"z2\"}"] > 0.0);

    for zone in ["z1", "z2", "z3"] {
        wait_until(&format!("nothing waits in {zone} any more"), || {
            let now = samples(&scrape(&cluster.store(zone)));
            let length = |stage| of_stage(&now, "fusion_stage_length", stage);
            STAGES.iter().all(|stage| length(stage) == 0.0)
        });
    }
    assert_eq!(samples(&scrape(&cluster.store("z1")))["fusion_quorum{volume=\"root\"}"], 1.0);
}
