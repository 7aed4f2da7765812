//! The node's figures in the OpenMetrics text format, as they are at one moment.
//! docs/OPERATIONS.md lists them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use wire::WireStats;

use super::stage::Histogram;
use super::volume::Volume;

/// Everything about a node.
///
/// # Errors
/// When the tables cannot be read.
pub fn text(volumes: &[std::sync::Arc<Volume>], wire: &WireStats) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let volumes = volumes.iter().map(|volume| VolumeFigures::of(volume)).collect();
    registry.register_collector(Box::new(Figures { volumes, wire: wire.clone() }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The figures of one moment.
#[derive(Debug)]
struct Figures {
    volumes: Vec<VolumeFigures>,
    wire: WireStats,
}

#[derive(Debug)]
struct VolumeFigures {
    name: String,
    stages: Vec<StageFigures>,
    waiting_bytes: [(&'static str, u64); 3],
    gauges: Vec<(Figure, f64)>,
    installs: u64,
}

#[derive(Debug)]
struct StageFigures {
    name: &'static str,
    length: u64,
    wait: Distribution,
    service: Distribution,
}

/// See [`Histogram::read`].
#[derive(Debug)]
struct Distribution {
    sum_seconds: f64,
    buckets: Vec<(f64, u64)>,
}

impl From<&Histogram> for Distribution {
    fn from(histogram: &Histogram) -> Distribution {
        let (sum_seconds, buckets) = histogram.read();
        Distribution { sum_seconds, buckets }
    }
}

/// A number of a volume that goes up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    GsnApplied,
    GsnAgreed,
    Epoch,
    Quorum,
    QuorumRtt,
    Pending,
    OrderOldest,
    OrderBytes,
    OrderFollowers,
    Watermark,
    LagSeconds,
    LagBytes,
    LagFiles,
    StagedFiles,
    StageMemory,
    Conflicts,
    Failed,
}

impl Figure {
    const ALL: [Figure; 17] = [
        Figure::GsnApplied,
        Figure::GsnAgreed,
        Figure::Epoch,
        Figure::Quorum,
        Figure::QuorumRtt,
        Figure::Pending,
        Figure::OrderOldest,
        Figure::OrderBytes,
        Figure::OrderFollowers,
        Figure::Watermark,
        Figure::LagSeconds,
        Figure::LagBytes,
        Figure::LagFiles,
        Figure::StagedFiles,
        Figure::StageMemory,
        Figure::Conflicts,
        Figure::Failed,
    ];

    /// Its name without the unit, and what it is.
    fn describe(self) -> (&'static str, Option<Unit>, &'static str) {
        match self {
            Figure::GsnApplied => ("fusion_gsn_applied", None, "The last agreement in the tables"),
            Figure::GsnAgreed => ("fusion_gsn_agreed", None, "The newest agreement known"),
            Figure::Epoch => ("fusion_epoch", None, "The membership of the ring"),
            Figure::Quorum => ("fusion_quorum", None, "1 while a majority can be reached"),
            Figure::QuorumRtt => {
                ("fusion_quorum_rtt", Some(Unit::Seconds), "Round trip to the nearest majority")
            }
            Figure::Pending => ("fusion_pending", None, "Own commands that are not agreed"),
            Figure::OrderOldest => ("fusion_order_oldest", None, "The oldest agreement kept"),
            Figure::OrderBytes => {
                ("fusion_order", Some(Unit::Bytes), "Agreements kept, before compression")
            }
            Figure::OrderFollowers => {
                ("fusion_order_followers", None, "Readers that follow the order")
            }
            Figure::Watermark => {
                ("fusion_watermark", None, "Every body up to this agreement is held")
            }
            Figure::LagSeconds => {
                ("fusion_lag", Some(Unit::Seconds), "Age of the oldest body that is missing")
            }
            Figure::LagBytes => ("fusion_lag", Some(Unit::Bytes), "Bodies that are missing"),
            Figure::LagFiles => ("fusion_lag_files", None, "Files whose bodies are missing"),
            Figure::StagedFiles => {
                ("fusion_staged_files", None, "Files with content that is not published")
            }
            Figure::StageMemory => {
                ("fusion_staged_memory", Some(Unit::Bytes), "Written content held in memory")
            }
            Figure::Conflicts => {
                ("fusion_conflicts", None, "Versions that were refused and are kept aside")
            }
            Figure::Failed => ("fusion_failed", None, "1 when this node has stopped"),
        }
    }
}

impl VolumeFigures {
    fn of(volume: &Volume) -> VolumeFigures {
        let (pulse, bodies) = (&volume.pulse, &volume.bodies);
        let (ring, retained) = (pulse.ring(), pulse.retained());
        let (progress, load) = (bodies.progress(), bodies.load());
        let number = |figure: Figure| match figure {
            Figure::GsnApplied => pulse.applied().0 as f64,
            Figure::GsnAgreed => pulse.agreed().0 as f64,
            Figure::Epoch => f64::from(pulse.header().config.epoch.0),
            Figure::Quorum => f64::from(u8::from(ring.as_ref().is_some_and(|ring| ring.quorum))),
            // Not known yet: as for a volume of one node.
            Figure::QuorumRtt => {
                let rtt_us = ring.as_ref().and_then(|ring| ring.quorum_rtt_us);
                rtt_us.unwrap_or(0) as f64 / 1e6
            }
            Figure::Pending => ring.as_ref().map_or(0, |ring| ring.pending) as f64,
            Figure::OrderOldest => retained.oldest.0 as f64,
            Figure::OrderBytes => retained.bytes as f64,
            Figure::OrderFollowers => volume.agreements.followers() as f64,
            Figure::Watermark => progress.held_upto.0 as f64,
            Figure::LagSeconds => progress.oldest_missing.as_secs_f64(),
            Figure::LagBytes => progress.missing_bytes as f64,
            Figure::LagFiles => progress.missing_files as f64,
            Figure::StagedFiles => load.staged_files as f64,
            Figure::StageMemory => load.stage_memory_bytes as f64,
            Figure::Conflicts => bodies.conflicts().len() as f64,
            Figure::Failed => f64::from(u8::from(pulse.failure().is_some())),
        };
        let stages = volume.stages.all().into_iter().map(|(name, stage)| StageFigures {
            name,
            length: stage.length(),
            wait: (&stage.wait).into(),
            service: (&stage.service).into(),
        });
        VolumeFigures {
            name: volume.name.clone(),
            stages: stages.collect(),
            waiting_bytes: volume.waiting_bytes(),
            gauges: Figure::ALL.map(|figure| (figure, number(figure))).into(),
            installs: pulse.installs(),
        }
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.encode_stages(&mut encoder)?;
        for figure in Figure::ALL {
            let (name, unit, help) = figure.describe();
            let gauge = MetricType::Gauge;
            let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), gauge)?;
            for volume in &self.volumes {
                let found = volume.gauges.iter().find(|(of, _)| *of == figure);
                let value = found.map_or(0.0, |(_, value)| *value);
                metric.encode_family(&[("volume", volume.name.as_str())])?.encode_gauge(&value)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "fusion_checkpoints_installed",
            "Checkpoints that took the place of the tables since the start",
            None,
            MetricType::Counter,
        )?;
        for volume in &self.volumes {
            count(
                &mut metric.encode_family(&[("volume", volume.name.as_str())])?,
                volume.installs,
            )?;
        }
        self.encode_links(&mut encoder)
    }
}

impl Figures {
    fn encode_stages(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let stages = || {
            let of = |volume| move |stage| (volume, stage);
            self.volumes.iter().flat_map(move |volume| volume.stages.iter().map(of(volume)))
        };
        let help = "What is in a stage of the path";
        let gauge = MetricType::Gauge;
        let mut metric = encoder.encode_descriptor("fusion_stage_length", help, None, gauge)?;
        for of in stages() {
            metric.encode_family(&labels(of))?.encode_gauge(&of.1.length)?;
        }
        let help = "What waits in front of a stage";
        let unit = Some(&Unit::Bytes);
        let mut metric = encoder.encode_descriptor("fusion_stage_queued", help, unit, gauge)?;
        for volume in &self.volumes {
            for (stage, bytes) in &volume.waiting_bytes {
                let labels = [("volume", volume.name.as_str()), ("stage", *stage)];
                metric.encode_family(&labels)?.encode_gauge(bytes)?;
            }
        }
        let (unit, histogram) = (Some(&Unit::Seconds), MetricType::Histogram);
        let help = "How long it waited in front of a stage";
        let mut metric = encoder.encode_descriptor("fusion_stage_wait", help, unit, histogram)?;
        for of in stages() {
            distribution(&mut metric.encode_family(&labels(of))?, &of.1.wait)?;
        }
        let help = "How long a stage worked";
        let mut metric =
            encoder.encode_descriptor("fusion_stage_service", help, unit, histogram)?;
        for of in stages() {
            distribution(&mut metric.encode_family(&labels(of))?, &of.1.service)?;
        }
        Ok(())
    }

    fn encode_links(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let peers = &self.wire.peers;
        let gauge = MetricType::Gauge;
        let help = "1 while the connection to a peer is up";
        let mut metric = encoder.encode_descriptor("fusion_link_connected", help, None, gauge)?;
        for peer in peers {
            let value = u32::from(peer.connected);
            metric.encode_family(&[("peer", peer.name.as_str())])?.encode_gauge(&value)?;
        }
        let (help, unit) = ("Smoothed round trip to a peer", Some(&Unit::Seconds));
        let mut metric = encoder.encode_descriptor("fusion_link_rtt", help, unit, gauge)?;
        for peer in peers {
            let value = peer.rtt_us as f64 / 1e6;
            metric.encode_family(&[("peer", peer.name.as_str())])?.encode_gauge(&value)?;
        }
        let (help, unit) = ("Messages of the ring that wait for a peer", Some(&Unit::Bytes));
        let mut metric = encoder.encode_descriptor("fusion_link_queued", help, unit, gauge)?;
        for peer in peers {
            let value = peer.ring_queued_bytes;
            metric.encode_family(&[("peer", peer.name.as_str())])?.encode_gauge(&value)?;
        }
        let counter = MetricType::Counter;
        let (help, unit) = ("Sent to a peer", Some(&Unit::Bytes));
        let mut metric = encoder.encode_descriptor("fusion_link_sent", help, unit, counter)?;
        for peer in peers {
            count(
                &mut metric.encode_family(&[("peer", peer.name.as_str())])?,
                peer.ring_sent_bytes + peer.bulk_sent_bytes,
            )?;
        }
        let help = "Received from a peer";
        let mut metric = encoder.encode_descriptor("fusion_link_received", help, unit, counter)?;
        for peer in peers {
            count(
                &mut metric.encode_family(&[("peer", peer.name.as_str())])?,
                peer.ring_received_bytes + peer.bulk_received_bytes,
            )?;
        }
        let help = "Messages of the ring that were dropped for a peer";
        let mut metric = encoder.encode_descriptor("fusion_link_dropped", help, None, counter)?;
        for peer in peers {
            count(
                &mut metric.encode_family(&[("peer", peer.name.as_str())])?,
                peer.ring_dropped_count,
            )?;
        }
        Ok(())
    }
}

fn count(metric: &mut MetricEncoder, value: u64) -> Result<(), fmt::Error> {
    metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)
}

fn distribution(metric: &mut MetricEncoder, of: &Distribution) -> Result<(), fmt::Error> {
    // Not a counter of its own: it would be of another moment than the buckets.
    let count = of.buckets.iter().map(|(_, count)| count).sum();
    metric.encode_histogram::<NoLabelSet>(of.sum_seconds, count, &of.buckets, None)
}

fn labels<'a>((volume, stage): (&'a VolumeFigures, &'a StageFigures)) -> [(&'a str, &'a str); 2] {
    [("volume", &volume.name), ("stage", stage.name)]
}
