//! The figures of a node, as it serves them to those who watch it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The samples of one moment: name and labels, as they are served, to value.
pub type Samples = BTreeMap<String, f64>;

/// What a scraper gets from the daemon of this store.
///
/// # Panics
/// If the daemon does not answer in the OpenMetrics text format.
#[track_caller]
pub fn scrape(store: &Path) -> String {
    let mut stream = UnixStream::connect(store.join("admin.sock")).expect("connect");
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

/// # Panics
/// If a line is no sample.
#[track_caller]
pub fn samples(text: &str) -> Samples {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

/// The sample of the root volume's `stage`.
///
/// # Panics
/// If it is not served.
#[track_caller]
pub fn of_stage(samples: &Samples, name: &str, stage: &str) -> f64 {
    let key = format!("{name}{{volume=\"root\",stage=\"{stage}\"}}");
    *samples.get(&key).unwrap_or_else(|| panic!("{key} is not served"))
}
