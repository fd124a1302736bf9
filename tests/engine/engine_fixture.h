#pragma once

#include <cortex/engine.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <string>

#include "model/weights.h"
#include "support/stream_oracle.h"

namespace cortex::testing {

/// A model file that lives as long as the object.
class TemporaryModel {
 public:
  explicit TemporaryModel(const ModelFile& model)
      : path_((std::filesystem::temp_directory_path() /
               ("cortex_" + std::to_string(::getpid()) + "_" + std::to_string(counter_++) +
                ".safetensors"))
                  .string()) {
    save_model(path_, model.config, model.tensors).value_or_throw();
  }
  ~TemporaryModel() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  inline static int counter_ = 0;
  std::string path_;
};

inline std::unique_ptr<Engine> make_engine(const TemporaryModel& model, int max_sessions = 8,
                                           int max_batch = 8, int threads = 0) {
  EngineOptions options;
  options.threads = threads;
  options.model_path = model.path();
  options.max_sessions = max_sessions;
  options.max_batch = max_batch;
  return Engine::create(options).value_or_throw();
}

/// Random events of one step, sorted and merged; `density` events a step on average.
inline std::vector<Event> random_step(std::mt19937_64& random, const ModelConfig& c,
                                      std::int64_t step, double density) {
  std::vector<Event> events;
  const int k = c.bins_per_step();
  for (int b = 0; b < k; ++b) {
    for (int u = 0; u < c.unit_count(); ++u) {
      const double p = density / (k * c.unit_count());
      if (std::uniform_real_distribution<>(0, 1)(random) >= p) continue;
      const int value = std::uniform_int_distribution<>(0, 9)(random) == 0
                            ? std::uniform_int_distribution<>(2, 2 * c.value_buckets)(random)
                            : 1;
      events.push_back({u, value, step * k + b});
    }
  }
  return events;
}

}  // namespace cortex::testing
