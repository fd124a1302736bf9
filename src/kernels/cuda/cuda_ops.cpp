#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <new>
#include <tuple>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm_sm90.h"
#include "kernels/cuda/launch.h"

namespace cortex {
namespace cuda {
namespace {

constexpr int kLeastCapability = 80;
// A gap of at most this much is copied rather than begin another copy.
constexpr std::size_t kCopyGap = 32 * 1024;
constexpr std::int64_t kLeastEvents = 64;
// Columns whose squares a linear's epilogue adds up.
constexpr int kGroup = 2;
constexpr int kGroupHopper = 64;
constexpr std::int64_t kMostSkinnyRows = 32;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

Buffer device_memory(std::size_t bytes) {
  void* p = nullptr;
  check(cudaMalloc(&p, std::max<std::size_t>(bytes, 16)), "cudaMalloc");
  return {p, bytes, [](void* q) { (void)cudaFree(q); }};
}

/// A linear's weight in device memory: rows padded with zeros to whole chunks, and to a multiple of
/// 8 rows.
class DeviceLinear final : public LinearWeight {
 public:
  explicit DeviceLinear(const LinearTensor& linear)
      : LinearWeight(linear.weight.size(0), linear.weight.size(1)),
        precision_(linear.weight.dtype()),
        any_order_(linear.any_order) {
    const auto element = static_cast<std::int64_t>(size_of(precision_));
    stride_ = precision_ == DType::f32 ? in() : round_up(in(), kLinearBytes / element);
    const auto row_bytes = static_cast<std::size_t>(stride_ * element);
    std::vector<std::byte> host(static_cast<std::size_t>(round_up(out(), 8)) * row_bytes);
    Tensor folded;
    const Tensor* from = &linear.weight;
    // int8 cannot take the gain: it is a factor of inputs, the scale one of outputs.
    if (linear.gain && precision_ == DType::bf16) {
      folded = to_float(linear.weight);
      for (std::int64_t i = 0; i < folded.count(); ++i)
        folded.f32()[static_cast<std::size_t>(i)] *=
            linear.gain->f32()[static_cast<std::size_t>(i % in())];
      folded = to_bfloat16(folded);
      from = &folded;
      folds_gain_ = true;
    }
    for (std::int64_t o = 0; o < out(); ++o)
      std::memcpy(host.data() + static_cast<std::size_t>(o) * row_bytes,
                  from->data() + o * in() * element, static_cast<std::size_t>(in() * element));
    data_ = device_memory(host.size());
    check(cudaMemcpy(data_.as<void>(), host.data(), host.size(), cudaMemcpyHostToDevice),
          "cudaMemcpy");
    if (!linear.scale) return;
    scale_ = device_memory(linear.scale->bytes());
    check(cudaMemcpy(scale_.as<void>(), linear.scale->data(), linear.scale->bytes(),
                     cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }

  DType precision() const { return precision_; }
  const void* data() const { return data_.as<void>(); }
  std::int64_t stride() const { return stride_; }
  const float* scale() const { return scale_.f32(); }
  bool folds_gain() const { return folds_gain_; }
  bool any_order() const { return any_order_; }

 private:
  DType precision_;
  bool any_order_;
  std::int64_t stride_ = 0;
  Buffer data_;
  Buffer scale_;
  bool folds_gain_ = false;
};

class CudaOps final : public Ops {
 public:
  explicit CudaOps(int device) : device_(device) {
    check(cudaSetDevice(device), "cudaSetDevice");
    cudaDeviceProp properties = {};
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    name_ = properties.name;
    hopper_ = gemm_sm90_supported(device);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~CudaOps() override {
    for (auto& [key, graph] : graphs_) (void)cudaGraphExecDestroy(graph);
    (void)cudaStreamDestroy(stream_);
  }
  CudaOps(const CudaOps&) = delete;
  CudaOps& operator=(const CudaOps&) = delete;

  const char* name() const override { return name_.c_str(); }

  Buffer allocate(std::size_t bytes) override {
    use_device();
    return device_memory(bytes);
  }
  void clear(const Buffer& buffer) override {
    use_device();
    if (buffer.bytes() == 0) return;
    check(cudaMemsetAsync(buffer.as<void>(), 0, buffer.bytes(), stream_), "cudaMemsetAsync");
  }
  void upload(const Buffer& to, const void* host, std::size_t bytes) override {
    use_device();
    forget(to.as<void>());
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to.as<void>(), host, bytes, cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    synchronize();
  }
  void download(void* host, const float* from, std::size_t bytes) override {
    use_device();
    if (bytes == 0) return;
    check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    synchronize();
  }

  SharedBuffer allocate_shared(SharedUse use, std::size_t bytes) override {
    use_device();
    const std::size_t least = std::max<std::size_t>(bytes, 16);
    void* host = nullptr;
    check(cudaHostAlloc(&host, least, cudaHostAllocMapped), "cudaHostAlloc");
    SharedBuffer shared;
    shared.host = Buffer(host, bytes, [](void* p) { (void)cudaFreeHost(p); });
    std::memset(host, 0, least);
    if (use == SharedUse::input) {
      shared.device = device_memory(bytes);
    } else {
      // Kernels write the few results straight into the host's memory.
      void* mapped = nullptr;
      check(cudaHostGetDevicePointer(&mapped, host, 0), "cudaHostGetDevicePointer");
      shared.device = Buffer(mapped, bytes, [](void*) {});
    }
    return shared;
  }
  void send(const SharedBuffer& buffer, std::size_t offset, std::size_t bytes) override {
    if (bytes == 0) return;
    if (sending_ == &buffer && offset >= send_end_ && offset - send_end_ <= kCopyGap) {
      send_end_ = offset + bytes;
      return;
    }
    flush_sends();
    sending_ = &buffer;
    send_begin_ = offset;
    send_end_ = offset + bytes;
  }
  void receive(const SharedBuffer&, std::size_t) override { synchronize(); }

  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    use_device();
    return std::make_unique<DeviceLinear>(linear);
  }
  DType cache_dtype(DType weights) const override { return activation_dtype(weights); }
  DType activation_dtype(DType weights) const override {
    return weights == DType::f32 ? DType::f32 : DType::bf16;
  }

  void reserve(const OpsCapacity& c) override {
    use_device();
    const std::int64_t inputs = round_up(c.inputs, kLinearBytes);
    grow(rows_, c.rows * inputs * 4);
    grow(row_scale_, c.rows * 4);
    grow(narrow_, c.rows * inputs * 2);
    grow(squares_, c.rows * inputs / 2 * 4);
  }

  void begin_forward() override { use_device(); }
  void end_forward() override {
    if (!recording_) return;
    // The plan threw: what was recorded so far is of no use.
    cudaGraph_t graph = nullptr;
    (void)cudaStreamEndCapture(stream_, &graph);
    if (graph) (void)cudaGraphDestroy(graph);
    recording_ = false;
  }
  bool keeps_calls() const override { return true; }
  std::int64_t rounded_items(std::int64_t count) const override {
    // Four sizes an octave: padding costs at most a quarter.
    std::int64_t step = 1;
    while (step * 8 < count) step *= 2;
    return round_up(count, step);
  }
  std::int64_t rounded_events(std::int64_t count) const override {
    std::int64_t n = kLeastEvents;
    while (n < count) n *= 2;
    return n;
  }
  bool begin_calls(const ForwardKey& key) override {
    flush_sends();
    const auto found = graphs_.find(order(key));
    if (found != graphs_.end()) {
      check(cudaGraphLaunch(found->second, stream_), "cudaGraphLaunch");
      return false;
    }
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    recording_ = true;
    key_ = key;
    residual_ = nullptr;
    return true;
  }
  void end_calls() override {
    recording_ = false;
    residual_ = nullptr;
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    cudaGraphExec_t exec = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    graphs_.emplace(order(key_), exec);
    check(cudaGraphLaunch(exec, stream_), "cudaGraphLaunch");
  }

  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override {
    const auto& w = static_cast<const DeviceLinear&>(weight);
    LinearArgs a;
    a.precision = w.precision();
    a.w = w.data();
    a.w_stride = w.stride();
    a.w_scale = w.scale();
    a.m = static_cast<int>(x.rows);
    a.n = static_cast<int>(w.out());
    a.k = static_cast<int>(w.in());
    a.bias = bias;
    a.epilogue = epilogue;
    a.out = out.data;
    a.out_stride = out.stride;
    a.out_dtype = out.dtype;
    const bool hopper = !bias && by_hopper(w, epilogue, out);
    prepare(norm, x, w, hopper ? kGroupHopper : kGroup, a);
    // What a norm will want to know of the sums is left behind as they are made.
    const bool residual = epilogue == Epilogue::add && w.precision() == DType::bf16 &&
                          out.dtype == DType::f32 && out.stride == out.cols &&
                          static_cast<std::size_t>(out.rows * out.cols) * 2 <= narrow_.bytes();
    if (residual) {
      a.narrow = narrow_.as<__nv_bfloat16>();
      a.squares_out = squares_.f32();
    }
    if (hopper)
      multiply_on_hopper(a, w.any_order());
    else
      linear(a, stream_);
    forget(out.data);
    if (residual) {
      residual_ = out.data;
      residual_rows_ = out.rows;
      residual_group_ = hopper ? kGroupHopper : kGroup;
    }
  }

  void normalize(const NormArgs& norm, MatrixView x, MatrixView out) override {
    cuda::normalize(norm, x, out, stream_);
    forget(out.data);
  }
  void repeat_rows(MatrixView x, MatrixView out) override {
    cuda::repeat_rows(x, out, stream_);
    forget(out.data);
  }
  void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                      MatrixView out) override {
    cuda::project_tokens(tokens, projection, out, stream_);
    forget(out.data);
  }
  void ragged_attention(const RaggedAttentionArgs& args) override {
    cuda::ragged_attention(args, hopper_, stream_);
    forget(args.out.data);
  }
  void softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows, MatrixView out) override {
    cuda::softmax_pool(scores, x, rows, out, stream_);
    forget(out.data);
  }
  void latent_head(const LatentHeadArgs& args) override {
    const auto& score = static_cast<const DeviceLinear&>(*args.score);
    const auto& value = static_cast<const DeviceLinear&>(*args.value);
    const bool wide = score.precision() == DType::f32 && value.precision() == DType::f32;
    if (!wide || !latent_head_fuses(args)) return Ops::latent_head(args);
    LatentHeadPlan p;
    p.x = args.x.data;
    p.x_stride = args.x.stride;
    p.x_dtype = args.x.dtype;
    p.rows = static_cast<int>(args.x.rows);
    p.dim = static_cast<int>(args.x.cols);
    p.latents = static_cast<int>(args.latents);
    p.heads = args.heads;
    p.scores = static_cast<int>(score.out());
    p.first_gain = args.first.gain;
    p.second_gain = args.second.gain;
    p.first_eps = args.first.eps;
    p.second_eps = args.second.eps;
    p.score = static_cast<const float*>(score.data());
    p.value = static_cast<const float*>(value.data());
    grow(rows_, args.x.rows * (p.scores + p.heads) * 4);
    p.products = rows_.f32();
    p.out = args.out.data;
    p.out_stride = args.out.stride;
    cuda::latent_head(p, stream_);
    forget(args.out.data);
  }
  void mean_rows(MatrixView x, std::int64_t rows, MatrixView out) override {
    cuda::mean_rows(x, rows, out, stream_);
    forget(out.data);
  }
  void additive_bag(const StreamTables& tables, const StreamEvents& events,
                    MatrixView out) override {
    cuda::additive_bag(tables, events, out, stream_);
    forget(out.data);
  }
  void stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                              MatrixView out) override {
    cuda::stream_cross_attention(tables, events, out, stream_);
    forget(out.data);
  }
  void phases(const PhaseArgs& args) override { cuda::phases(args, stream_); }
  void paged_attention(const PagedAttentionArgs& args) override {
    cuda::paged_attention(args, stream_);
    forget(args.out.data);
  }

