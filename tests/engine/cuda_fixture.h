#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "engine_fixture.h"
#include "kernels/cuda/cuda_ops.h"

namespace cortex::testing {

using Steps = std::vector<std::vector<Event>>;
using Answers = std::vector<std::vector<float>>;

/// The same model with its linears in `dtype`, int8 by each row's largest weight.
inline ModelFile narrowed(ModelFile model, DType dtype) {
  if (dtype == DType::f32) return model;
  for (const TensorSpec& spec : tensor_specs(model.config)) {
    if (!spec.linear) continue;
    Tensor& tensor = model.tensors.at(spec.name);
    if (dtype == DType::bf16) {
      tensor = to_bfloat16(tensor);
      continue;
    }
    const std::int64_t out = tensor.size(0), in = tensor.size(1);
    Tensor integers(tensor.shape(), DType::i8), scale({out});
    for (std::int64_t o = 0; o < out; ++o) {
      float top = 1e-9F;
      for (std::int64_t i = 0; i < in; ++i)
        top = std::max(top, std::abs(tensor.f32()[static_cast<std::size_t>(o * in + i)]));
      scale.f32()[static_cast<std::size_t>(o)] = top / 127;
      for (std::int64_t i = 0; i < in; ++i)
        integers.data()[o * in + i] = static_cast<std::byte>(static_cast<std::int8_t>(
            std::lround(tensor.f32()[static_cast<std::size_t>(o * in + i)] / top * 127)));
    }
    tensor = std::move(integers);
    model.tensors[scale_name(spec.name)] = std::move(scale);
  }
  return model;
}

inline ModelFile stream_model(const char* preset, DType dtype) {
  ModelConfig config = preset_config(preset).value_or_throw();
  const ModelConfig tiny = tiny_stream_config();
  config.output_names = tiny.output_names;
  config.output_units = tiny.output_units;
  for (int u = 0; u < 90; ++u) config.units.push_back({"u" + std::to_string(u), "s", {}, 1.0});
  return narrowed(lively_stream_model(config, 3), dtype);
}

inline std::unique_ptr<Engine> engine_on(const TemporaryModel& model, const char* device,
                                         int batch) {
  EngineOptions options;
  options.model_path = model.path();
  options.device = device;
  options.max_sessions = 64;
  options.max_batch = batch;
  options.max_window_events = 2048;
  return Engine::create(options).value_or_throw();
}

inline Steps steps_of(const ModelConfig& config, std::uint64_t seed, int n) {
  std::mt19937_64 random(seed);
  Steps steps;
  for (int i = 0; i < n; ++i)
    steps.push_back(random_step(random, config, i, i % 7 == 3 ? 0.0 : 40.0));
  return steps;
}

inline Answers run_alone(Engine& engine, const Steps& steps) {
  const auto session = engine.open_session({}).value_or_throw();
  Answers out;
  for (std::size_t i = 0; i < steps.size(); ++i)
    out.push_back(engine
                      .step({.session = session.id,
                             .sequence = static_cast<std::int64_t>(i),
                             .events = steps[i]})
                      .value_or_throw()
                      .behavior);
  (void)engine.close_session(session.id);
  return out;
}

inline double relative_error(const Answers& got, const Answers& want) {
  double error = 0, scale = 1e-30;
  for (std::size_t i = 0; i < want.size(); ++i)
    for (std::size_t o = 0; o < want[i].size(); ++o) {
      error = std::max<double>(error, std::abs(got[i][o] - want[i][o]));
      scale = std::max<double>(scale, std::abs(want[i][o]));
    }
  return error / scale;
}

}  // namespace cortex::testing
