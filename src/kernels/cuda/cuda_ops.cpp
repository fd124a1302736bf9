#include "kernels/cuda/cuda_ops.h"

#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <tuple>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm_sm90.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linears.h"
#include "kernels/cuda/stream_blocks.h"
#include "kernels/cuda/window_blocks.h"

namespace cortex {
namespace cuda {
namespace {

constexpr int kLeastCapability = 80;
// A gap of at most this much is copied rather than begin another copy.
constexpr std::size_t kCopyGap = 32 * 1024;
constexpr std::int64_t kLeastEvents = 64;
constexpr std::int64_t kMostHeadInputs = 16 * 1024;  // of one step, in shared memory

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// Who uses a device, and whether it failed since it was last reset.
struct DeviceUse {
  std::mutex mutex;
  int users = 0;
  std::atomic<bool> lost{false};
};
constexpr int kMostDevices = 64;
DeviceUse& use_of(int device) {
  static std::array<DeviceUse, kMostDevices> uses;
  return uses[static_cast<std::size_t>(device)];
}

/// From construction on the device is in use. One that failed is reset first, which takes the
/// memory of everybody who used it: they must be gone.
class DeviceLease {
 public:
  explicit DeviceLease(int device) : use_(use_of(device)) {
    const std::lock_guard lock(use_.mutex);
    if (use_.lost) {
      if (use_.users > 0)
        throw DeviceError("it failed, and " + std::to_string(use_.users) +
                          " others have yet to let go of it");
      check(cudaSetDevice(device), "cudaSetDevice");
      (void)cudaDeviceReset();
      (void)cudaGetLastError();
      use_.lost = false;
    }
    ++use_.users;
  }
  ~DeviceLease() {
    const std::lock_guard lock(use_.mutex);
    --use_.users;
  }
  DeviceLease(const DeviceLease&) = delete;
  DeviceLease& operator=(const DeviceLease&) = delete;
  bool lost() const { return use_.lost; }

