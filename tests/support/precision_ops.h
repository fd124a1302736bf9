#pragma once

#include <vector>

#include "kernels/forwarding_ops.h"

namespace cortex::testing {

/// Linears in the precision that their weight's dtype stands for (see LinearTensor), plainly
/// written; everything else as `base` does it. The oracle of an int8 linear: the
/// reference backend widens every weight.
///
/// `base` works in host memory. Weights of its own packing and of this class do not mix.
class PrecisionOps final : public ForwardingOps {
 public:
  explicit PrecisionOps(Ops& base) : ForwardingOps(base) {}

  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override;
  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override;

 private:
  /// norm(x) in scratch that the next call overwrites.
  MatrixView normalized(const NormArgs& norm, MatrixView x);

  std::vector<float> rows_;
  std::vector<std::int16_t> quantized_;
};

}  // namespace cortex::testing
