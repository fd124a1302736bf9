#include "bench_work.h"

#include <fmt/format.h>

namespace cortex {

ForwardFlops window_flops(const ModelConfig& c, int windows, std::int64_t events) {
  const double d = c.dim;
  const double l = c.latents;
  const double e = static_cast<double>(events);
  const double outputs = c.outputs();
  const double block = 8 * l * d * d + 4 * l * d * c.hidden();
  ForwardFlops flops;
  flops.linear = windows * (4 * e * d * d + 2 * l * d * d + c.layers * block + 4 * l * d * d +
                            2 * outputs * d);
  flops.attention = windows * (4 * l * e * d + c.layers * 4 * l * l * d + 4 * outputs * l * d);
  return flops;
}

ForwardFlops stream_flops(const ModelConfig& c, int streams, std::int64_t events) {
  const double d = c.dim;
  const double r = c.latents;
  const double e = static_cast<double>(events);
  const double block = 8 * r * d * d + 4 * r * d * c.hidden();
  ForwardFlops flops;
  flops.linear = streams * (2 * r * d * d + c.layers * block + 2 * r * d * c.outputs());
  flops.attention = streams * (2 * r * (c.receptive_steps * e + 1) * d +
                               c.layers * 4 * r * r * c.window_steps * d + 2 * r * e * d);
  return flops;
}

std::vector<std::string> forward_linears(const ModelConfig& c) {
  std::vector<std::string> names;
  const bool stream = c.kind == ModelKind::stream;
  if (stream) {
    names.emplace_back("cross.out");
  } else {
    names.emplace_back("encoder.cross_attn.kv_proj.weight");
    names.emplace_back("encoder.cross_attn.out_proj.weight");
  }
  for (int i = 0; i < c.layers; ++i) {
    const std::vector<const char*> parts =
        stream ? std::vector{"qkv", "out", "up", "down"}
               : std::vector{"qkv_proj.weight", "out_proj.weight", "mlp.0.weight", "mlp.2.weight"};
    for (const char* part : parts)
      names.push_back(
          fmt::format("{}.{}.{}", stream ? "blocks" : "encoder.self_attn_blocks", i, part));
  }
  if (stream) {
    names.emplace_back("head.weight");
  } else {
    names.emplace_back("behavior_head.kv_proj.weight");
    names.emplace_back("behavior_head.out_proj.weight");
  }
  return names;
}

ForwardBytes forward_bytes(const ModelFile& file, int streams, DType cached) {
  const ModelConfig& c = file.config;
  ForwardBytes bytes;
  for (const std::string& name : forward_linears(c)) {
    const LinearTensor linear = file.linear(name);
    bytes.weights += static_cast<double>(linear.weight.bytes());
    if (linear.scale) bytes.weights += static_cast<double>(linear.scale->bytes());
  }
  if (c.kind == ModelKind::stream)
    bytes.cache = 2.0 * streams * c.layers * c.window_steps * c.latents * c.dim *
                  static_cast<double>(size_of(cached));
  return bytes;
}

Floor floor_of(const ForwardFlops& flops, const ForwardBytes& bytes, DType precision,
               double evict_bytes, const Ceilings& ceilings) {
  // Activations stay at least bf16: int8 has too few bits for softmax weights and K.
  const DType attention = precision == DType::f32 ? DType::f32 : DType::bf16;
  const ReadCeiling& read = ceilings.read_of(bytes.total() + evict_bytes);
  Floor floor;
  floor.arithmetic_us =
      (flops.linear / ceilings.gflops(precision) + flops.attention / ceilings.gflops(attention)) *
      1e-3;
  floor.memory_us = bytes.total() / read.gb_s * 1e-3;
  floor.level = read.level;
  return floor;
}

}  // namespace cortex
