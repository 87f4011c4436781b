"""Meta's own SAM 2.1 network (PyPI package `sam2`) at any size, with formula weights or weights from a file."""

import json
import math
import os
import struct
import time

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import ndimage

import sam2
from sam2 import sam2_video_predictor as predictor_module
from sam2.modeling.sam2_utils import MLP

# What shapes do not tell. Keys as in the `config` entry of our safetensors files.
TINY = {
    "image_size": 128, "embed_dim": 32, "num_heads": 1, "stages": [1, 2, 3, 1], "global_att_blocks": [5],
    "window_spec": [8, 4, 8, 4], "window_pos_embed_bkg_spatial_size": [7, 7], "q_pool": 3, "fpn_top_down_levels": [2, 3],
    "d_model": 64, "mem_dim": 16, "num_maskmem": 7, "memory_attention_layers": 2, "max_obj_ptrs_in_encoder": 16,
    "sigmoid_scale_for_mem_enc": 20.0, "sigmoid_bias_for_mem_enc": -10.0, "decoder_heads": 8, "rope_theta": 10000.0,
}
HIERA_T512 = TINY | {
    "image_size": 512, "embed_dim": 96, "stages": [1, 2, 7, 2], "global_att_blocks": [5, 7, 9], "window_spec": [8, 4, 14, 7],
    "d_model": 256, "mem_dim": 64, "memory_attention_layers": 4,
}
CONFIGS = {"tiny": TINY, "hiera_t512": HIERA_T512}
# Widths that the configuration does not hold: (memory attention's MLP, mask decoder's MLP, IoU head).
WIDTHS = {"tiny": (256, 2048, 256), "hiera_t512": (2048, 2048, 256)}
STAGES = ("encoder", "memory_attention", "mask_decoder", "memory_encoder")


def formula_tensor(name, seed, shape):
    """The pseudo-random tensor `name` of seed `seed`: FNV-1a of the name starts a splitmix64 sequence."""
    mask, h = (1 << 64) - 1, 0xCBF29CE484222325
    for byte in f"{name}#{seed}".encode():
        h = ((h ^ byte) * 0x100000001B3) & mask
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    u = 2 * ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / 2**24 - 1
    if len(shape) >= 2:
        value = u * math.sqrt(3 / math.prod(shape[1:]))
    elif name.endswith((".weight", ".gamma")):
        value = 1 + 0.1 * u
    else:
        value = 0.1 * u
    return torch.from_numpy(value.astype(np.float32).reshape(shape))


def load_file(path):
    """(state dict, configuration or None) of a .safetensors file, or of a .pt file with its state dict under `model`."""
    if not path.endswith(".safetensors"):
        return torch.load(path, map_location="cpu", weights_only=True)["model"], None
    from safetensors.torch import load_file as load

    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    config = header.get("__metadata__", {}).get("config")
    return load(path), json.loads(config) if config else None


def published_config(config, widths):
    """The package's own SAM 2.1 tiny configuration, with the sizes of `config`."""
    m = OmegaConf.load(os.path.join(os.path.dirname(sam2.__file__), "configs/sam2.1/sam2.1_hiera_t.yaml")).model
    OmegaConf.set_struct(m, False)
    c, d, s = config, config["d_model"], config["image_size"]
    m._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    trunk, neck, att, enc = m.image_encoder.trunk, m.image_encoder.neck, m.memory_attention, m.memory_encoder
    for key in ("embed_dim", "num_heads", "stages", "global_att_blocks", "window_spec", "window_pos_embed_bkg_spatial_size", "q_pool"):
        trunk[key] = c[key]
    neck.d_model, neck.position_encoding.num_pos_feats, neck.fpn_top_down_levels = d, d, c["fpn_top_down_levels"]
    neck.backbone_channel_list = [c["embed_dim"] * 2**i for i in reversed(range(len(c["stages"])))]
    att.d_model, att.num_layers, att.layer.d_model, att.layer.dim_feedforward = d, c["memory_attention_layers"], d, widths[0]
    for a in (att.layer.self_attention, att.layer.cross_attention):
        a.embedding_dim, a.feat_sizes, a.rope_theta = d, [s // 16, s // 16], c["rope_theta"]
    att.layer.cross_attention.kv_in_dim = c["mem_dim"]
    enc.out_dim, enc.in_dim, enc.position_encoding.num_pos_feats = c["mem_dim"], d, c["mem_dim"]
    enc.mask_downsampler.embed_dim, enc.fuser.layer.dim = d, d
    m.image_size, m.num_maskmem, m.max_obj_ptrs_in_encoder = s, c["num_maskmem"], c["max_obj_ptrs_in_encoder"]
    m.sigmoid_scale_for_mem_enc, m.sigmoid_bias_for_mem_enc = c["sigmoid_scale_for_mem_enc"], c["sigmoid_bias_for_mem_enc"]
    # what the authors' builder adds to the file
    m.binarize_mask_from_pts_for_mem_enc, m.non_overlap_masks = True, False
    m.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True, "dynamic_multimask_stability_delta": 0.05, "dynamic_multimask_stability_thresh": 0.98,
    }
    return m


