#include "quant/quantize_model.h"

#include <cortex/engine.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "data/simulator.h"
#include "data/steps.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/forwarding_ops.h"
#include "support/paths.h"
#include "support/stream_oracle.h"

namespace cortex::testing {
namespace {

// What the engine runs on.
const MakeOps kCpu = [] { return make_cpu_ops({}); };

/// Random spikes for a model of `units` units.
Calibration random_stream(const ModelConfig& config, std::int64_t steps, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Calibration c;
  for (std::int64_t s = 0; s < steps; ++s) {
    for (int bin = 0; bin < config.bins_per_step(); ++bin)
      for (int u = 0; u < config.unit_count(); ++u)
        if (random() % 4 == 0)
          c.events.push_back(
              {u, 1 + static_cast<int>(random() % 3), s * config.bins_per_step() + bin});
    c.indptr.push_back(static_cast<std::int64_t>(c.events.size()));
    c.counted.push_back(1);
  }
  return c;
}

Calibration random_windows(const ModelConfig& config, int windows, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Calibration c;
  for (int w = 0; w < windows; ++w) {
    for (int bin = 0; bin < config.window_bins; ++bin)
      for (int u = 0; u < config.max_neurons; ++u)
        if (random() % (3 + 4 * static_cast<unsigned>(w)) == 0) c.events.push_back({u, 1, bin});
    c.indptr.push_back(static_cast<std::int64_t>(c.events.size()));
    c.counted.push_back(1);
  }
  return c;
}

ModelFile small_window_model() {
  ModelConfig c = preset_config("cortex-xs").value_or_throw();
  c.dim = 32;
  c.layers = 2;
  c.heads = 2;
  c.head_dim = 16;
  c.latents = 12;
  c.max_neurons = 20;
  c.max_bins = 64;
  c.window_bins = 60;
  ModelFile model = random_model(c, 4);
  for (auto& [name, tensor] : model.tensors)
    if (name.find("norm") == std::string::npos)
      for (float& v : tensor.f32()) v *= 10;
  return model;
}

const QuantizedLayer& layer(const QuantizeReport& report, const std::string& name) {
  return *std::find_if(report.layers.begin(), report.layers.end(),
                       [&](const auto& l) { return l.name == name; });
}

/// Counts how often weights of the same bytes are packed.
class CountingOps final : public ForwardingOps {
 public:
  CountingOps(std::unique_ptr<Ops> base, std::map<std::string, int>& packs)
      : ForwardingOps(*base), owned_(std::move(base)), packs_(packs) {}
  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    ++packs_[std::string(reinterpret_cast<const char*>(linear.weight.data()),
                         linear.weight.bytes())];
    return base_.pack_linear(linear);
  }

 private:
  std::unique_ptr<Ops> owned_;
  std::map<std::string, int>& packs_;
};

class QuantizeStream : public ::testing::Test {
 protected:
  QuantizedModel quantize(QuantizeOptions options = {}) {
    return quantize_model(model_, kCpu, calibration_, options).value_or_throw();
  }
  double rule_error(const QuantizeReport& report, const std::string& rule) {
    for (const auto& [name, error] : report.rules)
      if (name == rule) return error;
    ADD_FAILURE() << rule << " was not tried";
    return 0;
  }

