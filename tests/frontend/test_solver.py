"""Solver files: nets found and put into their states, settings that contradict each other refused."""

from __future__ import annotations

import pytest

from lossc.errors import PrototxtError, SolverError
from lossc.frontend import read_solver, read_solver_text
from lossc.frontend.caffe_pb2 import TEST, TRAIN, SolverParameter
from lossc.frontend.solver import located

NET = """\
layer { name: "x" type: "Input" top: "x" }
layer { name: "train" type: "Silence" bottom: "x" include { phase: TRAIN } }
layer { name: "test" type: "Silence" bottom: "x" include { phase: TEST } }
layer { name: "deep" type: "Silence" bottom: "x" include { stage: "deep" } }
layer { name: "high" type: "Silence" bottom: "x" include { min_level: 3 } }
"""
BASE = 'net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "fixed"\n'


def names(net):
    return [layer.name for layer in net.param.layer][1:]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_net_for_both_phases(folder):
    solver = read_solver_text(
        BASE + 'test_iter: [1, 2] test_interval: 5 test_state { } test_state { stage: "deep" level: 3 }'
    )
    train, tests = solver.train_net(), solver.test_nets()
    assert (names(train), train.phase, train.file, train.lines) == (["train"], TRAIN, "net.prototxt", (1, 2))
    assert [names(net) for net in tests] == [["test"], ["test", "deep", "high"]]
    assert all(net.phase == TEST for net in tests)
    assert names(solver.train_net(stages=["deep"], level=4)) == ["train", "deep", "high"]
    assert solver.line("lr_policy") == 3


def test_states_are_merged_in_order(folder):
    (folder / "net.prototxt").write_text('state { phase: TEST stage: "deep" }\n' + NET)
    assert names(read_solver_text(BASE).train_net()) == ["test", "deep"]
    assert names(read_solver_text(BASE + "train_state { phase: TRAIN level: 3 }").train_net()) == [
        "train",
        "deep",
        "high",
    ]


def test_order_of_test_nets(folder):
    text = """train_net: "net.prototxt" test_net: "net.prototxt" base_lr: 1 lr_policy: "fixed"
        test_interval: 1 test_iter: [1, 1]
        test_net_param {
          layer { name: "a" type: "X" }
        }"""
    tests = read_solver_text(text, "s.prototxt").test_nets()
    assert [(net.file, net.line(0)) for net in tests] == [("s.prototxt", 4), ("net.prototxt", 1)]
    generic = BASE + 'test_net: "net.prototxt" test_iter: [1, 1, 1] test_interval: 1'
    assert len(read_solver_text(generic).test_nets()) == 3


def test_files_beside_the_solver_are_found(folder, monkeypatch):
    sub = folder / "sub"
    sub.mkdir()
    (sub / "s.prototxt").write_text(
        BASE.replace("net.prototxt", "other.prototxt") + 'weights: "w.caffemodel, v.caffemodel"'
    )
    (sub / "other.prototxt").write_text(NET)
    (sub / "w.caffemodel").touch()
    solver = read_solver("sub/s.prototxt")
    assert solver.param.net == "sub/other.prototxt"
    assert list(solver.param.weights) == ["sub/w.caffemodel,v.caffemodel"]
    assert solver.param.snapshot_prefix == "sub/s"
    assert solver.train_net().file == "sub/other.prototxt"
    (sub / "s.prototxt").write_text(BASE + 'snapshot_prefix: "sub"')
    assert read_solver("sub/s.prototxt").param.snapshot_prefix == "sub/s"
    assert read_solver("sub/s.prototxt").param.net == "net.prototxt"


def test_old_solver_type():
    for old, new in [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("RMSPROP", "RMSProp")]:
        solver = read_solver_text(BASE + f"solver_type: {old}")
        assert solver.param.type == new and not solver.param.HasField("solver_type")
    assert read_solver_text(BASE + "solver_type: ADADELTA").param.type == "AdaDelta"
    assert read_solver_text(BASE + "solver_type: ADAM").param.type == "Adam"


def test_what_the_compiler_cannot_do_is_told_at_the_type():
    solver = read_solver_text(BASE + '\ntype: "Adam"', "s.prototxt")
    with pytest.raises(SolverError) as caught, located(solver):
        raise SolverError("is not built in")
    assert (caught.value.file, caught.value.line) == ("s.prototxt", 5)


def test_a_message_is_left_as_it_is():
    message = SolverParameter(net="n", base_lr=1, lr_policy="fixed", solver_type=SolverParameter.ADAM)
    assert read_solver(message).param.type == "Adam"
    assert message.HasField("solver_type")


