#include "kernels/cuda/cublaslt.h"

#if __has_include(<cublasLt.h>)

#include <cublasLt.h>
#include <dlfcn.h>

#include "kernels/cuda/memory.h"

namespace cortex::cuda {
namespace {

constexpr const char* kLibraries[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
constexpr std::size_t kWorkspaceBytes = 32 << 20;  // what NVIDIA advises for Hopper
constexpr int kMostWays = 8;

}  // namespace

struct CublasLt::State {
  void* library = nullptr;
  bool complete = true;
  cublasLtHandle_t handle = nullptr;
  Buffer workspace;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;

  template <class Function>
  void find(const char* symbol, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, symbol));
    complete = complete && function != nullptr;
  }
  bool open() {
    for (const char* name : kLibraries) {
      library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (library) break;
    }
    if (!library) return false;
    find("cublasLtCreate", create);
    find("cublasLtDestroy", destroy);
    find("cublasLtGetVersion", version);
    find("cublasLtMatmul", matmul);
    find("cublasLtMatmulAlgoGetHeuristic", heuristic);
    find("cublasLtMatmulDescCreate", desc_create);
    find("cublasLtMatmulDescDestroy", desc_destroy);
    find("cublasLtMatmulDescSetAttribute", desc_set);
    find("cublasLtMatrixLayoutCreate", layout_create);
    find("cublasLtMatrixLayoutDestroy", layout_destroy);
    find("cublasLtMatmulPreferenceCreate", preference_create);
    find("cublasLtMatmulPreferenceDestroy", preference_destroy);
    find("cublasLtMatmulPreferenceSetAttribute", preference_set);
    return complete && create(&handle) == CUBLAS_STATUS_SUCCESS;
  }
  ~State() {
    if (handle) (void)destroy(handle);
    if (library) dlclose(library);
  }
};

namespace {

/// What describes one product.
struct Shape {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, w = nullptr, out = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
};

}  // namespace

CublasLt::CublasLt() : state_(std::make_unique<State>()) {
  if (!state_->open()) return;
  state_->workspace = device_memory(kWorkspaceBytes);
  const std::size_t v = state_->version();
  // 130002 is 13.0.2, and so was 120304 12.3.4.
  name_ = "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." +
          std::to_string(v % 100);
}

CublasLt::~CublasLt() = default;

std::vector<CublasLt::Product> CublasLt::products(GemmType type, int m, int n, int k) {
  if (name_.empty()) return {};
  const State* const lt = state_.get();
  const bool whole = type == GemmType::kInt8;
  const cudaDataType_t in = type == GemmType::kBf16   ? CUDA_R_16BF
                            : type == GemmType::kE4m3 ? CUDA_R_8F_E4M3
                                                      : CUDA_R_8I;
  const cudaDataType_t result = whole ? CUDA_R_32I : CUDA_R_16BF;
  const auto release = [lt](Shape* s) {
    if (s->preference) (void)lt->preference_destroy(s->preference);
    for (const cublasLtMatrixLayout_t layout : {s->a, s->w, s->out})
      if (layout) (void)lt->layout_destroy(layout);
    if (s->product) (void)lt->desc_destroy(s->product);
    delete s;
  };
  const std::shared_ptr<Shape> shape(new Shape, release);
  // Columns are the library's rows: out^T [n, m] = (w^T)^T a^T.
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const auto un = static_cast<std::uint64_t>(n), um = static_cast<std::uint64_t>(m),
             uk = static_cast<std::uint64_t>(k);
  cublasLtMatmulHeuristicResult_t found[kMostWays];
  int count = 0;
  const bool good =
      lt->desc_create(&shape->product, whole ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                      whole ? CUDA_R_32I : CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
      lt->desc_set(shape->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)) ==
          CUBLAS_STATUS_SUCCESS &&
      lt->layout_create(&shape->w, in, uk, un, k) == CUBLAS_STATUS_SUCCESS &&
      lt->layout_create(&shape->a, in, uk, um, k) == CUBLAS_STATUS_SUCCESS &&
      lt->layout_create(&shape->out, result, un, um, n) == CUBLAS_STATUS_SUCCESS &&
      lt->preference_create(&shape->preference) == CUBLAS_STATUS_SUCCESS &&
      lt->preference_set(shape->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                         &kWorkspaceBytes, sizeof(kWorkspaceBytes)) == CUBLAS_STATUS_SUCCESS &&
      lt->heuristic(lt->handle, shape->product, shape->w, shape->a, shape->out, shape->out,
                    shape->preference, kMostWays, found, &count) == CUBLAS_STATUS_SUCCESS;
  if (!good) return {};
  std::vector<Product> all;
  for (int i = 0; i < count; ++i) {
    if (found[i].state != CUBLAS_STATUS_SUCCESS) continue;
    all.push_back([lt, shape, whole, algorithm = found[i].algo](const void* a, const void* w,
                                                                void* out, cudaStream_t stream) {
      const float one = 1, zero = 0;
      const std::int32_t whole_one = 1, whole_zero = 0;
      const void* const alpha = whole ? static_cast<const void*>(&whole_one) : &one;
      const void* const beta = whole ? static_cast<const void*>(&whole_zero) : &zero;
      const cublasStatus_t status = lt->matmul(
          lt->handle, shape->product, alpha, w, shape->w, a, shape->a, beta, out, shape->out, out,
          shape->out, &algorithm, lt->workspace.as<void>(), kWorkspaceBytes, stream);
      return status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorNotSupported;
    });
  }
  return all;
}

}  // namespace cortex::cuda

#else

namespace cortex::cuda {

struct CublasLt::State {};
CublasLt::CublasLt() = default;
CublasLt::~CublasLt() = default;
std::vector<CublasLt::Product> CublasLt::products(GemmType, int, int, int) { return {}; }

}  // namespace cortex::cuda

#endif
