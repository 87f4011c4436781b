#!/usr/bin/env bash
# Runs the same volumes through hpc-seg and the authors' way (PyTorch), one after the other, and prints both side by side.
#
# usage: compare.sh HPC_SEG VOLUMES [K]
#   HPC_SEG   the binary
#   VOLUMES   a folder of make_volumes.py (.../13into13)
#   K         insertions of the authors' way to time (default 1; at most R, or all R x M); the rest is scaled and said so
# environment: PYTHON (python3), WEIGHTS (a .safetensors file; made if absent), PLACES (0,3,6,9,12 ...), THREADS (2), FILL_HOLES (8), RESULT (a folder)
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
fi
binary=$1 volumes=${2%/} k=${3:-1}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3} threads=${THREADS:-2} holes=${FILL_HOLES:-8}
result=${RESULT:-$(mktemp -d)}
weights=${WEIGHTS:-$result/formula4.safetensors}
case $(basename "$volumes") in
    40into40) places=${PLACES:-0,9,19,29,39} ;;
    *) places=${PLACES:-0,3,6,9,12} ;;
esac
mkdir -p "$result"
rm -rf "$result"/{cold,twice,same,first,authors.*}
[ -f "$weights" ] || "$python" "$here/make_weights.py" formula:4:hiera_t512 "$weights"

# What hpc-seg is told, in one place. The folders, --insert-at and --out are added below.
ours=(pseudo-label --weights "$weights" --threads "$threads" --fill-holes "$holes" --save-probabilities --device cpu)

idle() { # PyTorch's threads spin at barriers: beside another busy process it gets many times slower, which proves nothing
    awk -v cores="$(nproc)" '$1 > 0.25 * cores {print "warning: load average " $1 ": the machine is not idle, these timings mean nothing"}' /proc/loadavg >&2
}

hpc_seg() { # NAME LABELLED UNLABELLED PLACES
    echo "== hpc-seg: $1"
    "$python" "$here/side_by_side.py" time "$result/$1.json" \
        "$binary" "${ours[@]}" --labelled "$2" --unlabelled "$3" --insert-at "$4" --out "$result/$1"
}

pairs=() count=0
for image in "$volumes"/labelled/images/*.nii.gz; do
    pairs+=(--labelled "$image" "$volumes/labelled/labels/$(basename "$image")")
    count=$((count + 1))
done
IFS=, read -ra place <<<"$places"
runs=$((${#place[@]} * count))
if [ "$k" -lt 1 ] || { [ "$k" -gt "${#place[@]}" ] && [ "$k" -ne "$runs" ]; }; then
    echo "K = $k: K is 1 to ${#place[@]}, or $runs for all" >&2
    exit 2
fi

idle
hpc_seg cold "$volumes/labelled" "$volumes/unlabelled" "$places"
hpc_seg twice "$volumes/labelled" "$volumes/unlabelled_twice" "$places"
echo "== the authors' way: $k of $runs insertions"
query=("$volumes"/unlabelled/images/*.nii.gz)
"$python" "$here/tffs_authors.py" "${pairs[@]}" --unlabelled "${query[0]}" --places "$places" --weights "$weights" \
    --fill-holes "$holes" --threads "$threads" --only-insertions "$k" --out "$result/authors.npz" --json "$result/authors.json"
if [ "$k" -lt "$runs" ]; then # the same insertions alone, to compare the numbers
    mkdir -p "$result"/first/{images,labels}
    cp "${pairs[1]}" "$result/first/images/"
    cp "${pairs[2]}" "$result/first/labels/"
    hpc_seg same "$result/first" "$volumes/unlabelled" "$(IFS=,; echo "${place[*]:0:$k}")"
fi
echo "== $(date -u +%F), $(uname -n), $(nproc) cores; everything is in $result"
"$python" "$here/side_by_side.py" table "$result"
