//! Whether the kernel lets one UDP socket carry a WAN's worth of data.

use super::{Finding, Verdict};

/// Bytes: what arrives at 1 Gbit/s while the daemon is not scheduled for 15 ms.
const BUFFER_BYTES_MIN: u64 = 2 << 20;

pub fn examine() -> Vec<Finding> {
    ["rmem_max", "wmem_max"].into_iter().map(buffer).collect()
}

fn buffer(name: &str) -> Finding {
    let subject = format!("net.core.{name}");
    let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}"));
    match text.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(bytes) if bytes < BUFFER_BYTES_MIN => Finding::wrong(
            Verdict::Doubtful,
            &*subject,
            format!("{bytes} bytes: bursts over long links lose packets"),
            format!("as root: sysctl -w net.core.{name}={}", 8 << 20),
        ),
        Some(bytes) => Finding::good(subject, format!("{bytes} bytes")),
        // Hidden in some containers; then the host's limit holds.
        None => Finding::good(subject, "not visible here"),
    }
}
