#include "model/stream_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "cache/page_pool.h"
#include "cache/stream_state.h"
#include "kernels/cpu/cpu_ops.h"
#include "support/narrow_model.h"
#include "support/stream_oracle.h"

namespace cortex::testing {
namespace {

constexpr int kStreams = 5;
constexpr std::int64_t kSteps = 20;  // three windows and more

using Steps = std::vector<std::vector<Event>>;

/// Silent steps, ordinary ones and bursts; units in [0, 9), bins of a step of 4.
Steps random_steps(std::mt19937_64& random) {
  Steps steps;
  for (std::int64_t s = 0; s < kSteps; ++s) {
    std::vector<Event> events;
    const int kind = static_cast<int>(random() % 4);
    const int count = kind == 0 ? 0 : kind == 3 ? 60 : static_cast<int>(random() % 9);
    for (int e = 0; e < count; ++e)
      events.push_back({static_cast<std::int32_t>(random() % 9),
                        static_cast<std::int32_t>(1 + random() % 11),
                        4 * s + static_cast<std::int64_t>(random() % 4)});
    events.resize(canonicalize(events));
    steps.push_back(std::move(events));
  }
  return steps;
}

/// Runs streams over one pool; which of them share a forward is the caller's to say.
class Runner {
 public:
  Runner(const ModelFile& file, const CpuOptions& options)
      : config_(file.config), ops_(make_cpu_ops(options)) {
    const DType cached = ops_->cache_dtype(file.precision());
    const PageLayout layout{config_.layers,
                            config_.latents,
                            config_.dim,
                            config_.window_steps,
                            page_steps_for(config_.latents),
                            static_cast<int>(size_of(cached))};
    pages_ = layout.pages_per_session();
    pool_ = ops_->allocate(static_cast<std::size_t>(layout.page_bytes()) * kStreams *
                           static_cast<std::size_t>(pages_));
    ops_->clear(pool_);
    model_ = std::make_unique<StreamModel>(
        file, *ops_, kStreams,
        StreamPages{pool_.as<std::byte>(), layout.page_bytes(), layout.page_steps, cached});
    for (int i = 0; i < kStreams; ++i)
      states_.emplace_back(0, config_.receptive_steps, config_.window_steps);
  }

  /// The next step of every stream in `which`, as one batch: behaviour by stream.
  std::vector<std::vector<float>> step(const std::vector<int>& which,
                                       const std::vector<Steps>& streams) {
    StreamBatch& batch = model_->batch();
    batch.clear();
    const int k = config_.bins_per_step();
    for (const int i : which) {
      StreamState& state = states_[static_cast<std::size_t>(i)];
      const auto next = static_cast<std::size_t>(state.next_step());
      state.push(streams[static_cast<std::size_t>(i)][next]);
      for (int r = 0; r < state.recent_steps(); ++r)
        batch.add_events(state.recent(r), (state.step() + 1) * k);
      std::vector<std::int32_t> pages;
      for (int p = 0; p < pages_; ++p) pages.push_back(i * pages_ + p);
      batch.add_step(state.step(), pages, state.slot(), state.live_steps());
    }
    const auto all = model_->forward();
    std::vector<std::vector<float>> out;
    const auto width = static_cast<std::size_t>(config_.outputs());
    for (std::size_t i = 0; i < which.size(); ++i)
      out.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(i * width),
                       all.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
    return out;
  }
  std::int64_t next_step(int stream) const {
    return states_[static_cast<std::size_t>(stream)].next_step();
  }

 private:
  ModelConfig config_;
  std::unique_ptr<Ops> ops_;
  Buffer pool_;
  int pages_ = 0;
  std::unique_ptr<StreamModel> model_;
  std::vector<StreamState> states_;
};

class StreamModelOn : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (int i = 0; i < kStreams; ++i) streams_.push_back(random_steps(random_));
  }
  std::mt19937_64 random_{11};
  std::vector<Steps> streams_;
};

TEST_P(StreamModelOn, Float32EqualsTheOracleAndNarrowPrecisionsComeNear) {
  const ModelFile file = lively_stream_model(tiny_stream_config(), 5);
  const auto expected = run_oracle(file, 0, streams_[0]);
  double scale = 0;
  for (const auto& y : expected)
    for (const double v : y) scale = std::max(scale, std::abs(v));
  for (const auto& [precision, tolerance] :
       {std::pair{DType::f32, 1e-5}, std::pair{DType::bf16, 0.05}, std::pair{DType::i8, 0.1}}) {
    Runner runner(testing::in_precision(lively_stream_model(tiny_stream_config(), 5), precision),
                  {.threads = 2, .isa = GetParam()});
    for (std::size_t s = 0; s < static_cast<std::size_t>(kSteps); ++s) {
      const auto got = runner.step({0}, streams_).front();
      for (std::size_t o = 0; o < got.size(); ++o)
        ASSERT_NEAR(got[o], expected[s][o], tolerance * scale)
            << to_string(precision) << ", step " << s;
    }
  }
}

TEST_P(StreamModelOn, AStreamHasTheSameBitsAloneInAnyBatchAndOnAnyNumberOfThreads) {
  for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
    const ModelFile file =
        testing::in_precision(lively_stream_model(tiny_stream_config(), 5), precision);
    Runner alone(file, {.threads = 1, .isa = GetParam()});
    std::vector<std::vector<std::vector<float>>> expected(kStreams);
    for (int i = 0; i < kStreams; ++i)
      for (std::int64_t s = 0; s < kSteps; ++s)
        expected[static_cast<std::size_t>(i)].push_back(alone.step({i}, streams_).front());
    for (const int threads : {1, 3}) {
      Runner mixed(file, {.threads = threads, .isa = GetParam()});
      for (;;) {
        std::vector<int> which;
        for (int i = 0; i < kStreams; ++i)
          if (mixed.next_step(i) < kSteps) which.push_back(i);
        if (which.empty()) break;
        std::shuffle(which.begin(), which.end(), random_);
        which.resize(1 + random_() % which.size());
        std::vector<std::int64_t> steps;
        for (const int i : which) steps.push_back(mixed.next_step(i));
        const auto got = mixed.step(which, streams_);
        for (std::size_t b = 0; b < which.size(); ++b) {
          const auto& want =
              expected[static_cast<std::size_t>(which[b])][static_cast<std::size_t>(steps[b])];
          ASSERT_EQ(0, std::memcmp(got[b].data(), want.data(), want.size() * sizeof(float)))
              << to_string(precision) << ", step " << steps[b] << " in a batch of " << which.size()
              << " on " << threads << " threads";
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, StreamModelOn, ::testing::ValuesIn(cpu_isas()),
                         [](const auto& isa) { return isa.param; });

}  // namespace
}  // namespace cortex::testing
