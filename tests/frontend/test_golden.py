"""Files of the real Caffe."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from lossc.frontend import read_net, read_solver
from lossc.frontend.caffe_pb2 import NetParameter
from lossc.frontend.weights import read_state, read_weights, write_state, write_weights

pytestmark = pytest.mark.golden


def test_every_net_has_the_layers_that_caffe_had(golden):
    cases = sorted(golden.glob("layers/*/net.prototxt"))
    assert cases
    for path in cases:
        case = json.loads((path.parent / "case.json").read_text())
        net = read_net(path, phase=case.get("phase", "TRAIN"))
        ours = {layer.type for layer in net.param.layer}
        assert ours - {"Split"} == set(case["layer_types"]) - {"Split"}, path  # Caffe adds some Splits by itself
        text = path.read_text().split("\n")
        for layer, line in zip(net.param.layer, net.lines, strict=True):
            assert text[line - 1].lstrip().startswith(("layer", "input")), (path, layer.name)


def test_every_solver_and_its_nets(golden):
    cases = sorted([*golden.glob("solvers/*/solver.prototxt"), *golden.glob("logs/*/solver.prototxt")])
    assert cases
    for path in cases:
        solver = read_solver(path)
        assert solver.train_net().param.layer
        assert len(solver.test_nets()) == len(solver.param.test_iter)


def test_what_caffe_wrote_is_written_again_byte_for_byte(golden, tmp_path):
    folder = golden / "solvers" / "resume_sgd"
    model, state = folder / "snap_iter_6.caffemodel", folder / "snap_iter_6.solverstate"
    write_weights(tmp_path / "m", NetParameter.FromString(model.read_bytes()), read_weights(model))
    write_state(tmp_path / "s", read_state(state))
    assert (tmp_path / "m").read_bytes() == model.read_bytes()
    assert (tmp_path / "s").read_bytes() == state.read_bytes()


def test_hdf5_of_caffe_and_ours_hold_the_same(golden, tmp_path):
    folder = golden / "solvers" / "resume_sgd_hdf5"
    model, state = folder / "snap_iter_6.caffemodel.h5", folder / "snap_iter_6.solverstate.h5"
    net = read_net(folder / "net.prototxt").param
    write_weights(tmp_path / "m.h5", net, read_weights(model))
    write_state(tmp_path / "s.h5", read_state(state))

    def contents(path):
        found = {}

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                kind = item.id.get_type()
                found[name] = (kind.get_class(), kind.get_size(), item.shape, np.asarray(item[()]).tobytes())

        with h5py.File(path) as file:
            file.visititems(visit)
        return found

    assert contents(tmp_path / "m.h5") == contents(model)
    assert contents(tmp_path / "s.h5") == contents(state)


def test_weights_of_both_forms_and_of_the_case_agree(golden):
    for form, folder in (("", "resume_sgd"), (".h5", "resume_sgd_hdf5")):
        weights = read_weights(golden / "solvers" / folder / f"snap_iter_6.caffemodel{form}")
        with np.load(golden / "solvers" / folder / "case.npz") as case:
            for layer, arrays in weights.items():
                for i, values in enumerate(arrays):
                    assert values.shape == case[f"param/{layer}/{i}"].shape
