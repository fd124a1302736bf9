// Spikes hidden from the stream decoder and told by its head; pretraining and what starts from it.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <set>

#include "data/bits_per_spike.h"
#include "support/paths.h"
#include "train/setup.h"
#include "train/spike_head.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

using cortex::testing::TempDir;
using testing::bytes_of;
using testing::synthetic_recording;
using testing::tiny_options;

constexpr std::int64_t kUnits = 8;
constexpr std::int64_t kBins = 2;  // of a step
constexpr Augmentation kHide{.hide_units = 0.25, .hide_bins = 0.3};

Timeline spikes_of(const std::vector<Recording>& recordings) {
  DataOptions data;
  data.bin_ms = 10;
  data.protocol.spikes = true;
  std::vector<Recording> silent = recordings;
  for (Recording& r : silent) r.behavior.clear();
  return cut_timeline(silent, data, "train", OtherTrials::blank).value_or_throw();
}

ModelConfig small_config(const Timeline& timeline) {
  TrainOptions options = tiny_options("unused");
  options.data.bin_ms = timeline.bin_ms;
  options.hiding = HidingOptions{};
  return make_config(options, timeline).value_or_throw();
}

std::unique_ptr<ParameterSet> some_weights(const ModelConfig& c) {
  auto params = std::make_unique<ParameterSet>(pretrained_specs(c), torch::kCPU, torch::kFloat64);
  auto tensors = initial_weights(c, 5);
  tensors.merge(initial_spike_head(c, 5));
  std::uint64_t stream = 100;
  for (auto& [name, tensor] : tensors) {
    CounterRandom random(5, 1, ++stream);
    for (float& v : tensor.f32()) v += static_cast<float>(0.4 * (random.uniform() - 0.5));
  }
  params->load(tensors);
  return params;
}

CropBatch hidden_batch(const Timeline& timeline, std::int64_t steps = 20) {
  return pack_crops(timeline, {{0, 0}, {0, 40}}, steps, 4, kHide, 3, 7);
}

/// Spikes of each cell, [rows * units * bins].
std::vector<float> cells_of(const CropBatch& batch) {
  std::vector<float> cells(static_cast<std::size_t>(batch.rows() * kUnits * kBins), 0);
  for (std::int64_t row = 0; row < batch.rows(); ++row)
    for (std::int64_t e = batch.indptr[row]; e < batch.indptr[row + 1]; ++e) {
      const Event& event = batch.events[e];
      const std::int64_t bin = event.bin - row % batch.steps * kBins;
      cells[(row * kUnits + event.unit) * kBins + bin] += static_cast<float>(event.value);
    }
  return cells;
}

class Hidden : public ::testing::Test {
 protected:
  const Timeline timeline_ = spikes_of({synthetic_recording(kUnits, 24, 4)});
};

TEST_F(Hidden, ACellIsHeardOrAskedForAndNeverBoth) {
  const CropBatch batch = hidden_batch(timeline_);
  const CropBatch open = pack_crops(timeline_, {{0, 0}, {0, 40}}, 20, 4, {}, 3, 7);
  EXPECT_TRUE(open.asked.empty());
  const auto heard = cells_of(batch);
  const auto all = cells_of(open);
  ASSERT_EQ(batch.asked.size(), all.size());
  std::int64_t asked = 0;
  float hidden_spikes = 0;
  for (std::size_t cell = 0; cell < all.size(); ++cell) {
    const bool scored = batch.mask[cell / (kUnits * kBins)];
    if (batch.asked[cell]) {
      EXPECT_TRUE(scored);
      EXPECT_EQ(heard[cell], 0);
      EXPECT_EQ(batch.hidden[cell], all[cell]);
    } else {
      EXPECT_EQ(batch.hidden[cell], 0);
      if (scored) {
        EXPECT_EQ(heard[cell], all[cell]);
      }
    }
    asked += batch.asked[cell];
    hidden_spikes += batch.hidden[cell];
  }
  EXPECT_EQ(asked, batch.asked_cells);
  EXPECT_GT(asked, 0);
  EXPECT_GT(hidden_spikes, 0);
  // Spikes of the warm-up are hidden as well, or the decoder would hear there what it is asked.
  EXPECT_LT(batch.events.size() + static_cast<std::size_t>(hidden_spikes), open.events.size());
}

TEST_F(Hidden, HeldOutUnitsAreNeverHeard) {
  for (std::uint64_t iteration = 0; iteration < 20; ++iteration) {
    const CropBatch batch = pack_crops(timeline_, {{0, 0}}, 20, 4, kHide, 3, iteration);
    for (const Event& e : batch.events) EXPECT_NE(e.unit % 4, 3);
    for (std::size_t cell = 0; cell < batch.asked.size(); ++cell)
      if (cell / kBins % kUnits % 4 == 3 && batch.mask[cell / (kUnits * kBins)]) {
        EXPECT_TRUE(batch.asked[cell]);
      }
  }
}

