#include "model/linear_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace cortex {
namespace {

constexpr double kForgotten = 1e-9;

std::vector<double> square(const std::vector<double>& m, std::size_t n) {
  std::vector<double> out(n * n, 0);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t k = 0; k < n; ++k)
      for (std::size_t j = 0; j < n; ++j) out[i * n + j] += m[i * n + k] * m[k * n + j];
  return out;
}

double largest(const std::vector<double>& m) {
  double most = 0;
  for (const double v : m) {
    if (!std::isfinite(v)) return INFINITY;
    most = std::max(most, std::abs(v));
  }
  return most;
}

/// What both share: room for the batch, and the way to physical units.
class LinearStream : public StreamForward {
 public:
  LinearStream(const ModelFile& file, int capacity)
      : config_(file.config),
        outputs_(static_cast<std::size_t>(file.config.outputs())),
        mean_(copy(file, "output.mean")),
        std_(copy(file, "output.std")),
        y_(static_cast<std::size_t>(capacity) * outputs_),
        sums_(std::max(outputs_, static_cast<std::size_t>(file.config.dim))) {
    const auto steps = static_cast<std::size_t>(capacity);
    events_.resize(steps * static_cast<std::size_t>(config_.receptive_steps) *
                   static_cast<std::size_t>(config_.max_events_per_step));
    batch().room = events_;
    batch().reserve(steps, static_cast<std::size_t>(config_.window_steps));
  }

  void launch(int) override {
    for (std::size_t s = 0; s < static_cast<std::size_t>(batch().steps); ++s) decode(s);
  }
  std::span<const float> finish(int) override {
    return std::span(y_).first(static_cast<std::size_t>(batch().steps) * outputs_);
  }
  void warm_up() override {}

 protected:
  static std::vector<float> copy(const ModelFile& file, const char* name) {
    const auto values = file.at(name).f32();
    return {values.begin(), values.end()};
  }
  std::span<const StreamEvent> events_from(std::int32_t begin, std::size_t s) {
    return batch().room.subspan(static_cast<std::size_t>(begin),
                                static_cast<std::size_t>(batch().indptr[s + 1] - begin));
  }
  void answer(std::size_t s, std::size_t output, double value) {
    y_[s * outputs_ + output] = static_cast<float>(value * std_[output] + mean_[output]);
  }
  virtual void decode(std::size_t s) = 0;

  const ModelConfig config_;
  const std::size_t outputs_;
  const std::vector<float> mean_, std_;  // [outputs]
  std::vector<float> y_;                 // [capacity, outputs]
  std::vector<double> sums_;             // of one step
  std::vector<StreamEvent> events_;
};

class RidgeStream final : public LinearStream {
 public:
  RidgeStream(const ModelFile& file, int capacity)
      : LinearStream(file, capacity),
        weight_(copy(file, "ridge.weight")),
        bias_(copy(file, "ridge.bias")) {}

 private:
  void decode(std::size_t s) override {
    std::copy(bias_.begin(), bias_.end(), sums_.begin());
    const int bins = config_.bins_per_step();
    const std::size_t units = config_.units.size();
    for (const StreamEvent& e : events_from(batch().indptr[s], s)) {
      const auto lag = static_cast<std::size_t>(e.offset / bins);
      const float* w = &weight_[(lag * units + static_cast<std::size_t>(e.unit)) * outputs_];
      for (std::size_t o = 0; o < outputs_; ++o) sums_[o] += double{w[o]} * e.value;
    }
    for (std::size_t o = 0; o < outputs_; ++o) answer(s, o, sums_[o]);
  }

  const std::vector<float> weight_;  // [lags, units, outputs]
  const std::vector<float> bias_;
};

class KalmanStream final : public LinearStream {
 public:
  KalmanStream(const ModelFile& file, int capacity, const StreamPages& pages)
      : LinearStream(file, capacity),
        n_(static_cast<std::size_t>(file.config.dim)),
        predict_(copy(file, "kalman.predict")),
        update_(copy(file, "kalman.update")),
        gain_(copy(file, "kalman.gain")),
        offset_(copy(file, "kalman.offset")),
        output_(copy(file, "kalman.output")),
        pages_(pages) {
    for (const auto& [name, matrix] :
         {std::pair{"kalman.predict", &predict_}, std::pair{"kalman.update", &update_}})
      if (!forgets_within(*matrix, config_.dim, config_.window_steps))
        throw Exception{{ErrorCode::corrupt_data,
                         fmt::format("tensor '{}' does not forget its state within {} steps", name,
                                     config_.window_steps),
                         name}};
  }

 private:
  void decode(std::size_t s) override {
    const auto page = batch().pages[static_cast<std::size_t>(batch().page_indptr[s])];
    auto* state = reinterpret_cast<double*>(pages_.pool + page * pages_.page_bytes);
    const bool first = batch().live[s] == 1;
    const auto events = events_from(batch().present[s], s);
    const bool gap = config_.skip_empty_steps && events.empty();
    const std::vector<float>& matrix = gap ? predict_ : update_;
    for (std::size_t i = 0; i < n_; ++i) {
      double sum = gap ? 0 : offset_[i];
      for (std::size_t j = 0; j < n_ && !first; ++j) sum += double{matrix[i * n_ + j]} * state[j];
      sums_[i] = sum;
    }
    for (const StreamEvent& e : events) {
      const float* g = &gain_[static_cast<std::size_t>(e.unit) * n_];
      for (std::size_t i = 0; i < n_; ++i) sums_[i] += double{g[i]} * e.value;
    }
    std::copy_n(sums_.begin(), n_, state);
    for (std::size_t o = 0; o < outputs_; ++o) {
      double y = 0;
      for (std::size_t i = 0; i < n_; ++i) y += double{output_[o * n_ + i]} * state[i];
      answer(s, o, y);
    }
  }

  const std::size_t n_;
  const std::vector<float> predict_, update_;  // [state, state]
  const std::vector<float> gain_;              // [units, state]
  const std::vector<float> offset_;            // [state]
  const std::vector<float> output_;            // [outputs, state]
  const StreamPages pages_;
};

}  // namespace

bool forgets_within(std::span<const float> matrix, int n, int steps) {
  std::vector<double> power(matrix.begin(), matrix.end());
  // The power is the largest power of two that `steps` holds.
  for (int reach = 1; 2 * reach <= steps; reach *= 2)
    power = square(power, static_cast<std::size_t>(n));
  return largest(power) < kForgotten;
}

std::unique_ptr<StreamForward> make_linear_stream(const ModelFile& file, int capacity,
                                                  const StreamPages& pages) {
  if (file.config.kind == ModelKind::ridge) return std::make_unique<RidgeStream>(file, capacity);
  return std::make_unique<KalmanStream>(file, capacity, pages);
}

}  // namespace cortex
