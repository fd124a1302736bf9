#include "kernels/cuda/linears.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/latent_attention_sm90.h"

namespace cortex::cuda {
namespace {

GemmType type_of(const DeviceLinear& w) {
  return w.form() == LinearForm::bf16 ? GemmType::kBf16
         : w.form() == LinearForm::i8 ? GemmType::kInt8
                                      : GemmType::kE4m3;
}

// Columns whose squares an epilogue adds up.
constexpr int kGroup = 2;
constexpr int kGroupHopper = 64;
// One stream's rows are better off outside the tiles of sm_90a.
constexpr std::int64_t kMostSkinnyRows = 32;

}  // namespace

Linears::Linears(bool hopper, bool fp8) : hopper_(hopper), fp8_(fp8) {}

DType Linears::residual_dtype(DType weights, std::int64_t dim) const {
  return hopper_ && (fp8_ || weights != DType::f32) && dim % kLinearBytes == 0 ? DType::bf16
                                                                               : DType::f32;
}

void Linears::reserve(const OpsCapacity& c) {
  const std::int64_t inputs = (c.inputs + kLinearBytes - 1) / kLinearBytes * kLinearBytes;
  grow(rows_, c.rows * inputs * 4);
  grow(row_scale_, c.rows * 4);
  grow(narrow_, c.rows * inputs * 2);
  for (Buffer& squares : squares_) grow(squares, c.rows * inputs / kGroup * 4);
  if (!fp8_) return;
  grow(narrow8_, c.rows * inputs);
  grow(narrow8_scale_, c.rows * 4);
  grow(gelu8_, c.rows * inputs);
}

void Linears::grow(Buffer& buffer, std::int64_t bytes) {
  if (buffer.bytes() >= static_cast<std::size_t>(bytes)) return;
  if (recording_) throw std::logic_error("a forward larger than was reserved");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  buffer = device_memory(static_cast<std::size_t>(bytes));
}

void Linears::forget(const void* written) {
  if (written == residual_.of) residual_ = {};
  if (written == gelu_of_) gelu_of_ = nullptr;
}

void Linears::forget_all() {
  residual_ = {};
  gelu_of_ = nullptr;
}

/// Whether the product goes to the kernels of sm_90a, whose tiles it must fill. A stream's row has
/// the same bits either way; so that the squares in a residual stream are always of one kind, all
/// of a model's linears fit or none.
bool Linears::by_hopper(const DeviceLinear& w, Epilogue epilogue, const MatrixView& out) const {
  if (!hopper_ || w.form() == LinearForm::f32) return false;
  if (!w.any_order() && out.rows <= kMostSkinnyRows) return false;
  if (!w.any_order() && (w.out() % 128 != 0 || w.in() % 128 != 0)) return false;
  if (w.out() % 64 != 0 || w.in() % 64 != 0 || w.stride() != w.in()) return false;
  if (epilogue != Epilogue::add || out.dtype == DType::bf16)
    return out.dtype == DType::bf16 && out.stride % 8 == 0;
  return out.dtype == DType::f32 && out.stride % 4 == 0 &&
         static_cast<std::size_t>(out.rows * out.cols) * 2 <= narrow_.bytes();
}

void Linears::run(const NormArgs& norm, const MatrixView& x, const DeviceLinear& w,
                  const float* bias, Epilogue epilogue, const MatrixView& out,
                  cudaStream_t stream) {
  const bool hopper = !bias && by_hopper(w, epilogue, out);
  if (!hopper &&
      (w.form() == LinearForm::e4m3 || (epilogue == Epilogue::add && out.dtype != DType::f32)))
    throw std::logic_error("a linear that only the kernels of sm_90a take, of a shape they do not");
  const Rows rows = prepare(norm, x, w, hopper ? kGroupHopper : kGroup, stream);
  if (hopper) return multiply_on_hopper(rows, norm, w, epilogue, out, stream);
  multiply(rows, norm, w, bias, epilogue, out, stream);
}

bool Linears::run_onto(const MatrixView& onto, const MatrixView& x, const DeviceLinear& w,
                       const MatrixView& out, cudaStream_t stream) {
  if (out.dtype != DType::bf16 || onto.rows % kOntoRows != 0 || !by_hopper(w, Epilogue::add, out))
    return false;
  forget(out.data);
  const Rows rows = prepare({}, x, w, kGroupHopper, stream);
  multiply_on_hopper(rows, {}, w, Epilogue::add, out, stream, &onto);
  return true;
}

bool Linears::run_and_attend(const NormArgs& norm, const MatrixView& x, const DeviceLinear& w,
                             const RaggedAttentionArgs& a, cudaStream_t stream) {
  const MatrixView& out = a.out;
  if (a.head_dim != kLatentHeadDim || out.cols != std::int64_t{a.heads} * kLatentHeadDim ||
      out.rows != a.items * a.queries || w.in() != out.cols || w.out() != 3 * out.cols ||
      !w.any_order() || a.key_bins != nullptr || !by_hopper(w, Epilogue::store, out) ||
      !latent_attention_sm90_takes(type_of(w), a.items, static_cast<int>(a.queries), a.heads))
    return false;
  const Rows rows = prepare(norm, x, w, kGroupHopper, stream);
  GemmSm90Args g = product(rows, norm, w, out.rows);
  g.out = reinterpret_cast<__nv_bfloat16*>(out.data);
  g.ldo = out.stride;
  check(latent_attention_sm90(g, static_cast<int>(a.queries), stream), "latent_attention_sm90");
  return true;
}

Linears::Rows Linears::normalized(const NormArgs& norm, const MatrixView& x, std::int64_t cols,
                                  DType dtype, cudaStream_t stream) {
  grow(rows_, x.rows * cols * static_cast<std::int64_t>(size_of(dtype)));
  const MatrixView rows = matrix(rows_.f32(), x.rows, cols, dtype);
  normalize(norm, x, rows, stream);
  return {.data = rows.data, .dtype = dtype, .stride = rows.stride};
}

Linears::Rows Linears::prepare(const NormArgs& norm, const MatrixView& x, const DeviceLinear& w,
                               int group, cudaStream_t stream) {
  const bool none = norm.kind == NormArgs::Kind::none;
  const Rows as_it_is = {.data = x.data, .dtype = x.dtype, .stride = x.stride};
  if (w.form() == LinearForm::f32)
    return none ? as_it_is : normalized(norm, x, x.cols, DType::f32, stream);
  if (w.form() == LinearForm::e4m3) return prepare_e4m3(norm, x, stream);
  if (w.form() == LinearForm::i8) {
    grow(rows_, x.rows * w.stride());
    grow(row_scale_, x.rows * 4);
    quantize_rows(norm, x, rows_.as<std::int8_t>(), w.stride(), row_scale_.f32(), stream);
    return {.data = rows_.as<void>(),
            .dtype = DType::i8,
            .stride = w.stride(),
            .scale = row_scale_.f32()};
  }
  const bool whole = x.cols % 8 == 0 && x.stride % 8 == 0;
  if (none && x.dtype == DType::bf16 && whole) return as_it_is;
  NormArgs left = norm;
  if (norm.kind == NormArgs::Kind::rms && w.folds_gain()) {
    left.gain = nullptr;
    if (whole && knows(x, group))
      return {
          .data = residual_.narrow, .dtype = DType::bf16, .stride = x.cols, .squares = squares()};
    if (x.dtype == DType::bf16 && whole && group == kGroupHopper && w.any_order()) {
      forget_all();
      square_rows(x, squares(), stream);
      return {.data = x.data, .dtype = DType::bf16, .stride = x.stride, .squares = squares()};
    }
  }
  return normalized(left, x, w.stride(), DType::bf16, stream);
}

Linears::Rows Linears::prepare_e4m3(const NormArgs& norm, const MatrixView& x,
                                    cudaStream_t stream) {
  if (norm.kind == NormArgs::Kind::none && x.data == gelu_of_)
    return {.data = gelu8_.as<void>(), .stride = x.cols, .factor = 1 / gelu_scale_};
  const bool rms = norm.kind == NormArgs::Kind::rms;
  Rows rows = {.data = narrow8_.as<void>(), .stride = x.cols, .scale = narrow8_scale_.f32()};
  const bool known = rms && knows(x, kGroupHopper);
  if (!known || !residual_.in_8_bits) {
    MatrixView wide = x;
    if (!known) {
      forget_all();
      if (!rms || x.dtype != DType::bf16) {
        const Rows made = normalized(rms ? NormArgs{} : norm, x, x.cols, DType::bf16, stream);
        wide = matrix(rows_.f32(), x.rows, made.stride, DType::bf16);
      }
      square_rows(wide, squares(), stream);
    }
    narrow8_rows(wide, squares(), narrow8_.as<std::uint8_t>(), narrow8_scale_.f32(), stream);
  }
  if (rms) rows.squares = squares();
  return rows;
}

void Linears::multiply(const Rows& rows, const NormArgs& norm, const DeviceLinear& w,
                       const float* bias, Epilogue epilogue, const MatrixView& out,
                       cudaStream_t stream) {
  // What a norm will want to know of the sums is left behind as they are made.
  const bool leave = epilogue == Epilogue::add && out.stride == out.cols &&
                     w.form() == LinearForm::bf16 &&
                     static_cast<std::size_t>(out.rows * out.cols) * 2 <= narrow_.bytes();
  LinearArgs a;
  a.precision = w.form() == LinearForm::f32    ? DType::f32
                : w.form() == LinearForm::bf16 ? DType::bf16
                                               : DType::i8;
  a.x_dtype = rows.dtype;
  a.x = rows.data;
  a.x_stride = rows.stride;
  a.x_scale = rows.scale;
  a.squares = rows.squares;
  a.eps = norm.eps;
  a.w = w.data();
  a.w_stride = w.stride();
  a.w_scale = w.scale();
  a.m = static_cast<int>(out.rows);
  a.n = static_cast<int>(w.out());
  a.k = static_cast<int>(w.in());
  a.bias = bias;
  a.epilogue = epilogue;
  a.out = out.data;
  a.out_stride = out.stride;
  a.out_dtype = out.dtype;
  if (leave) {
    a.narrow = narrow_.as<__nv_bfloat16>();
    a.squares_out = next_squares();
  }
  linear(a, stream);
  forget(out.data);
  if (!leave) return;
  now_ = 1 - now_;
  residual_ = {out.data, out.rows, kGroup, narrow_.as<void>()};
}

GemmSm90Args Linears::product(const Rows& rows, const NormArgs& norm, const DeviceLinear& w,
                              std::int64_t m) const {
  GemmSm90Args g;
  g.type = type_of(w);
  g.m = static_cast<int>(m);
  g.n = static_cast<int>(w.out());
  g.k = static_cast<int>(w.in());
  g.a = rows.data;
  g.lda = rows.stride;
  g.a_scale = rows.scale;
  g.a_factor = rows.factor;
  g.w = w.data();
  g.w_scale = w.scale();
  g.square = rows.squares;
  g.square_parts = g.k / kGroupHopper;
  g.eps = norm.eps;
  g.pdl = true;
  g.chains = !w.any_order();
  return g;
}

void Linears::multiply_on_hopper(const Rows& rows, const NormArgs& norm, const DeviceLinear& w,
                                 Epilogue epilogue, const MatrixView& out, cudaStream_t stream,
                                 const MatrixView* onto) {
  GemmSm90Args g = product(rows, norm, w, out.rows);
  if (epilogue != Epilogue::add) {
    g.out = reinterpret_cast<__nv_bfloat16*>(out.data);
    g.ldo = out.stride;
    const bool gelu = epilogue == Epilogue::gelu, in_8_bits = gelu && g.type == GemmType::kE4m3;
    if (in_8_bits) {
      g.narrow8 = gelu8_.as<std::uint8_t>();
      g.ld_narrow8 = g.n;
      g.narrow8_scale = w.gelu_scale();
    }
    check(gemm_sm90(g,
                    in_8_bits ? GemmEpilogue::kGeluE4m3
                    : gelu    ? GemmEpilogue::kGelu
                              : GemmEpilogue::kStore,
                    stream),
          "gemm_sm90");
    forget(out.data);
    if (!in_8_bits) return;
    gelu_of_ = out.data;
    gelu_scale_ = w.gelu_scale();
    return;
  }
  const bool narrow_stream = out.dtype == DType::bf16;
  Residual left = {out.data, out.rows, kGroupHopper,
                   narrow_stream ? static_cast<const void*>(out.data) : narrow_.as<void>()};
  g.square_out = next_squares();
  g.ld_narrow = narrow_stream ? out.stride : g.n;
  g.narrow =
      narrow_stream ? reinterpret_cast<__nv_bfloat16*>(out.data) : narrow_.as<__nv_bfloat16>();
  if (onto) {
    g.onto = reinterpret_cast<const __nv_bfloat16*>(onto->data);
    g.ld_onto = onto->stride;
    g.onto_rows = static_cast<int>(onto->rows);
  }
  if (!narrow_stream) {
    g.z = out.data;
    g.ldz = out.stride;
  } else if (fp8_ && w.any_order() && knows(out, kGroupHopper) && w.out() <= 1024) {
    g.square = squares();
    g.square_parts = g.n / kGroupHopper;
    g.narrow8 = narrow8_.as<std::uint8_t>();
    g.ld_narrow8 = g.n;
    g.narrow8_row_scale = narrow8_scale_.f32();
    left.in_8_bits = true;
  }
  check(gemm_sm90(g, narrow_stream ? GemmEpilogue::kAddNarrow : GemmEpilogue::kAdd, stream),
        "gemm_sm90");
  forget(out.data);
  now_ = 1 - now_;
  // Of int8 weights the next linear quantises the sums themselves.
  if (out.stride == out.cols && (narrow_stream || w.form() == LinearForm::bf16)) residual_ = left;
}

}  // namespace cortex::cuda
