"""Shows that nnU-Net loads and runs a model folder that hpc-seg wrote: `hpc-seg model export`.

    PYTHON benches/peers/nnunet_exchange.py MODEL IMAGES [--against SEGMENTATIONS]

MODEL is the folder with plans.json, dataset.json and fold_X/checkpoint_final.pth; IMAGES a folder of CASE_0000.nii.gz. Needs `pip install nnunetv2`, no GPU. Checked are: strict
loading into the network of the plans, that aliases are one tensor, that the trainer's own load_checkpoint takes the file and can step (if it holds an optimiser), and a prediction; with
--against, its Dice with hpc-seg's masks of the same names.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

scratch = tempfile.TemporaryDirectory()  # the trainer writes a log there
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = scratch.name
os.environ.setdefault("nnUNet_compile", "f")

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def check_aliases(checkpoint):
    weights = checkpoint["network_weights"]
    places = {}
    for name, tensor in weights.items():
        places.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    print(f"{len(weights)} keys, {len(places)} storages, {sum(len(n) > 1 for n in places.values())} of them shared")
    for names in places.values():
        assert len({tuple(weights[name].shape) for name in names}) == 1, names


def check_trainer(path, checkpoint):
    # nnU-Net's own start puts continue_training there and its constructor takes it away.
    plans = dict(checkpoint["init_args"]["plans"], continue_training=True)
    arguments = dict(checkpoint["init_args"], plans=plans, device=torch.device("cpu"))
    trainer = nnUNetTrainer(**arguments)
    # It looks at one file's ending to know how its data are stored; none is opened here.
    data = Path(trainer.preprocessed_dataset_folder)
    data.mkdir(parents=True, exist_ok=True)
    (data / "none.b2nd").touch()
    trainer.initialize()
    if checkpoint["optimizer_state"] is None:
        trainer.network.load_state_dict(checkpoint["network_weights"], strict=True)
        print("no optimiser in the checkpoint: weights loaded strictly, training cannot go on from it")
        return
    trainer.load_checkpoint(str(path))
    state = trainer.optimizer.state_dict()["state"]
    for parameter in trainer.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    print(f"the trainer goes on at epoch {trainer.current_epoch} with {len(state)} momentum buffers")


def predict(model, images, folder):
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    folds = tuple(f.name[5:] if f.name == "fold_all" else int(f.name[5:]) for f in sorted(Path(model).glob("fold_*")))
    predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
    result = predictor.network.load_state_dict(predictor.list_of_parameters[0], strict=True)
    print(f"folds {folds} loaded strictly: {result}; mirroring along {predictor.allowed_mirroring_axes}")
    predictor.predict_from_files_sequential(str(images), str(folder))


def compare(ours, theirs):
    import SimpleITK as sitk

    for path in sorted(Path(theirs).glob("*.nii.gz")):
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (Path(ours) / path.name, path))
        for label in sorted(set(np.unique(a)) | set(np.unique(b))):
            if label:
                x, y = a == label, b == label
                print(f"{path.name} label {label}: Dice {2 * (x & y).sum() / (x.sum() + y.sum()):.6f}, {int((x != y).sum())} voxels differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}")
    for path in sorted(arguments.model.glob("fold_*/checkpoint_final.pth")):
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
        print(path, json.dumps({key: str(checkpoint[key])[:60] for key in checkpoint if key not in ("network_weights", "init_args", "optimizer_state", "logging")}))
        check_aliases(checkpoint)
        check_trainer(path, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        predict(arguments.model, arguments.images, folder)
        if arguments.against:
            compare(arguments.against, folder)


if __name__ == "__main__":
    main()
