"""Algorithm 2 of SSL-MedSAM2 as its authors ran it, on the CPU in float32, with Meta's own network (PyPI package `sam2`).

Every insertion is a video of its own: unlabelled[0..F), labelled, unlabelled[F..N). It is propagated forwards and, on a fresh state,
backwards; the image encoder runs again in each pass, and nothing is kept from one insertion to the next. Differences from the authors' program:
float32 instead of bf16 autocast, arrays instead of probability files between the steps, and the places are given instead of drawn.
"""

import argparse
import json
import resource
import time

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from network import Clock, build, patch_package

MEAN = np.array((0.485, 0.456, 0.406)).reshape(1, 3, 1, 1)
STD = np.array((0.229, 0.224, 0.225)).reshape(1, 3, 1, 1)


def read(path):
    """Voxels of a NIfTI file as (z, y, x)."""
    return np.ascontiguousarray(np.asanyarray(nib.load(path).dataobj).T)


def grey_levels(volume, window=None):
    """0..255 in float64: percentiles 0.5 and 99.5 of the voxels above zero, or (level, width)."""
    if window:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    else:
        low, high = np.percentile(volume[volume > 0], (0.5, 99.5))
    clipped = np.clip(volume.astype(np.float64), low, high)
    span = clipped.max() - clipped.min()
    out = (clipped - clipped.min()) / span * 255.0 if span > 0 else np.zeros_like(clipped)
    if not window:
        out[volume == 0] = 0
    return out


def frames(volume, size, window=None):
    """(N, 3, size, size) in float32, normalised: what the network sees."""
    grey = grey_levels(volume, window)
    if grey.shape[1:] != (size, size):
        rgb = (Image.fromarray(plane.astype(np.uint8)).convert("RGB") for plane in grey)
        x = np.stack([np.asarray(image.resize((size, size))) for image in rgb]).transpose(0, 3, 1, 2).astype(np.float64)
    else:
        x = np.repeat(grey[:, None], 3, axis=1)
    return torch.from_numpy(((x / 255.0 - MEAN) / STD).astype(np.float32))


def one_pass(net, video, prompts, height, width, reverse):
    """Logits (height, width) per slice that the pass reaches, on a fresh state."""
    state = net.init_state((video, height, width))
    for t, mask in prompts.items():
        net.add_new_mask(state, frame_idx=t, obj_id=1, mask=mask)
    start = max(prompts) if reverse else min(prompts)
    return {t: logits[0, 0] for t, _, logits in net.propagate_in_video(state, start_frame_idx=start, reverse=reverse)}


def insertion(net, query, labelled, masks, place, height, width):
    """Probabilities (N, height, width) of the query's slices for one labelled volume at one place."""
    video = torch.cat((query[:place], labelled, query[place:]))
    prompts = {place + t: mask for t, mask in enumerate(masks) if mask.any()}
    forwards = one_pass(net, video, prompts, height, width, reverse=False)
    backwards = one_pass(net, video, prompts, height, width, reverse=True)
    logits = []
    for t in [*range(place), *range(place + len(labelled), len(video))]:
        seen = [p[t] for p in (forwards, backwards) if t in p]
        logits.append(torch.stack(seen).mean(0) if len(seen) > 1 else seen[0])
    return torch.stack(logits).sigmoid()


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--labelled", nargs=2, action="append", required=True, metavar=("IMAGE", "MASK"), help="may be repeated")
    p.add_argument("--unlabelled", required=True, metavar="IMAGE")
    p.add_argument("--places", required=True, help="insertion places F, the same for every labelled volume: 0,7,15")
    p.add_argument("--weights", required=True, help="formula:SEED:tiny, formula:SEED:hiera_t512, or a .safetensors or .pt file")
    p.add_argument("--config", help="JSON, for weights that hold no configuration")
    p.add_argument("--class", dest="label", type=int, default=1)
    p.add_argument("--window", help="LEVEL,WIDTH for CT; default: percentiles")
    p.add_argument("--fill-holes", type=int, default=8, metavar="AREA", help="0 = off")
    p.add_argument("--only-insertions", type=int, metavar="K", help="run the first K insertions and state the scaling to all")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="on a GPU the seconds per stage are those of queueing, the sum is right")
    p.add_argument("--autocast", action="store_true", help="the network under bf16 autocast: what bf16 costs PyTorch itself")
    p.add_argument("--out", help=".npz: probability (z, y, x), places"), p.add_argument("--json", help="seconds per stage")
    return p.parse_args()


@torch.inference_mode()
def main():
    a, begin = arguments(), time.perf_counter()
    torch.set_num_threads(a.threads)
    patch_package()
    net = build(a.weights, a.config, a.fill_holes).to(a.device)
    window = tuple(map(float, a.window.split(","))) if a.window else None
    places = [int(f) for f in a.places.split(",")]
    volume = read(a.unlabelled)
    depth, height, width = volume.shape
    if not all(0 <= f < depth for f in places):
        raise SystemExit(f"--places: {a.unlabelled} has places 0 to {depth - 1}")
    query, supports = frames(volume, net.image_size, window), []
    for image, mask in a.labelled:
        target = torch.from_numpy((read(mask) == a.label).astype(np.uint8))
        target = F.interpolate(target[:, None], size=(height, width), mode="nearest")[:, 0]
        if not target.any():
            raise SystemExit(f"{mask}: no voxel of class {a.label}")
        supports.append((frames(read(image), net.image_size, window), target))
    runs = [(i, f) for i in range(len(supports)) for f in places]
    chosen = runs[: a.only_insertions] if a.only_insertions else runs
    setup, clock, seconds = time.perf_counter() - begin, Clock(net), []
    total = torch.zeros(volume.shape, dtype=torch.float64)
    for i, f in chosen:
        start = time.perf_counter()
        with torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.autocast):
            total += insertion(net, query, *supports[i], f, height, width).float().cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
        print(f"labelled {i} place {f}: {seconds[-1]:.2f} s", flush=True)
    scale, stages = len(runs) / len(chosen), clock.report()
    for stage, row in stages.items():
        print(f"{stage:17} {row['seconds']:9.2f} s  {row['calls']:6} calls  {row['seconds_per_call']:8.4f} s each")
    other = sum(seconds) - sum(row["seconds"] for row in stages.values())
    print(f"{'everything else':17} {other:9.2f} s")
    print(f"{len(chosen)} of R x M = {len(places)} x {len(supports)} insertions: {sum(seconds):.2f} s; whole volume: x {scale:g} = "
          f"{sum(seconds) * scale:.2f} s, and {setup:.2f} s of reading and building")
    if a.out:
        np.savez_compressed(a.out, probability=(total / len(chosen)).float().numpy(), places=np.array(places), runs=np.array(chosen))
    if a.json:
        report = {
            "torch": torch.__version__, "threads": a.threads, "weights": a.weights, "fill_holes": a.fill_holes, "places": places,
            "labelled": a.labelled, "unlabelled": a.unlabelled, "shape": volume.shape, "runs": chosen, "insertion_seconds": seconds,
            "insertions_of_the_volume": len(runs), "scale": scale, "volume_seconds": sum(seconds) * scale, "setup_seconds": setup,
            "stages": stages, "other_seconds": other, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        with open(a.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
