"""Changes to a text recogniser's ONNX graph that make it faster: no softmax, any height, 8-bit products.

They are made in memory when the model is loaded; the model's file stays as it is.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

# After `RecogniserGraph.end_in_logits`: the name of the output, and of the node that gives it.
LOGITS = "logits"
_INT8_MAX = 127
_GELU_LOW = np.array(0.17, np.float32)  # the values of a GELU are never below minus this


class RecogniserGraph:
    """The ONNX graph of a text recogniser: one line in, likelihoods of shape (1, columns, characters) out.

    Args:
        file: the ONNX model.

    Raises:
        Exception: whatever `onnx.load` raises.
    """

    def __init__(self, file: Path) -> None:
        import onnx  # noqa: PLC0415 - 0.3 s: only where a model is loaded

        self._model = onnx.load(file)
        self._graph = self._model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._made_by = {name: node for node in self._graph.node for name in node.output}

    def serialised(self) -> bytes:
        """The model as it is now, in the form of an ONNX file."""
        data: bytes = self._model.SerializeToString()
        return data

    def end_in_logits(self) -> bool:
        """Remove the softmax at the end, so that the output is logits of shape (columns, characters).

        Only the likelihood of one character in some of the columns is ever needed, and it costs little to
        compute from logits. The linear layer before the softmax becomes one `Gemm` node. ONNX Runtime packs
        the weights of that when it loads the model, and adds the bias within the product. Both together save
        a few per cent of the model's time, and `quantise` can compute such a node in 8 bits.

        Returns:
            Whether it was done. False, with nothing changed, where the model does not end in a linear layer
            of constant weights and a softmax.
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
        if bias is None or weights not in self._constants:
            return False
        if len(self._constants[weights].dims) != 2:  # not a matrix
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

    def take_any_height(self) -> None:
        """Accept lines of other heights than the one that the model was exported for.

        It was trained on lines of several heights, and averages over what height is left at its end. Only the
        export made a pool of that size out of it. Now it averages over the height, whatever that is, after
        it has pooled columns as before. Models without such a pool stay as they are.
        """
        from onnx import helper  # noqa: PLC0415

        changed: list[Any] = []
        for node in self._graph.node:
            given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type != "AveragePool" or given["kernel_shape"] != given.get("strides"):
                changed.append(node)
                continue
            columns, (output,) = f"{node.output[0]}_columns", node.output
            pool = [1, given["kernel_shape"][1]]
            changed += [
                helper.make_node("AveragePool", node.input, [columns], kernel_shape=pool, strides=pool),
                helper.make_node("ReduceMean", [columns], [output], axes=[2], keepdims=1),
            ]
        del self._graph.node[:]
        self._graph.node.extend(changed)
        height = self._graph.input[0].type.tensor_type.shape.dim[2]
        height.Clear()
        height.dim_param = "height"

    def quantise(self, names: Collection[str], per_pixel: Collection[str] = ()) -> None:
        """Compute pointwise convolutions, and the logits, as products of 8-bit integers.

        This is dynamic quantisation. The weights are rounded here, with a scale for each output channel. The
        input is rounded whenever the model runs, with one scale for its range in that line. So there is no
        calibration, whose result would depend on the example images that it is made with.

        Args:
            names: names of nodes: of `Conv` nodes of kernel and stride 1 in one group, and `LOGITS`, which is
                the node that `end_in_logits` makes. Nodes of another kind are left as they are, and names
                that the model does not have are ignored.
            per_pixel: those of `names` whose input gets a scale for each pixel. All of them must be fed by a
                GELU. This is for inputs in which a few pixels have values many times larger than all others:
                with one scale for the line, those others would share a few of the 256 steps.
        """
        from onnx import helper, numpy_helper  # noqa: PLC0415

        nodes = list(self._graph.node)
        uses = Counter(name for node in nodes for name in node.input)
        folded: set[str] = set()  # outputs of additions that became the bias of a product
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
            elif node.op_type == "Conv" and (kernel := self._pointwise_weights(node)) is not None:
                bias, output = self._bias_after(node, nodes, uses)
                if output != node.output[0]:
                    folded.add(output)
                rows, product = f"{output}_rows", f"{output}_product"
                make = self._product_per_pixel if node.name in per_pixel else self._product
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
        """Nodes that compute `rows` @ `weights` + `bias` in 8 bits.

        Args:
            rows: name of the input, whose last dimension is `inner`.
            weights: shape (inner, outer).
            bias: shape (outer,), or None.
            output: name of the output.
        """
        from onnx import helper  # noqa: PLC0415

        largest = np.abs(weights).max(axis=0)
        scale = (np.where(largest > 0, largest, 1) / _INT8_MAX).astype(np.float32)
        inputs = [
            rows,
            self._constant(f"{output}_weights", np.rint(weights / scale).astype(np.int8)),
            self._constant(f"{output}_scale", scale),
        ]
        if bias is not None:
            no_zero_point = ""  # the weights are rounded symmetrically
            inputs += [no_zero_point, self._constant(f"{output}_bias", bias)]
        return [helper.make_node("DynamicQuantizeMatMul", inputs, [output], domain="com.microsoft")]

    def _product_per_pixel(
        self,
        rows: str,
        weights: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        output: str,
    ) -> list[Any]:
        """As `_product`, but each row is divided by its range before the product, and multiplied by it after.

        `rows` comes from a GELU, so the range reaches from -0.17 to the row's largest value.
        """
        from onnx import helper  # noqa: PLC0415

        highest, span, scaled, product, unbiased = (
            f"{output}_{what}" for what in ("highest", "span", "scaled", "of_scaled", "unbiased")
        )
        if bias is None:
            unbiased = output
        nodes = [
            helper.make_node("ReduceMax", [rows], [highest], axes=[-1], keepdims=1),
            helper.make_node("Add", [highest, self._constant(f"{output}_low", _GELU_LOW)], [span]),
            helper.make_node("Div", [rows, span], [scaled]),
            *self._product(scaled, weights, None, product),
            helper.make_node("Mul", [product, span], [unbiased]),
        ]
        if bias is not None:
            nodes.append(
                helper.make_node("Add", [unbiased, self._constant(f"{output}_bias", bias)], [output])
            )
        return nodes

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant to the graph; returns its name."""
        from onnx import numpy_helper  # noqa: PLC0415

        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _pointwise_weights(self, node: Any) -> NDArray[np.float32] | None:  # noqa: ANN401 - a node of onnx
        """Weights of a pointwise convolution as (inner, outer); None if it is another, or they vary."""
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
        """A convolution's bias of shape (channels,) or None, and the name of the output with it.

        The bias is either the convolution's own third input, or the constant of an addition after it.
        """
        output = node.output[0]
        if len(node.input) > 2:  # input, weights, bias
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
        """A constant's value; None if `name` is none. That of a reshaped constant has its first shape."""
        from onnx import numpy_helper  # noqa: PLC0415

        name = self._origin(name)
        reshape = self._maker(name, "Reshape")
        tensor = self._constants.get(self._origin(reshape.input[0]) if reshape else name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _origin(self, name: str) -> str:
        """The value that `name` is a copy of: `Identity` nodes are followed backwards."""
        while name in self._made_by and self._made_by[name].op_type == "Identity":
            name = self._made_by[name].input[0]
        return name

    def _maker(self, name: str, kind: str) -> Any:  # noqa: ANN401 - a node of onnx, or None
        """The node that computes `name`; None if that is not of this kind."""
        node = self._made_by.get(self._origin(name))
        return node if node is not None and node.op_type == kind else None

    def _prune(self) -> None:
        """Remove nodes and constants that no output needs."""
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
