"""Data sources: batches, order, transforms, resume, and errors that say what to do."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys

import lmdb
import numpy as np
import pytest

from lossc.errors import DataError
from lossc.frontend import caffe_pb2
from lossc.frontend.weights import write_blob
from lossc.runtime.data import open_source

N, SHAPE = 11, (3, 6, 5)


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (N, *SHAPE), np.uint8)


@pytest.fixture
def labels():
    return np.arange(N) * 7 % 10


def write_lmdb(path, images, labels, *, encode=None, key="{:08d}"):
    """Datum records as Caffe's convert_imageset writes them; float images go to float_data."""
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            datum = caffe_pb2.Datum(label=int(label))
            if encode:
                datum.data, datum.encoded = encode(image), True
            else:
                datum.channels, datum.height, datum.width = image.shape
                if image.dtype == np.uint8:
                    datum.data = image.tobytes()
                else:
                    datum.float_data.extend(image.ravel().tolist())
            transaction.put(key.format(i).encode(), datum.SerializeToString())
    return path


def write_idx(folder, images, labels, prefix="train", compress=False):
    """The two idx files of one phase; images [N, H, W]."""
    folder.mkdir(exist_ok=True)
    contents = {
        f"{prefix}-images-idx3-ubyte": struct.pack(">4I", 0x803, *images.shape) + images.tobytes(),
        f"{prefix}-labels-idx1-ubyte": struct.pack(">2I", 0x801, len(labels)) + labels.astype(np.uint8).tobytes(),
    }
    for name, content in contents.items():
        path = folder / (name + ".gz" * compress)
        path.write_bytes(gzip.compress(content) if compress else content)
    return folder


def source(path, batch=4, phase="TRAIN", seed=0, relative_to=None, backend=None, rand_skip=0, **transform):
    data = caffe_pb2.DataParameter(source=str(path), batch_size=batch, rand_skip=rand_skip)
    if backend is not None:
        data.backend = backend
    param = caffe_pb2.TransformationParameter(**transform)
    return open_source(data, param, phase, relative_to=relative_to, seed=seed)


def batch(stream, dtype=np.float32):
    data, label = np.full(stream.shapes[0], np.nan, dtype), np.full(stream.shapes[1], np.nan, dtype)
    stream.next(data, label)
    return data, label


@pytest.fixture(params=["lmdb", "lmdb_float", "npz", "npz_float", "npz_names"])
def stored(request, tmp_path, images, labels):
    if request.param.startswith("lmdb"):
        return write_lmdb(tmp_path / "db", images.astype("f4") if "float" in request.param else images, labels)
    path = tmp_path / "set.npz"
    names = ("images", "labels") if request.param == "npz_names" else ("data", "label")
    values = images.astype("f4") if "float" in request.param else images
    np.savez(path, **dict(zip(names, (values, labels), strict=True)))
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_file_order_wraps_around_within_a_batch(stored, images, labels, dtype):
    stream = source(stored)
    assert stream.shapes == ((4, *SHAPE), (4,))
    assert len(stream) == N
    for first in (0, 4, 8, 12, 16):
        at = np.arange(first, first + 4) % N
        assert stream.position == first % N
        data, label = batch(stream, dtype)
        np.testing.assert_array_equal(data, images[at])
        np.testing.assert_array_equal(label, labels[at])


def test_batch_larger_than_the_source(stored, images):
    data, _ = batch(source(stored, 2 * N + 3))
    np.testing.assert_array_equal(data, images[np.arange(2 * N + 3) % N])


def test_without_label_and_into_views(stored, images):
    stream = source(stored)
    memory = np.zeros((4, 3 * SHAPE[0], *SHAPE[1:]), np.float32)
    stream.next(memory[:, 3:6])
    np.testing.assert_array_equal(memory[:, 3:6], images[:4])
    assert not memory[:, :3].any()
    assert not memory[:, 6:].any()


@pytest.mark.parametrize("compress", [False, True])
def test_idx_folder_by_phase(tmp_path, images, labels, compress):
    write_idx(tmp_path / "set", images[:, 0], labels, "train", compress)
    write_idx(tmp_path / "set", images[:5, 1], labels[:5], "t10k", compress)
    train, test = source(tmp_path / "set"), source(tmp_path / "set", phase="TEST")
    assert (len(train), len(test), train.shapes[0]) == (N, 5, (4, 1, 6, 5))
    np.testing.assert_array_equal(batch(train)[0][:, 0], images[:4, 0])
    data, label = batch(test)
    np.testing.assert_array_equal(data[:, 0], images[:4, 1])
    np.testing.assert_array_equal(label, labels[:4])


def test_position_skip_and_rand_skip(stored, images):
    stream = source(stored)
    stream.skip(N + 2)
    assert stream.position == 2
    stream.position = 9
    np.testing.assert_array_equal(batch(stream)[0], images[[9, 10, 0, 1]])
    starts = {source(stored, rand_skip=6, seed=seed).position for seed in range(30)}
    assert starts == set(range(6))
    with pytest.raises(DataError, match="position 11 is not in a source of 11 records"):
        stream.position = N


