"""Helper of compare.sh.

python side_by_side.py time FILE.json COMMAND ...       runs COMMAND; writes its seconds and peak memory
python side_by_side.py table FOLDER                     prints the table of what compare.sh left in FOLDER
"""

import json
import os
import resource
import subprocess
import sys
import time

import nibabel as nib
import numpy as np


def timed(path, command):
    load, begin = os.getloadavg()[0], time.perf_counter()
    done = subprocess.run(command, check=False)
    row = {"seconds": time.perf_counter() - begin, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}
    with open(path, "w") as f:
        json.dump(row | {"load_before": load, "command": command, "exit_code": done.returncode}, f, indent=1)
    return done.returncode


def probability(folder):
    """The one probability map under FOLDER/probability, as (z, y, x)."""
    names = [n for n in os.listdir(os.path.join(folder, "probability")) if n.endswith(".nii.gz")]
    if len(names) != 1:
        raise SystemExit(f"{folder}/probability holds {len(names)} maps, not one")
    return np.asanyarray(nib.load(os.path.join(folder, "probability", names[0])).dataobj).T


def read(folder, name):
    with open(os.path.join(folder, name)) as f:
        return json.load(f)


def table(folder):
    peer, cold, twice = (read(folder, n) for n in ("authors.json", "cold.json", "twice.json"))
    whole, cached, gib = peer["volume_seconds"], twice["seconds"] - cold["seconds"], 2**30
    k, n, m = len(peer["runs"]), peer["insertions_of_the_volume"], len(peer["labelled"])
    same = os.path.join(folder, "same" if k < n else "cold")
    d = np.abs(probability(same).astype(np.float64) - np.load(os.path.join(folder, "authors.npz"))["probability"])
    result = {
        "runs": k, "insertions": n, "authors_seconds": whole, "cold_seconds": cold["seconds"], "cached_seconds": cached,
        "cold_ratio": whole / cold["seconds"], "cached_ratio": whole / cached if cached > 0 else None, "max_difference": d.max(), "mean_difference": d.mean(),
        "authors_peak_rss_bytes": peer["peak_rss_bytes"], "peak_rss_bytes": cold["peak_rss_bytes"],
    }
    print(f"{peer['unlabelled']}: {peer['shape'][0]} slices, R = {n // m}, M = {m}, {peer['threads']} threads, torch {peer['torch']}")
    print(f"authors' way: {k} of {n} insertions timed ({sum(peer['insertion_seconds']):.2f} s), x {peer['scale']:g}; "
          f"reading and building ({peer['setup_seconds']:.1f} s) not counted, in hpc-seg they are")
    print(f"{'':34}{'authors':>12}{'hpc-seg':>12}{'ratio':>9}")
    for name, ours in (("seconds, supports cold", cold["seconds"]), ("seconds, supports cached", cached)):
        ratio = f"{whole / ours:9.2f}" if ours > 0 else "  (noise)"
        print(f"{name:34}{whole:12.2f}{ours:12.2f}{ratio}")
    rss = (peer["peak_rss_bytes"] / gib, cold["peak_rss_bytes"] / gib)
    print(f"{'peak memory, GiB':34}{rss[0]:12.2f}{rss[1]:12.2f}{rss[0] / rss[1]:9.2f}")
    print(f"probabilities of the {k} timed insertion(s): largest |difference| {d.max():.2e}, mean {d.mean():.2e}")
    with open(os.path.join(folder, "table.json"), "w") as f:
        json.dump(result, f, indent=1)


def main():
    if len(sys.argv) >= 4 and sys.argv[1] == "time":
        sys.exit(timed(sys.argv[2], sys.argv[3:]))
    elif len(sys.argv) == 3 and sys.argv[1] == "table":
        table(sys.argv[2])
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
