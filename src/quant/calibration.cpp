#include "quant/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <unordered_map>

#include "kernels/forwarding_ops.h"
#include "model/stream_model.h"
#include "model/window_model.h"

namespace cortex {
namespace {

// Pages of any number of latents fill whole vectors of up to 16 keys.
constexpr int kPageSteps = 16;
constexpr int kWindowsAtOnce = 4;

/// Keeps an even sample of the rows that enter each linear of a model.
class SamplingOps final : public ForwardingOps {
 public:
  SamplingOps(Ops& base, const ModelFile& model, std::int64_t rows)
      : ForwardingOps(base), limit_(rows) {
    for (const auto& [name, tensor] : model.tensors) names_.emplace(&tensor, name);
  }

  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    auto packed = base_.pack_linear(linear);
    // What is multiplied at load alone is packed from a temporary.
    if (const auto found = names_.find(&linear.weight); found != names_.end())
      samples_[packed.get()].name = found->second;
    return packed;
  }

  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override {
    if (const auto found = samples_.find(&weight); found != samples_.end()) {
      const auto columns = static_cast<std::size_t>(x.cols);
      const std::size_t bytes = static_cast<std::size_t>(x.rows) * columns * sizeof(float);
      if (rows_.bytes() < bytes) rows_ = base_.allocate(bytes);
      base_.normalize(norm, x, matrix(rows_.f32(), x.rows, x.cols));
      for (std::int64_t m = 0; m < x.rows; ++m)
        add(found->second, {rows_.f32() + m * x.cols, columns});
    }
    base_.norm_linear(norm, x, weight, bias, epilogue, out);
  }

  std::map<std::string, Tensor> take() const {
    std::map<std::string, Tensor> inputs;
    for (const auto& [weight, sample] : samples_) {
      if (sample.seen == 0) continue;
      const auto rows = std::min(sample.seen, limit_);
      Tensor kept({rows, static_cast<std::int64_t>(sample.kept.size()) / rows});
      std::copy(sample.kept.begin(), sample.kept.end(), kept.f32().begin());
      inputs.emplace(sample.name, std::move(kept));
    }
    return inputs;
  }

 private:
  struct Sample {
    std::string name;
    std::int64_t seen = 0;
    std::uint64_t state = 0;
    std::vector<float> kept;
  };

