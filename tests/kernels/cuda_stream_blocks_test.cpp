#include <cstring>

#include "cuda_blocks_fixture.h"
#include "kernels/cuda/stream_blocks.h"

/// All blocks of a stream model in one kernel against the same operations one by one, bit for bit.
/// Skipped, with a line that says so, where there is no Hopper GPU.
namespace cortex {
namespace {

using testing::size;

struct Preset {
  const char* name;
  int dim, blocks, heads, latents, page_steps;
};
constexpr Preset kPresets[] = {{"stream-nano", 128, 4, 4, 1, 32},
                               {"stream-xs", 256, 5, 4, 4, 8},
                               {"wide as stream-s", 512, 3, 8, 4, 8},
                               {"wide as stream-m", 768, 2, 12, 4, 8},
                               {"rows across blocks of keys", 128, 2, 2, 6, 16}};
constexpr int kWindow = 50;

/// Weights of a model, and what its sessions see step by step.
class CudaStreamBlocks : public testing::CudaBlocks<false> {
 protected:
  void build(const Preset& p) {
    preset_ = p;
    make_blocks(p.blocks, p.dim);
    args_.cross_out = cross_out_;
    args_.blocks = blocks_;
  }

  /// With empty pages.
  void open(int sessions) {
    const Preset& p = preset_;
    const int dim = p.dim;
    rows_ = std::int64_t{sessions} * p.latents;
    PagedAttentionArgs& a = args_.attention;
    a.steps = sessions;
    a.heads = p.heads;
    a.head_dim = dim / p.heads;
    a.latents = p.latents;
    args_.hidden = poisoned(rows_, 4 * dim, DType::bf16);
    a.qkv = poisoned(rows_, 3 * dim, DType::bf16);
    pages_ = (kWindow + p.page_steps - 1) / p.page_steps;
    page_bytes_ = std::int64_t{4} * p.blocks * p.page_steps * p.latents * dim;
    for (Buffer& pool : pools_) {
      pool = ops_->allocate(size(pages_ * sessions * page_bytes_));
      ops_->clear(pool);
    }
    OpsCapacity capacity;
    capacity.rows = rows_;
    capacity.inputs = 4 * dim;
    capacity.keys = std::int64_t{pages_} * p.page_steps * p.latents;
    capacity.latents = p.latents;
    capacity.head_dim = a.head_dim;
    ops_->reserve(capacity);
    in_one_.reserve(capacity);
  }

  /// Step `number` of every session; session b joins at step 3 b, in slot 17 b of the window. Pages
  /// are compared now and then: what differs stays for a window.
  void step(int number, bool last) {
    SCOPED_TRACE(std::string(preset_.name) + ", " + std::to_string(args_.attention.steps) +
                 " sessions, step " + std::to_string(number));
    PagedAttentionArgs& a = args_.attention;
    const auto kept = memory_.size();
    std::vector<std::int32_t> indptr = {0}, pages, slot, live;
    std::vector<float> cosines, sines;
    for (int b = 0; b < a.steps; ++b) {
      for (int i = 0; i < pages_; ++i) pages.push_back((b + i * a.steps) % (pages_ * a.steps));
      indptr.push_back((b + 1) * pages_);
      slot.push_back((17 * b + number) % kWindow);
      live.push_back(std::clamp(number + 1 - 3 * b, 0, kWindow));
      for (int i = 0; i < a.head_dim / 2; ++i) {
        const float angle = 0.1F * static_cast<float>(number * (i + 1));
        cosines.push_back(std::cos(angle));
        sines.push_back(std::sin(angle));
      }
    }
    a.cosines = put(cosines);
    a.sines = put(sines);
    auto seen = normal(size(rows_ * preset_.dim)), z = normal(size(rows_ * preset_.dim), 2);
    std::vector<float> out[2];
    std::vector<float> cached[2];
    a.cache = {nullptr,     page_bytes_, DType::bf16, preset_.page_steps, kWindow,
               put(indptr), put(pages),  put(slot),   put(live)};
    for (const bool in_one : {false, true}) {
      a.out = put_matrix(seen, rows_, preset_.dim, DType::bf16);
      args_.z = put_matrix(z, rows_, preset_.dim, DType::f32);
      a.cache.pool = pools_[in_one].as<std::byte>();
      if (in_one) {
        ASSERT_TRUE(in_one_.run(args_, stream_));
        ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
      } else {
        ops_->Ops::stream_blocks(args_);
      }
      out[in_one] = get(args_.z);
      if (!last && number % 20 != 0) continue;
      const auto bytes = pools_[in_one].bytes();
      cached[in_one].resize(bytes / sizeof(float));
      ops_->download(cached[in_one].data(), pools_[in_one].f32(), bytes);
    }
    for (const float x : out[0]) ASSERT_TRUE(std::isfinite(x));
    ASSERT_EQ(out[1], out[0]);
    ASSERT_EQ(std::memcmp(cached[1].data(), cached[0].data(), cached[0].size() * sizeof(float)), 0)
        << "pages";
    memory_.erase(memory_.begin() + static_cast<std::ptrdiff_t>(kept), memory_.end());
  }

  Preset preset_ = {};
  StreamBlocksArgs args_;
  std::int64_t rows_ = 0;
  int pages_ = 0;
  std::int64_t page_bytes_ = 0;
  Buffer pools_[2];
  cuda::StreamBlocks in_one_;
};

TEST_F(CudaStreamBlocks, OneKernelHasTheBitsOfItsOperationsOneByOneAndTheSamePages) {
  for (const Preset& preset : kPresets) {
    build(preset);
    for (const int sessions : {1, 2, 4, 16}) {
      if (sessions * preset.latents > 16) continue;
      open(sessions);
      if (testing::brief() && (sessions == 2 || sessions == 16)) continue;
      const int steps = testing::brief() ? 3 : kWindow + 7;
      for (int number = 0; number < steps; ++number) {
        step(number, number == steps - 1);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaStreamBlocks, MoreRowsThanItTakesAndInt8AreLeftToTheOperations) {
  build(kPresets[0]);
  open(17);
  args_.attention.out = poisoned(rows_, preset_.dim, DType::bf16);
  args_.attention.cache.dtype = DType::bf16;
  args_.z = poisoned(rows_, preset_.dim, DType::f32);
  EXPECT_FALSE(in_one_.run(args_, stream_));

  open(1);
  args_.attention.out = poisoned(rows_, preset_.dim, DType::bf16);
  args_.attention.cache.dtype = DType::bf16;
  args_.z = poisoned(rows_, preset_.dim, DType::f32);
  const Tensor integers({preset_.dim, preset_.dim}, DType::i8), scale({preset_.dim});
  const auto narrow = ops_->pack_linear({integers, &scale});
  args_.cross_out = narrow.get();
  EXPECT_FALSE(in_one_.run(args_, stream_));
}

}  // namespace
}  // namespace cortex
