#!/usr/bin/env python3
"""Writes a window model as ONNX graphs for a number of events, batch 1.

    export_onnx.py MODEL.safetensors EVENTS fp32|int8 OUT.onnx

Inputs neuron, bin, value: int64 [EVENTS]. Output behavior: float32 [1, outputs]. int8 is what ONNX
Runtime's own quantize_dynamic emits for matrix products with a constant: DynamicQuantizeLinear,
MatMulInteger, Cast, Mul, with symmetric int8 weights, here with a scale an output channel, which is
the more accurate of its two choices. Norms, GELU and attention are the chains of nodes that its
graph optimiser fuses.
"""
import json
import struct
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13  # ReduceMean with axes as an attribute
RMS_EPS = 1e-6
LAYER_EPS = 1e-5


def read_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise SystemExit(f"{path}: tensor '{name}' is {entry['dtype']}, not F32")
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return tensors, json.loads(header["__metadata__"]["cortex.config"])


def rms_norm(x, gain):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + RMS_EPS) * gain


def layer_norm(x, gain, bias):
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + LAYER_EPS) * gain + bias


class Graph:
    def __init__(self, tensors, config, int8):
        self.t = tensors
        self.c = config
        self.int8 = int8
        self.nodes = []
        self.constants = {}
        self.quantized = {}
        self.count = 0

    def name(self, stem):
        self.count += 1
        return f"{stem}_{self.count}"

    def node(self, op, inputs, outputs=1, **attributes):
        names = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value, stem="const"):
        value = np.ascontiguousarray(value)
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size < 64 else None
        if key and key in self.constants:
            return self.constants[key][0]
        name = self.name(stem)
        self.constants[key or name] = (name, numpy_helper.from_array(value, name))
        return name

    def scalar(self, value):
        return self.constant(np.array(value, np.float32))

    def norm(self, x, prefix):
        gain = self.constant(self.t[prefix + ".weight"])
        if self.c["norm"] == "layernorm":
            mean = self.node("ReduceMean", [x], axes=[-1], keepdims=1)
            x = self.node("Sub", [x, mean])
        square = self.node("Pow", [x, self.scalar(2.0)])
        mean = self.node("ReduceMean", [square], axes=[-1], keepdims=1)
        eps = LAYER_EPS if self.c["norm"] == "layernorm" else RMS_EPS
        root = self.node("Sqrt", [self.node("Add", [mean, self.scalar(eps)])])
        x = self.node("Mul", [self.node("Div", [x, root]), gain])
        if self.c["norm"] == "layernorm":
            x = self.node("Add", [x, self.constant(self.t[prefix + ".bias"])])
        return x

    def numpy_norm(self, x, prefix):
        if self.c["norm"] == "layernorm":
            return layer_norm(x, self.t[prefix + ".weight"], self.t[prefix + ".bias"])
        return rms_norm(x, self.t[prefix + ".weight"])

    def linear(self, x, name, keep=False):
        weight = self.t[name].T
        if not self.int8 or keep:
            return self.node("MatMul", [x, self.constant(weight, "weight")])
        scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127
        rows = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        if x not in self.quantized:
            self.quantized[x] = self.node("DynamicQuantizeLinear", [x], outputs=3)
        xq, xs, xz = self.quantized[x]
        zero = self.constant(np.zeros(rows.shape[1], np.int8), "zero")
        product = self.node("MatMulInteger", [xq, self.constant(rows, "weight"), xz, zero])
        product = self.node("Cast", [product], to=TensorProto.FLOAT)
        scales = self.node("Mul", [xs, self.constant(scale.astype(np.float32), "scale")])
        return self.node("Mul", [product, scales])

    def gelu(self, x):
        inner = self.node("Erf", [self.node("Div", [x, self.scalar(np.sqrt(2.0))])])
        return self.node(
            "Mul",
            [self.node("Mul", [x, self.node("Add", [inner, self.scalar(1.0)])]), self.scalar(0.5)],
        )

    def shape(self, x, dims):
        return self.node("Reshape", [x, self.constant(np.array(dims, np.int64))])

    def heads(self, x, rows, keys=False):
        h, d = self.c["heads"], self.c["head_dim"]
        x = self.shape(x, [1, rows, h, d])
        return self.node("Transpose", [x], perm=[0, 2, 3, 1] if keys else [0, 2, 1, 3])

    def attention(self, q, k, v, queries):
        """q, k, v with heads apart -> [1, queries, dim]. The scale is in q."""
        weights = self.node("Softmax", [self.node("MatMul", [q, k])], axis=-1)
        out = self.node("Transpose", [self.node("MatMul", [weights, v])], perm=[0, 2, 1, 3])
        return self.shape(out, [1, queries, self.c["dim"]])

    def constant_heads(self, q):
        h, d = self.c["heads"], self.c["head_dim"]
        q = (q / np.sqrt(d)).astype(np.float32).reshape(1, -1, h, d)
        return self.constant(q.transpose(0, 2, 1, 3), "query")

    def split(self, x, parts):
        return self.node("Split", [x], outputs=parts, axis=-1)

    def build(self, events):
        c, t = self.c, self.t
        latents, dim, cross = c["latents"], c["dim"], "encoder.cross_attn."
        top = self.constant(np.array(c["value_buckets"] - 1, np.int64))
        value = self.node("Min", ["value", top])
        parts = [
            self.node("Gather", [self.constant(t[f"tokenizer.{n}_emb.weight"], "table"), i])
            for n, i in (("neuron", "neuron"), ("time", "bin"), ("value", value))
        ]
        tokens = self.node("Add", [self.node("Add", parts[:2]), parts[2]])
        tokens = self.shape(tokens, [1, events, dim])
        kv = self.linear(self.norm(tokens, cross + "norm_kv"), cross + "kv_proj.weight")
        k, v = self.split(kv, 2)
        # No input in the query: a constant, as in our plan.
        latent = t["encoder.latents"]
        query = self.numpy_norm(latent, cross + "norm_q") @ t[cross + "q_proj.weight"].T
        read = self.attention(
            self.constant_heads(query), self.heads(k, events, True), self.heads(v, events), latents
        )
        z = self.node(
            "Add",
            [self.constant(latent[None], "latents"), self.linear(read, cross + "out_proj.weight")],
        )
        scale = self.scalar(1.0 / np.sqrt(c["head_dim"]))
        for i in range(c["layers"]):
            block = f"encoder.self_attn_blocks.{i}."
            qkv = self.linear(self.norm(z, block + "norm_attn"), block + "qkv_proj.weight")
            q, k, v = self.split(qkv, 3)
            mixed = self.attention(
                self.node("Mul", [self.heads(q, latents), scale]),
                self.heads(k, latents, True),
                self.heads(v, latents),
                latents,
            )
            z = self.node("Add", [z, self.linear(mixed, block + "out_proj.weight")])
            up = self.linear(self.norm(z, block + "norm_mlp"), block + "mlp.0.weight")
            z = self.node("Add", [z, self.linear(self.gelu(up), block + "mlp.2.weight")])
        final = self.norm(self.norm(z, "encoder.final_norm"), "behavior_head.norm")
        k, v = self.split(self.linear(final, "behavior_head.kv_proj.weight"), 2)
        query = t["behavior_head.query"] @ t["behavior_head.q_proj.weight"].T
        outputs = query.shape[0]
        pooled = self.attention(
            self.constant_heads(query), self.heads(k, latents, True), self.heads(v, latents), outputs
        )
        y = self.shape(self.linear(pooled, "behavior_head.out_proj.weight", keep=True), [1, outputs])
        if "output.std" in t:
            y = self.node("Mul", [y, self.constant(t["output.std"])])
            y = self.node("Add", [y, self.constant(t["output.mean"])])
        self.nodes.append(helper.make_node("Identity", [y], ["behavior"]))
        inputs = [
            helper.make_tensor_value_info(n, TensorProto.INT64, [events])
            for n in ("neuron", "bin", "value")
        ]
        output = helper.make_tensor_value_info("behavior", TensorProto.FLOAT, [1, outputs])
        graph = helper.make_graph(
            self.nodes, "window", inputs, [output], [c[1] for c in self.constants.values()]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 7
        return model


def main():
    if len(sys.argv) != 5 or sys.argv[3] not in ("fp32", "int8"):
        sys.exit(__doc__)
    path, events, precision, out = sys.argv[1:]
    tensors, config = read_safetensors(path)
    model = Graph(tensors, config, precision == "int8").build(int(events))
    onnx.checker.check_model(model)
    onnx.save(model, out)


if __name__ == "__main__":
    main()
