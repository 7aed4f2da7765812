//! The figures of a node: all that are documented are served, and they move.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tests::cluster::Cluster;
use tests::wait::wait_until;

use super::load::Load;

/// The samples of one moment: name and labels, as they are served, to value.
type Samples = BTreeMap<String, f64>;

/// What a scraper gets of a zone.
fn scrape(cluster: &Cluster, zone: &str) -> String {
    let mut stream = UnixStream::connect(cluster.store(zone).join("admin.sock")).expect("connect");
    let request = "GET /v1/metrics HTTP/1.1\r\nhost: fusion\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    body.to_owned()
}

fn samples(text: &str) -> Samples {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

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

fn of_stage(samples: &Samples, name: &str, stage: &str) -> f64 {
    let key = format!("{name}{{volume=\"root\",stage=\"{stage}\"}}");
    *samples.get(&key).unwrap_or_else(|| panic!("{key} is not served"))
}

#[test]
fn every_documented_figure_is_served_and_the_stages_move() {
    let Some(cluster) = Cluster::start() else { return };
    let text = scrape(&cluster, "z1");
    assert_eq!(families(&text), documented(), "docs/OPERATIONS.md and what is served");

    let before = samples(&text);
    let load = Load::start(&cluster, &["z1", "z2", "z3"]);
    load.wait_for_more("z1", 200);
    load.stop();
    cluster.wait_for_equal_state();
    let after = samples(&scrape(&cluster, "z1"));
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
        let now = samples(&scrape(&cluster, "z1"));
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
            let now = samples(&scrape(&cluster, zone));
            let length = |stage| of_stage(&now, "fusion_stage_length", stage);
            STAGES.iter().all(|stage| length(stage) == 0.0)
        });
    }
    assert_eq!(samples(&scrape(&cluster, "z1"))["fusion_quorum{volume=\"root\"}"], 1.0);
}