TEST_F(Hidden, TheLogRatesAreThoseOfTheFormula) {
  const ModelConfig c = small_config(timeline_);
  ASSERT_EQ(c.bins_per_step(), kBins);
  const auto params = some_weights(c);
  const torch::NoGradGuard no_grad;
  const CropBatch batch = hidden_batch(timeline_);
  const torch::Tensor log_rates = SpikeNet(c, *params).forward(batch);
  ASSERT_EQ(log_rates.sizes(), (std::vector<std::int64_t>{2, 20, kUnits * kBins}));
  const torch::Tensor states = StreamNet(c, *params).states(batch);
  const auto p = [&](const char* name) { return params->at(name); };
  for (const std::int64_t step : {4, 11, 19}) {
    const torch::Tensor h = states[1][step - (20 - states.size(1))];
    const torch::Tensor f = torch::gelu(torch::mv(p("spikes.proj"), h));
    for (std::int64_t u = 0; u < kUnits; ++u)
      for (std::int64_t b = 0; b < kBins; ++b) {
        const double expected =
            ((p("spikes.unit")[u] + p("spikes.bin")[b]).dot(f) / std::sqrt(c.dim) +
             p("spikes.bias")[u])
                .item<double>();
        EXPECT_NEAR(log_rates[1][step][u * kBins + b].item<double>(), expected, 1e-10);
      }
  }
}

TEST_F(Hidden, AHiddenSpikeNeverReachesAnyPrediction) {
  const ModelConfig c = small_config(timeline_);
  const auto params = some_weights(c);
  const torch::NoGradGuard no_grad;
  const CropBatch batch = pack_crops(timeline_, {{0, 0}}, 20, 4, kHide, 3, 7);
  Timeline other = timeline_;
  int changed = 0;
  for (std::int64_t s = 4; s < 20; ++s)
    for (std::int64_t e = other.parts[0].indptr[s]; e < other.parts[0].indptr[s + 1]; ++e) {
      Event& event = other.parts[0].events[e];
      if (!batch.asked[(s * kUnits + event.unit) * kBins + event.bin - s * kBins]) continue;
      event.value += 5;
      ++changed;
    }
  ASSERT_GT(changed, 5);
  const CropBatch louder = pack_crops(other, {{0, 0}}, 20, 4, kHide, 3, 7);
  EXPECT_NE(louder.hidden, batch.hidden);
  const SpikeNet network(c, *params);
  const torch::Tensor a = network.forward(batch);
  const torch::Tensor b = network.forward(louder);
  EXPECT_TRUE(torch::equal(a, b));
  EXPECT_NE(poisson_loss(a, batch).item<double>(), poisson_loss(b, louder).item<double>());
}

TEST_F(Hidden, WhatIsHeardLaterChangesNoEarlierPrediction) {
  const ModelConfig c = small_config(timeline_);
  const auto params = some_weights(c);
  const torch::NoGradGuard no_grad;
  CropBatch batch = pack_crops(timeline_, {{0, 0}}, 20, 4, kHide, 3, 7);
  const SpikeNet network(c, *params);
  const torch::Tensor before = network.forward(batch);
  ASSERT_LT(batch.indptr[12], batch.indptr[13]);
  batch.events[batch.indptr[12]].value += 3;
  const torch::Tensor after = network.forward(batch);
  EXPECT_TRUE(torch::equal(before.narrow(1, 0, 12), after.narrow(1, 0, 12)));
  EXPECT_FALSE(torch::equal(before[0][12], after[0][12]));
}

TEST_F(Hidden, TheGradientIsOfTheAskedCellsAloneAndHiddenUnitsRowsHaveNone) {
  const ModelConfig c = small_config(timeline_);
  const auto params = some_weights(c);
  const CropBatch batch = hidden_batch(timeline_);
  const torch::Tensor log_rates = SpikeNet(c, *params).forward(batch);
  const torch::Tensor pull =
      torch::autograd::grad({poisson_loss(log_rates, batch)}, {log_rates}, {}, true)[0];
  const auto rows = log_rates.sizes();
  const torch::Tensor asked =
      torch::tensor(std::vector<double>(batch.asked.begin(), batch.asked.end())).view(rows);
  const torch::Tensor counts =
      torch::tensor(std::vector<double>(batch.hidden.begin(), batch.hidden.end())).view(rows);
  EXPECT_TRUE(torch::allclose(pull, (log_rates.exp() - counts) * asked, 1e-12, 1e-12));

  params->grad().zero_();
  poisson_loss(log_rates, batch).backward();
  ASSERT_TRUE(params->gradients_are_flat());
  for (const char* table : {"tokenizer.additive", "tokenizer.unit_emb"}) {
    const torch::Tensor g = params->at(table).grad();
    EXPECT_EQ(g[3].abs().max().item<double>(), 0) << table;  // held out
    EXPECT_GT(g.abs().max().item<double>(), 0) << table;
  }
  EXPECT_GT(params->at("spikes.unit").grad()[3].abs().max().item<double>(), 0);
}

