#include <gtest/gtest.h>
#include <simdjson.h>

#include "support/paths.h"
#include "train/evaluate.h"
#include "train/ops.h"
#include "train/setup.h"
#include "train/stream_net.h"
#include "train/synthetic.h"
#include "train/window_net.h"

namespace cortex::train {
namespace {

using torch::Tensor;

ModelConfig small_stream(int latents, double bin_ms, int units) {
  ModelConfig c = *preset_config("stream-nano");
  c.dim = 24;
  c.heads = 3;
  c.head_dim = 8;
  c.layers = 2;
  c.latents = latents;
  c.window_steps = 5;
  c.receptive_steps = 3;
  c.bin_ms = bin_ms;
  c.cross_period_min_ms = c.cross_period_max_ms = 0;
  c.block_period_min_ms = c.block_period_max_ms = 0;
  c.set_defaults();
  for (int u = 0; u < units; ++u) c.units.push_back({"u" + std::to_string(u), "s", {}, 1});
  return c;
}

/// Weights large enough that every path matters, gains and nulls included.
void fill(const ModelConfig& c, ParameterSet& params, std::uint64_t seed) {
  auto tensors = initial_weights(c, seed);
  std::uint64_t stream = 100;
  for (auto& [name, tensor] : tensors) {
    CounterRandom random(seed, 1, ++stream);
    for (float& v : tensor.f32()) v += static_cast<float>(0.6 * (random.uniform() - 0.5));
  }
  params.load(tensors);
}

CropBatch random_batch(const ModelConfig& c, std::int64_t crops, std::int64_t steps) {
  CropBatch batch;
  batch.crops = crops;
  batch.steps = steps;
  batch.indptr.push_back(0);
  CounterRandom random(3, 0, 0);
  for (std::int64_t row = 0; row < batch.rows(); ++row) {
    const std::int64_t s = row % steps;
    // Every fifth step is silent, as in a gap.
    for (int b = 0; s % 5 != 4 && b < c.bins_per_step(); ++b)
      for (int u = 0; u < c.unit_count(); ++u)
        if (random.uniform() < 0.4)
          batch.events.push_back(
              {u, static_cast<std::int32_t>(1 + random.below(11)), s * c.bins_per_step() + b});
    batch.indptr.push_back(static_cast<std::int64_t>(batch.events.size()));
    batch.mask.push_back(1);
  }
  batch.scored = batch.rows();
  return batch;
}

double worst(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item<double>();
}

struct Case {
  int latents;
  double bin_ms;
  std::int64_t steps;
};

class StreamCase : public ::testing::TestWithParam<Case> {};

TEST_P(StreamCase, FastEqualsPlainInValueAndGradient) {
  const Case& k = GetParam();
  const ModelConfig c = small_stream(k.latents, k.bin_ms, 4);
  ParameterSet params(tensor_specs(c), torch::kCPU, torch::kFloat64);
  fill(c, params, 5);
  const CropBatch batch = random_batch(c, 1, k.steps);
  const Tensor weights = torch::linspace(-1, 1, k.steps * 2, torch::kFloat64).view({k.steps, 2});

  params.grad().zero_();
  const Tensor fast = StreamNet(c, params).forward(batch)[0];
  (fast * weights).sum().backward();
  ASSERT_TRUE(params.gradients_are_flat());
  const Tensor fast_grad = params.grad().clone();

  params.grad().zero_();
  // Absolute time a day into a session: only differences of times matter.
  const Tensor plain = plain_stream_forward(c, params, batch, 4320000);
  (plain * weights).sum().backward();
  EXPECT_LT(worst(fast, plain), 1e-8);
  EXPECT_LT(worst(fast_grad, params.grad()), 1e-7);
  EXPECT_GT(params.grad().abs().max().item<double>(), 0);
}

INSTANTIATE_TEST_SUITE_P(Shapes, StreamCase,
                         ::testing::Values(Case{1, 20, 9}, Case{1, 5, 17}, Case{2, 10, 23}));

TEST(StreamNet, CropsOfABatchDoNotTouch) {
  const ModelConfig c = small_stream(2, 10, 4);
  ParameterSet params(tensor_specs(c), torch::kCPU, torch::kFloat64);
  fill(c, params, 6);
  const torch::NoGradGuard no_grad;
  const CropBatch batch = random_batch(c, 3, 13);
  const Tensor together = StreamNet(c, params).forward(batch);
  for (std::int64_t i = 0; i < 3; ++i) {
    CropBatch one;
    one.crops = 1;
    one.steps = 13;
    const std::int64_t from = batch.indptr[i * 13];
    for (std::int64_t s = 0; s <= 13; ++s) one.indptr.push_back(batch.indptr[i * 13 + s] - from);
    one.events.assign(batch.events.begin() + from,
                      batch.events.begin() + batch.indptr[i * 13 + 13]);
    EXPECT_LT(worst(together[i], StreamNet(c, params).forward(one)[0]), 1e-12);
  }
}

TEST(StreamNet, SkippingTheWarmupOfTheLastBlockChangesNoScoredStep) {
  const ModelConfig c = small_stream(2, 10, 4);
  ParameterSet params(tensor_specs(c), torch::kCPU, torch::kFloat64);
  fill(c, params, 6);
  const torch::NoGradGuard no_grad;
  CropBatch batch = random_batch(c, 2, 10);
  const Tensor whole = StreamNet(c, params).forward(batch);
  for (std::int64_t row = 0; row < batch.rows(); ++row) batch.mask[row] = row % 10 >= 6 + row / 10;
  const Tensor tail = StreamNet(c, params).forward(batch);
  EXPECT_LT(worst(tail.narrow(1, 6, 4), whole.narrow(1, 6, 4)), 1e-12);
}

TEST(EventAttention, LoopsEqualLibTorchComposition) {
  const ModelConfig c = small_stream(2, 10, 4);
  const PairLists lists = make_pairs(c, random_batch(c, 2, 9));
  const auto leaf = [](std::vector<std::int64_t> shape) {
    return torch::randn(shape, torch::kFloat64).requires_grad_(true);
  };
  torch::manual_seed(1);
  const std::int64_t tokens = 4 * c.value_buckets;
  const std::vector<Tensor> in = {leaf({tokens * 6, 6}), leaf({6}), leaf({tokens, 24}), leaf({24})};
  const EventPairs pairs{torch::tensor(lists.indptr), torch::tensor(lists.step),
                         torch::tensor(lists.slot), torch::tensor(lists.token)};
  const Tensor a = event_attention(in[0], in[1], in[2], in[3], pairs, 3);
  const Tensor b = event_attention_composed(in[0], in[1], in[2], in[3], pairs, 3);
  EXPECT_LT(worst(a, b), 1e-12);
  const Tensor pull = torch::randn(a.sizes(), torch::kFloat64);
  const auto ga = torch::autograd::grad({(a * pull).sum()}, {in[0], in[1], in[2], in[3]});
  const auto gb = torch::autograd::grad({(b * pull).sum()}, {in[0], in[1], in[2], in[3]});
  for (std::size_t i = 0; i < ga.size(); ++i) EXPECT_LT(worst(ga[i], gb[i]), 1e-11);
}

TEST(Evaluate, ChunksEqualOneWholePass) {
  const Recording recording = testing::synthetic_recording(5, 12, 9);
  const TrainOptions options = testing::tiny_options("unused");
  const Timeline timeline =
      *make_timeline({recording}, step_options(options.data), "val", OtherTrials::keep);
  for (const char* preset : {"stream-nano", "cortex-xs"}) {
    TrainOptions o = options;
    o.preset = preset;
    if (std::string(preset) == "cortex-xs") {
      o.model.latents = 5;
      o.model.window_bins = 9;
      o.model.receptive_ms = 60;
    }
    const ModelConfig c = *make_config(o, timeline);
    ParameterSet params(tensor_specs(c), torch::kCPU, torch::kFloat64);
    fill(c, params, 7);
    const auto network = make_network(c, params, o.data.step_ms);
    const Decoded whole = decode_timeline(*network, timeline, {0, 0}, {1, 1}, 1 << 30);
    const Decoded chunks = decode_timeline(*network, timeline, {0, 0}, {1, 1}, 7);
    ASSERT_GT(whole.score.rows, 20);
    ASSERT_EQ(whole.score.rows, chunks.score.rows);
    for (std::size_t i = 0; i < whole.values.size(); ++i)
      ASSERT_NEAR(whole.values[i], chunks.values[i], 1e-5) << preset << " value " << i;
  }
}

TEST(WindowNet, MatchesThePublishedImplementation) {
  if (!cortex::testing::has_shared("fixtures/window_layernorm_tiny/cases.json"))
    GTEST_SKIP() << "no fixtures beside the repository";
  const auto folder = cortex::testing::shared_path("fixtures/window_layernorm_tiny");
  const auto model = load_model(folder.string());
  ASSERT_TRUE(model) << model.error().message;
  ModelConfig c = model->config;
  // In this network a window ends with its step: one step of all bins.
  c.window_bins = c.max_bins;
  ParameterSet params(tensor_specs(c), torch::kCPU, torch::kFloat64);
  params.load(model->tensors);
  const WindowNet network(c, params, c.bin_ms * c.window_bins);
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  ASSERT_FALSE(parser.load((folder / "cases.json").string()).get(root));
  int seen = 0;
  for (const auto one : root["windows"].get_array()) {
    CropBatch batch;
    batch.crops = batch.steps = batch.scored = 1;
    batch.mask = {1};
    const auto column = [&](const char* name) {
      std::vector<std::int64_t> out;
      for (const std::int64_t v : one[name].get_array()) out.push_back(v);
      return out;
    };
    const auto unit = column("neuron_id");
    const auto bin = column("time_bin");
    const auto value = column("value");
    for (std::size_t i = 0; i < unit.size(); ++i)
      batch.events.push_back(
          {static_cast<std::int32_t>(unit[i]), static_cast<std::int32_t>(value[i]), bin[i]});
    batch.indptr = {0, static_cast<std::int64_t>(batch.events.size())};
    const torch::NoGradGuard no_grad;
    const Tensor y = network.forward(batch).view({-1});
    std::int64_t i = 0;
    for (const double expected : one["behavior"].get_array())
      EXPECT_NEAR(y[i++].item<double>(), expected, 1e-6 * std::max(1.0, std::abs(expected)));
    EXPECT_EQ(i, c.outputs());
    ++seen;
  }
  EXPECT_GT(seen, 0);
}

}  // namespace
}  // namespace cortex::train
