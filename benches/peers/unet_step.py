"""The U-Net's training step and inference pass in PyTorch, as benches/unet.rs measures them: PlainConvUNet 32-64-128-256-320, patch 32 x 64 x 64, batch 2, deep supervision.

    python benches/peers/unet_step.py [--threads N] [--repeats N]

Prints the median and least seconds of a step (forward, loss, backward; no optimiser, as in the bench) of a batch of 2, and of a forward pass of one sample without gradients.
"""

import argparse
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

FEATURES = [32, 64, 128, 256, 320]
PATCH = (32, 64, 64)
CLASSES = 2


def block(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, 1),
        nn.InstanceNorm3d(outputs, eps=1e-5, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.up, self.decoder, self.heads = (nn.ModuleList() for _ in range(4))
        before = 1
        for stage, features in enumerate(FEATURES):
            self.encoder.append(nn.Sequential(block(before, features, 2 if stage else 1), block(features, features)))
            before = features
        for features in FEATURES[-2::-1]:
            self.up.append(nn.ConvTranspose3d(before, features, 2, 2))
            self.decoder.append(nn.Sequential(block(2 * features, features), block(features, features)))
            self.heads.append(nn.Conv3d(features, CLASSES, 1))
            before = features

    def forward(self, x, deep):
        skips, logits = [], []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        for step, (up, stage, head) in enumerate(zip(self.up, self.decoder, self.heads)):
            x = stage(torch.cat([up(x), skips[-2 - step]], 1))
            if deep or step + 1 == len(self.up):
                logits.insert(0, head(x))
        return logits


def loss(logits, targets):
    total = 0
    for weight, z, t in zip((8 / 15, 4 / 15, 2 / 15, 1 / 15), logits, targets):
        p = z.softmax(1)
        y = F.one_hot(t, CLASSES).movedim(-1, 1)
        both, of_p, of_y = ((v[:, 1:]).sum((2, 3, 4)) for v in (p * y, p, y.float()))
        dice = (2 * both + 1e-5) / torch.clip(of_p + of_y + 1e-5, 1e-8)
        total = total + weight * (F.cross_entropy(z, t) - dice.mean())
    return total


def measure(name, repeats, call):
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    print(f"{name}: median {statistics.median(times):.3f} s, least {min(times):.3f} s of {repeats}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = Network()
    image = torch.randn(2, 1, *PATCH)
    targets = [torch.randint(0, CLASSES, (2, *(size >> head for size in PATCH))) for head in range(4)]

    def step():
        network.zero_grad()
        loss(network(image, True), targets).backward()

    def infer():
        with torch.no_grad():
            network(image[:1], False)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measure("step", args.repeats, step)
    print(f"memory: {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MiB more at most, gradients of the weights among them")
    measure("infer", args.repeats, infer)


if __name__ == "__main__":
    main()
