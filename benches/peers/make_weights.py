"""Writes formula weights as a .safetensors file that holds its configuration: the same file for both sides of a comparison.

usage: python make_weights.py formula:4:hiera_t512 OUT.safetensors
"""

import json
import sys

from safetensors.torch import save_file

from network import CONFIGS, build


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    weights, out = sys.argv[1:]
    state = {name: t.contiguous() for name, t in build(weights).state_dict().items()}
    save_file(state, out, metadata={"name": weights, "config": json.dumps(CONFIGS[weights.split(":")[2]])})
    print(f"{out}: {len(state)} tensors")


if __name__ == "__main__":
    main()
