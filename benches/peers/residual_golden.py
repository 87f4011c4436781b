"""Makes tests/golden/unet_residual.safetensors: a small ResidualEncoderUNet of nnU-Net's with formula weights, one batch, its logits, loss and all gradients.

    PYTHON benches/peers/residual_golden.py OUT.safetensors

Needs `pip install dynamic-network-architectures nnunetv2 safetensors`. Input and targets are formulas too; gradients of large tensors are kept at every 7th value.
"""

import sys

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from safetensors.numpy import save_file

FEATURES, STRIDES = [4, 6, 6, 8], [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 1, 1]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
BLOCKS, SIZE, CHANNELS, CLASSES, SEED = [1, 3, 2, 1], (4, 16, 12), 2, 3, 11


def formula(name, shape):
    h = 0xCBF29CE484222325
    for byte in f"{name}#{SEED}".encode():
        h = ((h ^ byte) * 0x100000001B3) % 2**64
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = 2 * ((z >> np.uint64(40)).astype(np.float64) / 2**24) - 1
    if len(shape) > 1:
        value = u * np.sqrt(3 / np.prod(shape[1:]))
    elif name.endswith((".weight", ".gamma")):
        value = 1 + 0.1 * u
    else:
        value = 0.1 * u
    return torch.from_numpy(value.astype(np.float32).reshape(shape))


torch.set_num_threads(1)
network = ResidualEncoderUNet(
    CHANNELS, 4, FEATURES, torch.nn.Conv3d, KERNELS, STRIDES, BLOCKS, CLASSES, [1, 1, 1], conv_bias=True, norm_op=torch.nn.InstanceNorm3d,
    norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
)
with torch.no_grad():
    for name, parameter in network.named_parameters():
        parameter.copy_(formula(name, tuple(parameter.shape)))
image = formula("image", (2, CHANNELS, *SIZE)) * 3
heads, size = [], SIZE
for stride in STRIDES[:-1]:
    size = tuple(n // s for n, s in zip(size, stride))
    heads.append(torch.arange(2 * int(np.prod(size))).div(5, rounding_mode="floor").remainder(CLASSES).reshape(2, 1, *size))
loss = DC_and_CE_loss({"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
logits = network(image)
weights = np.array([1, 0.5, 0])
total = sum(w * loss(z, t) for w, z, t in zip(weights / weights.sum(), logits, heads) if w)
total.backward()
tensors = {f"logits{head}": z.detach().numpy() for head, z in enumerate(logits)} | {"loss": np.array([total.item()], dtype=np.float32)}
for name, parameter in network.named_parameters():
    if parameter.grad is not None:
        gradient = parameter.grad.numpy().ravel()
        tensors[f"grad.{name}"] = gradient if gradient.size < 400 else gradient[::7]
        tensors[f"largest.{name}"] = np.array([np.abs(gradient).max()])
save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, sys.argv[1])
print(total.item(), len(tensors))
