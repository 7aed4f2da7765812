//! Changes links of a running demo.

use super::plan::{Plan, Shape};
use super::wan;
use crate::admin::control::ControlError;

/// Changes the shapes of the links between `a` and `b`, both directions.
///
/// # Errors
/// `Usage` for unknown zones; else as [`wan::reshape`].
pub async fn shape_pair(
    plan: &mut Plan,
    a: &str,
    b: &str,
    change: impl Fn(&mut Shape),
) -> Result<(), ControlError> {
    plan.zone(a)?;
    plan.zone(b)?;
    if plan.links_between(a, b).count() == 0 {
        return Err(ControlError::usage("a zone has no link to itself"));
    }
    plan.links_between(a, b).for_each(|link| change(&mut link.shape));
    apply(plan).await
}

/// Cuts a zone, or a single node, off from all other zones.
///
/// # Errors
/// As [`shape_pair`].
pub async fn cut_zone(plan: &mut Plan, zone: &str) -> Result<(), ControlError> {
    plan.zone(zone)?;
    let nodes = plan.nodes_of(zone);
    for link in &mut plan.links {
        if nodes.contains(&link.from) || nodes.contains(&link.to) {
            link.shape.cut = true;
        }
    }
    apply(plan).await
}

/// Mends all cut links; their distances stay.
///
/// # Errors
/// As [`wan::reshape`].
pub async fn heal(plan: &mut Plan) -> Result<(), ControlError> {
    plan.links.iter_mut().for_each(|link| link.shape.cut = false);
    apply(plan).await
}

/// Keeps the shapes for the relay's next start and gives them to the running one.
async fn apply(plan: &Plan) -> Result<(), ControlError> {
    plan.save()?;
    wan::write_config(plan)?;
    wan::reshape(plan).await
}
