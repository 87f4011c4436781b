"""Seconds of the network's parts in PyTorch: one 512 slice, the published architecture. Median and best of five, after a warm-up."""

import argparse
import json
import statistics
import time

import torch

from network import build, patch_package


def measure(name, function, repeats, warmup=1):
    for _ in range(warmup):
        function()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    row = {"median": statistics.median(seconds), "min": min(seconds), "seconds": seconds}
    print(f"{name:38} median {row['median']:.4f} s  min {row['min']:.4f} s", flush=True)
    return row


def attention_inputs(net, slices, conditioning, pointers):
    """Tokens as tracking gives them: `conditioning` slices and the 6 before this one, then 4 tokens per object pointer."""
    tokens, d, mem = (net.image_size // 16) ** 2, net.hidden_dim, net.mem_dim
    ptr_tokens = pointers * (d // mem)
    memory = torch.randn((conditioning + slices) * tokens + ptr_tokens, 1, mem)
    return {
        "curr": [torch.randn(tokens, 1, d)], "curr_pos": [torch.randn(tokens, 1, d)],
        "memory": memory, "memory_pos": torch.randn_like(memory), "num_obj_ptr_tokens": ptr_tokens,
    }


@torch.inference_mode()
def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--weights", default="formula:4:hiera_t512"), p.add_argument("--config")
    p.add_argument("--threads", type=int, default=2), p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--conditioning", default="13,40", help="numbers of conditioning slices"), p.add_argument("--json", metavar="FILE")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    patch_package()
    net, rows = build(a.weights, a.config), {}
    size, d = net.image_size, net.hidden_dim
    s = size // 16

    n = 2048
    left, right = torch.randn(n, n), torch.randn(n, n)
    rows["gemm_2048"] = measure("GEMM 2048 x 2048 x 2048, f32", lambda: left @ right, a.repeats)
    rows["gemm_2048"]["gflops"] = 2 * n**3 / rows["gemm_2048"]["min"] / 1e9

    image = torch.randn(1, 3, size, size)
    rows["encoder"] = measure("image encoder, one slice", lambda: net.forward_image(image), a.repeats)
    for k in map(int, a.conditioning.split(",")):
        inputs = attention_inputs(net, net.num_maskmem - 1, k, k + net.max_obj_ptrs_in_encoder - 1)
        rows[f"memory_attention_{k}"] = measure(
            f"memory attention, {k} conditioning", lambda: net.memory_attention(**inputs), a.repeats
        )

    features = torch.randn(1, d, s, s)
    fine = [torch.randn(1, d // 8, 4 * s, 4 * s), torch.randn(1, d // 4, 2 * s, 2 * s)]
    rows["mask_decoder"] = measure(
        "prompt encoder and mask decoder",
        lambda: net._forward_sam_heads(backbone_features=features, high_res_features=fine, multimask_output=True), a.repeats,
    )
    masks = torch.randn(1, 1, size, size)
    rows["memory_encoder"] = measure(
        "memory encoder", lambda: net.memory_encoder(features, masks, skip_mask_sigmoid=True), a.repeats
    )
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"torch": torch.__version__, "threads": a.threads, "weights": a.weights, "ops": rows}, f, indent=1)


if __name__ == "__main__":
    main()
