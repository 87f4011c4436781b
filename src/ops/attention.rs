//! `attention`: softmax(q k^T / sqrt(E)) v per head, over windows given as lists of rows; no score matrix is stored.
//!
//! Shapes: q [items * query rows, ..], k and v [items * key rows, ..] with head h of width E in columns offset + h E, y [items * query rows, heads * E]. A window's
//! padding tokens all have one key and one value: n of them are one key whose score is raised by ln n (exact algebra). Source: SAM 2's MultiScaleAttention,
//! RoPEAttention and Attention.

use super::Cost;
pub use crate::cpu::attention::Windows;
use crate::cpu::attention::{self as cpu, Heads};
use crate::cuda::attention as kernel;
use crate::tensor::Tensor;
use anyhow::Result;

/// Columns of a tensor that hold all heads, one after the other.
#[derive(Clone, Copy)]
pub struct Columns<'a>(pub &'a Tensor, pub usize);

impl<'a> Columns<'a> {
    fn heads(self) -> Heads<'a> {
        Heads {
            x: &self.0.values()[self.1..],
            stride: self.0.width(),
        }
    }

    fn cuda(self) -> kernel::Columns<'a> {
        kernel::Columns {
            buffer: self.0.buffer(),
            offset: self.1,
            stride: self.0.width(),
        }
    }
}

/// y = attention of a batch of `items`; `padding` [2, heads * E] are the key and value of padding tokens.
///
/// # Errors
/// Those of a CUDA device.
pub fn attention(
    [q, k, v]: [Columns<'_>; 3],
    padding: Option<&Tensor>,
    windows: &Windows,
    items: usize,
    heads: usize,
    y: &mut Tensor,
) -> Result<()> {
    let width = y.width() / heads;
    for (name, columns, rows) in [("q", q, windows.query_rows), ("k", k, windows.key_rows), ("v", v, windows.key_rows)] {
        assert_eq!(
            columns.0.rows(),
            items * rows,
            "attention: {name} {:?} for {items} items of {rows} rows",
            columns.0
        );
        assert!(
            columns.1 + heads * width <= columns.0.width(),
            "attention: {name} {:?} has no {heads} heads of {width}",
            columns.0
        );
    }
    assert!(
        padding.is_some() || windows.padding.iter().all(|&n| n == 0),
        "attention: padded windows without a padding key"
    );
    assert_eq!(y.rows(), items * windows.query_rows, "attention: output {y:?} for {items} items");
    if let Some(cuda) = y.device().cuda() {
        let problem = kernel::Attention {
            items,
            layout: match windows.layout {
                cpu::Layout::Whole => kernel::Layout::Whole {
                    queries: windows.query_rows,
                    keys: windows.key_rows,
                },
                cpu::Layout::Partition { side, window, pools } => kernel::Layout::Partition { side, window, pools },
            },
            heads,
            width,
        };
        let padding = padding.map(|both| [(both.buffer(), 0), (both.buffer(), both.width())]);
        return problem.launch(&cuda.runtime, [q.cuda(), k.cuda(), v.cuda()], padding, y.buffer());
    }
    let problem = cpu::Attention {
        q: q.heads(),
        k: k.heads(),
        v: v.heads(),
        padding: padding.map(|both| both.values().split_at(both.width())),
        windows,
        items,
        heads,
        width,
    };
    problem.run(y.values_mut());
    Ok(())
}

/// Cost of Q queries on L keys, `heads` heads of width E.
pub fn cost(queries: usize, keys: usize, heads: usize, width: usize) -> Cost {
    let (q, l, e) = (queries as f64, keys as f64, (heads * width) as f64);
    Cost {
        flops: 4.0 * q * l * e,
        bytes: 8.0 * (q + l) * e,
    }
}

/// Which queries see which keys.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Layout {
    /// All of them: (queries, keys).
    Whole(usize, usize),
    /// [`Windows::partition`].
    Partition { side: usize, window: usize, pools: bool },
}

/// A batch of attentions of `heads` heads of width E.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub items: usize,
    pub layout: Layout,
    pub heads: usize,
    pub width: usize,
}

impl Case {
    /// The rows that see each other.
    pub fn windows(&self) -> Windows {
        match self.layout {
            Layout::Whole(queries, keys) => Windows::whole(queries, keys),
            Layout::Partition { side, window, pools } => Windows::partition(side, window, pools),
        }
    }

    /// Cost of all windows; the copies of the padding key are one key.
    pub fn cost(&self) -> Cost {
        let windows = self.windows();
        let mut total = Cost { flops: 0.0, bytes: 0.0 };
        for w in 0..windows.len() {
            let queries = windows.query_start[w + 1] - windows.query_start[w];
            let keys = windows.key_start[w + 1] - windows.key_start[w] + usize::from(windows.padding[w] > 0);
            let one = cost(queries, keys, self.heads, self.width);
            total.flops += self.items as f64 * one.flops;
            total.bytes += self.items as f64 * one.bytes;
        }
        total
    }
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    let split = |side, window, pools| Layout::Partition { side, window, pools };
    [
        ("one", 1, Layout::Whole(1, 1), 1, 1),
        ("primes", 2, Layout::Whole(37, 53), 3, 5),
        ("key tile - 1", 1, Layout::Whole(31, 63), 1, 11),
        ("key tile + 1", 1, Layout::Whole(33, 65), 1, 13),
        ("half a block + 1", 1, Layout::Whole(17, 7), 2, 16),
        ("windows with padding", 2, split(10, 6, false), 2, 7),
        ("pooling windows with padding", 2, split(10, 4, true), 1, 9),
        ("a window wider than the map", 1, split(3, 7, false), 2, 4),
        ("hiera.block0", 1, split(128, 8, false), 1, 96),
        ("hiera.block1", 1, split(128, 8, true), 2, 96),
        ("hiera.block2", 1, split(64, 4, false), 2, 96),
        ("hiera.block4", 1, split(32, 14, false), 4, 96),
        ("hiera.block5", 1, Layout::Whole(1024, 1024), 4, 96),
        ("hiera.block11", 1, split(16, 7, false), 8, 96),
        ("memory_attention.self", 5, Layout::Whole(1024, 1024), 1, 256),
        ("decoder.token_to_image", 5, Layout::Whole(8, 1024), 8, 16),
        ("decoder.image_to_token", 5, Layout::Whole(1024, 8), 8, 16),
    ]
    .map(|(name, items, layout, heads, width)| Case {
        name,
        items,
        layout,
        heads,
        width,
    })
    .to_vec()
}
