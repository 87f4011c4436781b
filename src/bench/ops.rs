//! `bench --ops`: seconds of every op at the network's sizes, beside the device's measured ceilings and, if asked, the data sheet's floor of another card.

use super::ceilings::Ceilings;
use super::entries::entries;
use super::median;
use crate::device::Device;
use crate::device::open::Card;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Seconds that an op is repeated for one time.
const BLOCK_SECONDS: f64 = 0.02;
/// Times whose median is taken.
const BLOCKS: usize = 5;

/// All ops on a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The kind of device.
    pub device: String,
    /// What it can do at most, measured in the same run.
    pub ceilings: Ceilings,
    /// Op by op.
    pub ops: Vec<Row>,
    /// The card that [`Row::modelled_seconds`] speak of, with what they assume of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_card: Option<String>,
}

/// An op at one of its sizes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The op.
    pub op: String,
    /// The case of its table.
    pub case: String,
    /// Of one call.
    pub seconds: f64,
    /// Operations per second, in 10^12.
    pub teraflops: f64,
    /// Bytes moved at least per second, in 10^9.
    pub gigabytes_per_second: f64,
    /// The measured ceilings' floor over the measured time: 1 is as fast as can be.
    pub share_of_ceiling: f64,
    /// The least seconds it can take on another card, by that card's data sheet: not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modelled_seconds: Option<f64>,
}

/// Measures every op whose name or case holds `filter`.
///
/// # Errors
/// Those of the device.
pub fn measure(device: &Device, filter: &str, card: Option<&Card>) -> Result<Report> {
    let ceilings = Ceilings::measure(device)?;
    let mut ops = Vec::new();
    for entry in entries(device) {
        if !entry.op.contains(filter) && !entry.case.contains(filter) {
            continue;
        }
        let about = || format!("{} at {}", entry.op, entry.case);
        let mut call = (entry.prepare)().with_context(about)?;
        let seconds = device.install(|| {
            let once = median(device, 3, &mut call)?;
            // Many calls are queued before the device is waited for, as in the program.
            let repeats = ((BLOCK_SECONDS / once) as usize).clamp(1, 1000);
            let block = median(device, BLOCKS, || (0..repeats).try_for_each(|_| call()))?;
            anyhow::Ok(block / repeats as f64)
        });
        let seconds = seconds.with_context(about)?;
        ops.push(Row {
            op: entry.op.to_owned(),
            case: entry.case.to_owned(),
            seconds,
            teraflops: entry.cost.flops / seconds / 1e12,
            gigabytes_per_second: entry.cost.bytes / seconds / 1e9,
            share_of_ceiling: ceilings.seconds(entry.cost.flops, entry.cost.bytes) / seconds,
            modelled_seconds: card.map(|card| card.seconds(entry.cost.flops, entry.cost.bytes)),
        });
    }
    Ok(Report {
        device: device.kind(),
        ceilings,
        ops,
        modelled_card: card.map(Card::to_string),
    })
}

impl Report {
    /// As a table.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: products at {:.2} TFLOP/s, copies at {:.0} GB/s at most (measured)\n\n",
            self.device, self.ceilings.teraflops, self.ceilings.gigabytes_per_second
        );
        text += &format!(
            "{:<17} {:<28} {:>10} {:>9} {:>8} {:>8}",
            "op", "case", "us", "TFLOP/s", "GB/s", "ceiling"
        );
        if let Some(card) = &self.modelled_card {
            text += &format!("  us at least by the data sheet of {card}");
        }
        for row in &self.ops {
            text += &format!(
                "\n{:<17} {:<28} {:>10.1} {:>9.2} {:>8.0} {:>7.0} %",
                row.op,
                row.case,
                row.seconds * 1e6,
                row.teraflops,
                row.gigabytes_per_second,
                100.0 * row.share_of_ceiling
            );
            if let Some(seconds) = row.modelled_seconds {
                text += &format!("  {:>10.1}", seconds * 1e6);
            }
        }
        text + "\n"
    }
}
