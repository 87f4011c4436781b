"""Makes tests/golden/augment.safetensors: what batchgeneratorsv2's own transforms do to a small patch, given what they drew.

    PYTHON benches/peers/augment_golden.py OUT.safetensors

Needs `pip install batchgeneratorsv2 safetensors` (nnunetv2 brings it). The image and label are formulas, so that the test can make them; parameters are in the metadata.
"""

import json
import sys

import numpy as np
import torch
import batchgeneratorsv2.transforms.spatial.spatial as spatial_module
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from safetensors.numpy import save_file

BOX, PATCH = (15, 22, 24), (8, 12, 13)


def box(shape):
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    image = np.sin(0.7 * z + 0.3 * y) + np.cos(0.5 * x - 0.2 * z) + 0.01 * ((z * 31 + y * 17 + x * 7) % 13)
    label = ((z + 2 * y + 3 * x) // 9) % 4 - 1
    return image.astype(np.float32), label.astype(np.int16)


def spatial(image, label, angles, scale):
    transform = SpatialTransform(
        PATCH, patch_center_dist_from_border=0, random_crop=False, p_rotation=float(any(angles)), p_scaling=float(scale != 1),
        p_synchronize_scaling_across_axes=1, border_mode_seg="constant", padding_value_seg=-1,
    )
    drawn = [*(angles if any(angles) else ()), scale]
    spatial_module.sample_scalar = lambda *_, **__: drawn.pop(0)
    image, label = torch.from_numpy(image)[None], torch.from_numpy(label)[None]
    parameters = transform.get_parameters(image=image)
    return transform._apply_to_image(image, **parameters)[0].numpy(), transform._apply_to_segmentation(label, **parameters)[0].numpy()


image, label = box(BOX)
tensors, settings = {}, {}
for name, angles, scale in (("crop", (0, 0, 0), 1), ("turned", (0.3, -0.2, 0.45), 1.0), ("scaled", (0, 0, 0), 0.83), ("both", (-0.5, 0.1, 0.25), 1.3)):
    out, segmented = spatial(image, label, angles, scale)
    tensors[f"spatial.{name}.image"], tensors[f"spatial.{name}.label"] = out, segmented.astype(np.float32)
    settings[f"spatial.{name}"] = [*angles, scale]

patch = torch.from_numpy(image[:8, :12, :13].copy())[None]


def apply(name, transform, parameters, recorded):
    tensors[name] = transform._apply_to_image(patch.clone(), **parameters)[0].numpy()
    settings[name] = recorded


for at, sigmas in enumerate(((0.5, 0.7, 0.95), (1.0, 0.6, 0.55))):
    apply(f"blur.{at}", GaussianBlurTransform((0.5, 1.0), False, False), {"apply_to_channel": np.array([True]), "sigmas": [list(sigmas)]}, sigmas)
for at, factor in enumerate((0.8, 1.25)):
    apply(f"contrast.{at}", ContrastTransform(BGContrast((0.75, 1.25)), True, False, 1), {"apply_to_channel": torch.tensor([0]), "multipliers": torch.tensor([factor])}, [factor])
for at, zoom in enumerate((0.5, 0.83)):
    apply(f"low_resolution.{at}", SimulateLowResolutionTransform((0.5, 1), False, True, None), {"apply_to_channel": torch.tensor([0]), "scales": torch.tensor([[zoom] * 3])}, [zoom])
for at, (gamma, inverted) in enumerate(((0.7, False), (1.4, True))):
    apply(f"gamma.{at}", GammaTransform(BGContrast((0.7, 1.5)), inverted, False, 1, 1), {"apply_to_channel": torch.tensor([0]), "gamma": torch.tensor([gamma]), "retain_stats": [True], "invert_image": [inverted]}, [gamma, float(inverted)])
save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, sys.argv[1], metadata={name: json.dumps(list(map(float, value))) for name, value in settings.items()})
