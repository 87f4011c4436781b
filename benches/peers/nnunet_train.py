"""nnU-Net's own training on the same data, plan and budget of seconds as `hpc-seg train --fold all --time-budget`, on the CPU.

    PYTHON benches/peers/nnunet_train.py DATASET PLANS IMAGES OUT [--seconds 240] [--iterations 20]

DATASET is a raw data set, PLANS the nnUNetPlans.json that hpc-seg plan wrote, IMAGES a folder of CASE_0000.nii.gz to predict into OUT. Printed are the seconds of preprocessing, of a
step and of training; `hpc-seg evaluate` then compares OUT with the references. Needs `pip install nnunetv2`; the number of epochs comes from the first epoch's speed, as ours does.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

NAME = "Dataset900_Peers"


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("dataset", "plans", "images", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--iterations", type=int, default=20)
    return parser.parse_args()


def prepare(root, args):
    for folder in ("raw", "preprocessed", "results"):
        (root / folder).mkdir()
        os.environ[f"nnUNet_{folder}"] = str(root / folder)
    os.environ.setdefault("nnUNet_n_proc_DA", "1")
    os.environ.setdefault("nnUNet_compile", "f")
    shutil.copytree(args.dataset, root / "raw" / NAME)
    target = root / "preprocessed" / NAME
    target.mkdir()
    plans = json.loads(args.plans.read_text()) | {"dataset_name": NAME}
    (target / "nnUNetPlans.json").write_text(json.dumps(plans))
    shutil.copy(args.dataset / "dataset.json", target)
    shutil.copy(args.plans.parent / "dataset_fingerprint.json", target)
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    begun = time.time()
    DefaultPreprocessor(verbose=False).run(900, "3d_fullres", "nnUNetPlans", num_processes=2)
    print(f"preprocessing: {time.time() - begun:.2f} s")
    return plans


def train(plans, dataset, args):
    import torch
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    torch.manual_seed(0)
    trainer = nnUNetTrainer(plans | {"continue_training": False}, "3d_fullres", "all", dataset, torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = args.iterations, -(-args.iterations // 5)
    trainer.on_train_start()
    begun, epoch = time.time(), 0
    while epoch < trainer.num_epochs:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        first = time.time()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(args.iterations)])
        step = (time.time() - first) / args.iterations
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            batches = range(trainer.num_val_iterations_per_epoch)
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val)) for _ in batches])
        trainer.on_epoch_end()
        if epoch == 0:
            trainer.num_epochs = max(1, int(args.seconds / (time.time() - begun)))
            trainer.lr_scheduler = PolyLRScheduler(trainer.optimizer, trainer.initial_lr, trainer.num_epochs)
            print(f"{step:.2f} s a step, {trainer.num_epochs} epochs")
        epoch += 1
    trainer.on_train_end()
    print(f"training: {time.time() - begun:.1f} s")
    return trainer.output_folder_base


def predict(model, args):
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    args.out.mkdir(parents=True, exist_ok=True)
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, ("all",), "checkpoint_final.pth")
    begun = time.time()
    predictor.predict_from_files_sequential(str(args.images), str(args.out))
    print(f"prediction: {time.time() - begun:.1f} s")


if __name__ == "__main__":
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        plans = prepare(Path(folder), args)
        predict(train(plans, json.loads((args.dataset / "dataset.json").read_text()), args), args)
