#include "cuda_blocks_fixture.h"
#include "kernels/cuda/window_blocks.h"

/// All blocks of a window model in one kernel against the same operations one by one. Skipped, with
/// a line that says so, where there is no Hopper GPU.
namespace cortex {
namespace {

using testing::size;

struct Preset {
  const char* name;
  int dim, blocks, heads, latents;
};
constexpr Preset kPresets[] = {{"cortex-xs", 256, 5, 4, 128}, {"cortex-s", 512, 7, 8, 256}};

class CudaWindowBlocks : public testing::CudaBlocks<true> {
 protected:
  void build(const Preset& p) {
    preset_ = p;
    make_blocks(p.blocks, p.dim);
    args_.cross_out = cross_out_;
    auto latents = normal(size(std::int64_t{p.latents} * p.dim), 2);
    args_.latents = put_matrix(latents, p.latents, p.dim, DType::bf16);
    args_.blocks = blocks_;
  }
  void open(int windows) {
    const int dim = preset_.dim;
    rows_ = std::int64_t{windows} * preset_.latents;
    args_.qkv = poisoned(rows_, 3 * dim, DType::bf16);
    args_.hidden = poisoned(rows_, 4 * dim, DType::bf16);
    in_one_.reserve(attend_latents(args_.attention, windows, preset_.heads, args_.qkv));
  }
  /// `seen`: what the cross-attention gave.
  void begin(std::vector<float> seen) {
    args_.attention.out = put_matrix(seen, rows_, preset_.dim, DType::bf16);
    args_.z = poisoned(rows_, preset_.dim, DType::bf16);
  }
  std::vector<float> one_by_one(std::vector<float> seen) {
    begin(std::move(seen));
    ops_->Ops::window_blocks(args_);
    return get(args_.z);
  }
  std::vector<float> in_one(std::vector<float> seen) {
    begin(std::move(seen));
    EXPECT_TRUE(in_one_.run(args_, stream_));
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return get(args_.z);
  }
  std::vector<float> of_cross() { return normal(size(rows_ * preset_.dim), 2); }

  Preset preset_ = {};
  WindowBlocksArgs args_;
  std::int64_t rows_ = 0;
  cuda::WindowBlocks in_one_;
};

TEST_F(CudaWindowBlocks, OneKernelIsAsCloseAsBf16AllowsToItsOperationsOneByOne) {
  for (const Preset& preset : kPresets) {
    SCOPED_TRACE(preset.name);
    build(preset);
    for (const int windows : {1, 2, 3}) {
      if (windows * preset.latents > 384) continue;
      open(windows);
      const auto seen = of_cross();
      const auto expected = one_by_one(seen);
      for (const float x : expected) ASSERT_TRUE(std::isfinite(x));
      expect_close(in_one(seen), expected, 2 * testing::kBf16Tolerance, std::to_string(windows));
      if (HasFailure()) return;
    }
  }
}

TEST_F(CudaWindowBlocks, ARowHasTheSameBitsEveryTimeAndBesideOtherWindows) {
  for (const Preset& preset : {kPresets[0], kPresets[1]}) {
    SCOPED_TRACE(preset.name);
    build(preset);
    open(1);
    const auto seen = of_cross();
    const auto first = in_one(seen);
    for (int i = 0; i < 30; ++i) {
      (void)in_one(of_cross());
      ASSERT_EQ(in_one(seen), first) << "run " << i;
    }
    if (2 * preset.latents > 256) continue;
    open(2);
    auto both = of_cross();
    std::copy(seen.begin(), seen.end(), both.begin() + static_cast<std::ptrdiff_t>(seen.size()));
    const auto of_both = in_one(both);
    EXPECT_TRUE(std::equal(first.begin(), first.end(),
                           of_both.begin() + static_cast<std::ptrdiff_t>(seen.size())));
    open(1);
    ASSERT_EQ(in_one(seen), first);
  }
}

TEST_F(CudaWindowBlocks, InAGraphItIsReplayedWithTheSameBits) {
  build(kPresets[1]);
  open(1);
  const auto seen = of_cross(), other = of_cross();
  const auto expected = in_one(seen), of_other = in_one(other);
  begin(seen);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_TRUE(in_one_.run(args_, stream_));
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  const auto replay = [&] {
    EXPECT_EQ(cudaGraphLaunch(exec, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return get(args_.z);
  };
  EXPECT_EQ(replay(), expected);
  EXPECT_EQ(replay(), expected);
  auto values = other;
  const MatrixView there = put_matrix(values, rows_, preset_.dim, DType::bf16);
  ASSERT_EQ(cudaMemcpy(args_.attention.out.data, there.data, size(rows_ * preset_.dim) * 2,
                       cudaMemcpyDeviceToDevice),
            cudaSuccess);
  EXPECT_EQ(replay(), of_other);
  (void)cudaGraphExecDestroy(exec);
  (void)cudaGraphDestroy(graph);
}

TEST_F(CudaWindowBlocks, OtherShapesAndTypesAreLeftToTheOperations) {
  build({"wide heads", 256, 1, 2, 64});
  open(1);
  begin(of_cross());
  EXPECT_FALSE(in_one_.run(args_, stream_));
  build({"other latents", 256, 1, 4, 64});
  open(1);
  begin(of_cross());
  EXPECT_FALSE(in_one_.run(args_, stream_));
  build({"one block", 256, 1, 4, 128});
  open(1);
  begin(of_cross());
  args_.z = poisoned(rows_, preset_.dim, DType::f32);
  EXPECT_FALSE(in_one_.run(args_, stream_));
  begin(of_cross());
  const Tensor integers({preset_.dim, preset_.dim}, DType::i8), scale({preset_.dim});
  const auto narrow = ops_->pack_linear({integers, &scale});
  blocks_[0].out = narrow.get();
  EXPECT_FALSE(in_one_.run(args_, stream_));
}

}  // namespace
}  // namespace cortex
