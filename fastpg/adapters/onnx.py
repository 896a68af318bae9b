"""A trained policy as an ONNX graph, by onnx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fastpg.adapters import require

__all__ = ["export"]

OPSET = 17
ACTIVATION = {"tanh": "Tanh", "relu": "Relu"}


def export(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Writes what fastpg.train.export.policy_arrays gave: observation (batch, size) in, output of the net and action out."""
    onnx = require("onnx", "onnx")
    make, tensor = onnx.helper, onnx.numpy_helper.from_array
    layers, action = int(arrays["layers"]), str(arrays["action"])
    constants = [tensor(arrays[f"{kind}{k}"], f"{kind}{k}") for k in range(layers) for kind in ("weight", "bias")]
    nodes, h = [], "observation"
    for k in range(layers):
        out = "output" if k == layers - 1 else f"sum{k}"
        nodes.append(make.make_node("Gemm", [h, f"weight{k}", f"bias{k}"], [out]))
        if out != "output":
            h = f"hidden{k}"
            nodes.append(make.make_node(ACTIVATION[str(arrays["activation"])], [out], [h]))
    real, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    inputs, outputs = len(arrays["weight0"]), len(arrays[f"bias{layers - 1}"])
    if action == "argmax":
        nodes.append(make.make_node("ArgMax", ["output"], ["action"], axis=1, keepdims=0))
        action_info = make.make_tensor_value_info("action", integer, ["batch"])
    else:
        constants += [tensor(arrays[name], name) for name in ("low", "high")]
        nodes.append(make.make_node("Max", ["output", "low"], ["above"]))
        nodes.append(make.make_node("Min", ["above", "high"], ["action"]))
        action_info = make.make_tensor_value_info("action", real, ["batch", outputs])
    graph = make.make_graph(
        nodes,
        "policy",
        [make.make_tensor_value_info("observation", real, ["batch", inputs])],
        [make.make_tensor_value_info("output", real, ["batch", outputs]), action_info],
        constants,
    )
    opset = make.make_opsetid("", OPSET)
    model = make.make_model(graph, opset_imports=[opset], producer_name="fastpg")
    model.ir_version = make.find_min_ir_version_for([opset])  # the newest one is too new for many runtimes
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
