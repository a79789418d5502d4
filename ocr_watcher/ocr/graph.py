"""A text recogniser's ONNX graph, made to do the same with less: its last steps, and 8-bit products.

Every change is made in memory when the model is loaded; the file stays what it was. Imports onnx and numpy,
and nothing of this project.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

LOGITS = "logits"  # the output of `Recogniser.end_in_logits`, and the product that gives it
_INT8_MAX = 127
_GELU_LOW = np.array(0.17, np.float32)  # a GELU gives no less than minus this


class Recogniser:
    """The model of a text recogniser: one line in, (1, columns, characters) likelihoods out.

    Args:
        file: the ONNX model. Raises what `onnx.load` raises.
    """

    def __init__(self, file: Path) -> None:
        import onnx  # noqa: PLC0415 - 0.3 s: only where a model is loaded

        self._model = onnx.load(file)
        self._graph = self._model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._made_by = {name: node for node in self._graph.node for name in node.output}

    def serialised(self) -> bytes:
        """The model as it is now."""
        data: bytes = self._model.SerializeToString()
        return data

    def end_in_logits(self) -> bool:
        """Take off the softmax: the output becomes (columns, characters), and no longer adds up to 1.

        The likelihood of one character in some columns is all that is asked for, and it costs little to
        compute from these. And the linear layer before it becomes a plain product of matrices, for which ONNX
        Runtime arranges the weights at the start and adds the bias on the way. It wins a few per cent of the
        model's time, and is what `compute_in_8_bits` needs for the layer over all the characters.

        Returns:
            False, and nothing is changed, where the model does not end in a linear layer of constant
            weights and a softmax.
        """
        from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

        (output,) = self._graph.output
        softmax = self._maker(output.name, "Softmax")
        add = softmax and self._maker(softmax.input[0], "Add")
        product = add and next(filter(None, (self._maker(name, "MatMul") for name in add.input)), None)
        if not product:
            return False
        weights = self._origin(product.input[1])
        bias = next((name for name in map(self._origin, add.input) if name in self._constants), None)
        if bias is None or weights not in self._constants or len(self._constants[weights].dims) != len("xy"):
            return False
        inner, characters = self._constants[weights].dims
        self._graph.initializer.append(numpy_helper.from_array(np.array([-1, inner]), "columns_shape"))
        self._graph.node.extend(
            [
                helper.make_node("Reshape", [product.input[0], "columns_shape"], ["columns"]),
                helper.make_node("Gemm", ["columns", weights, bias], [LOGITS], name=LOGITS),
            ]
        )
        del self._graph.output[:]
        shape = ["columns", characters]
        self._graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, shape))
        self._prune()
        return True

    def compute_in_8_bits(self, names: Collection[str], by_pixel: Collection[str] = ()) -> None:
        """Let pointwise convolutions, and the logits, be products of 8-bit integers with ONNX Runtime.

        Weights are rounded once, to a scale for each channel; what they are multiplied with is rounded for
        each line, to the range it has there: nothing is calibrated, so nothing hangs on a choice of examples.

        Args:
            names: of `Conv` nodes of kernel and stride 1 in one group; others are left as they are, as is
                what the model does not have. `LOGITS` is the product made by `end_in_logits`.
            by_pixel: those of them, fed by a GELU, for which each pixel is brought to the same range first:
                where a few pixels are a multiple of all others, these would get but a few of the 256 steps.
        """
        from onnx import helper, numpy_helper  # noqa: PLC0415

        nodes = list(self._graph.node)
        uses = Counter(name for node in nodes for name in node.input)
        folded: set[str] = set()  # outputs of additions that a product does by the way
        changed: list[Any] = []
        for node in nodes:
            if node.output[0] in folded:
                continue
            if node.name not in names:
                changed.append(node)
            elif node.op_type == "Gemm":
                weights, offset = (
                    numpy_helper.to_array(self._constants[self._origin(name)]) for name in node.input[1:]
                )
                changed += self._product(node.input[0], weights, offset, node.output[0])
            elif node.op_type == "Conv" and (kernel := self._pointwise(node)) is not None:
                bias, output = self._bias_after(node, nodes, uses)
                if output != node.output[0]:
                    folded.add(output)
                rows, product = f"{output}_rows", f"{output}_product"
                make = self._product_by_pixel if node.name in by_pixel else self._product
                changed += [
                    helper.make_node("Transpose", [node.input[0]], [rows], perm=[0, 2, 3, 1]),
                    *make(rows, kernel, bias, product),
                    helper.make_node("Transpose", [product], [output], perm=[0, 3, 1, 2]),
                ]
            else:
                changed.append(node)
        del self._graph.node[:]
        self._graph.node.extend(changed)
        self._model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        self._prune()

    def _product(
        self,
        rows: str,
        weights: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        output: str,
    ) -> list[Any]:
        """Nodes for `rows` @ `weights` + `bias` in 8 bits; weights of shape (inner, outer)."""
        from onnx import helper  # noqa: PLC0415

        largest = np.abs(weights).max(axis=0)
        scale = (np.where(largest > 0, largest, 1) / _INT8_MAX).astype(np.float32)
        inputs = [
            rows,
            self._constant(f"{output}_weights", np.rint(weights / scale).astype(np.int8)),
            self._constant(f"{output}_scale", scale),
        ]
        if bias is not None:
            inputs += ["", self._constant(f"{output}_bias", bias)]  # "": no zero point of the weights
        return [helper.make_node("DynamicQuantizeMatMul", inputs, [output], domain="com.microsoft")]

    def _product_by_pixel(
        self,
        rows: str,
        weights: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        output: str,
    ) -> list[Any]:
        """The same, each row divided by its range first, and multiplied with it after."""
        from onnx import helper  # noqa: PLC0415

        highest, size, even, product, whole = (
            f"{output}_{what}" for what in ("highest", "size", "even", "of_even", "unbiased")
        )
        if bias is None:
            whole = output
        nodes = [
            helper.make_node("ReduceMax", [rows], [highest], axes=[-1], keepdims=1),
            helper.make_node("Add", [highest, self._constant(f"{output}_low", _GELU_LOW)], [size]),
            helper.make_node("Div", [rows, size], [even]),
            *self._product(even, weights, None, product),
            helper.make_node("Mul", [product, size], [whole]),
        ]
        if bias is not None:
            nodes.append(helper.make_node("Add", [whole, self._constant(f"{output}_bias", bias)], [output]))
        return nodes

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper  # noqa: PLC0415

        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _pointwise(self, node: Any) -> NDArray[np.float32] | None:  # noqa: ANN401 - a node of onnx
        """The weights of a pointwise convolution as (inner, outer); None if it is another."""
        from onnx import helper  # noqa: PLC0415

        given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        kernel = self._array(node.input[1])
        plain = (
            given.get("group", 1) == 1
            and not any(given.get("pads", ()))
            and set(given.get("strides", ())) <= {1}
        )
        if kernel is None or kernel.shape[2:] != (1, 1) or not plain:
            return None
        return np.ascontiguousarray(kernel[:, :, 0, 0].T)

    def _bias_after(
        self,
        node: Any,  # noqa: ANN401 - a node of onnx
        nodes: list[Any],
        uses: Counter[str],
    ) -> tuple[NDArray[np.float32] | None, str]:
        """A convolution's bias, also where that is an addition after it; and the name of what comes out."""
        output = node.output[0]
        if len(node.input) > len("xw"):
            return self._array(node.input[2]), output
        after = next((other for other in nodes if output in other.input), None)
        if after is None or after.op_type != "Add" or uses[output] != 1:
            return None, output
        bias = self._array(next(name for name in after.input if name != output))
        channels = self._constants[self._origin(node.input[1])].dims[0]
        if bias is None or bias.size != channels:
            return None, output
        return bias.reshape(-1), after.output[0]

    def _array(self, name: str) -> NDArray[np.float32] | None:
        """A constant's value, also where it is given another shape on the way; None if it is not constant."""
        from onnx import numpy_helper  # noqa: PLC0415

        name = self._origin(name)
        reshape = self._maker(name, "Reshape")
        tensor = self._constants.get(self._origin(reshape.input[0]) if reshape else name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _origin(self, name: str) -> str:
        while name in self._made_by and self._made_by[name].op_type == "Identity":
            name = self._made_by[name].input[0]
        return name

    def _maker(self, name: str, kind: str) -> Any:  # noqa: ANN401 - a node of onnx, or None
        node = self._made_by.get(self._origin(name))
        return node if node is not None and node.op_type == kind else None

    def _prune(self) -> None:
        """Leave out what no output needs."""
        wanted = {output.name for output in self._graph.output}
        kept = []
        for node in reversed(self._graph.node):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))
        tensors = [tensor for tensor in self._graph.initializer if tensor.name in wanted]
        del self._graph.initializer[:]
        self._graph.initializer.extend(tensors)
