"""Makes tests/golden/sam2_published_seed3.safetensors and the tensor lists of the published models: Meta's own encoders (PyPI sam2) with formula weights.

usage: python published.py FOLDER          (needs requirements.txt; writes FOLDER/sam2_hiera_*_tensors.json and FOLDER/sam2_published_seed3.safetensors)
The slice is 256 x 256, pixel i = (7919 i) mod 251; every 997th value of each level, channels last, after conv_s0 and conv_s1.
"""
import json
import os
import sys

import numpy as np
import sam2
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.numpy import save_file

from network import formula_tensor

SEED, SIDE = 3, 256
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)


def build(name):
    model = OmegaConf.load(os.path.join(os.path.dirname(sam2.__file__), f"configs/sam2.1/sam2.1_hiera_{name}.yaml")).model
    OmegaConf.set_struct(model, False)
    model.image_size = SIDE
    for attention in (model.memory_attention.layer.self_attention, model.memory_attention.layer.cross_attention):
        attention.feat_sizes = [SIDE // 16] * 2
    return instantiate(model, _recursive_=True).eval()


def main(folder):
    out = {}
    slice_ = ((torch.arange(SIDE * SIDE) * 7919) % 251).float().reshape(SIDE, SIDE)
    x = (slice_[None, None].expand(-1, 3, -1, -1) / 255 - MEAN) / STD
    for model, name in (("small", "s"), ("base_plus", "b+"), ("large", "l")):
        net = build(name)
        shapes = {k: list(v.shape) for k, v in net.state_dict().items()}
        with open(os.path.join(folder, f"sam2_hiera_{model}_tensors.json"), "w") as file:
            file.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in shapes.items()) + "\n}\n")
        net.load_state_dict({k: torch.from_numpy(np.asarray(formula_tensor(k, SEED, v))).reshape(v) for k, v in shapes.items()})
        with torch.inference_mode():
            levels = net.forward_image(x)["backbone_fpn"]
        for i, level in enumerate(levels):
            flat = level[0].reshape(level.shape[1], -1).T.numpy()
            out[f"{model}.fpn{i}"] = np.ascontiguousarray(flat.reshape(-1)[::997])
    save_file(out, os.path.join(folder, "sam2_published_seed3.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1])