def test_mean_values_then_scale(stored, images):
    """Caffe's (x - mean) * scale, each step in float."""
    mean, scale = np.float32([104, 117, 123]), np.float32(0.017)
    data, _ = batch(source(stored, mean_value=mean, scale=scale))
    np.testing.assert_array_equal(data, (images[:4] - mean[:, None, None]) * scale)
    data, _ = batch(source(stored, mean_value=[100.5]))
    np.testing.assert_array_equal(data, images[:4] - np.float32(100.5))


def test_scale_alone_is_exact(stored, images):
    np.testing.assert_array_equal(batch(source(stored, scale=0.00390625))[0], images[:4] / np.float32(256))


def test_mean_file_is_cropped_with_the_image(stored, images, tmp_path):
    mean = np.random.default_rng(1).uniform(0, 255, (1, *SHAPE)).astype(np.float32)
    write_blob(tmp_path / "mean.binaryproto", mean)
    data, _ = batch(source(stored, phase="TEST", mean_file=str(tmp_path / "mean.binaryproto"), crop_size=3))
    np.testing.assert_array_equal(data, (images[:4] - mean)[:, :, 1:4, 1:4])
    data, _ = batch(source(stored, phase="TEST", mean_file="mean.binaryproto", relative_to=tmp_path))
    np.testing.assert_array_equal(data, images[:4] - mean)


def test_crop_is_central_in_test(stored, images):
    stream = source(stored, phase="TEST", crop_size=4)
    assert stream.shapes[0] == (4, 3, 4, 4)
    np.testing.assert_array_equal(batch(stream)[0], images[:4, :, 1:5, 0:4])


def test_crop_and_mirror_are_random_in_train(stored, images, tmp_path):
    """Every window and both directions come up; the mean is taken at the image's own place, before mirroring."""
    mean = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    write_blob(tmp_path / "mean.binaryproto", mean)
    stream = source(stored, N, crop_size=4, mirror=True, mean_file=str(tmp_path / "mean.binaryproto"), scale=0.5)
    windows = {}
    for top in range(3):
        for left in range(2):
            cut = ((images - mean)[:, :, top : top + 4, left : left + 4]) * np.float32(0.5)
            windows[top, left, False], windows[top, left, True] = cut, cut[..., ::-1]
    seen = set()
    for _ in range(20):
        for i, image in enumerate(batch(stream)[0]):
            found = [key for key, cut in windows.items() if np.array_equal(cut[i], image)]
            assert len(found) == 1
            seen.update(found)
    assert seen == set(windows)


def test_state_resumes_exactly(stored):
    stream = source(stored, crop_size=2, mirror=True, seed=4)
    batch(stream)
    state = stream.get_state()
    expected = [batch(stream)[0] for _ in range(5)]
    other = source(stored, crop_size=2, mirror=True, seed=9)
    other.set_state(state)
    for want in expected:
        np.testing.assert_array_equal(batch(other)[0], want)
    same = source(stored, crop_size=2, mirror=True, seed=4)
    batch(same)
    np.testing.assert_array_equal(batch(same)[0], expected[0])


def test_lmdb_that_is_not_preloaded(tmp_path, images, labels, monkeypatch):
    """Two streams of one file, read record by record, from any position."""
    monkeypatch.setattr("lossc.runtime.data.lmdb_records._PRELOAD_BYTES", 0)
    path = write_lmdb(tmp_path / "db", images, labels)
    first, second = source(path), source(path, 3)
    second.position = 9
    for at, other in (([0, 1, 2, 3], [9, 10, 0]), ([4, 5, 6, 7], [1, 2, 3])):
        data, label = batch(first)
        np.testing.assert_array_equal(data, images[at])
        np.testing.assert_array_equal(label, labels[at])
        np.testing.assert_array_equal(batch(second)[0], images[other])
    first.close()
    np.testing.assert_array_equal(batch(second)[0], images[4:7])
    second.close()
    np.testing.assert_array_equal(batch(source(path))[0], images[:4])


def test_lmdb_of_images_of_several_sizes(tmp_path, images, labels):
    several = [image[:, : 4 + i % 3] for i, image in enumerate(images)]
    path = write_lmdb(tmp_path / "db", several, labels)
    with pytest.raises(DataError, match=r"record 1 is \(3, 5, 5\), the first one \(3, 4, 5\)(.|\n)*crop"):
        source(path)
    data, _ = batch(source(path, phase="TEST", crop_size=4))
    for i in range(4):
        top = (i % 3) // 2
        np.testing.assert_array_equal(data[i], images[i, :, top : top + 4, 0:4])


def test_encoded_lmdb_is_blue_green_red(tmp_path, images, labels):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow, which reads images in LMDBs, is not installed")

    def png(image):
        file = io.BytesIO()
        image_module.fromarray(image.transpose(1, 2, 0)).save(file, "png")
        return file.getvalue()

    path = write_lmdb(tmp_path / "db", images, labels, encode=png)
    np.testing.assert_array_equal(batch(source(path))[0], images[:4, ::-1])
    assert source(path, force_gray=True).shapes[0] == (4, 1, 6, 5)


