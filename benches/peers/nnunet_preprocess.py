"""Seconds of preprocessing one 512 x 512 x 200 CT-like volume, by nnU-Net and by hpc-seg, with the same plan and number of threads; and of nnU-Net's export of logits to its grid.

    PYTHON benches/peers/nnunet_preprocess.py HPC_SEG [--threads 2] [--rounds 2]

HPC_SEG is the program. The volume is smooth noise in a body of air; its spacing of 1.5 x 0.7 x 0.7 mm is resampled to 2 x 0.9 x 0.9 mm. Compared are the seconds of reading,
cropping, normalising, resampling and writing (nnU-Net also compresses), and the arrays' largest difference is left to the tests. Needs `pip install nnunetv2 SimpleITK`.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import zoom

NAME = "Dataset900_Peers"

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("raw", "preprocessed", "results"):
            (root / part).mkdir()
            os.environ[f"nnUNet_{part}"] = str(root / part)
        data = root / "raw" / NAME
        (data / "imagesTr").mkdir(parents=True)
        (data / "labelsTr").mkdir()
        rng = np.random.default_rng(0)
        image = zoom(rng.normal(0, 300, (25, 64, 64)), 8, order=1).astype(np.int16)
        image[:, :40], image[:, -40:], image[:, :, :40], image[:, :, -40:] = 0, 0, 0, 0
        for place, array in ((data / "imagesTr" / "one_0000.nii.gz", image), (data / "labelsTr" / "one.nii.gz", (image > 250).astype(np.uint8))):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing((0.7, 0.7, 1.5))
            sitk.WriteImage(volume, str(place))
        dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}, "numTraining": 1, "file_ending": ".nii.gz"}
        (data / "dataset.json").write_text(json.dumps(dataset))
        plans = root / "plans"
        subprocess.run([args.program, "plan", data, "--out", plans, "--spacing", "2,0.9,0.9", "-q"], check=True, stdout=subprocess.DEVNULL)
        target = root / "preprocessed" / NAME
        target.mkdir()
        shutil.copy(plans / "nnUNetPlans.json", target)
        shutil.copy(data / "dataset.json", target)
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

        # The export of logits of three classes, on the grids of `cargo bench --bench unet -- export`.
        import torch
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(json.loads((plans / "nnUNetPlans.json").read_text()))
        shape = (200, 512, 512)
        properties = {
            "shape_before_cropping": shape, "bbox_used_for_cropping": [[0, n] for n in shape], "shape_after_cropping_and_before_resampling": shape, "spacing": [1.5, 0.7, 0.7],
        }
        logits = torch.from_numpy(rng.normal(0, 1, (3, 150, 398, 398)).astype(np.float16))
        label_manager = manager.get_label_manager(dataset | {"labels": {"background": 0, "lesion": 1, "other": 2}})
        for number in range(args.rounds):
            begun = time.time()
            convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, manager, manager.get_configuration("3d_fullres"), label_manager, properties, num_threads_torch=args.threads
            )
            print(f"export, round {number}: nnU-Net {time.time() - begun:.2f} s")

        for number in range(args.rounds):
            begun = time.time()
            out = root / f"ours{number}"
            subprocess.run([args.program, "preprocess", data, "--plans", plans / "nnUNetPlans.json", "--out", out, "--threads", str(args.threads), "-q"], check=True)
            ours = time.time() - begun
            begun = time.time()
            DefaultPreprocessor(verbose=False).run(900, "3d_fullres", "nnUNetPlans", num_processes=1)
            theirs = time.time() - begun
            print(f"\nround {number}: hpc-seg {ours:.2f} s, nnU-Net {theirs:.2f} s, {theirs / ours:.1f} times")


if __name__ == "__main__":  # nnU-Net's workers import this file
    main()
