"""Caffe's DataTransformer for whole batches: crop, mirror, subtract the mean, scale; in the net's dtype."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lossc.errors import DataError, WeightsError
from lossc.frontend import caffe_pb2
from lossc.frontend.weights import read_blob


class Transform:
    """Writes images [n, C, H, W] (or a list of [C, h, w]) into a batch: out = (x - mean) * scale.

    ``shape`` is one image's after cropping. ``random`` draws, for each image, the mirroring (in both phases, as Caffe
    does) and then, in TRAIN, row and column of the crop; TEST crops the centre. The mean of a file is cropped like
    the image.
    """

    def __init__(
        self,
        param: caffe_pb2.TransformationParameter,
        shape: tuple[int, int, int],
        train: bool,
        random: np.random.Generator,
        *,
        encoded: bool = False,
        mean_path: Path | None = None,
    ) -> None:
        channels, height, width = shape
        crop = param.crop_size
        if crop > min(height, width):
            raise DataError(f"crop_size {crop} is larger than the image, {height} x {width}", fix="crop less")
        if (param.force_color or param.force_gray) and not encoded:
            raise DataError(
                "force_color and force_gray change encoded images only", fix="remove them: this is raw data"
            )
        if param.mean_file and param.mean_value:
            raise DataError("mean_file and mean_value are both given", fix="keep one of them")
        if param.mean_value and len(param.mean_value) not in (1, channels):
            raise DataError(
                f"{len(param.mean_value)} values of mean_value for {channels} channels",
                fix="give one in all, or one for each channel",
            )
        self.shape = (channels, crop, crop) if crop else shape
        self.random = random
        self._crop = bool(crop)
        self._random_crop = bool(crop) and train
        self._mirror = param.mirror
        self._scale = param.scale
        self._mean = _read_mean(mean_path, shape) if mean_path else None
        self._values = np.array(param.mean_value, np.float32).reshape(-1, 1, 1) if param.mean_value else None

    def __call__(self, images: np.ndarray | Sequence[np.ndarray], out: np.ndarray) -> None:
        """Fills ``out`` [n, *shape]."""
        if isinstance(images, np.ndarray) and not self._mirror and not self._random_crop:
            self._subtract(images, out, *self._centre(images))
        else:
            for image, target in zip(images, out, strict=True):
                mirror = self._mirror and bool(self.random.integers(2))
                top, left = self._place(image)
                self._subtract(image, target[..., ::-1] if mirror else target, top, left)
        if self._scale != 1:
            np.multiply(out, out.dtype.type(self._scale), out=out)

    def _centre(self, image: np.ndarray) -> tuple[int, int]:
        if not self._crop:
            return 0, 0
        return (image.shape[-2] - self.shape[1]) // 2, (image.shape[-1] - self.shape[2]) // 2

    def _place(self, image: np.ndarray) -> tuple[int, int]:
        if not self._random_crop:
            return self._centre(image)
        top = int(self.random.integers(image.shape[-2] - self.shape[1] + 1))
        return top, int(self.random.integers(image.shape[-1] - self.shape[2] + 1))

    def _subtract(self, x: np.ndarray, out: np.ndarray, top: int, left: int) -> None:
        rows, cols = slice(top, top + self.shape[1]), slice(left, left + self.shape[2])
        if self._mean is not None:
            np.subtract(x[..., rows, cols], self._mean[:, rows, cols], out=out, dtype=out.dtype, casting="same_kind")
        elif self._values is not None:
            np.subtract(x[..., rows, cols], self._values, out=out, dtype=out.dtype, casting="same_kind")
        else:
            out[...] = x[..., rows, cols]


def _read_mean(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The mean image of a binaryproto file, checked against the images."""
    try:
        mean = read_blob(path)
    except WeightsError as error:
        raise DataError(
            f"cannot be read as mean file: {error.message}",
            fix="mean_file is a binaryproto, as compute_image_mean writes it",
            file=str(path),
        ) from None
    if mean.shape not in (shape, (1, *shape)):
        raise DataError(
            f"the mean is {mean.shape}, an image {shape}", fix="compute it from these images", file=str(path)
        )
    return mean.reshape(shape)
