#include <cortex/engine.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/paths.h"
#include "train/setup.h"
#include "train/stream_net.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

// The engine and LibTorch share a weights file and nothing else.
void expect_parity(const Recording& recording, const TrainOptions& options, std::int64_t first,
                   std::int64_t steps) {
  const cortex::testing::TempDir dir;
  const std::string path = dir.file("model.safetensors");
  const auto timeline =
      make_timeline({recording}, step_options(options.data), "all", OtherTrials::keep);
  ASSERT_TRUE(timeline) << timeline.error().message;
  const auto config = make_config(options, *timeline);
  ASSERT_TRUE(config) << config.error().message;
  auto tensors = initial_weights(*config, 11);
  CounterRandom random(11, 0, 0);
  for (auto& [name, tensor] : tensors)
    for (float& v : tensor.f32()) v += static_cast<float>(0.1 * (random.uniform() - 0.5));
  for (float& v : tensors.at("output.std").f32()) v = 100;
  ASSERT_TRUE(save_model(path, *config, tensors));

  const torch::NoGradGuard no_grad;
  ParameterSet params(tensor_specs(*config), torch::kCPU, torch::kFloat64);
  params.load(tensors);
  const CropBatch batch = whole_span(*timeline, {0, first}, steps);
  const torch::Tensor oracle = plain_stream_forward(*config, params, batch, 0);

  auto engine = Engine::create({.model_path = path});
  ASSERT_TRUE(engine) << engine.error().message;
  const auto session = (*engine)->open_session({});
  ASSERT_TRUE(session) << session.error().message;
  double largest = 0;
  double worst = 0;
  const auto mean = tensors.at("output.mean").f32();
  for (std::int64_t s = 0; s < steps; ++s) {
    const std::span<const Event> events(batch.events.data() + batch.indptr[s],
                                        batch.events.data() + batch.indptr[s + 1]);
    const auto answer = (*engine)->step({.session = session->id, .sequence = s, .events = events});
    ASSERT_TRUE(answer) << answer.error().message;
    for (int o = 0; o < config->outputs(); ++o) {
      const double expected = oracle[s][o].item<double>() * 100 + mean[o];
      largest = std::max(largest, std::abs(expected));
      worst = std::max(worst, std::abs(expected - answer->behavior[o]));
    }
  }
  EXPECT_GT(largest, 1);
  EXPECT_LT(worst, 1e-5 * largest);
}

TEST(Parity, EngineEqualsLibTorchOnASyntheticSession) {
  TrainOptions options = testing::tiny_options("unused");
  expect_parity(testing::synthetic_recording(6, 6, 1), options, 0, 120);
  options.model.latents = 3;
  options.data.bin_ms = 5;
  expect_parity(testing::synthetic_recording(6, 6, 2), options, 0, 120);
}

TEST(Parity, EngineEqualsLibTorchOnARealSession) {
  if (!cortex::testing::has_shared("data/reach/center_out_98.nwb"))
    GTEST_SKIP() << "no recordings beside the repository";
  TrainOptions options;
  options.data.nwb = {cortex::testing::shared_path("data/reach/center_out_98.nwb").string()};
  const auto recordings = load_recordings(options.data);
  ASSERT_TRUE(recordings) << recordings.error().message;
  expect_parity(recordings->front(), options, 1000, 130);
}

}  // namespace
}  // namespace cortex::train