def test_encoded_lmdb_without_pillow(tmp_path, images, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    path = write_lmdb(tmp_path / "db", images, labels, encode=lambda image: b"\x89PNG")
    with pytest.raises(DataError, match=r"Pillow is not installed(.|\n)*pip install pillow"):
        source(path)


def test_lmdb_is_imported_only_when_needed():
    code = "import sys, lossc.runtime.data; assert 'lmdb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def refused(match, *args, **kwargs):
    with pytest.raises(DataError, match=match) as caught:
        source(*args, **kwargs)
    return str(caught.value)


def test_errors_of_settings(stored, tmp_path):
    assert "fix:" in refused("does not exist", tmp_path / "nowhere")
    assert str(tmp_path) in refused("does not exist", "nowhere", relative_to=tmp_path)
    refused("no source", "")
    refused("batch_size is 0", stored, 0)
    refused("crop_size 6 is larger than the image, 6 x 5", stored, crop_size=6)
    refused("2 values of mean_value for 3 channels", stored, mean_value=[1, 2])
    refused("both given", stored, mean_value=[1], mean_file=str(stored))
    refused("mean file", stored, mean_file=__file__)
    refused("change encoded images only|both set", stored, force_color=True)
    refused("phase 'train' is not known", stored, phase="train")
    assert "LMDB" in refused("LevelDB is not read", stored, backend=caffe_pb2.DataParameter.LEVELDB)
    write_blob(tmp_path / "mean.binaryproto", np.zeros((1, 3, 6, 6)))
    refused(r"the mean is \(1, 3, 6, 6\), an image \(3, 6, 5\)", stored, mean_file=str(tmp_path / "mean.binaryproto"))
    with pytest.raises(DataError, match=r"data view has shape \(2, 3, 6, 5\), a batch is \(4, 3, 6, 5\)"):
        source(stored).next(np.zeros((2, *SHAPE), np.float32))


def test_errors_of_folders(tmp_path, images, labels):
    refused("neither an LMDB", tmp_path)
    (tmp_path / "CURRENT").touch()
    (tmp_path / "MANIFEST-000002").touch()
    refused("LevelDB is not read", tmp_path)
    folder = write_idx(tmp_path / "set", images[:, 0], labels)
    refused("t10k-images-idx3-ubyte is missing", folder, phase="TEST")
    (folder / "train-labels-idx1-ubyte").unlink()
    refused("train-labels-idx1-ubyte is missing", folder)


def test_errors_of_idx_files(tmp_path, images, labels):
    folder = write_idx(tmp_path / "set", images[:, 0], labels[:-1])
    refused("10 labels for 11 images", folder)
    image_file, label_file = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    whole = image_file.read_bytes()
    for length, message in (
        (len(whole) - 1, "345 bytes, its header promises 346"),
        (9, "a longer header"),
        (0, "none"),
    ):
        image_file.write_bytes(whole[:length])
        refused(message, folder)
    image_file.write_bytes(label_file.read_bytes())
    refused("starts with the bytes 00 00 08 01", folder)
    image_file.unlink()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-9])
    refused("cannot be read", folder)


def test_errors_of_npz_files(tmp_path, images, labels):
    path = tmp_path / "set.npz"
    path.write_bytes(b"PK no zip")
    refused("cannot be read as .npz", path)
    for arrays, message in (
        ({"data": images}, "no array 'label' or 'labels', but 'data'"),
        ({"x": images, "label": labels}, "no array 'data' or 'images', but 'x', 'label'"),
        ({"data": images, "label": labels[1:]}, "10 labels for 11 images"),
        ({"data": images[0, 0], "label": labels}, r"images of shape \(6, 5\)"),
        ({"data": images[:0], "label": labels[:0]}, "none of them 0"),
        ({"data": images.astype(np.int16), "label": labels}, "images of type int16"),
        ({"data": images, "label": np.zeros((N, 2))}, r"labels of shape \(11, 2\)"),
        ({"data": images, "label": np.array(["a"] * N)}, "labels of shape"),
    ):
        np.savez(path, **arrays)
        refused(message, path)


def test_errors_of_lmdb(tmp_path, images, labels):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "data.mdb").write_bytes(b"no database" * 1000)
    refused("cannot be opened as LMDB", broken)
    with lmdb.open(str(tmp_path / "empty")):
        pass
    refused("holds no records", tmp_path / "empty")
    with lmdb.open(str(tmp_path / "text")) as env, env.begin(write=True) as transaction:
        transaction.put(b"0", b"\xff\xff\xff")
    refused("record 0 is no Datum", tmp_path / "text")
    with lmdb.open(str(tmp_path / "short")) as env, env.begin(write=True) as transaction:
        datum = caffe_pb2.Datum(channels=1, height=2, width=2, data=b"abc")
        transaction.put(b"0", datum.SerializeToString())
    refused(r"record 0 has 3 values for the shape \(1, 2, 2\)", tmp_path / "short")
    refused("both set", write_lmdb(tmp_path / "db", images, labels), force_color=True, force_gray=True)
