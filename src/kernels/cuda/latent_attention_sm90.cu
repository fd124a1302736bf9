#include "kernels/cuda/latent_attention_sm90.h"

#include <algorithm>

#include "kernels/cuda/gemm_sm90_launch.cuh"
#include "kernels/cuda/latent_attention_sm90.cuh"

namespace cortex::cuda {
namespace {

using namespace latents;

// Fewer blocks leave multiprocessors without one, and smaller tiles of two kernels win. With e4m3
// the projection is so short that its kernel and one of four attending warpgroups win where blocks
// have more than a head each.
constexpr int kLeastBlocks = 96, kMostBlocksE4m3 = 132;
constexpr int kMostRanks = 2;

template <GemmType Type, int Ranks>
cudaError_t launch_shape(int processors, Launch how) {
  using S = Shape<Type, Ranks>;
  constexpr auto kKernel = project_and_attend<Type, Ranks>;
  how.threads = kThreads;
  how.shared = S::kShared;
  how.cluster_x = Ranks;
  how.grid = dim3(static_cast<unsigned>(how.args.tiles * Ranks));
  int clusters = processors;
  if constexpr (Ranks > 1) {
    cudaLaunchConfig_t config{};
    cudaLaunchAttribute attributes[2];
    cudaError_t error = configure<kKernel>(how, config, attributes);
    // A cluster that waits for another to end would begin when that one has done all its work.
    if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&clusters, kKernel, &config);
    if (error != cudaSuccess) return error;
    if (clusters == 0) return cudaErrorInvalidValue;
  }
  how.grid = dim3(static_cast<unsigned>(std::min(how.args.tiles, clusters) * Ranks));
  return launch<kKernel>(how);
}

template <GemmType Type>
cudaError_t launch_type(int ranks, int processors, const Launch& how) {
  switch (ranks) {
    case 1:
      return launch_shape<Type, 1>(processors, how);
    case 2:
      return launch_shape<Type, 2>(processors, how);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

bool latent_attention_sm90_takes(GemmType type, int items, int latents, int heads) {
  if (latents <= 0 || latents % kRows != 0 || latents > kMostRanks * kRows ||
      heads * kHeadDim < 2 * latents)
    return false;
  const int blocks = items * heads * (latents / kRows);
  return blocks >= kLeastBlocks && (type != GemmType::kE4m3 || blocks <= kMostBlocksE4m3);
}

cudaError_t latent_attention_sm90(const GemmSm90Args& project, int latents, cudaStream_t stream) {
  const int heads = project.n / kColumns;
  if (!valid_inputs(project) || project.n != 3 * project.k || heads * kHeadDim != project.k ||
      latents <= 0 || project.m % latents != 0 || !aligned(project.out, 16) ||
      project.ldo % 8 != 0 || (project.type != GemmType::kBf16 && project.w_scale == nullptr) ||
      !latent_attention_sm90_takes(project.type, project.m / latents, latents, heads))
    return cudaErrorInvalidValue;
  if (!tensor_maps_supported()) return cudaErrorNotSupported;
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = processors_of(device, &processors);
  if (error != cudaSuccess) return error;

  Launch how{};
  how.pdl = project.pdl;
  how.stream = stream;
  how.cluster_z = 1;
  take_inputs(how.args, project);
  how.args.tiles = project.m / latents * heads;
  how.args.out_pointer = project.out;
  how.args.ldo = project.ldo;
  const int bytes = element_bytes(project.type);
  if (!encode(&how.args.a, project.a, bytes, project.m, project.k, project.lda, kRows) ||
      !encode(&how.args.w, project.w, bytes, project.n, project.k, project.k, kHeadDim))
    return cudaErrorInvalidValue;
  switch (project.type) {
    case GemmType::kBf16:
      return launch_type<GemmType::kBf16>(latents / kRows, processors, how);
    case GemmType::kE4m3:
      return launch_type<GemmType::kE4m3>(latents / kRows, processors, how);
    case GemmType::kInt8:
      return launch_type<GemmType::kInt8>(latents / kRows, processors, how);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cortex::cuda