 private:
  static std::tuple<const void*, std::int64_t, std::int64_t> order(const ForwardKey& key) {
    return {key.plan, key.items, key.events};
  }

  /// Threads other than the one that made the backend start on device 0.
  void use_device() const { check(cudaSetDevice(device_), "cudaSetDevice"); }
  void synchronize() { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  void grow(Buffer& buffer, std::int64_t bytes) {
    if (buffer.bytes() >= static_cast<std::size_t>(bytes)) return;
    if (recording_) throw std::logic_error("a forward larger than was reserved");
    synchronize();
    buffer = device_memory(static_cast<std::size_t>(bytes));
  }

  void flush_sends() {
    if (!sending_) return;
    check(cudaMemcpyAsync(sending_->device.as<std::byte>() + send_begin_,
                          sending_->host.as<std::byte>() + send_begin_, send_end_ - send_begin_,
                          cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    sending_ = nullptr;
  }

  /// `written` is not what narrow_ and squares_ were made of any more.
  void forget(const void* written) {
    if (written == residual_) residual_ = nullptr;
  }

  /// Whether the product goes to the kernels of sm_90a, whose tiles it must fill. One stream's rows
  /// are better off elsewhere; either way they have the same bits, and so that the squares in a
  /// residual stream are always of one kind, all of a model's linears fit or none.
  bool by_hopper(const DeviceLinear& w, Epilogue epilogue, const MatrixView& out) const {
    if (!hopper_ || w.precision() == DType::f32) return false;
    if (!w.any_order() && out.rows <= kMostSkinnyRows) return false;
    if (!w.any_order() && (w.out() % 128 != 0 || w.in() % 128 != 0)) return false;
    if (w.out() % 64 != 0 || w.in() % 64 != 0 || w.stride() != w.in()) return false;
    if (epilogue != Epilogue::add) return out.dtype == DType::bf16 && out.stride % 8 == 0;
    return out.dtype == DType::f32 && out.stride % 4 == 0 &&
           static_cast<std::size_t>(out.rows * out.cols) * 2 <= narrow_.bytes();
  }
  void multiply_on_hopper(const LinearArgs& a, bool any_order) {
    GemmSm90Args g;
    g.type = a.precision == DType::bf16 ? GemmType::kBf16 : GemmType::kInt8;
    g.m = a.m;
    g.n = a.n;
    g.k = a.k;
    g.a = a.x;
    g.lda = a.x_stride;
    g.w = a.w;
    g.square = a.squares;
    g.square_parts = a.k / kGroupHopper;
    g.eps = a.eps;
    g.a_scale = a.x_scale;
    g.w_scale = a.w_scale;
    g.pdl = true;
    g.chains = !any_order;
    GemmEpilogue epilogue = GemmEpilogue::kAdd;
    if (a.epilogue == Epilogue::add) {
      g.z = static_cast<float*>(a.out);
      g.ldz = a.out_stride;
      g.narrow = a.narrow ? a.narrow : narrow_.as<__nv_bfloat16>();
      g.ld_narrow = a.n;
      g.square_out = squares_.f32();
    } else {
      epilogue = a.epilogue == Epilogue::gelu ? GemmEpilogue::kGelu : GemmEpilogue::kStore;
      g.out = static_cast<__nv_bfloat16*>(a.out);
      g.ldo = a.out_stride;
    }
    check(gemm_sm90(g, epilogue, stream_), "gemm_sm90");
  }

  /// Brings norm(x) into the form that the weight is multiplied with, a product that takes squares
  /// of `group` columns.
  void prepare(const NormArgs& norm, const MatrixView& x, const DeviceLinear& w, int group,
               LinearArgs& a) {
    const bool none = norm.kind == NormArgs::Kind::none;
    a.x_dtype = x.dtype;
    a.x = x.data;
    a.x_stride = x.stride;
    if (w.precision() == DType::f32) {
      if (none) return;
      grow(rows_, x.rows * x.cols * 4);
      const MatrixView rows = matrix(rows_.f32(), x.rows, x.cols);
      cuda::normalize(norm, x, rows, stream_);
      a.x_dtype = DType::f32;
      a.x = rows.data;
      a.x_stride = rows.stride;
      return;
    }
    if (w.precision() == DType::i8) {
      grow(rows_, x.rows * w.stride());
      grow(row_scale_, x.rows * 4);
      quantize_rows(norm, x, rows_.as<std::int8_t>(), w.stride(), row_scale_.f32(), stream_);
      a.x = rows_.as<void>();
      a.x_stride = w.stride();
      a.x_scale = row_scale_.f32();
      return;
    }
    if (none && x.dtype == DType::bf16 && x.cols % 8 == 0 && x.stride % 8 == 0) return;
    if (norm.kind == NormArgs::Kind::rms && w.folds_gain() && x.cols % 8 == 0 &&
        residual_ == x.data && residual_rows_ == x.rows && residual_group_ == group) {
      a.x = narrow_.as<void>();
      a.x_stride = x.cols;
      a.squares = squares_.f32();
      a.eps = norm.eps;
      return;
    }
    if (group == kGroupHopper && w.any_order() && norm.kind == NormArgs::Kind::rms &&
        w.folds_gain() && x.dtype == DType::bf16 && x.stride % 8 == 0) {
      grow(squares_, x.rows * x.cols / kGroupHopper * 4);
      residual_ = nullptr;
      square_rows(x, squares_.f32(), stream_);
      a.squares = squares_.f32();
      a.eps = norm.eps;
      return;
    }
    grow(rows_, x.rows * w.stride() * 2);
    MatrixView rows = matrix(rows_.f32(), x.rows, w.stride(), DType::bf16);
    NormArgs left = norm;
    if (w.folds_gain()) left.gain = nullptr;
    cuda::normalize(left, x, rows, stream_);
    a.x = rows.data;
    a.x_stride = rows.stride;
  }

  int device_;
  std::string name_;
  bool hopper_ = false;
  cudaStream_t stream_ = nullptr;
  std::map<std::tuple<const void*, std::int64_t, std::int64_t>, cudaGraphExec_t> graphs_;
  ForwardKey key_;
  bool recording_ = false;

  const SharedBuffer* sending_ = nullptr;  // bytes that no copy was begun for
  std::size_t send_begin_ = 0;
  std::size_t send_end_ = 0;

  Buffer rows_;  // prepared activations
  Buffer row_scale_;
  // Of the residual stream `residual_` as the last linear left it.
  Buffer narrow_;
  Buffer squares_;
  const void* residual_ = nullptr;
  std::int64_t residual_rows_ = 0;
  int residual_group_ = 0;
};

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw DeviceError(std::string(call) + ": " + cudaGetErrorName(status) + ", " +
                    cudaGetErrorString(status));
}

}  // namespace cuda

std::vector<CudaDevice> cuda_devices() {
  int count = 0;
  std::vector<CudaDevice> devices;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();
    return devices;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p = {};
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    const int capability = p.major * 10 + p.minor;
    if (capability >= cuda::kLeastCapability)
      devices.push_back({i, p.name, capability, p.totalGlobalMem});
  }
  return devices;
}

std::unique_ptr<Ops> make_cuda_ops(int device) { return std::make_unique<cuda::CudaOps>(device); }

}  // namespace cortex
