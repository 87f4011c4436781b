"""Shows that the peer is the authors' method: its mean probability against the goldens, which the authors' own code made.

usage: python validate.py [GOLDENS] [--full] [--bf16 cpu|cuda]

--full: the 512 network on real CT too; a minute or more. --bf16: how far PyTorch's own bf16 autocast is from the goldens, on that device, and how many voxels it puts
on the other side of one half that the goldens have more than 0.01 from it; nothing is judged then.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

from network import build

HERE = os.path.dirname(os.path.abspath(__file__))
SHARED = os.environ.get("HPC_SEG_SHARED", os.path.join(HERE, "../../../shared"))
# (folder, weights, hole filling, largest and mean difference allowed)
TINY = [
    ("tffs_tiny_seed1", "formula:1:tiny", 0, 1e-5, 1e-6),
    ("tffs_tiny_seed10", "formula:10:tiny", 0, 1e-5, 1e-6),
    ("tffs_tiny_seed1_filled", "formula:1:tiny", 8, 1e-5, 1e-6),
]
FULL = ("tffs_hiera_t512_seed4", "formula:4:hiera_t512", 0, 2e-5, 2e-6)


def volumes(goldens, name):
    """(labelled image, labelled mask, unlabelled image)."""
    if name != FULL[0]:
        return [os.path.join(goldens, name, f"{stem}.nii.gz") for stem in ("labelled", "labelled_mask", "query")]
    data = os.path.join(goldens, "../data/ct-lesion/CT_Lesion_")
    return [f"{data}{stem}.nii.gz" for stem in ("000015_01_01_103-115_image", "000015_01_01_103-115_label", "000002_03_01_035-047_image")]


def tensors_agree(goldens, size):
    """Names and shapes of the network built here are those of the published one."""
    with open(os.path.join(goldens, f"sam2_{size}_tensors.json")) as f:
        expected = {name: tuple(shape) for name, shape in json.load(f).items()}
    return expected == {name: tuple(t.shape) for name, t in build(f"formula:1:{size}").state_dict().items()}


def difference(goldens, case, folder, options):
    """(|ours - golden|, voxels on the other side of one half)"""
    name, weights, holes, *_ = case
    expected = load_file(os.path.join(goldens, name, "expected.safetensors"))
    image, mask, query = volumes(goldens, name)
    out, places = os.path.join(folder, "out.npz"), ",".join(map(str, expected["places"]))
    command = [sys.executable, os.path.join(HERE, "tffs_authors.py"), "--labelled", image, mask, "--unlabelled", query, "--places", places]
    subprocess.run([*command, "--weights", weights, "--fill-holes", str(holes), "--out", out, *options], check=True)
    p = np.load(out)["probability"]
    if name == FULL[0]:
        print("  voxels over one half per slice, ours - golden:", ((p > 0.5).sum((1, 2)) - expected["mask_over_half"]).tolist())
        p, golden = p[:, ::4, ::4], expected["mean_probability@stride4"]
    else:
        golden = expected["mean_probability"]
    return np.abs(p - golden), (((p > 0.5) != (golden > 0.5)) & (np.abs(golden - 0.5) > 0.01)).sum()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("goldens", nargs="?", default=os.path.join(SHARED, "goldens"))
    p.add_argument("--full", action="store_true"), p.add_argument("--bf16", choices=("cpu", "cuda"))
    a = p.parse_args()
    goldens, bad, options = a.goldens, 0, ["--autocast", "--device", a.bf16] if a.bf16 else []
    for size in ("tiny", "hiera_t512"):
        same = tensors_agree(goldens, size)
        bad += not same
        print(f"{size}: names and shapes {'equal' if same else 'DIFFER'}")
    with tempfile.TemporaryDirectory() as folder:
        for case in TINY + [FULL] * a.full:
            d, flipped = difference(goldens, case, folder, options)
            good = d.max() <= case[3] and d.mean() <= case[4]
            bad += not (good or a.bf16)
            print(f"{case[0]}: max {d.max():.2e} mean {d.mean():.2e} {flipped} flipped {'' if a.bf16 else 'ok' if good else 'TOO FAR'}", flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