  ModelFile model_ = lively_stream_model(tiny_stream_config(), 21);
  Calibration calibration_ = random_stream(model_.config, 80, 22);
};

TEST_F(QuantizeStream, RunsAsTheEngineDoes) {
  const TempDir folder;
  save_model(folder.file("m.safetensors"), model_.config, model_.tensors).value_or_throw();
  auto engine = Engine::create({.model_path = folder.file("m.safetensors")}).value_or_throw();
  const auto session = engine->open_session({}).value_or_throw();
  const auto behavior = run_model(model_, kCpu, calibration_, 80);
  ASSERT_EQ(behavior.size(), 80U * model_.config.outputs());
  std::size_t at = 0;
  for (std::int64_t s = 0; s < 80; ++s) {
    const auto begin = static_cast<std::size_t>(calibration_.indptr[s]);
    const auto count = static_cast<std::size_t>(calibration_.indptr[s + 1]) - begin;
    const auto answer = engine
                            ->step({.session = session.id,
                                    .sequence = s,
                                    .events = std::span(calibration_.events).subspan(begin, count)})
                            .value_or_throw();
    for (const float y : answer.behavior) EXPECT_EQ(behavior[at++], y) << s;
  }
}

TEST_F(QuantizeStream, EveryLinearIsInt8ButThoseMultipliedAtLoad) {
  const QuantizedModel q = quantize({.spare_bytes = 0, .max_error = 1});
  EXPECT_EQ(q.report.layers.size(), 4U + 4U * model_.config.layers);
  for (const QuantizedLayer& l : q.report.layers) {
    const bool load = l.name == "cross.q" || l.name == "cross.kv";
    EXPECT_EQ(l.dtype, load ? DType::bf16 : DType::i8) << l.name;
    EXPECT_EQ(l.kept, load ? Kept::load : Kept::no) << l.name;
    EXPECT_EQ(l.clipping.has_value(), !load) << l.name;
    EXPECT_EQ(l.effect.has_value(), !load) << l.name;
    EXPECT_EQ(l.linear_error.has_value(), !load) << l.name;
    EXPECT_GT(l.weight_error, 0) << l.name;
    EXPECT_LT(l.weight_error, load ? 0.004 : 0.02) << l.name;
  }
  EXPECT_EQ(q.model.precision(), DType::i8);
  EXPECT_LT(q.model.bytes(), model_.bytes());
}

TEST_F(QuantizeStream, RunsDoNotPackAnewWhatTheyShare) {
  std::map<std::string, int> packs;
  int runs = 0;
  QuantizeOptions options;
  options.progress = [&](const std::string&) { ++runs; };
  const MakeOps counting = [&] { return std::make_unique<CountingOps>(make_cpu_ops({}), packs); };
  quantize_model(model_, counting, calibration_, options).value_or_throw();
  ASSERT_GT(runs, 15);
  ASSERT_FALSE(packs.empty());
  // Each clipping rule by itself and the report, of a weight that they agree on; then one pack for
  // all runs, and another where a version comes back after a while.
  for (const auto& [weight, count] : packs) EXPECT_LE(count, 7) << weight.size() << " bytes";
}

TEST_F(QuantizeStream, TheClippingChosenIsNeverWorseThanAbsmaxOnTheCalibration) {
  const QuantizeReport report = quantize({.spare_bytes = 0, .max_error = 1}).report;
  ASSERT_EQ(report.rules.size(), 4U);
  const double chosen = rule_error(report, report.rule);
  for (const auto& [rule, error] : report.rules) EXPECT_LE(chosen, error) << rule;
  EXPECT_LE(chosen, rule_error(report, "absmax"));
  EXPECT_EQ(report.choice_error, chosen);
}

TEST_F(QuantizeStream, LayersThatHurtAreKeptInBf16UntilTheErrorIsMet) {
  const QuantizeReport all = quantize({.spare_bytes = 0, .max_error = 1}).report;
  const double limit = 0.5 * all.choice_error;
  const QuantizedModel some = quantize({.spare_bytes = 0, .max_error = limit});
  EXPECT_LE(some.report.choice_error, limit);
  int kept = 0;
  for (const QuantizedLayer& l : some.report.layers) {
    if (l.kept != Kept::hurts) continue;
    ++kept;
    EXPECT_EQ(l.dtype, DType::bf16);
    EXPECT_EQ(some.model.at(l.name).dtype(), DType::bf16);
    EXPECT_EQ(some.model.tensors.count(l.name + ".scale"), 0U);
    EXPECT_TRUE(l.effect);
  }
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, 4 * model_.config.layers + 2) << "some linear can stay int8";
}

TEST_F(QuantizeStream, ALinearThatCostsNextToNothingIsKeptOnlyIfThatHelps) {
  const QuantizeReport all = quantize({.spare_bytes = 0, .max_error = 1}).report;
  const QuantizeReport some = quantize({.spare_bytes = 0.2, .max_error = 1}).report;
  EXPECT_LT(some.choice_error, all.choice_error);
  std::int64_t kept = 0, whole = 0;
  for (const QuantizedLayer& l : some.layers) {
    if (l.kept == Kept::load) continue;
    whole += element_count(l.shape);
    if (l.kept == Kept::hurts) kept += element_count(l.shape);
  }
  EXPECT_GT(kept, 0);
  EXPECT_LE(kept, 0.2 * static_cast<double>(whole));
}

TEST_F(QuantizeStream, TheReportedErrorIncludesRoundingTheActivations) {
  const QuantizedModel q = quantize({.choice_items = 80, .spare_bytes = 0, .max_error = 1});
  const auto outputs = static_cast<std::size_t>(model_.config.outputs());
  const auto exact = run_model(model_, kCpu, calibration_, 80);
  const auto integers = run_model(q.model, kCpu, calibration_, 80);
  const auto widened = run_model(widen(q.model), kCpu, calibration_, 80);
  EXPECT_DOUBLE_EQ(q.report.choice_error,
                   output_error(integers, exact, calibration_.counted, outputs));
  EXPECT_NE(q.report.choice_error, output_error(widened, exact, calibration_.counted, outputs));
}