 private:
  DeviceUse& use_;
};

/// Whether the context is of no use after this error.
bool is_final(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

class CudaOps final : public Ops {
 public:
  CudaOps(int device, const CudaOptions& options)
      : device_(device), lease_(device), options_(options) {
    check(cudaSetDevice(device), "cudaSetDevice");
    cudaDeviceProp properties = {};
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    name_ = properties.name;
    linears_.emplace(!options.portable && gemm_sm90_supported(device), options.fp8);
    if (options.fp8 && !linears_->hopper())
      throw DeviceError(
          std::string("8-bit floats need a Hopper GPU and a build for sm_90a; this is ") + name_);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~CudaOps() override {
    for (auto& [key, graph] : graphs_) (void)cudaGraphExecDestroy(graph);
    (void)cudaStreamDestroy(stream_);
  }
  CudaOps(const CudaOps&) = delete;
  CudaOps& operator=(const CudaOps&) = delete;

  const char* name() const override { return name_.c_str(); }
  bool lost() const override { return lease_.lost(); }
  std::int64_t device_memory_used() const override {
    std::size_t free = 0, total = 0;
    if (cudaSetDevice(device_) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess)
      return -1;
    return static_cast<std::int64_t>(total - free);
  }

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
      cudaEvent_t written = nullptr;
      check(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), "cudaEventCreate");
      shared.arrival =
          Buffer(written, 0, [](void* e) { (void)cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
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
  void expect(const SharedBuffer& buffer) override {
    check(cudaEventRecord(buffer.arrival.as<CUevent_st>(), stream_), "cudaEventRecord");
  }
  void receive(const SharedBuffer& buffer, std::size_t) override {
    check(cudaEventSynchronize(buffer.arrival.as<CUevent_st>()), "cudaEventSynchronize");
  }

  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    use_device();
    return std::make_unique<DeviceLinear>(linear, options_.fp8);
  }
  DType cache_dtype(DType weights) const override { return activation_dtype(weights); }
  DType activation_dtype(DType weights) const override {
    return weights == DType::f32 && !options_.fp8 ? DType::f32 : DType::bf16;
  }
  DType residual_dtype(DType weights, std::int64_t dim) const override {
    return linears_->residual_dtype(weights, dim);
  }

  void reserve(const OpsCapacity& c) override {
    use_device();
    linears_->reserve(c);
    if (c.latents > 0) stream_blocks_.reserve(c);
    if (linears_->hopper() && c.queries > 0) window_blocks_.reserve(c);
  }

  void begin_forward() override { use_device(); }
  void end_forward() override {
    if (!recording_) return;
    // The plan threw: what was recorded so far is of no use.
    cudaGraph_t graph = nullptr;
    (void)cudaStreamEndCapture(stream_, &graph);
    if (graph) (void)cudaGraphDestroy(graph);
    record(false);
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
  void section(const char* name) override {
    if (!options_.sections) return;
    end_section();
    nvtxRangePushA(name);
    in_section_ = true;
  }
  bool begin_calls(const ForwardKey& key) override {
    flush_sends();
    if (options_.sections) {
      linears_->forget_all();
      return true;
    }
    const auto found = graphs_.find(order(key));
    if (found != graphs_.end()) {
      check(cudaGraphLaunch(found->second, stream_), "cudaGraphLaunch");
      return false;
    }
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    record(true);
    key_ = key;
    return true;
  }
  void end_calls() override {
    if (options_.sections) return end_section();
    record(false);
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
    linears_->run(norm, x, static_cast<const DeviceLinear&>(weight), bias, epilogue, out, stream_);
  }

  void normalize(const NormArgs& norm, MatrixView x, MatrixView out) override {
    cuda::normalize(norm, x, out, stream_);
    forget(out.data);
  }
  void repeat_rows(MatrixView x, MatrixView out) override {
    cuda::repeat_rows(x, out, stream_);
    forget(out.data);
  }
  void linear_onto(MatrixView onto, MatrixView x, const LinearWeight& weight,
                   MatrixView out) override {
    const auto& w = static_cast<const DeviceLinear&>(weight);
    if (!linears_->run_onto(onto, x, w, out, stream_)) Ops::linear_onto(onto, x, weight, out);
  }
  void project_and_attend(const NormArgs& norm, MatrixView x, const LinearWeight& qkv,
                          MatrixView room, const RaggedAttentionArgs& attention) override {
    const auto& w = static_cast<const DeviceLinear&>(qkv);
    if (!linears_->run_and_attend(norm, x, w, attention, stream_))
      return Ops::project_and_attend(norm, x, qkv, room, attention);
    forget(attention.out.data);
  }
  void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                      MatrixView out) override {
    cuda::project_tokens(tokens, projection, out, stream_);
    forget(out.data);
  }
  void ragged_attention(const RaggedAttentionArgs& args) override {
    cuda::ragged_attention(args, linears_->hopper(), stream_);
    forget(args.out.data);
  }
  void softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows, MatrixView out) override {
    cuda::softmax_pool(scores, x, rows, out, stream_);
    forget(out.data);
  }
  void latent_head(const LatentHeadArgs& args) override {
    const auto& score = static_cast<const DeviceLinear&>(*args.score);
    const auto& value = static_cast<const DeviceLinear&>(*args.value);
    const bool wide = score.form() == LinearForm::f32 && value.form() == LinearForm::f32;
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
    p.products = args.keys.data;
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
    cuda::stream_inputs({}, tables, events, out, {}, stream_);
    forget(out.data);
  }
  void stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                              MatrixView out) override {
    cuda::stream_inputs({}, tables, events, {}, out, stream_);
    forget(out.data);
  }
  void phases(const PhaseArgs& args) override {
    cuda::stream_inputs(args, {}, {}, {}, {}, stream_);
  }
  void stream_inputs(const PhaseArgs& phase_args, const StreamTables& tables,
                     const StreamEvents& events, MatrixView sums, MatrixView attention) override {
    section("cross-attention");
    cuda::stream_inputs(phase_args, tables, events, sums, attention, stream_);
    forget(sums.data);
    forget(attention.data);
  }
  void norm_concat_linear(const NormArgs& norm, MatrixView x, MatrixView rows,
                          const LinearWeight& weight, const float* bias, MatrixView out) override {
    const auto& w = static_cast<const DeviceLinear&>(weight);
    const bool wide = w.form() == LinearForm::f32;
    if (norm.kind != NormArgs::Kind::rms || x.dtype != DType::f32 || x.cols % 8 != 0 ||
        weight.in() > kMostHeadInputs || (!wide && w.form() != LinearForm::bf16))
      return Ops::norm_concat_linear(norm, x, rows, weight, bias, out);
    cuda::norm_concat_linear(norm, x, w.data(), wide ? DType::f32 : DType::bf16, w.stride(), bias,
                             out, stream_);
    forget(out.data);
  }
  void paged_attention(const PagedAttentionArgs& args) override {
    cuda::paged_attention(args, linears_->hopper(), stream_);
    forget(args.out.data);
  }
  void stream_blocks(const StreamBlocksArgs& args) override {
    if (!run_in_one_kernel(stream_blocks_, args)) Ops::stream_blocks(args);
  }
  void window_blocks(const WindowBlocksArgs& args) override {
    if (!run_in_one_kernel(window_blocks_, args)) Ops::window_blocks(args);
  }

 private:
  /// False: not taken, nothing was launched.
  template <class Blocks, class Args>
  bool run_in_one_kernel(Blocks& blocks, const Args& args) {
    if (!linears_->hopper()) return false;
    section("blocks");
    const bool taken = blocks.run(args, stream_);
    if (taken)
      linears_->forget_all();
    else
      section("cross-attention");  // whose linear is the first of the operations
    return taken;
  }
  static std::tuple<const void*, std::int64_t, std::int64_t> order(const ForwardKey& key) {
    return {key.plan, key.items, key.events};
  }

  /// Threads other than the one that made the backend start on device 0.
  void use_device() const { check(cudaSetDevice(device_), "cudaSetDevice"); }
  void synchronize() { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  void flush_sends() {
    if (!sending_) return;
    check(cudaMemcpyAsync(sending_->device.as<std::byte>() + send_begin_,
                          sending_->host.as<std::byte>() + send_begin_, send_end_ - send_begin_,
                          cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    sending_ = nullptr;
  }

  void end_section() {
    if (in_section_) nvtxRangePop();
    in_section_ = false;
  }
  void forget(const void* written) { linears_->forget(written); }
  void record(bool now) {
    recording_ = now;
    linears_->recording(now);
    linears_->forget_all();
  }

  int device_;
  DeviceLease lease_;
  CudaOptions options_;
  std::string name_;
  std::optional<Linears> linears_;
  StreamBlocks stream_blocks_;
  WindowBlocks window_blocks_;
  cudaStream_t stream_ = nullptr;
  std::map<std::tuple<const void*, std::int64_t, std::int64_t>, cudaGraphExec_t> graphs_;
  ForwardKey key_;
  bool recording_ = false;
  bool in_section_ = false;

  const SharedBuffer* sending_ = nullptr;  // bytes that no copy was begun for
  std::size_t send_begin_ = 0;
  std::size_t send_end_ = 0;
};

}  // namespace

Buffer device_memory(std::size_t bytes) {
  void* p = nullptr;
  check(cudaMalloc(&p, std::max<std::size_t>(bytes, 16)), "cudaMalloc");
  return {p, bytes, [](void* q) { (void)cudaFree(q); }};
}

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  int device = 0;
  if (is_final(status) && cudaGetDevice(&device) == cudaSuccess) use_of(device).lost = true;
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

std::unique_ptr<Ops> make_cuda_ops(int device, const CudaOptions& options) {
  return std::make_unique<cuda::CudaOps>(device, options);
}

}  // namespace cortex
