"""Graphs are changed without changing what they compute, or by no more than rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ocr_watcher.ocr import graph

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RANDOM = np.random.default_rng(7)
LINEAR = (RANDOM.normal(size=(8, 5)).astype(np.float32), RANDOM.normal(size=5).astype(np.float32))
KERNEL = RANDOM.normal(size=(8, 6, 1, 1)).astype(np.float32)
BIAS = RANDOM.normal(size=(1, 8, 1, 1)).astype(np.float32)


def save(path: Path, nodes: list[Any], output: str, shape: list[Any], **constants: NDArray[Any]) -> Path:
    """A model of one line: x of shape (1, 6, 2, width)."""
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 2, "width"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(model, path)
    return path


def recogniser(path: Path, *, last: str = "Softmax", extra: str | None = None) -> Path:
    """Convolution, addition, mean over the height, linear layer, softmax: the shape of a recogniser."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["conv"], name="Conv.1"),
        helper.make_node("Add", ["conv", "bias"], ["biased"]),
        helper.make_node("ReduceMean", ["biased"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("Transpose", ["mean"], ["columns_of_8"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["weights"], ["same_weights"]),
        helper.make_node("MatMul", ["columns_of_8", "same_weights"], ["product"]),
        helper.make_node("Add", ["product", "offset"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["same_sum"]),
        helper.make_node(last, ["same_sum"], ["y"]),
    ]
    if last == "Softmax":
        nodes[-1].attribute.append(helper.make_attribute("axis", 2))
    if extra:
        nodes.insert(2, helper.make_node(extra, ["conv"], ["unused"]))
    weights, offset = LINEAR
    return save(path, nodes, "y", [1, "columns", 5], kernel=KERNEL, bias=BIAS, weights=weights, offset=offset)


def run(model: Path | bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    found: NDArray[np.float32] = y
    return found


def a_line(width: int = 40) -> NDArray[np.float32]:
    return RANDOM.normal(size=(1, 6, 2, width)).astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    likely: NDArray[np.float32] = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return likely


def kinds(model: graph.RecogniserGraph) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model.serialised()).graph.node]


def test_logits_are_what_the_softmax_was_made_of(tmp_path: Path) -> None:
    file = recogniser(tmp_path / "model.onnx")
    model = graph.RecogniserGraph(file)
    assert model.end_in_logits()
    assert "Softmax" not in kinds(model)
    for width in (1, 40):
        x = a_line(width)
        logits = run(model.serialised(), x)
        assert logits.shape == (width, 5)
        assert softmax(logits)[np.newaxis] == pytest.approx(run(file, x), abs=1e-6)


def test_a_model_that_ends_otherwise_stays_as_it_is(tmp_path: Path) -> None:
    file = recogniser(tmp_path / "model.onnx", last="Sigmoid")
    model = graph.RecogniserGraph(file)
    assert not model.end_in_logits()
    x = a_line()
    assert (run(model.serialised(), x) == run(file, x)).all()


def error(model: graph.RecogniserGraph, file: Path, x: NDArray[np.float32]) -> float:
    """Root mean square, by the spread of the right values."""
    exact = np.log(run(file, x)[0])
    found = run(model.serialised(), x)
    exact -= exact.mean(axis=1, keepdims=True)  # a softmax does not know a common offset
    found = found - found.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())


def test_8_bits_are_near_and_the_addition_is_part_of_the_product(tmp_path: Path) -> None:
    file = recogniser(tmp_path / "model.onnx")
    model = graph.RecogniserGraph(file)
    model.end_in_logits()
    model.quantise(["Conv.1", graph.LOGITS, "Conv.99"])
    assert kinds(model).count("DynamicQuantizeMatMul") == 2
    assert not {"Conv", "Add", "Gemm"} & set(kinds(model))
    assert 0 < error(model, file, a_line()) < 0.02


def test_an_addition_stays_where_the_sum_before_it_is_used_elsewhere(tmp_path: Path) -> None:
    file = recogniser(tmp_path / "model.onnx", extra="Neg")
    model = graph.RecogniserGraph(file)
    model.quantise(["Conv.1"])
    assert kinds(model)[:4] == ["Transpose", "DynamicQuantizeMatMul", "Transpose", "Add"]


def test_pixels_of_their_own_range_keep_their_steps(tmp_path: Path) -> None:
    file = recogniser(tmp_path / "model.onnx")
    x = np.abs(a_line(64))
    x[..., 7] *= 300  # one column leaves the others less than one step
    errors = {}
    for per_pixel in ((), ("Conv.1",)):
        model = graph.RecogniserGraph(file)
        model.end_in_logits()
        model.quantise(["Conv.1"], per_pixel)
        found = run(model.serialised(), x)
        others = np.arange(64) != 7
        exact = np.log(run(file, x)[0][others])
        exact -= exact.mean(axis=1, keepdims=True)
        found = found[others] - found[others].mean(axis=1, keepdims=True)
        errors[per_pixel] = float(np.abs(found - exact).max())
    assert errors[("Conv.1",)] < 0.1 < errors[()]


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((8, 6, 2, 2), {}),  # not pointwise
        ((8, 6, 1, 1), {"strides": [1, 2]}),
        ((8, 6, 1, 1), {"pads": [0, 1, 0, 1]}),
        ((8, 3, 1, 1), {"group": 2}),
    ],
)
def test_other_convolutions_are_left_alone(
    tmp_path: Path, shape: tuple[int, ...], given: dict[str, Any]
) -> None:
    file = save(
        tmp_path / "model.onnx",
        [helper.make_node("Conv", ["x", "kernel"], ["y"], name="Conv.1", **given)],
        "y",
        [1, 8, "height", "columns"],
        kernel=RANDOM.normal(size=shape).astype(np.float32),
    )
    model = graph.RecogniserGraph(file)
    model.quantise(["Conv.1"])
    assert kinds(model) == ["Conv"]
    x = a_line()
    assert (run(model.serialised(), x) == run(file, x)).all()


def pooled(path: Path, *, pool: tuple[int, int] = (2, 2)) -> Path:
    """A model that averages over the two rows of its line, and over pairs of columns, as recognisers do."""
    nodes = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=pool, strides=pool)]
    return save(path, nodes, "y", [1, 6, "rows", "columns"])


def test_a_line_of_any_height_is_averaged_over_it(tmp_path: Path) -> None:
    file = pooled(tmp_path / "model.onnx")
    model = graph.RecogniserGraph(file)
    model.take_any_height()
    changed = model.serialised()
    x = a_line()
    np.testing.assert_allclose(run(changed, x), run(file, x), rtol=1e-5, atol=1e-6)
    higher = RANDOM.normal(size=(1, 6, 3, 40)).astype(np.float32)
    expected = higher.reshape(1, 6, 3, 20, 2).mean(axis=(2, 4))[:, :, np.newaxis]
    np.testing.assert_allclose(run(changed, higher), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        run(file, higher)