  // Vitter's algorithm R, with splitmix64: the same rows on every machine.
  void add(Sample& sample, std::span<const float> row) {
    ++sample.seen;
    if (sample.seen <= limit_) {
      sample.kept.insert(sample.kept.end(), row.begin(), row.end());
      return;
    }
    std::uint64_t z = (sample.state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z = (z ^ (z >> 31)) % static_cast<std::uint64_t>(sample.seen);
    if (z < static_cast<std::uint64_t>(limit_))
      std::copy(row.begin(), row.end(),
                sample.kept.begin() + static_cast<std::ptrdiff_t>(z * row.size()));
  }

  std::int64_t limit_;
  std::unordered_map<const Tensor*, std::string> names_;
  std::unordered_map<const LinearWeight*, Sample> samples_;
  Buffer rows_;
};

std::vector<float> run_stream(const ModelFile& file, Ops& ops, const Calibration& calibration,
                              std::int64_t items) {
  const ModelConfig& c = file.config;
  const int pages = (c.window_steps + kPageSteps - 1) / kPageSteps;
  const DType cached = ops.cache_dtype(file.precision());
  const std::int64_t page_bytes = std::int64_t{2} * c.layers * kPageSteps * c.latents * c.dim *
                                  static_cast<std::int64_t>(size_of(cached));
  const Buffer pool = ops.allocate(static_cast<std::size_t>(page_bytes * pages));
  ops.clear(pool);
  StreamModel model(file, ops, 1, {pool.as<std::byte>(), page_bytes, kPageSteps, cached});
  StreamBatch& batch = model.batch();
  std::vector<std::int32_t> page_table(static_cast<std::size_t>(pages));
  std::iota(page_table.begin(), page_table.end(), 0);
  std::vector<float> behavior;
  behavior.reserve(static_cast<std::size_t>(items * c.outputs()));
  const auto at = [&](std::int64_t step) {
    return calibration.indptr[static_cast<std::size_t>(step)];
  };
  for (std::int64_t s = 0; s < items; ++s) {
    const std::int64_t end_bin = (s + 1) * c.bins_per_step();
    batch.clear();
    for (std::int64_t r = std::max<std::int64_t>(0, s - c.receptive_steps + 1); r <= s; ++r)
      batch.add_events(std::span(calibration.events)
                           .subspan(static_cast<std::size_t>(at(r)),
                                    static_cast<std::size_t>(at(r + 1) - at(r))),
                       end_bin);
    batch.add_step(s, page_table, static_cast<std::int32_t>(s % c.window_steps),
                   static_cast<std::int32_t>(std::min<std::int64_t>(s + 1, c.window_steps)));
    const auto y = model.forward();
    behavior.insert(behavior.end(), y.begin(), y.end());
  }
  return behavior;
}

std::vector<float> run_windows(const ModelFile& file, Ops& ops, const Calibration& calibration,
                               std::int64_t items) {
  const ModelConfig& c = file.config;
  const auto at = [&](std::int64_t i) { return calibration.indptr[static_cast<std::size_t>(i)]; };
  std::int64_t most = 1;
  for (std::int64_t i = 0; i < items; i += kWindowsAtOnce)
    most = std::max(most, at(std::min(i + kWindowsAtOnce, items)) - at(i));
  WindowModel model(file, ops, kWindowsAtOnce, most);
  std::vector<float> behavior;
  for (std::int64_t i = 0; i < items; i += kWindowsAtOnce) {
    const std::int64_t end = std::min(i + kWindowsAtOnce, items);
    WindowBatch& batch = model.begin_batch(static_cast<int>(end - i), at(end) - at(i));
    for (std::int64_t w = i; w < end; ++w)
      batch.add_window(std::span(calibration.events)
                           .subspan(static_cast<std::size_t>(at(w)),
                                    static_cast<std::size_t>(at(w + 1) - at(w))),
                       c.nominal_bins());
    const auto y = model.forward();
    behavior.insert(behavior.end(), y.begin(), y.end());
  }
  return behavior;
}

std::vector<float> run(const ModelFile& model, Ops& ops, const Calibration& calibration,
                       std::int64_t items) {
  return model.config.kind == ModelKind::stream ? run_stream(model, ops, calibration, items)
                                                : run_windows(model, ops, calibration, items);
}

Error bad_calibration(ErrorCode code, const std::string& what) {
  return {code, "calibration: " + what, "calibration"};
}

}  // namespace

std::int64_t Calibration::items_with(std::int64_t wanted) const {
  std::int64_t seen = 0;
  for (std::int64_t i = 0; i < items(); ++i) {
    seen += counted[static_cast<std::size_t>(i)];
    if (seen == wanted) return i + 1;
  }
  return items();
}

Result<void> check_calibration(const ModelConfig& config, const Calibration& calibration) {
  if (calibration.items() < 1 ||
      std::count(calibration.counted.begin(), calibration.counted.end(), 1) < 2)
    return bad_calibration(ErrorCode::invalid_argument,
                           "fewer than 2 observed steps that are not held out");
  const bool stream = config.kind == ModelKind::stream;
  for (std::int64_t i = 0; i < calibration.items(); ++i) {
    const auto item = static_cast<std::size_t>(i);
    const std::int64_t begin = calibration.indptr[item];
    const std::int64_t end = calibration.indptr[item + 1];
    if (stream && end - begin > config.max_events_per_step)
      return bad_calibration(ErrorCode::too_large,
                             fmt::format("step {} has {} events, the model takes {}", i,
                                         end - begin, config.max_events_per_step));
    const std::int64_t first_bin = stream ? i * config.bins_per_step() : 0;
    const std::int64_t bins = stream ? config.bins_per_step() : config.max_bins;
    for (std::int64_t e = begin; e < end; ++e) {
      const Event& event = calibration.events[static_cast<std::size_t>(e)];
      if (event.unit < 0 || event.unit >= config.unit_count() || event.value < 1 ||
          event.bin < first_bin || event.bin >= first_bin + bins)
        return bad_calibration(
            ErrorCode::invalid_argument,
            fmt::format("event {} of item {} (unit {}, bin {}, value {}) is out of range",
                        e - begin, i, event.unit, event.bin, event.value));
    }
  }
  return {};
}

std::vector<float> run_model(const ModelFile& model, const MakeOps& make_ops,
                             const Calibration& calibration, std::int64_t items) {
  const auto ops = make_ops();
  return run(model, *ops, calibration, items);
}

std::map<std::string, Tensor> sample_inputs(const ModelFile& model, const MakeOps& make_ops,
                                            const Calibration& calibration, std::int64_t items,
                                            std::int64_t rows) {
  const auto ops = make_ops();
  SamplingOps sampling(*ops, model, rows);
  (void)run(model, sampling, calibration, items);
  return sampling.take();
}

double output_error(std::span<const float> other, std::span<const float> reference,
                    std::span<const std::uint8_t> counted, std::size_t outputs) {
  const std::size_t items = std::min(counted.size(), reference.size() / outputs);
  double sum = 0;
  int varying = 0;
  for (std::size_t o = 0; o < outputs; ++o) {
    double n = 0, mean = 0;
    for (std::size_t i = 0; i < items; ++i)
      if (counted[i] != 0) mean += (reference[i * outputs + o] - mean) / ++n;
    double lost = 0, spread = 0;
    for (std::size_t i = 0; i < items; ++i) {
      if (counted[i] == 0) continue;
      const double r = reference[i * outputs + o];
      lost += (other[i * outputs + o] - r) * (other[i * outputs + o] - r);
      spread += (r - mean) * (r - mean);
    }
    if (!(spread > 0)) continue;
    sum += lost / spread;
    ++varying;
  }
  return varying == 0 ? 0 : std::sqrt(sum / varying);
}

}  // namespace cortex
