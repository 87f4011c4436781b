"""Makes the benchmark's volumes from real CT (never to be committed): `13into13` and `40into40`, all of them 512 x 512.

usage: python make_volumes.py DATA OUT      (DATA: the folder ct-lesion)

OUT/NAME/labelled/{images,labels}, OUT/NAME/unlabelled/images, and OUT/NAME/unlabelled_twice/images, where the same volume stands under two names:
the second finds the first one's supports in the cache. Lesion masks are extruded: a slice without one gets that of the nearest slice which has one, so
that every labelled slice is a conditioning slice. 40 slices are the 13 mirrored back and forth.
"""

import os
import sys

import nibabel as nib
import numpy as np

LABELLED = ("CT_Lesion_000009_03_01_036-048", "CT_Lesion_000015_01_01_103-115")
UNLABELLED = "CT_Lesion_000002_03_01_035-047"
LENGTHS = (13, 40)


def extrude(mask):
    """`mask` (x, y, z) with every empty slice replaced by the nearest one that is not."""
    full = np.flatnonzero(mask.any((0, 1)))
    return mask[:, :, [full[np.abs(full - z).argmin()] for z in range(mask.shape[2])]]


def mirrored(array, length):
    """`length` slices: 0, 1 .. n-1, n-2 .. 0, 1 .."""
    n = array.shape[2]
    z = np.arange(length) % (2 * n - 2)
    return array[:, :, np.where(z < n, z, 2 * n - 2 - z)]


def write(path, array, like):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    header = like.header.copy()
    header.set_data_dtype(array.dtype)
    nib.save(nib.Nifti1Image(array, like.affine, header), path)


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    data, out = sys.argv[1:]
    load = {stem: nib.load(os.path.join(data, f"{stem}_image.nii.gz")) for stem in (*LABELLED, UNLABELLED)}
    for length in LENGTHS:
        top = os.path.join(out, f"{length}into{length}")
        for stem in LABELLED:
            image = np.asanyarray(load[stem].dataobj)
            mask = nib.load(os.path.join(data, f"{stem}_label.nii.gz"))
            label = extrude((np.asanyarray(mask.dataobj) > 0).astype(np.uint8))
            case = stem[10:16]
            write(f"{top}/labelled/images/{case}.nii.gz", mirrored(image, length), load[stem])
            write(f"{top}/labelled/labels/{case}.nii.gz", mirrored(label, length), mask)
        query = mirrored(np.asanyarray(load[UNLABELLED].dataobj), length)
        case = UNLABELLED[10:16]
        for folder, name in (("unlabelled", case), ("unlabelled_twice", case), ("unlabelled_twice", f"{case}b")):
            write(f"{top}/{folder}/images/{name}.nii.gz", query, load[UNLABELLED])
        print(f"{top}: 2 labelled and 1 unlabelled volume of {length} slices")


if __name__ == "__main__":
    main()
