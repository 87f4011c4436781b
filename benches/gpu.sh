#!/usr/bin/env bash
# What is to be done whenever a GPU is lent, in parts of under eight minutes, each of which leaves one archive for benches/runs/.
#
#   benches/gpu.sh [--list] [--out DIR] [--tests FILE] [--program FILE] correctness|kernels|volumes
#
# Needs bash, coreutils, tar and gzip, the release test binary (cargo test --release --no-run) and the program (cargo build --release); NVRTC as the program
# finds it; for the comparisons a Python with PyTorch and sam2, named by PYTHON. --list says what would be run, and runs nothing. Exit code: 0 all steps ended well, 1 some did not, 2 bad usage.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
budget=460 # seconds of a part; what is left of it limits each step

usage() { sed -n '4p' "${BASH_SOURCE[0]}" | cut -c5- >&2; exit 2; }

list_only=0 out=$PWD tests='' program=$root/target/release/hpc-seg part=''
while (($#)); do
    case $1 in
        --list) list_only=1 ;;
        --out | --tests | --program) (($# > 1)) || usage; printf -v "${1#--}" %s "$2"; shift ;;
        correctness | kernels | volumes) part=$1 ;;
        *) usage ;;
    esac
    shift
done
[[ -n $part ]] || usage

# The newest of the test binaries that cargo has made.
newest_tests() {
    local file found=''
    for file in "$root"/target/release/deps/tests-*; do
        [[ -f $file && -x $file && ( -z $found || $file -nt $found ) ]] && found=$file
    done
    printf %s "$found"
}
[[ -n $tests ]] || tests=$(newest_tests)
[[ -n $tests ]] || tests=$root/target/release/deps/tests-HASH

# step NAME SECONDS COMMAND...: runs it with a limit, keeps what it says, and goes on whatever became of it.
failed=0
parallel=6 # tests at a time: most of them wait for the compiler
step() {
    local name=$1 limit=$2 left status start=$SECONDS
    shift 2
    if ((list_only)); then printf '%-12s %4d s  %s\n' "$name" "$limit" "$*"; return; fi
    left=$((budget - SECONDS))
    if ((left < 5)); then
        printf '%s,skipped: no time left,0\n' "$name" >>"$folder/summary.csv"
        failed=1
        return
    fi
    printf '== %s: %s\n' "$name" "$*" >&2
    timeout --kill-after=5 $((limit < left ? limit : left)) "$@" >"$folder/$name.log" 2>&1
    status=$?
    case $status in
        0) status=done ;;
        124 | 137) status='failed: out of time' failed=1 ;;
        *) status="failed: exit code $status" failed=1 ;;
    esac
    printf '%s,%s,%d\n' "$name" "$status" $((SECONDS - start)) >>"$folder/summary.csv"
}

# one_test FOLDER TEST COMMAND...: a test in a process of its own, since a kernel that fails takes its process along.
one_test() {
    local folder=$1 test=$2 log
    shift 2
    log=$folder/${test//::/.}.log
    if "$@" --nocapture --exact "$test" >"$log" 2>&1; then echo "passed $test"; else echo "FAILED $test"; tail -n 5 "$log"; return 1; fi
}
export -f one_test

# gpu_tests NAME SECONDS FILTER COMMAND...: all GPU tests whose names hold FILTER, several at a time.
gpu_tests() {
    local name=$1 limit=$2 filter=$3 list=$folder/$1.list
    shift 3
    if ((list_only)); then printf '%-12s %4d s  %s\n' "$name" "$limit" "env HPC_SEG_REQUIRE_CUDA=1 $* $filter"; return; fi
    "$tests" --list "$filter" 2>/dev/null | sed -n 's/: test$//p' >"$list"
    if [[ ! -s $list ]]; then
        printf '%s,failed: no such test,0\n' "$name" >>"$folder/summary.csv"
        failed=1
        return
    fi
    mkdir "$folder/$name"
    step "$name" "$limit" xargs --arg-file "$list" --max-procs "$parallel" --replace=TEST \
        bash -c 'one_test "$@"' _ "$folder/$name" TEST env HPC_SEG_REQUIRE_CUDA=1 "$@"
}

correctness() {
    gpu_tests kernels 150 cuda::gpu:: env "HPC_SEG_RECORD_PTX=$folder" "$tests"
    gpu_tests fault 20 cuda::fault:: "$tests"
    gpu_tests stages 60 sam2::gpu:: "$tests"
    gpu_tests golden 120 tffs::gpu:: "$tests"
    gpu_tests processes 60 e2e::gpu:: "$tests"
    for tool in memcheck racecheck initcheck; do
        if ((list_only)) || command -v compute-sanitizer >/dev/null; then
            gpu_tests $tool 120 cuda::gpu:: compute-sanitizer --tool $tool --error-exitcode 9 "$tests"
        else
            printf '%s,absent: no compute-sanitizer,0\n' "$tool" >>"$folder/summary.csv"
        fi
    done
}

# peer NAME SECONDS OPTIONS...: the same work in PyTorch, if there is a Python that has it (benches/peers/README.md).
peer() {
    local name=$1 limit=$2
    shift 2
    if ((list_only)) || timeout 60 "$python" -c 'import torch, sam2; assert torch.cuda.is_available()' 2>/dev/null; then
        step "$name" "$limit" "$python" "$root/benches/peers/gpu.py" "$@" --json "$folder/$name.json"
    else
        printf '%s,absent: no PyTorch with sam2 in %s,0\n' "$name" "$python" >>"$folder/summary.csv"
    fi
}

kernels() {
    step clocks 10 nvidia-smi -q -d CLOCK
    step ops 200 "$program" bench --ops --device cuda --json "$folder/ops.json"
    step ops_14_sms 200 "$program" bench --ops --device cuda --sm-limit 14 --json "$folder/ops_14_sms.json"
    peer peer_kernels 120 --kernels
}

volumes() {
    step plan 10 "$program" bench --volume --device cuda --memory 10GiB --dry-run
    step volume 200 "$program" bench --volume --device cuda --memory 10GiB --json "$folder/volume.json"
    step volume_14_sms 200 "$program" bench --volume --device cuda --memory 10GiB --sm-limit 14 --json "$folder/volume_14_sms.json"
    peer peer_volume 100 --volume
    peer peer_authors 60 --authors
}

if ((list_only)); then folder=FOLDER; "$part"; exit 0; fi
[[ -x $tests && -x $program ]] || { echo "no $tests or no $program: cargo test --release --no-run && cargo build --release, or name them by --tests and --program" >&2; exit 2; }
name=gpu-$part-$(date -u +%Y%m%dT%H%M%SZ)
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
folder=$out/$name
mkdir "$folder" || exit 2
trap 'tar -C "$out" -czf "$out/$name.tar.gz" "$name" && rm -rf "$folder" && echo "$out/$name.tar.gz"' EXIT
printf 'step,outcome,seconds\n' >"$folder/summary.csv"
SECONDS=0
step machine 20 bash -c 'date -u; uname -a; "$1" --version; nvidia-smi -L; nvidia-smi' _ "$program"
"$part"
cat "$folder/summary.csv" >&2
exit $failed
