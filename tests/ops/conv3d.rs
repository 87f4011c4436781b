//! `ops::conv3d` and its gradients against plain loops.

use crate::support::ops::{assert_close, noise, on_any_threads, poison, takes};
use hpc_seg::device::Device;
use hpc_seg::ops::conv3d::{
    Case, Channels, Geometry, cases, conv3d, d_bias, d_input, d_weight, transposed, transposed_d_input, transposed_d_weight,
};
use hpc_seg::tensor::Tensor;

fn volume(size: [usize; 3]) -> usize {
    size.iter().product()
}

/// Every index below `size`, in order.
fn indices(size: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..volume(size)).map(move |i| [i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]])
}

fn flat([z, y, x]: [usize; 3], size: [usize; 3]) -> usize {
    (z * size[1] + y) * size[2] + x
}

/// With zeros around: [N, D + 2 pd, ...].
fn padded(device: &Device, x: &[f32], items: usize, size: [usize; 3], channels: usize, padding: [usize; 3]) -> Tensor {
    let outer: [usize; 3] = std::array::from_fn(|axis| size[axis] + 2 * padding[axis]);
    let mut out = vec![0.0; items * volume(outer) * channels];
    for item in 0..items {
        for place in indices(size) {
            let to = item * volume(outer) + flat(std::array::from_fn(|axis| place[axis] + padding[axis]), outer);
            let from = item * volume(size) + flat(place, size);
            out[to * channels..][..channels].copy_from_slice(&x[from * channels..][..channels]);
        }
    }
    Tensor::from_slice(device, &[items, outer[0], outer[1], outer[2], channels], &out).unwrap()
}

struct Data {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    d_y: Vec<f32>,
    out: [usize; 3],
}

/// y, and what d_y gives: d_x, d_weight, d_bias.
struct Oracle {
    y: Vec<f64>,
    d_x: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
}

impl Data {
    fn new(c: &Case) -> Self {
        let out: [usize; 3] = std::array::from_fn(|axis| (c.size[axis] - 1) / c.geometry.stride[axis] + 1);
        Self {
            x: noise(c.items * volume(c.size) * c.channels, 1),
            weight: noise(c.outputs * c.channels * volume(c.geometry.kernel), 2),
            bias: noise(c.outputs, 3),
            d_y: noise(c.items * volume(out) * c.outputs, 4),
            out,
        }
    }

    /// y[n, i, o] = bias[o] + sum over taps t and c of weight[o, c, t] x[n, i stride + t - padding, c], zero outside; and the derivatives of sum y d_y.
    fn oracle(&self, c: &Case) -> Oracle {
        let (kernel, stride) = (c.geometry.kernel, c.geometry.stride);
        let taps = volume(kernel);
        let mut o = Oracle {
            y: vec![0.0; self.d_y.len()],
            d_x: vec![0.0; self.x.len()],
            d_weight: vec![0.0; self.weight.len()],
            d_bias: vec![0.0; c.outputs],
        };
        for item in 0..c.items {
            for at in indices(self.out) {
                let row = (item * volume(self.out) + flat(at, self.out)) * c.outputs;
                for output in 0..c.outputs {
                    o.y[row + output] += f64::from(self.bias[output]);
                    o.d_bias[output] += f64::from(self.d_y[row + output]);
                }
                for tap in indices(kernel) {
                    let place: [i64; 3] =
                        std::array::from_fn(|axis| (at[axis] * stride[axis] + tap[axis]) as i64 - (kernel[axis] as i64 - 1) / 2);
                    if (0..3).any(|axis| !(0..c.size[axis] as i64).contains(&place[axis])) {
                        continue;
                    }
                    let from = (item * volume(c.size) + flat(place.map(|p| p as usize), c.size)) * c.channels;
                    for output in 0..c.outputs {
                        for channel in 0..c.channels {
                            let w = (output * c.channels + channel) * taps + flat(tap, kernel);
                            let (weight, x) = (f64::from(self.weight[w]), f64::from(self.x[from + channel]));
                            let d = f64::from(self.d_y[row + output]);
                            o.y[row + output] += weight * x;
                            o.d_x[from + channel] += weight * d;
                            o.d_weight[w] += x * d;
                        }
                    }
                }
            }
        }
        o
    }
}

