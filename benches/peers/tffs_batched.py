"""Algorithm 2 as a careful PyTorch programmer would run it on a GPU: what can be kept is kept, and L insertions step together.

Query slices are encoded once, eight at a time. The memory of M labelled volumes (conditioning slices, pointers, and the six slices and fifteen pointers before the first
query slice) is kept. Every insertion is a lane of `--slices` steps, forwards from its place and then backwards; L lanes go through the package's own memory attention, mask
decoder and memory encoder as one batch under bf16 autocast, over token buffers of which a step rewrites the recent slices and the pointers alone. Probabilities are summed
on the GPU. Slices, masks and starting memories are random: time and memory are measured, and no output is compared.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

from network import build
from sam2.modeling.sam2_utils import get_1d_sine_pe

BATCH = 8
STAGES = ("tokens", "memory_attention", "mask_decoder", "memory_encoder", "ensemble")


class Clock:
    """Seconds per stage of the lanes' steps, by CUDA events that nothing waits for before `report`."""

    def __init__(self, device):
        self.cuda, self.marks = device == "cuda", []

    def mark(self, stage):
        """Ends `stage`; None begins a step."""
        now = time.perf_counter()
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.marks.append((stage, now))

    def report(self):
        wait(self.cuda)
        seconds = dict.fromkeys(STAGES, 0.0)
        for (_, before), (stage, now) in zip(self.marks, self.marks[1:]):
            if stage:
                seconds[stage] += before.elapsed_time(now) / 1e3 if self.cuda else now - before
        return seconds


def wait(cuda):
    if cuda:
        torch.cuda.synchronize()


def timed(cuda, function):
    """(seconds, result)"""
    wait(cuda)
    begin = time.perf_counter()
    result = function()
    wait(cuda)
    return time.perf_counter() - begin, result


def encode(net, images):
    """(fine, middle, coarse) features of all slices in bf16."""
    parts = []
    for batch in images.split(BATCH):
        parts.append([level.bfloat16() for level in net.forward_image(batch)["backbone_fpn"][: net.num_feature_levels]])
    return [torch.cat(level) for level in zip(*parts)]


def support(net, images, masks):
    """(memory (S, mem, s, s), pointers (S, d)) of labelled slices and their masks."""
    fine, middle, coarse = encode(net, images)
    memory, pointers = [], []
    for i in range(0, len(images), BATCH):
        part = slice(i, i + BATCH)
        _, _, _, _, high, pointer, score = net._use_mask_as_output(coarse[part], [fine[part], middle[part]], masks[part])
        memory.append(remember(net, coarse[part], high, score, True)), pointers.append(pointer.bfloat16())
    return torch.cat(memory), torch.cat(pointers)


def remember(net, coarse, masks, score, given):
    """Memory (items, mem, s, s) of slices and their mask logits."""
    feats = [coarse.flatten(2).permute(2, 0, 1)]
    return net._encode_new_memory(feats, [coarse.shape[-2:]], masks, score, given)[0].bfloat16()


