#pragma once

#include <cstdint>

#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/gemm_sm90.h"
#include "kernels/cuda/launch.h"

namespace cortex::cuda {

/// Linears on one stream, and what their epilogues left behind for the linear that comes next: the
/// residual stream in a narrow form with its rows' sums of squares, and GELU's result in 8 bits.
/// Used by one thread; every buffer is of its full size after reserve().
class Linears {
 public:
  /// hopper: on kernels of sm_90a too.
  Linears(bool hopper, bool fp8);

  bool hopper() const { return hopper_; }
  /// bf16 where a window's residual stream may be, else float32.
  DType residual_dtype(DType weights, std::int64_t dim) const;
  void reserve(const OpsCapacity& capacity);
  /// No buffer may grow while a forward is recorded.
  void recording(bool now) { recording_ = now; }

  void run(const NormArgs& norm, const MatrixView& x, const DeviceLinear& w, const float* bias,
           Epilogue epilogue, const MatrixView& out, cudaStream_t stream);
  /// Ops::linear_onto(). False: of a shape that only its two operations take, nothing was done.
  bool run_onto(const MatrixView& onto, const MatrixView& x, const DeviceLinear& w,
                const MatrixView& out, cudaStream_t stream);
  /// Ops::project_and_attend() in one kernel. False, as of run_onto().
  bool run_and_attend(const NormArgs& norm, const MatrixView& x, const DeviceLinear& w,
                      const RaggedAttentionArgs& attention, cudaStream_t stream);
  /// `written` is not what was left behind of it any more.
  void forget(const void* written);
  void forget_all();

 private:
  /// norm(x) in the form that a weight is multiplied with: rows times `factor` times a row's
  /// `scale` times, where there are squares, 1 / rms.
  struct Rows {
    const void* data = nullptr;
    DType dtype = DType::f32;
    std::int64_t stride = 0;
    const float* squares = nullptr;
    const float* scale = nullptr;
    float factor = 1;
  };
  struct Residual {
    const void* of = nullptr;  ///< where the sums are
    std::int64_t rows = 0;
    int group = 0;  ///< columns of a partial sum of squares
    const void* narrow = nullptr;
    bool in_8_bits = false;  ///< in narrow8_ too
  };

  bool by_hopper(const DeviceLinear& w, Epilogue epilogue, const MatrixView& out) const;
  Rows prepare(const NormArgs& norm, const MatrixView& x, const DeviceLinear& w, int group,
               cudaStream_t stream);
  Rows prepare_e4m3(const NormArgs& norm, const MatrixView& x, cudaStream_t stream);
  Rows normalized(const NormArgs& norm, const MatrixView& x, std::int64_t cols, DType dtype,
                  cudaStream_t stream);
  void multiply(const Rows& rows, const NormArgs& norm, const DeviceLinear& w, const float* bias,
                Epilogue epilogue, const MatrixView& out, cudaStream_t stream);
  /// The product [m, w.out()] without what becomes of it.
  GemmSm90Args product(const Rows& rows, const NormArgs& norm, const DeviceLinear& w,
                       std::int64_t m) const;
  void multiply_on_hopper(const Rows& rows, const NormArgs& norm, const DeviceLinear& w,
                          Epilogue epilogue, const MatrixView& out, cudaStream_t stream,
                          const MatrixView* onto = nullptr);
  bool knows(const MatrixView& x, int group) const {
    return residual_.of == x.data && residual_.rows == x.rows && residual_.group == group;
  }
  float* squares() { return squares_[now_].f32(); }
  float* next_squares() { return squares_[1 - now_].f32(); }
  void grow(Buffer& buffer, std::int64_t bytes);

  bool hopper_;
  bool fp8_;
  bool recording_ = false;
  Buffer rows_;  // prepared activations
  Buffer row_scale_;
  Buffer narrow_;  // a float32 residual stream in bf16
  // An epilogue reads the squares of the rows as they were while it writes those of the sums.
  Buffer squares_[2];
  int now_ = 0;
  Residual residual_;
  Buffer narrow8_;  // the residual stream in e4m3
  Buffer narrow8_scale_;
  Buffer gelu8_;  // GELU's result in e4m3, times gelu_scale_
  const void* gelu_of_ = nullptr;
  float gelu_scale_ = 1;
};

}  // namespace cortex::cuda
