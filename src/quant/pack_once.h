#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "kernels/forwarding_ops.h"

namespace cortex {

/// Packs a weight that it knows already but once: for many runs of a model of which little changes
/// from one to the next. Weights are told apart by what they hold, not by where they lie.
class PackOnce final : public ForwardingOps {
 public:
  using ForwardingOps::ForwardingOps;

  /// Begins another run: what neither the last nor the one before it packed is forgotten.
  void next_run() {
    ++run_;
    std::erase_if(kept_, [&](const auto& entry) { return entry.second.run + 2 < run_; });
  }

  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    Kept& kept = kept_[hash_of(linear)];
    kept.run = run_;
    if (!kept.weight) kept.weight = base_.pack_linear(linear);
    return std::make_unique<Shared>(kept.weight);
  }
  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override {
    base_.norm_linear(norm, x, *static_cast<const Shared&>(weight).weight, bias, epilogue, out);
  }

 private:
  struct Shared final : LinearWeight {
    explicit Shared(std::shared_ptr<LinearWeight> packed)
        : LinearWeight(packed->out(), packed->in()), weight(std::move(packed)) {}
    std::size_t bytes() const override { return weight->bytes(); }
    std::shared_ptr<LinearWeight> weight;
  };
  struct Kept {
    std::shared_ptr<LinearWeight> weight;
    std::int64_t run = 0;
  };

  static std::size_t hash_of(const LinearTensor& linear) {
    std::size_t hash = 0;
    const auto mix = [&](std::size_t more) {
      hash = (hash ^ more) * 0x9e3779b97f4a7c15ULL;
      hash ^= hash >> 32;
    };
    mix(static_cast<std::size_t>(linear.weight.dtype()));
    for (const Tensor* part : {&linear.weight, linear.scale, linear.gain}) {
      if (part == nullptr) continue;
      for (const std::int64_t size : part->shape()) mix(static_cast<std::size_t>(size));
      mix(std::hash<std::string_view>{}(
          {reinterpret_cast<const char*>(part->data()), part->bytes()}));
    }
    return hash;
  }

  std::unordered_map<std::size_t, Kept> kept_;
  std::int64_t run_ = 0;
};

}  // namespace cortex
