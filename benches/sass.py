#!/usr/bin/env python3
"""Counts the machine instructions of a kernel, without a GPU: one row per basic block, with its source lines and what its instructions are.

    python3 benches/sass.py linear_128x128 [sm_90a] [--least 12]

A loop is a row whose last column jumps back to a label above it. What is counted is what a warp issues, not the time it takes.
Needs NVRTC (HPC_SEG_NVRTC, or libnvrtc.so of a CUDA toolkit) and nvdisasm: of a toolkit on PATH, or from the wheel of Triton
(`pip download triton --no-deps`, `unzip triton-*.whl '*/nvdisasm'`), named by NVDISASM.
"""
import argparse
import collections
import csv
import ctypes
import os
import pathlib
import re
import subprocess
import tempfile

KERNELS = pathlib.Path(__file__).parent.parent / "kernels"


def compiled(name: str, architecture: str) -> tuple[bytes, str]:
    """The cubin of a row of specialisations.csv, and what the compiler says of it."""
    rows = {row[0]: row for row in csv.reader(open(KERNELS / "specialisations.csv"))}
    if name not in rows:
        raise SystemExit(f"{name} is not in {KERNELS / 'specialisations.csv'}")
    _, file, defines = rows[name][:3]
    nvrtc = ctypes.CDLL(os.environ.get("HPC_SEG_NVRTC", "libnvrtc.so"))
    headers = {path.name: path.read_bytes() for path in KERNELS.glob("*.cuh")}
    strings = lambda values: (ctypes.c_char_p * len(values))(*values)
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program),
        (KERNELS / file).read_bytes(),
        file.encode(),
        len(headers),
        strings(list(headers.values())),
        strings([name.encode() for name in headers]),
    )
    options = [f"-arch={architecture}", "-std=c++17", "-lineinfo", "--ptxas-options=-v", f"-DENTRY={name}"]
    options += [f"-D{define}" for define in defines.split()]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), strings([option.encode() for option in options]))

    def text(kind: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
        return buffer.raw

    log = text("ProgramLog").decode().rstrip("\0")
    if failed:
        raise SystemExit(log)
    return text("CUBIN"), "\n".join(line for line in log.splitlines() if "spill" in line or "Used" in line)


def disassembled(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [os.environ.get("NVDISASM", "nvdisasm"), "-g", "-c", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def print_blocks(assembly: str, least: int) -> None:
    """A row for each run of instructions that nothing jumps into or out of, of at least so many or with a jump back."""
    block, label, at, above = [], "", ("", 0), set()

    def end(target: str = "") -> None:
        nonlocal block, label
        if len(block) >= least or target in above:
            kinds = collections.Counter(kind for kind, _ in block).most_common(14)
            file = collections.Counter(file for _, (file, _) in block).most_common(1)[0][0]  # most of it is of
            lines = [line for _, (of, line) in block if of == file]
            mix = ", ".join(f"{kind} {count}" for kind, count in kinds)
            print(f"{label:10} {len(block):5}  {file}:{min(lines)}-{max(lines)}: {mix}{'  -> ' + target if target else ''}")
        block, label = [], ""

    for text in assembly.splitlines():
        if found := re.match(r'\s*//## File "(.*)", line (\d+)', text):
            at = (pathlib.Path(found[1]).name, int(found[2]))
        elif found := re.match(r"\s*(\.L_\w+):", text):
            if block:
                end()
            label = found[1]
            above.add(label)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([\w.]+)(.*);", text):
            block.append((found[1].split(".")[0], at))
            if re.match(r"(BRA|BRX|EXIT|RET)\b", found[1]):
                jump = re.search(r"\.L_\w+", found[2])
                end(jump[0] if jump else "")
    if block:
        end()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("name", help="of a row of kernels/specialisations.csv")
    arguments.add_argument("architecture", nargs="?", default="sm_90a")
    arguments.add_argument("--least", type=int, default=12, help="instructions of a block that is shown")
    given = arguments.parse_args()
    cubin, said = compiled(given.name, given.architecture)
    print(said)
    print_blocks(disassembled(cubin), given.least)