def build(weights, config_path=None, fill_hole_area=0):
    """The video predictor on the CPU in float32. `weights`: `formula:SEED:tiny`, `formula:SEED:hiera_t512`, or a file."""
    state, config = None, None
    if weights.startswith("formula:"):
        _, seed, size = weights.split(":")
        if size not in CONFIGS:
            raise SystemExit(f"{weights}: the size is one of {', '.join(CONFIGS)}")
        config, widths = CONFIGS[size], WIDTHS[size]
    else:
        state, config = load_file(weights)
        names = ("memory_attention.layers.0.linear1", "sam_mask_decoder.transformer.layers.0.mlp.layers.0",
                 "sam_mask_decoder.iou_prediction_head.layers.0")
        widths = tuple(state[f"{n}.weight"].shape[0] for n in names)
    if config_path:
        with open(config_path) as f:
            config = json.load(f)
    if config is None:
        raise SystemExit(f"{weights} holds no configuration: give one with --config")
    if config["decoder_heads"] != 8:
        raise SystemExit("the package sam2 has 8 heads in its mask decoder")
    net = instantiate(published_config(config, widths), _recursive_=True)
    d, decoder = config["d_model"], net.sam_mask_decoder
    for layer in decoder.transformer.layers:
        layer.mlp = MLP(d, widths[1], d, num_layers=2, activation=torch.nn.ReLU)
    decoder.iou_prediction_head = MLP(d, widths[2], decoder.num_mask_tokens, 3, sigmoid_output=True)
    if state is None:
        state = {name: formula_tensor(name, int(seed), tuple(t.shape)) for name, t in net.state_dict().items()}
    net.load_state_dict(state)
    net.fill_hole_area = fill_hole_area
    return net.float().eval()


def fill_holes(mask, max_area):
    """What the package's CUDA extension does: background components (8-connected) of at most `max_area` pixels become 0.1."""
    out = mask.clone()
    for plane, result in zip(mask.flatten(0, 1).float().cpu().numpy(), out.flatten(0, 1)):
        labels, _ = ndimage.label(plane <= 0, structure=np.ones((3, 3)))
        areas = np.bincount(labels.ravel())
        result[torch.from_numpy((labels > 0) & (areas[labels] <= max_area)).to(out.device)] = 0.1
    return out


def patch_package():
    """Arrays instead of a folder of JPEGs, hole filling without CUDA, no progress bar."""
    predictor_module.load_video_frames = lambda video_path, **_: video_path
    predictor_module.fill_holes_in_mask_scores = fill_holes
    predictor_module.tqdm = lambda frames, **_: frames


class Clock:
    """Seconds and calls per stage of a network."""

    def __init__(self, net):
        self.seconds, self.calls = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0)
        net.forward_image = self.timed("encoder", net.forward_image)
        for stage, module in zip(STAGES[1:], (net.memory_attention, net.sam_mask_decoder, net.memory_encoder)):
            module.forward = self.timed(stage, module.forward)

    def timed(self, stage, function):
        def call(*args, **kwargs):
            begin = time.perf_counter()
            out = function(*args, **kwargs)
            self.seconds[stage] += time.perf_counter() - begin
            self.calls[stage] += 1
            return out

        return call

    def report(self):
        return {
            s: {"seconds": self.seconds[s], "calls": self.calls[s], "seconds_per_call": self.seconds[s] / max(self.calls[s], 1)}
            for s in STAGES
        }