class Lanes:
    """L insertions that step together: their tokens, places and sums."""

    def __init__(self, net, supports, places, a):
        """`supports`: (memory, pointers) per lane; `places`: the insertion place of each lane."""
        self.net, self.places, self.count, self.a = net, places, len(places), a
        self.recent, self.near = net.num_maskmem - 1, net.max_obj_ptrs_in_encoder - 1
        self.tokens = (net.image_size // 16) ** 2
        self.device, d, mem = places.device, net.hidden_dim, net.mem_dim
        self.conditioning, self.per_pointer = len(supports[0][0]), d // mem
        spatial, self.pointers = (self.conditioning + self.recent) * self.tokens, self.conditioning + self.near
        # (lane, token, width): memory attention takes (token, lane, width) and turns it back
        shape = (self.count, spatial + self.pointers * self.per_pointer, mem)
        self.memory, self.positions = (torch.zeros(shape, dtype=torch.bfloat16, device=self.device) for _ in range(2))
        self.where = net.memory_encoder.position_encoding(supports[0][0][:1])[0].flatten(1).T  # (tokens, mem)
        when = net.maskmem_tpos_enc[:, 0]  # (num_maskmem, 1, mem); the last one is for conditioning
        place = net.image_encoder.neck.position_encoding(torch.empty(1, d, net.image_size // 16, net.image_size // 16, device=self.device))
        self.query_positions = place.flatten(2).permute(2, 0, 1).expand(-1, self.count, -1)
        fixed = self.conditioning * self.tokens
        for lane, (memory, _) in enumerate(supports):
            self.memory[lane, :fixed] = memory.flatten(2).transpose(1, 2).flatten(0, 1)
        self.positions[:, :fixed] = (self.where + when[-1]).repeat(self.conditioning, 1)
        self.when = when[:-1].flip(0)  # oldest first
        self.support_pointers = torch.stack([p for _, p in supports])  # (lane, slice, d)
        self.total = torch.zeros(a.slices, a.plane, a.plane, device=self.device)
        self.begin(supports)

    def begin(self, supports):
        """What stands before the first query slice of a direction: the labelled volume's last slices, here its last conditioning ones."""
        reach = min(self.recent, self.conditioning)
        self.window = [torch.stack([m[-1 - i] for m, _ in supports]) for i in reversed(range(reach))]
        self.window = [self.window[0]] * (self.recent - reach) + self.window
        self.trail = [self.support_pointers[:, -1]] * self.near
        self.start = (list(self.window), list(self.trail))

    def slices(self, step):
        """(query slice, distance from the labelled volume) per lane: forwards from the place, then backwards from it."""
        forwards = self.a.slices - self.places
        ahead = step < forwards
        distance = torch.where(ahead, step, step - forwards)
        return torch.where(ahead, self.places + step, self.places - 1 - distance), distance

    def turn(self, step):
        """Lanes that begin their second direction go back to what stands before the first slice."""
        turning = (step == self.a.slices - self.places).view(-1, 1, 1, 1)
        self.window = [torch.where(turning, s, w) for s, w in zip(self.start[0], self.window)]
        self.trail = [torch.where(turning[:, :, 0, 0], s, w) for s, w in zip(self.start[1], self.trail)]

    def fill(self, step, distance):
        """Writes the recent slices, the pointers and their positions into the buffers."""
        if step:
            self.turn(step)
        first, last = self.conditioning * self.tokens, (self.conditioning + self.recent) * self.tokens
        self.memory[:, first:last] = torch.stack(self.window, 1).flatten(3).transpose(2, 3).flatten(1, 2)
        if not step:
            self.positions[:, first:last] = (self.when + self.where).flatten(0, 1)
        pointers = torch.cat((self.support_pointers, torch.stack(self.trail, 1)), 1)  # nearest last
        self.memory[:, last:] = pointers.reshape(self.count, -1, self.net.mem_dim)
        ages = torch.arange(self.conditioning, 0, -1, device=self.device) + distance[:, None]
        near = torch.arange(self.near, 0, -1, device=self.device).expand(self.count, -1)
        ages = torch.cat((ages, near), 1) / self.near
        when = self.net.obj_ptr_tpos_proj(get_1d_sine_pe(ages, dim=self.net.hidden_dim))
        self.positions[:, last:] = when.repeat_interleave(self.per_pointer, dim=1)

    def step(self, step, features, clock):
        """One slice of every lane."""
        net = self.net
        clock.mark(None)
        index, distance = self.slices(step)
        self.fill(step, distance)
        fine, middle, coarse = (level[index] for level in features)
        clock.mark("tokens")
        attended = net.memory_attention(
            curr=[coarse.flatten(2).permute(2, 0, 1)], curr_pos=[self.query_positions], memory=self.memory.transpose(0, 1),
            memory_pos=self.positions.transpose(0, 1), num_obj_ptr_tokens=self.pointers * self.per_pointer,
        )
        attended = attended.permute(1, 2, 0).view_as(coarse)
        clock.mark("memory_attention")
        _, _, _, low, high, pointer, score = net._forward_sam_heads(
            backbone_features=attended, high_res_features=[fine, middle], multimask_output=True
        )
        clock.mark("mask_decoder")
        memory = remember(net, coarse, high, score, False)
        self.window, self.trail = [*self.window[1:], memory], [*self.trail[1:], pointer.bfloat16()]
        clock.mark("memory_encoder")
        logits = F.interpolate(low, (self.a.plane, self.a.plane), mode="bilinear")[:, 0]
        self.total.index_add_(0, index, logits.sigmoid())
        clock.mark("ensemble")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--slices", type=int, default=80, help="of the query volume")
    p.add_argument("--labelled-slices", type=int, default=40, help="conditioning slices: those of a labelled volume that show the class")
    p.add_argument("--volumes", type=int, default=10, help="M"), p.add_argument("--insertions", type=int, default=5, help="R")
    p.add_argument("--lanes", type=int, default=50, help="L insertions step together")
    p.add_argument("--size", type=int, default=512, help="what the network sees; must be that of the weights")
    p.add_argument("--plane", type=int, default=320, help="of the volume's slices")
    p.add_argument("--steps", type=int, metavar="K", help="run K steps of each batch of lanes and only the first batch, and state the scaling")
    p.add_argument("--weights", default="formula:4:hiera_t512"), p.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    p.add_argument("--json", metavar="FILE")
    return p.parse_args()


@torch.inference_mode()
def main():
    a = arguments()
    cuda, net = a.device == "cuda", build(a.weights).to(a.device)
    if net.image_size != a.size:
        raise SystemExit(f"--size: {a.weights} is a network for {net.image_size}")
    torch.manual_seed(0)
    random = lambda *shape: torch.randn(*shape, device=a.device)
    places = [round(r * (a.slices - 1) / max(a.insertions - 1, 1)) for r in range(a.insertions)]
    runs = [(m, f) for m in range(a.volumes) for f in places]
    batches = [runs[i : i + a.lanes] for i in range(0, len(runs), a.lanes)]
    steps = min(a.steps or a.slices, a.slices)
    chosen = batches[:1] if a.steps else batches
    with torch.autocast(a.device, dtype=torch.bfloat16):
        images = random(a.slices, 3, a.size, a.size)
        masks = torch.zeros(a.labelled_slices, 1, a.size, a.size, device=a.device)
        masks[:, :, a.size // 4 : a.size // 2, a.size // 4 : a.size // 2] = 1
        encode(net, images[:BATCH])  # warm-up
        build_support = lambda: [support(net, random(a.labelled_slices, 3, a.size, a.size), masks) for _ in range(a.volumes)]
        support_seconds, supports = timed(cuda, build_support)
        encode_seconds, features = timed(cuda, lambda: encode(net, images))
        gathered = lambda batch: Lanes(net, [supports[m] for m, _ in batch], torch.tensor([f for _, f in batch], device=a.device), a)
        warm = gathered(batches[0])
        for step in range(min(2, a.slices)):
            warm.step(step, features, Clock(a.device))
        del warm
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        clock, lane_seconds, done = Clock(a.device), 0.0, 0

        def follow(batch):
            lanes = gathered(batch)
            for step in range(steps):
                lanes.step(step, features, clock)
            return lanes.total

        total = torch.zeros(a.slices, a.plane, a.plane, device=a.device)
        for batch in chosen:
            took, part = timed(cuda, lambda: follow(batch))
            total += part
            lane_seconds, done = lane_seconds + took, done + steps * len(batch)
    if not total.isfinite().all():
        raise SystemExit("a probability is not finite")
    scale = a.slices * len(runs) / done
    stages, peak = clock.report(), torch.cuda.max_memory_allocated() if cuda else 0
    whole = encode_seconds + lane_seconds * scale
    for stage, took in stages.items():
        print(f"{stage:17} {took:9.3f} s  {took / (steps * len(chosen)) * 1e3:9.3f} ms a step of {len(chosen[0])} lanes  x {scale:g} = {took * scale:8.2f} s")
    print(f"supports {support_seconds:.2f} s for {a.volumes} labelled volumes (kept, not counted); encoding {encode_seconds:.3f} s; lanes {lane_seconds:.2f} s")
    print(f"{done} of {a.slices * len(runs)} lane steps run; the volume: {encode_seconds:.3f} + {lane_seconds:.2f} x {scale:g} = {whole:.2f} s, "
          f"peak {peak / 2**30:.1f} GiB")
    if a.json:
        report = {
            "torch": torch.__version__, "device": torch.cuda.get_device_name() if cuda else "cpu", "settings": vars(a), "support_seconds": support_seconds,
            "encode_seconds": encode_seconds, "lane_seconds": lane_seconds, "lane_steps": done, "scale": scale, "stages": stages,
            "volume_seconds": whole, "peak_bytes": peak,
        }
        with open(a.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