/// Knows the rates, and what it was given.
class Oracle final : public Network {
 public:
  explicit Oracle(double rate) : rate_(rate) {}
  torch::Tensor forward(const CropBatch& batch) const override {
    for (const Event& e : batch.events) heard_.insert(e.unit);
    torch::Tensor out = torch::empty({1, batch.steps, kUnits * kBins}, torch::kFloat64);
    for (std::int64_t u = 0; u < kUnits; ++u)
      out.narrow(2, u * kBins, kBins).fill_(std::log(rate_ * static_cast<double>(u + 1)));
    return out;
  }
  std::int64_t context_steps() const override { return 3; }
  std::int64_t warmup_steps() const override { return 3; }

  mutable std::set<std::int32_t> heard_;

 private:
  double rate_;
};

TEST_F(Hidden, CoSmoothingScoresUnitsThatTheNetworkDoesNotHear) {
  const std::vector<std::uint8_t> hidden = {0, 1, 0, 0, 0, 1, 0, 0};
  const Oracle oracle(0.05);
  const CoSmoothing told = co_smoothing(oracle, timeline_, hidden);
  EXPECT_EQ(oracle.heard_, (std::set<std::int32_t>{0, 2, 3, 4, 6, 7}));
  BitsPerSpike bits(kUnits);
  const TimelinePart& part = timeline_.parts[0];
  for (std::int64_t s = 0; s < part.steps(); ++s) {
    if (!part.mask[s]) continue;
    for (const std::int32_t u : {1, 5})
      for (std::int64_t b = 0; b < kBins; ++b) {
        double count = 0;
        for (std::int64_t e = part.indptr[s]; e < part.indptr[s + 1]; ++e)
          if (part.events[e].unit == u && part.events[e].bin == s * kBins + b)
            count += part.events[e].value;
        bits.add(static_cast<std::size_t>(u), 0.05 * (u + 1), count);
      }
  }
  EXPECT_NEAR(told.bits_per_spike, bits.score(), 1e-6);
  EXPECT_EQ(told.spikes, bits.spikes());
  EXPECT_EQ(told.bins, bits.bins());
  EXPECT_GT(told.spikes, 100);
}

// --- pretraining as a whole

TrainOptions pretrain_options(const std::string& out) {
  TrainOptions o = tiny_options(out);
  o.iterations = 150;
  o.lr = 5e-3;
  o.ema = 0.9;
  o.unit_dropout = o.thinning = 0;
  return o;
}

/// Rates that one slow drive shares, so that some units tell of others.
std::vector<Recording> session() { return {synthetic_recording(kUnits, 32, 4)}; }

TEST(Pretrain, TellsHeldOutSpikesBetterThanTheirMeansAndScoresWhatItWrote) {
  const TempDir dir;
  const auto report = pretrain(pretrain_options(dir.file("pre")), session());
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_GT(report->r2, 0.005);
  EvaluateOptions evaluation;
  evaluation.model = dir.file("pre");
  evaluation.threads = 1;
  const auto scored = evaluate(evaluation, session());
  ASSERT_TRUE(scored) << scored.error().message;
  ASSERT_TRUE(scored->co_bps);
  EXPECT_NEAR(*scored->co_bps, report->r2, 1e-5);
  EXPECT_EQ(scored->held_out_units, 2);
  EXPECT_TRUE(std::isnan(scored->r2));
  EXPECT_NE(bytes_of(dir.file("pre.run/metrics.jsonl")).find("\"bits_per_spike\":"),
            std::string::npos);
}

TEST(Pretrain, NeedsAndReadsNoBehavior) {
  const TempDir dir;
  TrainOptions options = pretrain_options(dir.file("with"));
  options.iterations = 5;
  ASSERT_TRUE(pretrain(options, session()));
  std::vector<Recording> silent = session();
  silent[0].behavior.clear();
  options.out = dir.file("without");
  const auto report = pretrain(options, silent);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(bytes_of(dir.file("with")), bytes_of(dir.file("without")));
}

