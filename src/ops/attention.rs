//! `attention`: softmax(q k^T / sqrt(E)) v per head, over windows given as lists of rows; no score matrix is stored.
//!
//! Shapes: q [items * query rows, ..], k and v [items * key rows, ..] with head h of width E in columns offset + h E, y [items * query rows, heads * E]. A window's
//! padding tokens all have one key and one value: n of them are one key whose score is raised by ln n (exact algebra). Source: SAM 2's MultiScaleAttention,
//! RoPEAttention and Attention.

use super::Cost;
use crate::cpu::attention::{self, Heads};
pub use crate::cpu::attention::Windows;
use crate::tensor::Tensor;

/// Columns of a tensor that hold all heads, one after the other.
#[derive(Clone, Copy)]
pub struct Columns<'a>(pub &'a Tensor, pub usize);

impl<'a> Columns<'a> {
    fn heads(self) -> Heads<'a> {
        Heads { x: &self.0.values()[self.1..], stride: self.0.width() }
    }
}

/// y = attention of a batch of `items`; `padding` is the key and value of padding tokens.
pub fn attention(
    [q, k, v]: [Columns<'_>; 3],
    padding: Option<(&[f32], &[f32])>,
    windows: &Windows,
    items: usize,
    heads: usize,
    y: &mut Tensor,
) {
    let width = y.width() / heads;
    for (name, columns, rows) in [("q", q, windows.query_rows), ("k", k, windows.key_rows), ("v", v, windows.key_rows)] {
        assert_eq!(columns.0.rows(), items * rows, "attention: {name} {:?} for {items} items of {rows} rows", columns.0);
        assert!(columns.1 + heads * width <= columns.0.width(), "attention: {name} {:?} has no {heads} heads of {width}", columns.0);
    }
    assert_eq!(y.rows(), items * windows.query_rows, "attention: output {y:?} for {items} items");
    let problem =
        attention::Attention { q: q.heads(), k: k.heads(), v: v.heads(), padding, windows, items, heads, width };
    problem.run(y.values_mut());
}

/// Cost of Q queries on L keys, `heads` heads of width E.
pub fn cost(queries: usize, keys: usize, heads: usize, width: usize) -> Cost {
    let (q, l, e) = (queries as f64, keys as f64, (heads * width) as f64);
    Cost { flops: 4.0 * q * l * e, bytes: 8.0 * (q + l) * e }
}