TEST_F(QuantizeStream, TheFileRoundTripsToTheSameBits) {
  const QuantizedModel q = quantize();
  const TempDir folder;
  const std::string path = folder.file("m8.safetensors");
  save_model(path, q.model.config, q.model.tensors).value_or_throw();
  const ModelFile back = load_model(path).value_or_throw();
  ASSERT_EQ(back.tensors.size(), q.model.tensors.size());
  for (const auto& [name, tensor] : q.model.tensors) {
    EXPECT_EQ(back.at(name).dtype(), tensor.dtype()) << name;
    EXPECT_TRUE(std::equal(tensor.data(), tensor.data() + tensor.bytes(), back.at(name).data()))
        << name;
  }
  EXPECT_EQ(back.parameter_count(), model_.parameter_count());
  const auto engine = Engine::create({.model_path = path}).value_or_throw();
  EXPECT_EQ(engine->model().precision, "int8");
}

TEST_F(QuantizeStream, Bf16IsMoreExactThanInt8) {
  const QuantizedModel narrow = quantize({.precision = DType::bf16});
  for (const QuantizedLayer& l : narrow.report.layers) EXPECT_EQ(l.dtype, DType::bf16) << l.name;
  EXPECT_TRUE(narrow.report.rules.empty());
  EXPECT_GT(narrow.report.choice_error, 0);
  EXPECT_LT(narrow.report.choice_error,
            0.5 * quantize({.spare_bytes = 0, .max_error = 1}).report.choice_error);
}

TEST_F(QuantizeStream, AnInt8ModelIsNotQuantisedAgain) {
  const QuantizedModel q = quantize();
  const auto again = quantize_model(q.model, kCpu, calibration_, {});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().field, "model");
}

TEST_F(QuantizeStream, AnEventOutOfRangeIsRefused) {
  calibration_.events[5].unit = model_.config.unit_count();
  const auto refused = quantize_model(model_, kCpu, calibration_, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
}

TEST(QuantizeWindow, KeepsWhatFoldsAtLoadAndQuantisesTheRest) {
  const ModelFile model = small_window_model();
  const QuantizedModel q = quantize_model(model, kCpu, random_windows(model.config, 9, 5),
                                          {.sample_rows = 32, .spare_bytes = 0, .max_error = 1})
                               .value_or_throw();
  EXPECT_EQ(layer(q.report, "encoder.cross_attn.kv_proj.weight").kept, Kept::load);
  EXPECT_EQ(layer(q.report, "behavior_head.out_proj.weight").kept, Kept::load);
  EXPECT_EQ(layer(q.report, "encoder.cross_attn.out_proj.weight").dtype, DType::i8);
  EXPECT_EQ(layer(q.report, "encoder.self_attn_blocks.1.mlp.2.weight").dtype, DType::i8);
  EXPECT_GT(q.report.choice_error, 0);
  EXPECT_LT(q.report.choice_error, 0.2);
}

TEST(QuantizeNano, Int8LosesAtMostThreeThousandthsOfR2) {
  const ModelFile model =
      load_model(source_path("models/stream-nano.safetensors").string()).value_or_throw();
  const Recording recording =
      simulate({.population_seed = 1, .session_seed = 201, .minutes = 2}).value_or_throw();
  StepOptions cut{.bin_ms = model.config.bin_ms,
                  .step_ms = model.config.step_ms,
                  .target_offset_ms = model.config.target_offset_ms,
                  .target = {},
                  .unit_ids = {}};
  for (const ModelUnit& u : model.config.units) cut.unit_ids.push_back(u.id);
  const SteppedRecording stepped = step_recording(recording, cut).value_or_throw();
  const auto all = scored_steps(stepped, recording, "all").value_or_throw();
  const auto held_out = scored_steps(stepped, recording, "val").value_or_throw();
  Calibration calibration{stepped.indptr, stepped.events, all};
  for (std::size_t s = 0; s < all.size(); ++s)
    if (held_out[s] != 0) calibration.counted[s] = 0;

  const QuantizedModel q =
      quantize_model(model, kCpu, calibration, {.choice_items = 200}).value_or_throw();
  const auto before = run_model(model, kCpu, calibration, calibration.items());
  const auto after = run_model(q.model, kCpu, calibration, calibration.items());
  for (const auto& mask : {all, held_out}) {
    const double r2 = r2_score(stepped.target, before, mask, stepped.dims).mean;
    EXPECT_GT(r2, 0.9);
    EXPECT_GT(r2_score(stepped.target, after, mask, stepped.dims).mean, r2 - 0.003);
  }
  EXPECT_LT(q.model.bytes(), model.bytes() * 0.45);
}

}  // namespace
}  // namespace cortex::testing
