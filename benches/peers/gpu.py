"""The same work in PyTorch on a GPU: ceilings, the vendor's calls at the network's shapes, and Algorithm 2 as a careful programmer would batch it.

bf16 throughout, CUDA events, medians. `--kernels`: cuBLASLt (linear), SDPA and cuDNN (conv2d) at the shapes of `hpc-seg bench --ops`. `--volume`: query slices encoded
once, eight at a time, and kept; L lanes stepping together through the package's own modules; conditioning memory given. `--authors`: seconds of one insertion as the
authors run it, for the same volume, and what R x M of them take. Slices and masks are random: nothing is compared but time.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from network import build, patch_package

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def seconds(call, repeats=15, warmup=3):
    """Median seconds of a call."""
    for _ in range(warmup):
        call()
    if DEVICE == "cpu":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    times = []
    for _ in range(repeats):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(4):
            call()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last) / 4e3)
    return statistics.median(times)


def random(*shape):
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def row(rows, name, call, flops=0.0, moved=0.0):
    took = seconds(call)
    rows[name] = {"seconds": took, "teraflops": flops / took / 1e12, "gigabytes_per_second": moved / took / 1e9}
    print(f"{name:58} {took * 1e6:10.1f} us {flops / took / 1e12:8.2f} TFLOP/s {moved / took / 1e9:8.0f} GB/s", flush=True)


# As the table of src/ops/linear.rs, of 8 slices or 50 lanes: (case, rows, columns, inner).
LINEAR = [
    ("hiera.stage1.qkv", 131072, 288, 96), ("hiera.stage1.expand", 131072, 384, 96), ("hiera.stage1.contract", 131072, 96, 384),
    ("hiera.stage2.contract", 32768, 192, 768), ("hiera.stage3.qkv", 8192, 1152, 384), ("hiera.stage3.expand", 8192, 1536, 384),
    ("hiera.stage3.contract", 8192, 384, 1536), ("hiera.stage4.contract", 2048, 768, 3072), ("memory_attention.expand", 51200, 2048, 256),
    ("memory_attention.contract", 51200, 256, 2048), ("memory_attention.out", 51200, 256, 256), ("decoder.tokens", 400, 256, 256),
]
# (case, batch, heads, queries, keys, width), windows as batches.
ATTENTION = [
    ("hiera.block0", 8 * 256, 1, 64, 64, 96), ("hiera.block1", 8 * 256, 2, 16, 64, 96), ("hiera.block2", 8 * 256, 2, 16, 16, 96),
    ("hiera.block4", 8 * 9, 4, 196, 196, 96), ("hiera.block5", 8, 4, 1024, 1024, 96), ("hiera.block11", 8 * 9, 8, 49, 49, 96),
    ("memory_attention.self", 50, 1, 1024, 1024, 256), ("decoder.token_to_image", 50, 8, 8, 1024, 16), ("decoder.image_to_token", 50, 8, 1024, 8, 16),
]
# (case, lanes, conditioning slices) of memory attention, with 6 recent slices and 64 pointer tokens.
MEMORY = [("tracking.13 slices", 10, 13), ("tracking.40 slices", 10, 40), ("tracking.5 lanes, 13 slices", 50, 13)]
# (case, items, channels, side, columns, kernel, stride, padding).
CONV = [
    ("hiera.patch_embed", 8, 3, 512, 96, 7, 4, 3), ("memory_encoder.mask0", 10, 1, 512, 4, 3, 2, 1), ("memory_encoder.mask1", 10, 4, 256, 16, 3, 2, 1),
    ("memory_encoder.mask2", 10, 16, 128, 64, 3, 2, 1), ("memory_encoder.mask3", 10, 64, 64, 256, 3, 2, 1),
]


def kernels():
    rows, n = {}, 8192 if DEVICE == "cuda" else 256
    a, b = random(n, n), random(n, n)
    row(rows, f"ceiling: product of {n} x {n}", lambda: a @ b, 2.0 * n**3)
    big = torch.empty(1 << 30 if DEVICE == "cuda" else 1 << 20, dtype=torch.uint8, device=DEVICE)
    other = torch.empty_like(big)
    row(rows, "ceiling: copy", lambda: other.copy_(big), 0.0, 2.0 * big.numel())
    del a, b, big, other
    for name, m, n, k in LINEAR:
        x, weight, bias, gamma = random(m, k), random(n, k), random(n), random(k)
        flops, moved = 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n)
        row(rows, f"linear {name}", lambda: F.linear(x, weight), flops, moved)
        row(rows, f"norm+linear+gelu {name}", lambda: F.gelu(F.linear(F.layer_norm(x, (k,), gamma, gamma), weight, bias)), flops, moved)
    for name, batch, heads, queries, keys, width in ATTENTION:
        q, k, v = random(batch, heads, queries, width), random(batch, heads, keys, width), random(batch, heads, keys, width)
        flops = 4.0 * batch * heads * queries * keys * width
        row(rows, f"attention {name}", lambda: F.scaled_dot_product_attention(q, k, v), flops, 2.0 * (2 * q.numel() + 2 * k.numel()))
    for name, lanes, conditioning in MEMORY:
        tokens = (conditioning + 6) * 1024 + 64
        q, memory = random(lanes, 1, 1024, 256), random(lanes, tokens, 64)
        weights = [random(256, 64), random(256, 64)]
        k, v = (F.linear(memory, w).unsqueeze(1) for w in weights)
        reduced = 4.0 * 64 * lanes * 1024 * tokens  # of the axial form, as hpc-seg counts
        row(rows, f"memory_attention {name}: SDPA alone", lambda: F.scaled_dot_product_attention(q, k, v), reduced)
        row(rows, f"memory_attention {name}: keys, values, SDPA",
            lambda: F.scaled_dot_product_attention(q, F.linear(memory, weights[0]).unsqueeze(1), F.linear(memory, weights[1]).unsqueeze(1)), reduced)
        del q, memory, k, v
    for name, items, channels, side, columns, kernel, stride, padding in CONV:
        x = random(items, channels, side, side).to(memory_format=torch.channels_last)
        weight = random(columns, channels, kernel, kernel).to(memory_format=torch.channels_last)
        out = ((side + 2 * padding - kernel) // stride + 1) ** 2
        flops = 2.0 * items * out * columns * channels * kernel**2
        row(rows, f"conv {name}", lambda: F.conv2d(x, weight, stride=stride, padding=padding), flops, 2.0 * (x.numel() + items * out * columns))
    return rows


def step_inputs(net, lanes, conditioning):
    """What memory attention gets from `lanes` lanes: conditioning slices, 6 recent ones, and pointers."""
    p, d, mem = (net.image_size // 16) ** 2, net.hidden_dim, net.mem_dim
    pointers = (conditioning + net.max_obj_ptrs_in_encoder - 1) * (d // mem)
    memory = random((conditioning + net.num_maskmem - 1) * p + pointers, lanes, mem)
    return {
        "curr": [random(p, lanes, d)], "curr_pos": [random(p, lanes, d)],
        "memory": memory, "memory_pos": torch.randn_like(memory), "num_obj_ptr_tokens": pointers,
    }


def volume(net, a):
    """Seconds of a volume: every stage timed at its batch, times how often it comes."""
    s, d = net.image_size // 16, net.hidden_dim
    images = random(8, 3, net.image_size, net.image_size)
    lanes, steps = a.lanes, -(-a.volumes * a.insertions // a.lanes) * a.slices
    inputs = step_inputs(net, lanes, a.conditioning)
    features = random(lanes, d, s, s)
    fine = [random(lanes, d // 8, 4 * s, 4 * s), random(lanes, d // 4, 2 * s, 2 * s)]
    masks = random(lanes, 1, net.image_size, net.image_size)
    total = torch.zeros(lanes, a.plane, a.plane, device=DEVICE)
    low = random(lanes, 1, 4 * s, 4 * s)

    def ensemble():
        total.add_(torch.sigmoid(F.interpolate(low.float(), (a.plane, a.plane), mode="bilinear"))[:, 0])

    stages = {
        "encode": (lambda: net.forward_image(images), a.slices / 8),
        "attend": (lambda: net.memory_attention(**inputs), steps),
        "decode masks": (
            lambda: net._forward_sam_heads(backbone_features=features, high_res_features=fine, multimask_output=True), steps),
        "encode memory": (lambda: net.memory_encoder(features, masks, skip_mask_sigmoid=True), steps),
        "ensemble": (ensemble, steps),
    }
    rows = {}
    for name, (call, times) in stages.items():
        once = seconds(call, repeats=5, warmup=2)
        rows[name] = {"seconds_per_call": once, "calls": times, "seconds": once * times}
        print(f"{name:14} {once * 1e3:9.3f} ms x {times:7.1f} = {once * times:8.3f} s", flush=True)
    whole = sum(r["seconds"] for r in rows.values())
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    print(f"batched, {lanes} lanes: {whole:.2f} s a volume, {peak / 2**30:.1f} GiB")
    return {"lanes": lanes, "stages": rows, "volume_seconds": whole, "peak_bytes": peak}


def authors(net, a):
    """Seconds of one insertion the authors' way, and of all."""
    from tffs_authors import insertion

    patch_package()
    query, labelled = torch.randn(a.slices, 3, net.image_size, net.image_size), torch.randn(a.slices, 3, net.image_size, net.image_size)
    masks = torch.zeros(a.slices, a.plane, a.plane, dtype=torch.uint8)
    masks[: a.conditioning, a.plane // 4 : a.plane // 2, a.plane // 4 : a.plane // 2] = 1
    begin = time.perf_counter()
    insertion(net, query, labelled, masks, a.slices // 2, a.plane, a.plane)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    took = time.perf_counter() - begin
    print(f"authors' way: {took:.2f} s an insertion, x {a.volumes * a.insertions} = {took * a.volumes * a.insertions:.1f} s a volume")
    return {"insertion_seconds": took, "insertions": a.volumes * a.insertions, "volume_seconds": took * a.volumes * a.insertions}


@torch.inference_mode()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kernels", action="store_true"), p.add_argument("--volume", action="store_true"), p.add_argument("--authors", action="store_true")
    p.add_argument("--weights", default="formula:4:hiera_t512"), p.add_argument("--json", metavar="FILE")
    p.add_argument("--slices", type=int, default=80), p.add_argument("--plane", type=int, default=320)
    p.add_argument("--conditioning", type=int, default=58, help="labelled slices of a labelled volume that show the class")
    p.add_argument("--volumes", type=int, default=10), p.add_argument("--insertions", type=int, default=5), p.add_argument("--lanes", type=int, default=50)
    a = p.parse_args()
    report = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu", "settings": vars(a)}
    if a.kernels:
        report["kernels"] = kernels()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        if a.volume or a.authors:
            net = build(a.weights).to(DEVICE)
        if a.volume:
            report["volume"] = volume(net, a)
        if a.authors:
            report["authors"] = authors(net, a)
    if a.json:
        with open(a.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