TEST(Pretrain, AnInterruptedRunEndsWithTheSameBits) {
  const TempDir dir;
  TrainOptions options = pretrain_options(dir.file("whole"));
  options.iterations = 20;
  ASSERT_TRUE(pretrain(options, session()));
  options.out = dir.file("parts");
  options.resume = true;
  options.stop_after = 8;
  int starts = 1;
  for (; starts < 6; ++starts) {
    const auto report = pretrain(options, session());
    ASSERT_TRUE(report) << report.error().message;
    if (report->complete) break;
  }
  EXPECT_EQ(starts, 3);
  EXPECT_EQ(bytes_of(dir.file("whole")), bytes_of(dir.file("parts")));
}

TEST(Pretrain, TheEngineRefusesTheFileAndTrainingFromItExportsAServableModelWithoutTheHead) {
  const TempDir dir;
  ASSERT_TRUE(pretrain(pretrain_options(dir.file("pre")), session()));
  EXPECT_FALSE(load_model(dir.file("pre")));
  const ModelFile before = load_pretrained(dir.file("pre")).value_or_throw();

  TrainOptions options = tiny_options(dir.file("model"));
  options.init = dir.file("pre");
  options.data.target_offset_ms = 0;
  options.iterations = 1;
  options.lr = 1e-9;
  const auto report = train(options, session());
  ASSERT_TRUE(report) << report.error().message;
  const auto model = load_model(dir.file("model"));
  ASSERT_TRUE(model) << model.error().message;
  std::set<std::string> names, expected;
  for (const auto& [name, tensor] : model->tensors) names.insert(name);
  for (const TensorSpec& spec : tensor_specs(model->config)) expected.insert(spec.name);
  EXPECT_EQ(names, expected);
  EXPECT_EQ(model->config.target_offset_ms, 0);
  EXPECT_EQ(model->config.output_units, (std::vector<std::string>{"mm/s", "mm/s"}));
  for (const auto& [name, tensor] : before.tensors) {
    if (name.rfind("spikes.", 0) == 0) continue;
    const auto x = tensor.f32();
    const auto y = model->at(name).f32();
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-5) << name;
  }
}

TEST(Pretrain, SessionsWithTheirOwnUnitsKeepTheirRowsWhenOneIsTrainedOn) {
  const TempDir dir;
  Recording first = synthetic_recording(8, 16, 1);
  Recording second = synthetic_recording(5, 16, 2);
  first.session_id = "day1";
  second.session_id = "day2";
  TrainOptions options = pretrain_options(dir.file("pre"));
  options.iterations = 5;
  options.data.units_by = "session";
  const auto done = pretrain(options, {first, second});
  ASSERT_TRUE(done) << done.error().message;
  const ModelFile before = load_pretrained(dir.file("pre")).value_or_throw();
  ASSERT_EQ(before.config.units.size(), 13u);
  TrainOptions training = tiny_options(dir.file("model"));
  training.init = dir.file("pre");
  training.iterations = 1;
  training.lr = 1e-9;
  ASSERT_TRUE(train(training, {second}));
  const ModelFile after = load_model(dir.file("model")).value_or_throw();
  ASSERT_EQ(after.config.units.size(), 5u);
  const auto width = static_cast<std::size_t>(after.config.dim);
  const auto x = before.at("tokenizer.unit_emb").f32();
  const auto y = after.at("tokenizer.unit_emb").f32();
  for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], x[8 * width + i], 1e-5);
}

TEST(Pretrain, BadInputIsNamed) {
  const TempDir dir;
  const auto field = [&](const TrainOptions& o) {
    const auto report = pretrain(o, session());
    return report ? "" : report.error().field;
  };
  const TrainOptions good = pretrain_options(dir.file("pre"));
  TrainOptions o = good;
  o.preset = "cortex-xs";
  EXPECT_EQ(field(o), "preset");
  o.preset = "gru";
  EXPECT_EQ(field(o), "preset");
  o = good;
  o.hiding = HidingOptions{.units = 0, .bins = 0};
  EXPECT_EQ(field(o), "mask-units");
  o.hiding = HidingOptions{.units = 1, .bins = 0};
  EXPECT_EQ(field(o), "mask-units");
  o = good;
  o.init = "some.safetensors";
  EXPECT_EQ(field(o), "init");
  o = good;
  o.iterations = 2;
  ASSERT_EQ(field(o), "");

  TrainOptions training = tiny_options(dir.file("model"));
  training.init = good.out;
  training.learn = "units";
  EXPECT_EQ(train(training, session()).error().field, "init");
  EvaluateOptions evaluation;
  evaluation.model = good.out;
  evaluation.against = good.out;
  EXPECT_EQ(evaluate(evaluation, session()).error().field, "against");
  evaluation.against.clear();
  std::vector<Recording> heard = session();
  for (Unit& unit : heard[0].units) unit.held_out = false;
  EXPECT_EQ(evaluate(evaluation, heard).error().field, "nwb");
}

}  // namespace
}  // namespace cortex::train
