#!/usr/bin/env bash
# Experiments on the method itself, on phantoms of which the liver is labelled; a table of mean scores over the test cases to standard output and DIR/PART.csv.
#
#   benches/rounds.sh [--seeds "1 2 3"] [--out DIR] [--program FILE] ablations|rounds
#
# ablations  TFFS alone: 1, 3, 5 insertions (R), 1, 2, 3 labelled volumes (M), unlabelled volumes of other MR sequences; 12 volumes each. A minute a seed on two cores.
# rounds     hpc-seg run: TFFS and two rounds, 3 labelled and 12 unlabelled volumes, 8 test volumes, of a sequence that the demo network segments less well (T1, T2), of the
#            labelled ones' other one (GED4 to T1), of its best (GED4); and, for T2, the same networks trained on the labelled volumes alone. About 50 minutes a seed, by the times of its parts.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() { sed -n '4p' "${BASH_SOURCE[0]}" | cut -c5- >&2; exit 2; }

seeds='1 2 3' out=$PWD/rounds program=$root/target/release/hpc-seg part=''
while (($#)); do
    case $1 in
        --seeds | --out | --program) (($# > 1)) || usage; printf -v "${1#--}" %s "$2"; shift ;;
        ablations | rounds) part=$1 ;;
        *) usage ;;
    esac
    shift
done
[[ -n $part ]] || usage
mkdir -p "$out"
weights=$root/weights/demo.safetensors

# phantoms SEED NAME CASES LABELLED FIRST SEQUENCE
phantoms() {
    "$program" -q phantom --organ liver --seed "$1" --out "$out/$1/$2" --cases "$3" --labelled "$4" --first "$5" --sequence "$6"
}

# tffs SEED M R SEQUENCE: a line of the table.
tffs() {
    local masks=$out/$1/tffs-$2-$3-$4
    "$program" -q pseudo-label --labelled "$out/$1/labelled-$2" --unlabelled "$out/$1/$4" --weights "$weights" --insertions "$3" --seed "$1" --out "$masks"
    "$program" -q evaluate --predictions "$masks" --references "$out/$1/$4/labelsTs" --preset care |
        awk -v line="$1,$2,$3,$4" '$2 == 1 { mean[$3] = $6; std[$3] = $7 } END { print line "," mean["dice"] "," std["dice"] "," mean["hd_mm"] }'
}

ablations() {
    echo seed,labelled,insertions,sequence,dice,dice_std,hd_mm
    local seed
    for seed in $seeds; do
        for labelled in 1 2 3; do phantoms "$seed" "labelled-$labelled" "$labelled" "$labelled" 0 ged4; done
        for sequence in ged4 t1 t2; do phantoms "$seed" "$sequence" 12 0 3 "$sequence"; done
        for insertions in 5 3 1; do tffs "$seed" 3 "$insertions" ged4; done
        for labelled in 2 1; do tffs "$seed" "$labelled" 5 ged4; done
        tffs "$seed" 1 1 ged4
        for sequence in t1 t2; do tffs "$seed" 3 5 "$sequence"; done
    done
}

# rounds_of SEED LABELLED UNLABELLED: lines of the table, for the sequences of the labelled volumes, and of the unlabelled and the test volumes.
rounds_of() {
    local run=$out/$1/run-$2-$3
    phantoms "$1" "labelled-$2" 3 3 0 "$2"
    phantoms "$1" "$3" 12 0 3 "$3"
    phantoms "$1" "test-$3" 8 0 20 "$3"
    "$program" -q run --labelled "$out/$1/labelled-$2" --unlabelled "$out/$1/$3" --test "$out/$1/test-$3" \
        --weights "$weights" --out "$run" --seed "$1" --rounds 2 --settled 1 \
        --plan-options '--spacing 8,4,4 --patch 20,64,64 --batch 2 --features 8' --train-options "$training" |
        sed -nE "s/^(TFFS|round [0-9]) +all +liver +([0-9.]+) \(([0-9.]+)\) +([0-9.]+) \(([0-9.]+)\).*/$1,$2,$3,\1,\2,\3,\4,\5/p"
}

# labelled_alone SEED SEQUENCE: the networks of round 1, had there been no pseudo-labels; after rounds_of.
labelled_alone() {
    local run=$out/$1/run-$2-$2 alone=$out/$1/alone-$2 fold
    mkdir -p "$alone"
    cp -r "$run/rounds/round_1/preprocessed" "$alone"
    python3 - "$alone/preprocessed/splits_final.json" "$run/rounds/round_1/pseudo_cases.txt" <<'PYTHON'
import json, sys
splits, pseudo = json.load(open(sys.argv[1])), open(sys.argv[2]).read().split()
for fold in splits:
    fold["train"] = [name for name in fold["train"] if name not in pseudo]
json.dump(splits, open(sys.argv[1], "w"))
PYTHON
    for fold in 0 1 2 3 4; do
        # shellcheck disable=SC2086
        "$program" -q train "$alone/preprocessed" --out "$alone/model" --fold $fold --seed $(($1 + 1)) --no-validation $training >&2
    done
    "$program" -q predict --model "$alone/model" --input "$run/test/imagesTs" --out "$alone/test" >&2
    "$program" -q evaluate --predictions "$alone/test" --references "$run/test/labelsTs" --preset care |
        awk -v line="$1,$2,$2,labelled alone" '$2 == 1 { mean[$3] = $6; std[$3] = $7 } END { print line "," mean["dice"] "," std["dice"] "," mean["hd_mm"] "," std["hd_mm"] }'
}

training='--epochs 12 --iterations 20 --no-mirroring'

rounds() {
    echo seed,labelled,sequence,stage,dice,dice_std,hd_mm,hd_std
    local seed pair
    for seed in $seeds; do
        for pair in 't2 t2' 't1 t1' 'ged4 t1' 'ged4 ged4'; do
            # shellcheck disable=SC2086
            rounds_of "$seed" $pair
        done
        labelled_alone "$seed" t2
    done
}

"$part" | tee "$out/$part.csv"