#[test]
fn conv3d_and_its_gradients_equal_plain_loops() {
    for c in cases().into_iter().filter(|case| takes(case.name)) {
        let (data, padding) = (Data::new(&c), c.geometry.padding());
        let want = data.oracle(&c);
        let x = |device: &Device| padded(device, &data.x, c.items, c.size, c.channels, padding);
        let d_y = |device: &Device| padded(device, &data.d_y, c.items, data.out, c.outputs, padding);
        let y = on_any_threads(c.name, |device| {
            let x = x(device);
            poison(device, data.d_y.len());
            let y = conv3d(&x, &data.weight, &data.bias, c.geometry).unwrap();
            assert_eq!(y.shape(), [c.items, data.out[0], data.out[1], data.out[2], c.outputs], "{c:?}");
            y.values().to_vec()
        });
        assert_close(&format!("{c:?}"), &y, &want.y);
        let d_x = on_any_threads(c.name, |device| {
            let d_y = d_y(device);
            poison(device, data.x.len());
            d_input(&d_y, &data.weight, c.size, c.geometry).unwrap().values().to_vec()
        });
        assert_close(&format!("{c:?}, input"), &d_x, &want.d_x);
        let d_w = on_any_threads(c.name, |device| d_weight(&x(device), &d_y(device), c.geometry));
        assert_close(&format!("{c:?}, weight"), &d_w, &want.d_weight);
        let device = Device::cpu(1).unwrap();
        assert_close(&format!("{c:?}, bias"), &d_bias(Channels::all(&d_y(&device))), &want.d_bias);
    }
}

fn part(tensor: &Tensor, first: usize, count: usize) -> Channels<'_> {
    Channels { tensor, first, count }
}

#[test]
fn transposed_conv3d_and_its_gradients_equal_plain_loops() {
    for (items, size, [channels, outputs], stride) in [
        (1, [1, 1, 1], [1, 1], [1, 1, 1]),
        (2, [2, 3, 5], [3, 7], [2, 2, 2]),
        (1, [3, 2, 4], [33, 5], [1, 2, 2]),
        (1, [2, 2, 13], [13, 34], [2, 1, 2]),
    ] {
        let name = format!("{items} {size:?} {channels} to {outputs} by {stride:?}");
        let (taps, out): (usize, [usize; 3]) = (volume(stride), std::array::from_fn(|axis| size[axis] * stride[axis]));
        let x = noise(items * volume(size) * channels, 1);
        let (weight, bias) = (noise(channels * outputs * taps, 2), noise(outputs, 3));
        // The gradient stands in the middle of other channels.
        let (before, all) = (2, outputs + 3);
        let d_y = noise(items * volume(out) * all, 4);
        let mut y = vec![0.0; items * volume(out) * outputs];
        let mut d_x = vec![0.0; x.len()];
        let mut d_w = vec![0.0; weight.len()];
        let mut d_b = vec![0.0; outputs];
        for item in 0..items {
            for at in indices(size) {
                let from = (item * volume(size) + flat(at, size)) * channels;
                for tap in indices(stride) {
                    let place = std::array::from_fn(|axis| at[axis] * stride[axis] + tap[axis]);
                    let to = item * volume(out) + flat(place, out);
                    for o in 0..outputs {
                        let d = f64::from(d_y[to * all + before + o]);
                        d_b[o] += d;
                        y[to * outputs + o] = f64::from(bias[o]);
                        for c in 0..channels {
                            let w = (c * outputs + o) * taps + flat(tap, stride);
                            y[to * outputs + o] += f64::from(weight[w]) * f64::from(x[from + c]);
                            d_x[from + c] += f64::from(weight[w]) * d;
                            d_w[w] += f64::from(x[from + c]) * d;
                        }
                    }
                }
            }
        }
        let tensor = |device: &Device, size: [usize; 3], width: usize, values: &[f32]| {
            Tensor::from_slice(device, &[items, size[0], size[1], size[2], width], values).unwrap()
        };
        let got = on_any_threads(&name, |device| {
            poison(device, y.len());
            let y = transposed(&tensor(device, size, channels, &x), &weight, &bias, stride).unwrap();
            y.values().to_vec()
        });
        assert_close(&name, &got, &y);
        let got = on_any_threads(&name, |device| {
            let d_y = tensor(device, out, all, &d_y);
            poison(device, x.len());
            transposed_d_input(part(&d_y, before, outputs), &weight, stride)
                .unwrap()
                .values()
                .to_vec()
        });
        assert_close(&format!("{name}, input"), &got, &d_x);
        let got = on_any_threads(&name, |device| {
            let (weight, bias) = transposed_d_weight(
                &tensor(device, size, channels, &x),
                part(&tensor(device, out, all, &d_y), before, outputs),
                stride,
            );
            [weight, bias].concat()
        });
        assert_close(&format!("{name}, weight"), &got[..weight.len()], &d_w);
        assert_close(&format!("{name}, bias"), &got[weight.len()..], &d_b);
    }
}

#[test]
#[should_panic(expected = "weights for")]
fn weights_of_other_channels_are_refused() {
    let device = Device::cpu(1).unwrap();
    let x = Tensor::zeros(&device, &[1, 3, 3, 3, 2]).unwrap();
    let geometry = Geometry {
        kernel: [3; 3],
        stride: [1; 3],
    };
    let _ = conv3d(&x, &[0.0; 27], &[0.0], geometry);
}
