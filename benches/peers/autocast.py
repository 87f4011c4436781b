"""Makes tests/golden/sam2_autocast.csv: how far PyTorch's own bf16 autocast is, stage by stage, from the tiny SAM 2 goldens.

usage: python autocast.py [GOLDENS] [--f32] > tests/golden/sam2_autocast.csv

Meta's own network (PyPI sam2) runs the goldens' slices on the CPU. Every tracked slice attends to the golden's memory, not to what was made here, so that a stage's error is its own.
A line: golden, stage, relative error sqrt(sum |ours - golden|^2 / sum |golden|^2) over all slices that have the stage. --f32: without autocast, which shows that the recipe is the goldens'.
"""

import argparse
import os
from collections import defaultdict

import torch
from safetensors.torch import load_file

from network import build, patch_package

HERE = os.path.dirname(os.path.abspath(__file__))
SHARED = os.environ.get("HPC_SEG_SHARED", os.path.join(HERE, "../../../shared"))
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
LEFT = {"low_res_mask": "pred_masks", "obj_ptr": "obj_ptr", "object_score_logits": "object_score_logits", "maskmem_features": "maskmem_features"}


class Errors:
    """Squares of errors and of goldens, by stage."""

    def __init__(self, golden):
        self.golden, self.squares = golden, defaultdict(lambda: [0.0, 0.0])

    def add(self, stage, ours, name):
        want = self.golden[name].double()
        error = (ours.double().reshape(want.shape) - want).square().sum()
        for i, square in enumerate((error, want.square().sum())):
            self.squares[stage][i] += square.item()

    def take(self, kind, t, made):
        """What slice `t` left behind; the golden's takes its place."""
        for name, key in LEFT.items():
            golden = f"{kind}{t}.{name}"
            self.add(f"{kind}.{name}", made[key], golden)
            made[key] = self.golden[golden].to(made[key].dtype).reshape(made[key].shape)


def encoder(net, errors, image):
    """Trunk, neck and the mask decoder alone on one slice."""
    def stage(name):
        return lambda _module, _inputs, out: errors.add(f"hiera.{name}", out, f"hiera.{name}")

    trunk = net.image_encoder.trunk
    errors.golden["patch_embed"] = errors.golden["hiera.patch_embed"] + errors.golden["hiera.pos_embed"]
    hooks = [trunk.blocks[0].register_forward_pre_hook(lambda _module, inputs: errors.add("patch_embed", inputs[0], "patch_embed"))]
    hooks += [block.register_forward_hook(stage(f"block{i}")) for i, block in enumerate(trunk.blocks)]
    levels = net.forward_image(image)["backbone_fpn"]
    for hook in hooks:
        hook.remove()
    for i, level in enumerate(levels):
        errors.add(f"neck.fpn{i}", level, f"neck.fpn{i}")
    features = levels[2] + net.no_mem_embed.reshape(1, -1, 1, 1)
    masks, _, ious, _, _, pointer, scores = net._forward_sam_heads(features, high_res_features=levels[:2], multimask_output=True)
    for name, value in (("low_res_multimasks", masks), ("ious", ious), ("obj_ptr", pointer), ("object_score_logits", scores)):
        errors.add(f"decoder.{name}", value, f"decoder.{name}")


def run(seed, golden, autocast):
    errors, net = Errors(golden), build(f"formula:{seed}:tiny")
    slices = golden["in.frames_u8"].float()[:, None].expand(-1, 3, -1, -1)
    video, masks = (slices / 255 - MEAN) / STD, golden["in.masks_u8"]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        encoder(net, errors, video[len(masks)][None])
        state = net.init_state((video, *video.shape[2:]))
        for t, mask in enumerate(masks):
            net.add_new_mask(state, frame_idx=t, obj_id=1, mask=mask)
        net.propagate_in_video_preflight(state)
        left = state["output_dict_per_obj"][0]
        for t in range(len(masks)):
            errors.take("cond", t, left["cond_frame_outputs"][t])
        at = {}
        net.memory_attention.register_forward_hook(lambda _m, _i, out: errors.add("memory_attention", out, f"frame{at['slice']}.memory_attention.out"))
        at["slice"] = len(masks)
        for t, *_ in net.propagate_in_video(state, start_frame_idx=0):
            if t >= len(masks):
                errors.take("track", t, left["non_cond_frame_outputs"][t])
                at["slice"] = t + 1
    return errors.squares


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("goldens", nargs="?", default=os.path.join(SHARED, "goldens")), p.add_argument("--f32", action="store_true")
    a = p.parse_args()
    patch_package()
    print(f"# PyTorch {torch.__version__}, CPU, {'f32' if a.f32 else 'bf16 autocast'}; made by benches/peers/autocast.py")
    print("golden,stage,relative_error")
    for seed in (1, 10, 39):
        name = f"sam2_tiny_seed{seed}"
        for stage, (error, power) in run(seed, load_file(os.path.join(a.goldens, f"{name}.safetensors")), not a.f32).items():
            print(f"{name},{stage},{(error / power) ** 0.5:.3e}")


if __name__ == "__main__":
    main()