@pytest.mark.parametrize(
    "change, line, message, fix",
    [
        ('type: "Adm"', 4, 'unknown solver type "Adm"', "Adam"),
        ('type: "sgd"', 4, 'unknown solver type "sgd"', '"SGD"'),
        ('type: "Adam"\nsolver_type: ADAM', 5, "both type and the older", "keep"),
        ("momentum: 0.9 type: 'AdaGrad'", 4, "AdaGrad has no momentum", "remove"),
        ("\nmomentum: 0.9 type: 'RMSProp'", 5, "RMSProp has no momentum", "remove"),
        ("rms_decay: 1 type: 'RMSProp'", 4, "rms_decay of RMSProp is 1", "0.99"),
        ("momentum: 1 type: 'Adam'", 4, "momentum of Adam is 1", "0.9"),
        ("iter_size: -1", 4, "iter_size is -1", "1 or a larger"),
        ("iter_size: 0", 4, "iter_size is 0", "1 or a larger"),
        ("average_loss: 0", 4, "average_loss is 0", "1 or a larger"),
        ("display: -1", 4, "display is -1", "0 or a larger"),
        ("max_iter: -5", 4, "max_iter is -5", "0 or a larger"),
        ("test_interval: 1 test_iter: 3\ntest_iter: 0", 5, "test_iter is 0", "1 or a larger"),
        ("weight_decay: nan", 4, "weight_decay is nan", "finite"),
        ('regularization_type: "L3"', 4, '"L3"', "L2"),
        ('test_net: "a" test_net: "b"\ntest_iter: 3', 5, "2 test nets, but 1 test_iter", "once per test net"),
        ('test_net: "a"', 4, "1 test nets, but 0 test_iter", "once per test net"),
        ("test_iter: 3", 4, "not test_interval", "add test_interval"),
        ("test_interval: 10", 4, "not test_iter: nothing would be tested", "add test_iter"),
        ("momentum: -0.9", 4, "momentum is -0.9, but must be 0 or more", "larger number"),
        ("stepvalue: [5, 9]\nstepvalue: 8", 5, "stepvalue 8 comes after 9", "rising order"),
        ("test_iter: 3 test_interval: 1\ntest_state { } test_state { }", 5, "1 test_iter, but 2 test_state", "once"),
        ('train_net: "a"', 4, "net and train_net all name a net", "keep net"),
        ("net_param { }", 4, "net and net_param all name a net", "keep net"),
    ],
)
def test_contradictions(change, line, message, fix):
    with pytest.raises(SolverError) as caught:
        read_solver_text(BASE + change, "s.prototxt")
    error = caught.value
    assert (error.file, error.line) == ("s.prototxt", line)
    assert message in error.message and fix in error.fix


@pytest.mark.parametrize(
    "policy, needs",
    [
        ("step", "gamma: 0.1 stepsize: 5"),
        ("exp", "gamma: 0.1"),
        ("inv", "gamma: 0.1 power: 0.5"),
        ("multistep", "gamma: 0.1 stepvalue: 5"),
        ("poly", "power: 0.5 max_iter: 9"),
        ("sigmoid", "gamma: 0.1 stepsize: 5"),
    ],
)
def test_policies_need_their_settings(policy, needs):
    base = BASE.replace("fixed", policy)
    read_solver_text(base + needs)
    words = needs.split()
    for i in range(0, len(words), 2):
        name = words[i].rstrip(":")
        with pytest.raises(SolverError, match=f"{policy}.* needs {name}") as caught:
            read_solver_text(base + " ".join(words[:i] + words[i + 2 :]))
        assert caught.value.line == 3
    for bad in ("gamma: 0.1", "gamma: -1"), ("stepsize: 5", "stepsize: 0"), ("max_iter: 9", "max_iter: 0"):
        if bad[0] in needs:
            with pytest.raises(SolverError):
                read_solver_text(base + needs.replace(*bad))


@pytest.mark.parametrize(
    "text, message, fix",
    [
        (BASE.replace("base_lr: 0.1", ""), "base_lr, the learning rate, is missing", "base_lr: 0.01"),
        (BASE.replace('lr_policy: "fixed"', ""), "lr_policy is missing", '"fixed"'),
        (BASE.replace("fixed", "stp"), 'unknown lr_policy "stp"', '"step"'),
        (BASE.replace("fixed", "cosine annealing"), "unknown lr_policy", "exp, fixed, inv, multistep"),
        (BASE.replace('net: "net.prototxt"', ""), "no net is named", "net:"),
        (BASE.replace("net.prototxt", ""), "net names no file", "FILE"),
    ],
)
def test_missing_settings(text, message, fix):
    with pytest.raises(SolverError) as caught:
        read_solver_text(text)
    assert message in caught.value.message and fix in caught.value.fix


def test_nets_that_cannot_be_read(folder):
    solver = read_solver_text("\n" + BASE.replace("net.prototxt", "nets.prototxt"), "s.prototxt")
    with pytest.raises(SolverError, match='net "nets.prototxt": no such file') as caught:
        solver.train_net()
    assert (caught.value.file, caught.value.line) == ("s.prototxt", 2)
    assert "net.prototxt?" in caught.value.fix
    (folder / "net.prototxt").write_text("layer {\n nam: 3 }")
    with pytest.raises(PrototxtError) as caught:
        read_solver_text(BASE).train_net()
    assert (caught.value.file, caught.value.line) == ("net.prototxt", 2)


def test_a_net_is_no_solver():
    with pytest.raises(PrototxtError) as caught:
        read_solver_text(NET, "net.prototxt")
    assert "looks like the file of a net" in caught.value.fix
