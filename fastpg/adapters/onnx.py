"""A trained policy as an ONNX graph, by onnx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg.adapters import require
from fastpg.train.checkpoint import replace

__all__ = ["export"]

OPSET = 18
ACTIVATION = {"tanh": "Tanh", "relu": "Relu"}


def export(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Writes what fastpg.train.export.policy_arrays gave: observation (batch, size) in, output of the net and action out."""
    onnx = require("onnx", "onnx")
    graph = _Graph(onnx, arrays)
    action = graph.action(str(arrays["action"]), graph.net())
    inputs = [graph.info("observation", np.float32, len(arrays["weight0"]))]
    outputs = [graph.info("output", np.float32, graph.outputs), action]
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "policy", inputs, outputs, graph.constants),
        opset_imports=[opset],
        producer_name="fastpg",
        ir_version=onnx.helper.find_min_ir_version_for([opset]),  # runtimes lag behind the newest
    )
    onnx.checker.check_model(model, full_check=True)
    replace(path, lambda file: file.write(model.SerializeToString()))


class _Graph:
    """Nodes and constants in the order in which they come."""

    def __init__(self, onnx: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.onnx, self.arrays = onnx, arrays
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs = len(arrays[f"bias{int(arrays['layers']) - 1}"])

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def given(self, name: str) -> str:
        """One of the arrays, as a constant."""
        return self.constant(name, self.arrays[name])

    def node(self, kind: str, *inputs: str, out: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [out], **attributes))
        return out

    def info(self, name: str, dtype: Any, *size: int) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, ["batch", *size])

    def net(self) -> str:
        h, layers = "observation", int(self.arrays["layers"])
        if np.isfinite(self.arrays["most"]):
            shifted = self.node("Sub", h, self.given("shift"), out="shifted")
            scaled = self.node("Mul", shifted, self.given("scale"), out="scaled")
            bounds = self.constant("least", -self.arrays["most"]), self.given("most")
            h = self.node("Clip", scaled, *bounds, out="seen")
        for k in range(layers):
            out = "output" if k == layers - 1 else f"sum{k}"
            h = self.node("Gemm", h, self.given(f"weight{k}"), self.given(f"bias{k}"), out=out)
            if out != "output":
                h = self.node(ACTIVATION[str(self.arrays["activation"])], h, out=f"hidden{k}")
        return h

    def action(self, kind: str, h: str) -> Any:
        """The nodes from the output of the net to the action, and what that is."""
        if kind == "argmax":
            self.node("ArgMax", h, out="action", axis=1, keepdims=0)
            return self.info("action", np.int64)
        if kind == "argmax_each":
            sizes = self.arrays["sizes"]
            parts = [f"part{k}" for k in range(len(sizes))]
            self.nodes.append(self.onnx.helper.make_node("Split", [h, self.given("sizes")], parts, axis=1))
            picks = [self.node("ArgMax", part, out=f"pick_{part}", axis=1, keepdims=1) for part in parts]
            self.node("Concat", *picks, out="action", axis=1)
            return self.info("action", np.int64, len(sizes))
        if kind == "positive":
            on = self.node("Greater", h, self.constant("zero", np.float32(0)), out="on")
            self.node("Cast", on, out="action", to=self.onnx.TensorProto.INT64)
            return self.info("action", np.int64, self.outputs)
        low = self.given("low")
        if kind == "clip":
            self.node("Min", self.node("Max", h, low, out="above"), self.given("high"), out="action")
            return self.info("action", np.float32, len(self.arrays["low"]))
        if kind == "squash":
            one, half = self.constant("one", np.float32(1)), self.constant("half", np.float32(0.5))
            share = self.node(
                "Mul", self.node("Add", self.node("Tanh", h, out="tanh"), one, out="raised"), half, out="share"
            )
        else:
            a, b = "a", "b"
            soft = self.node("Softplus", h, out="soft")
            self.nodes.append(self.onnx.helper.make_node("Split", [soft], [a, b], axis=1, num_outputs=2))
            share = self.node("Div", a, self.node("Add", a, b, out="both"), out="share")
        wide = self.constant("wide", self.arrays["high"] - self.arrays["low"])
        self.node("Add", self.node("Mul", share, wide, out="far"), low, out="action")
        return self.info("action", np.float32, len(self.arrays["low"]))
