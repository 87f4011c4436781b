#!/usr/bin/env bash
# Experiments on the method itself, on phantoms of which the liver is labelled; a table of mean scores over the test cases to standard output and DIR/PART.csv.
#
#   benches/rounds.sh [--seeds "1 2 3"] [--out DIR] [--program FILE] ablations|rounds
#
# ablations  TFFS alone: 1, 3, 5 insertions (R), 1, 2, 3 labelled volumes (M), unlabelled volumes of other MR sequences; 12 volumes each. A minute a seed on two cores.
# rounds     hpc-seg run: TFFS and two rounds, 3 labelled and 12 unlabelled volumes of the same and of another sequence, 8 test volumes. Some 20 minutes a seed.
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

rounds() {
    echo seed,sequence,stage,dice,dice_std,hd_mm,hd_std
    local seed sequence
    for seed in $seeds; do
        phantoms "$seed" labelled-3 3 3 0 ged4
        for sequence in t1 ged4; do
            phantoms "$seed" "$sequence" 12 0 3 "$sequence"
            phantoms "$seed" "test-$sequence" 8 0 20 "$sequence"
            "$program" -q run --labelled "$out/$seed/labelled-3" --unlabelled "$out/$seed/$sequence" --test "$out/$seed/test-$sequence" \
                --weights "$weights" --out "$out/$seed/run-$sequence" --seed "$seed" --rounds 2 --settled 1 \
                --plan-options '--spacing 8,4,4 --patch 20,64,64 --batch 2 --features 8' --train-options '--epochs 12 --iterations 20 --no-mirroring' |
                sed -nE "s/^(TFFS|round [0-9]) +all +liver +([0-9.]+) \(([0-9.]+)\) +([0-9.]+) \(([0-9.]+)\).*/$seed,$sequence,\1,\2,\3,\4,\5/p"
        done
    done
}

"$part" | tee "$out/$part.csv"
