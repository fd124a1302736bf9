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
  flops.linear = windows * (2 * l * d * d + c.layers * block);
  flops.attention = windows * (4 * l * e * d + c.layers * 4 * l * l * d +
                               4 * outputs * c.heads * l * d + 2 * outputs * c.heads * d);
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

std::vector<LinearShape> forward_linears(const ModelConfig& c, int batch) {
  const std::int64_t d = c.dim;
  const std::int64_t rows = std::int64_t{batch} * c.latents;
  const bool stream = c.kind == ModelKind::stream;
  std::vector<LinearShape> linears = {
      {stream ? "cross.out" : "encoder.cross_attn.out_proj.weight", rows, d, d}};
  for (int i = 0; i < c.layers; ++i) {
    const auto name = [&](const char* in_stream, const char* in_window) {
      return stream ? fmt::format("blocks.{}.{}", i, in_stream)
                    : fmt::format("encoder.self_attn_blocks.{}.{}.weight", i, in_window);
    };
    linears.push_back({name("qkv", "qkv_proj"), rows, d, 3 * d});
    linears.push_back({name("out", "out_proj"), rows, d, d});
    linears.push_back({name("up", "mlp.0"), rows, d, c.hidden()});
    linears.push_back({name("down", "mlp.2"), rows, c.hidden(), d});
  }
  if (stream) linears.push_back({"head.weight", batch, c.latents * d, c.outputs()});
  return linears;
}

ForwardBytes forward_bytes(const ModelFile& file, int streams, DType cached) {
  const ModelConfig& c = file.config;
  ForwardBytes bytes;
  for (const LinearShape& shape : forward_linears(c, 1)) {
    const LinearTensor linear = file.linear(shape.name);
    bytes.weights += static_cast<double>(linear.weight.bytes());
    if (linear.scale) bytes.weights += static_cast<double>(linear.scale->bytes());
  }
  // Folded at load, in float32.
  if (c.kind == ModelKind::window)
    bytes.weights += 4.0 * c.heads * c.dim * (c.outputs() + 1);
  else
    bytes.cache = 2.0 * streams * c.layers * c.window_steps * c.latents * c.dim *
                  static_cast<double>(size_of(cached));
  return bytes;
}

Floor floor_of(const ForwardFlops& flops, const ForwardBytes& bytes, DType precision,
               double evict_bytes, const Ceilings& ceilings) {
  // Activations stay at least bf16: int8 has too few bits for softmax weights and K.
  const DType attention = precision == DType::f32 ? DType::f32 : DType::bf16;
  const ReadCeiling read = ceilings.read_of(bytes.total() + evict_bytes);
  Floor floor;
  floor.arithmetic_us =
      (flops.linear / ceilings.gflops(precision) + flops.attention / ceilings.gflops(attention)) *
      1e-3;
  floor.memory_us = bytes.total() / read.gb_s * 1e-3;
  floor.level = read.level;
  return floor;
}

}  // namespace cortex
