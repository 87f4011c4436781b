//! `ops::resize_u8` against Pillow, bit for bit.

use hpc_seg::ops::Cost;
use hpc_seg::ops::resize_u8::BicubicU8Plan;
use sha2::{Digest, Sha256};

fn plane(height: usize, width: usize) -> Vec<u8> {
    (0..(height * width) as u64)
        .map(|i| ((i * i * 2_654_435_761 + i * 40_503) >> 13) as u8)
        .collect()
}

fn resized(src: &[u8], input: (usize, usize), output: (usize, usize)) -> Vec<u8> {
    let plan = BicubicU8Plan::new(input, output).unwrap();
    let mut out = vec![0xA5; output.0 * output.1];
    plan.resize(src, &mut vec![0x5A; plan.scratch_len()], &mut out).unwrap();
    out
}

// Pillow 11.3.0:
//   def plane(h, w): i = np.arange(h * w, dtype=np.uint64); return ((i * i * 2654435761 + i * 40503) >> 13).astype(np.uint8).reshape(h, w)
//   out = Image.fromarray(plane(H, W)).convert("RGB").resize((w, h)).getchannel(0)
//   hashlib.sha256(np.asarray(out).tobytes()).hexdigest()[:16]
#[test]
fn up_down_and_odd_sizes_are_bit_equal_to_pillow() {
    let cases = [
        ((1, 1), (5, 7), "0d5535e13cc9708d"),
        ((7, 5), (1, 1), "620bfdaa346b088f"),
        ((31, 33), (32, 32), "0581920e9b0e36ff"),
        ((13, 17), (512, 512), "18c3e8886d1f3e8f"),
        ((512, 512), (128, 128), "a43d25f787609ff0"),
        ((208, 176), (512, 512), "0fc6dff424777906"),
        ((67, 512), (512, 61), "bb55d8ef6e66720e"),
        ((512, 40), (512, 97), "50178fe746d44f69"),
        ((40, 300), (7, 300), "72fb692987ec1e5b"),
        ((96, 112), (128, 128), "3912eb7a68e95f11"),
        ((701, 3), (11, 257), "c0732a09a3dc1a6f"),
    ];
    for (input, output, expected) in cases {
        let out = resized(&plane(input.0, input.1), input, output);
        let hash: String = Sha256::digest(&out).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, expected, "{input:?} to {output:?}: {:?} ...", &out[..out.len().min(10)]);
    }
}

// Image.fromarray(plane(3, 4)).resize((5, 2)), and a black and white edge, where the clamping shows.
#[test]
fn two_small_planes_show_pillows_pixels() {
    assert_eq!(plane(3, 4), [0, 192, 249, 169, 208, 111, 134, 20, 26, 152, 141, 250]);
    assert_eq!(
        resized(&plane(3, 4), (3, 4), (2, 5)),
        [82, 136, 197, 184, 104, 96, 124, 135, 142, 165]
    );
    assert_eq!(resized(&[0, 0, 255, 255, 0], (1, 5), (1, 9)), [0, 0, 0, 110, 255, 255, 235, 70, 0]);
}

#[test]
fn equal_sizes_copy() {
    assert_eq!(resized(&plane(6, 7), (6, 7), (6, 7)), plane(6, 7));
}

#[test]
fn sizes_of_zero_and_slices_of_another_size_are_refused() {
    assert!(BicubicU8Plan::new((0, 3), (2, 2)).is_err());
    assert!(BicubicU8Plan::new((2, 3), (1 << 25, 2)).is_err());
    let plan = BicubicU8Plan::new((2, 3), (4, 5)).unwrap();
    assert!(plan.resize(&[0; 5], &mut [0; 10], &mut [0; 20]).is_err());
    assert!(plan.resize(&[0; 6], &mut [0; 9], &mut [0; 20]).is_err());
    assert!(plan.resize(&[0; 6], &mut [0; 10], &mut [0; 21]).is_err());
}

#[test]
fn cost_counts_both_passes_and_nothing_for_a_copy() {
    // One pixel to 2 x 3: one tap per output; reads 1, writes and reads 3 between, writes 6 bytes.
    assert_eq!(
        BicubicU8Plan::new((1, 1), (2, 3)).unwrap().cost(),
        Cost {
            flops: 2.0 * 9.0,
            bytes: 13.0
        }
    );
    assert_eq!(BicubicU8Plan::new((4, 5), (4, 5)).unwrap().cost(), Cost { flops: 0.0, bytes: 40.0 });
}
