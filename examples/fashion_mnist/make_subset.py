"""Makes data/*.npz, the subset of Fashion-MNIST that this example trains on, from the four files of the full set.

    python make_subset.py DIR

DIR holds train-images-idx3-ubyte.gz and its companions (Debian: package dataset-fashion-mnist, in
/usr/share/datasets/fashion-mnist). The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

CLASSES = 10
PER_CLASS = {"train": 200, "t10k": 50}


def read(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 28, 28] and labels [N] of one part; idx headers are 16 and 8 bytes long."""
    images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    target = Path(__file__).parent / "data"
    for prefix, name in (("train", "train"), ("t10k", "test")):
        images, labels = read(folder, prefix)
        firsts = [np.flatnonzero(labels == label)[: PER_CLASS[prefix]] for label in range(CLASSES)]
        chosen = np.sort(np.concatenate(firsts))  # file order, which mixes the classes
        path = target / f"fashion_mnist_{name}.npz"
        np.savez_compressed(path, data=images[chosen], label=labels[chosen])
        print(f"{path}: {len(chosen)} images, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
