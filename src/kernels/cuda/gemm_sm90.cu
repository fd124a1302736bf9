#include "kernels/cuda/gemm_sm90.h"

#include <algorithm>
#include <climits>

#include "kernels/cuda/gemm_sm90_launch.cuh"
#include "kernels/cuda/gemm_sm90_pair.cuh"
#include "kernels/cuda/gemm_sm90_resident.cuh"
#include "kernels/cuda/gemm_sm90_small.cuh"
#include "kernels/cuda/gemm_sm90_wide.cuh"

namespace cortex::cuda {
namespace {

using namespace sm90;

template <GemmType Type, GemmEpilogue Epilogue>
cudaError_t launch_config(int config, const Launch& how) {
  switch (config) {
    case kPair128x128:
      return launch<pair_kernel<Type, Epilogue, 2, 1>>(how);
    case kPair128x128Twin:
      return launch<pair_kernel<Type, Epilogue, 2, 2>>(how);
    case kPair64x128:
      return launch<pair_kernel<Type, Epilogue, 1, 1>>(how);
    case kPair64x128Twin:
      return launch<pair_kernel<Type, Epilogue, 1, 2>>(how);
    case kPair64x128Chain:
      if constexpr (Type == GemmType::kBf16 && Epilogue != GemmEpilogue::kAddNarrow) {
        return launch<pair_kernel<Type, Epilogue, 1, 1, true>>(how);
      }
      return cudaErrorInvalidValue;
    case kSmall64x64:
      return launch<small_kernel<Type, Epilogue, 1, 64>>(how);
    case kSmall128x128:
      return launch<small_kernel<Type, Epilogue, 2, 128>>(how);
    case kWide128x256:
      if constexpr (Epilogue != GemmEpilogue::kAdd) {
        return launch<wide_kernel<Type, Epilogue, 2, 256>>(how);
      }
      return cudaErrorInvalidValue;
    case kWide128x192:
      if constexpr (Epilogue != GemmEpilogue::kAdd) {
        return launch<wide_kernel<Type, Epilogue, 2, 192>>(how);
      }
      return cudaErrorInvalidValue;
    case kWide192x192:
      if constexpr (Epilogue != GemmEpilogue::kAdd) {
        return launch<wide_kernel<Type, Epilogue, 3, 192>>(how);
      }
      return cudaErrorInvalidValue;
    case kResident128x128:
      if constexpr (Epilogue != GemmEpilogue::kAdd && Epilogue != GemmEpilogue::kAddNarrow) {
        return launch<resident_kernel<Type, Epilogue>>(how);
      }
      return cudaErrorInvalidValue;
    default:
      return cudaErrorInvalidValue;
  }
}

template <GemmType Type>
cudaError_t launch_epilogue(GemmEpilogue epilogue, int config, const Launch& how) {
  switch (epilogue) {
    case GemmEpilogue::kStore:
      return launch_config<Type, GemmEpilogue::kStore>(config, how);
    case GemmEpilogue::kGelu:
      return launch_config<Type, GemmEpilogue::kGelu>(config, how);
    case GemmEpilogue::kAdd:
      return launch_config<Type, GemmEpilogue::kAdd>(config, how);
    case GemmEpilogue::kAddNarrow:
      return launch_config<Type, GemmEpilogue::kAddNarrow>(config, how);
    case GemmEpilogue::kGeluE4m3:
      if constexpr (Type == GemmType::kE4m3)
        return launch_config<Type, GemmEpilogue::kGeluE4m3>(config, how);
      return cudaErrorInvalidValue;
  }
  return cudaErrorInvalidValue;
}

bool valid(const GemmSm90Args& args, GemmEpilogue epilogue) {
  bool good = valid_inputs(args);
  if (args.narrow8 != nullptr) {
    good =
        good && aligned(args.narrow8, 16) && args.ld_narrow8 % 16 == 0 && args.ld_narrow8 >= args.n;
  }
  if (epilogue == GemmEpilogue::kGeluE4m3) return good && args.narrow8 != nullptr;
  if (epilogue == GemmEpilogue::kAddNarrow) {
    return good && aligned(args.narrow, 16) && args.ld_narrow % 8 == 0 &&
           args.ld_narrow >= args.n && args.square_out != nullptr &&
           (args.onto == nullptr ||
            (aligned(args.onto, 16) && args.ld_onto % 8 == 0 && args.ld_onto >= args.n &&
             args.onto_rows > 0 && args.onto_rows % kOntoRows == 0)) &&
           (args.narrow8 == nullptr ||
            (args.square != nullptr && args.square_parts == args.n / 64 && args.n <= 1024 &&
             args.square != args.square_out && args.narrow8_row_scale != nullptr));
  }
  if (epilogue == GemmEpilogue::kAdd) {
    return good && aligned(args.z, 16) && args.ldz % 4 == 0 && args.ldz >= args.n &&
           aligned(args.narrow, 16) && args.ld_narrow % 8 == 0 && args.ld_narrow >= args.n &&
           args.square_out != nullptr;
  }
  return good && aligned(args.out, 16) && args.ldo % 8 == 0 && args.ldo >= args.n;
}

struct Choice {
  int config, split;
};

// A window's by the table. Else by timings on an H200 of the layers of the models, D = 256, 512,
// 768: no file changes what a stream computes.
Choice choose(const GemmSm90Args& args, GemmEpilogue epilogue, int k_tiles, int processors) {
  if (!args.chains) {
    const GemmTableEntry* const timed =
        gemm_table().find(args.type, epilogue, args.m, args.n, args.k);
    if (timed) return {timed->config, timed->split};
  }
  const int rows64 = ceil_div(args.m, 64);
  const int columns128 = ceil_div(args.n, 128);
  const bool one_wave = rows64 * columns128 <= processors;
  if (epilogue != GemmEpilogue::kAdd && epilogue != GemmEpilogue::kAddNarrow)
    return {one_wave ? kPair64x128 : kPair128x128, 1};
  const int tiles = rows64 * (args.n / 64);
  if (tiles <= processors) {
    const bool deep = k_tiles >= 16 || (tiles <= 16 && k_tiles >= 4);
    if (deep && 4 * tiles <= processors) return {kSmall64x64, 4};
    if (k_tiles >= 32 && args.n % 128 == 0 &&
        4 * ceil_div(args.m, 128) * columns128 <= processors) {
      return {kSmall128x128, 4};
    }
    return {kSmall64x64, 1};
  }
  // z moves faster by tiles of 64 rows, A and W by tiles of 128.
  return {one_wave || k_tiles < 32 ? kPair64x128 : kPair128x128, 1};
}

}  // namespace

cudaError_t gemm_sm90(const GemmSm90Args& args, GemmEpilogue epilogue, cudaStream_t stream) {
  if (!valid(args, epilogue)) return cudaErrorInvalidValue;
  if (!tensor_maps_supported()) return cudaErrorNotSupported;
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = processors_of(device, &processors);
  if (error != cudaSuccess) return error;

  const int bytes = element_bytes(args.type);
  const int k_tiles = ceil_div(args.k * bytes, kSliceBytes);
  Choice choice = choose(args, epilogue, k_tiles, processors);
  // Sums of integers have no order.
  if (args.chains && args.type == GemmType::kBf16) choice = {kPair64x128Chain, 1};
  if (args.config >= 0) choice = {args.config, 1};
  // A block for each column of tiles, at least.
  if (choice.config == kResident128x128 && ceil_div(args.n, 128) > processors)
    choice.config = kPair128x128;
  if (args.split > 0) choice.split = args.split;
  const bool small = choice.config == kSmall64x64 || choice.config == kSmall128x128;
  if (choice.config >= kGemmSm90Configs || choice.split > 8 || 64 % choice.split != 0 ||
      choice.split > k_tiles || args.stages > 8 || (choice.split > 1 && !small)) {
    return cudaErrorInvalidValue;
  }
  const bool wide = is_wide(choice.config);
  const bool resident = choice.config == kResident128x128;
  if (resident && k_tiles > kMostResidentSlices) return cudaErrorInvalidValue;
  const int columns = choice.config == kSmall64x64    ? 64
                      : choice.config == kWide128x256 ? 256
                      : wide                          ? 192
                                                      : 128;
  // A tile of 128 columns of the small kernel has no clip at its right edge.
  if (choice.config == kSmall128x128 && args.n % 128 != 0) return cudaErrorInvalidValue;
  const bool twin = choice.config == kPair128x128Twin || choice.config == kPair64x128Twin;
  const bool half_rows = choice.config == kPair64x128 || choice.config == kPair64x128Twin ||
                         choice.config == kPair64x128Chain || choice.config == kSmall64x64;
  const int tile_rows = half_rows ? 64 : choice.config == kWide192x192 ? 192 : 128;

  Launch how{};
  how.pdl = args.pdl;

  how.stream = stream;
  how.cluster_x = twin ? 2 : 1;
  how.cluster_z = choice.split;
  KernelArgs& to = how.args;
  take_inputs(to, args);
  to.n_tiles = ceil_div(args.n, columns);
  const bool add = epilogue == GemmEpilogue::kAdd;
  const bool sums = add || epilogue == GemmEpilogue::kAddNarrow;
  to.out_pointer = sums ? args.narrow : args.out;
  to.ldo = sums ? args.ld_narrow : args.ldo;
  to.narrow8 = args.narrow8;
  to.ld_narrow8 = args.ld_narrow8;
  to.narrow8_scale = args.narrow8_scale;
  to.narrow8_row_scale = args.narrow8_row_scale;
  to.z = args.z;
  to.ldz = args.ldz;
  to.square_out = args.square_out;
  const bool repeats = args.onto != nullptr;
  to.onto = repeats ? args.onto : to.out_pointer;
  to.ld_onto = repeats ? args.ld_onto : to.ldo;
  to.onto_rows = repeats ? args.onto_rows : INT_MAX;
  const int out_rows = wide ? 64 : tile_rows;
  if (!encode(&to.a, args.a, bytes, args.m, args.k, args.lda, tile_rows) ||
      !encode(&to.w, args.w, bytes, args.n, args.k, args.k, columns / how.cluster_x) ||
      (epilogue != GemmEpilogue::kGeluE4m3 &&
       !encode(&to.out, to.out_pointer, 2, args.m, args.n, to.ldo, out_rows)) ||
      (epilogue == GemmEpilogue::kAddNarrow &&
       !encode(&to.z_map, to.onto, 2, std::min(args.m, to.onto_rows), args.n, to.ld_onto,
               out_rows)) ||
      (add && !encode(&to.z_map, args.z, 4, args.m, args.n, args.ldz, tile_rows))) {
    return cudaErrorInvalidValue;
  }

  const int m_tiles = ceil_div(args.m, tile_rows);
  if (small) {
    const int slices = ceil_div(k_tiles, choice.split);
    const int blocks = m_tiles * to.n_tiles * choice.split;
    // More blocks than multiprocessors: a shorter ring, so that two or three share one. Clusters:
    // room for two blocks, or the last clusters find no place together.
    int stages = blocks > processors ? 4 : choice.split > 1 ? 6 : 8;
    if (args.stages > 0) stages = args.stages;
    stages = std::min({stages, slices, tile_rows == 64 ? 8 : 6});
    to.stages = stages;
    how.shared =
        tile_rows == 64 ? SmallShape<1, 64>::shared(stages) : SmallShape<2, 128>::shared(stages);
    how.threads = tile_rows == 64 ? SmallShape<1, 64>::kThreads : SmallShape<2, 128>::kThreads;
    how.grid = dim3(static_cast<unsigned>(to.n_tiles), static_cast<unsigned>(m_tiles),
                    static_cast<unsigned>(choice.split));
  } else if (resident) {
    to.tiles = m_tiles;
    how.shared = ResidentShape::shared(k_tiles);
    how.threads = kPairThreads;
    how.grid = dim3(static_cast<unsigned>(std::min(m_tiles, processors / to.n_tiles) * to.n_tiles));
  } else {
    to.tiles = ceil_div(m_tiles, how.cluster_x) * to.n_tiles;
    how.shared = columns == 256     ? WideShape<2, 256>::kShared
                 : tile_rows == 192 ? WideShape<3, 192>::kShared
                 : columns == 192   ? WideShape<2, 192>::kShared
                 : tile_rows == 128 ? PairShape<2>::kShared
                                    : PairShape<1>::kShared;
    how.threads = tile_rows == 192 ? WideShape<3, 192>::kThreads : kPairThreads;
    const int workers = std::min(to.tiles, processors / how.cluster_x);
    how.grid = dim3(static_cast<unsigned>(workers * how.cluster_x));
  }
  switch (args.type) {
    case GemmType::kBf16:
      return launch_epilogue<GemmType::kBf16>(epilogue, choice.config, how);
    case GemmType::kE4m3:
      return launch_epilogue<GemmType::kE4m3>(epilogue, choice.config, how);
    case GemmType::kInt8:
      return launch_epilogue<GemmType::kInt8>(epilogue, choice.config, how);
  }
  return cudaErrorInvalidValue;
}

bool gemm_sm90_supported(int device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    return false;
  }
  if (major != 9 || minor != 0 || !tensor_maps_supported()) return false;
  // PTX of an older architecture, which the driver compiled for this device, has no such kernels.
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes,
                               small_kernel<GemmType::kBf16, GemmEpilogue::kStore, 1, 64>) ==
             cudaSuccess &&
         attributes.binaryVersion == 90 && attributes.ptxVersion >= 90;
}

}  // namespace cortex::cuda
