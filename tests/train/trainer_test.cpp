#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "model/weights.h"
#include "support/paths.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

using cortex::testing::TempDir;
using testing::bytes_of;
using testing::synthetic_recording;
using testing::tiny_options;

const std::vector<Recording>& session() {
  static const std::vector<Recording> recordings = {synthetic_recording(8, 24, 4)};
  return recordings;
}

TEST(Trainer, LearnsAndExportsWhatItScored) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("model.safetensors"));
  options.iterations = 120;
  options.lr = 5e-3;
  options.unit_dropout = 0;
  options.ema = 0.9;
  const auto report = train(options, session());
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_GT(report->r2, 0.2);
  EXPECT_TRUE(report->complete);

  const auto model = load_model(options.out);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->config.units.size(), 8u);
  EXPECT_EQ(model->config.units[3].id, "103");
  EXPECT_GT(model->config.units[3].rate_hz, 5);
  EXPECT_EQ(model->config.output_units, (std::vector<std::string>{"mm/s", "mm/s"}));
  EXPECT_NE(model->config.training_json.find("\"r2\":"), std::string::npos);

  EvaluateOptions evaluation;
  evaluation.model = options.out;
  evaluation.threads = 1;
  const auto scored = evaluate(evaluation, session());
  ASSERT_TRUE(scored) << scored.error().message;
  EXPECT_EQ(scored->steps, report->scored_steps);
  EXPECT_NEAR(scored->r2, report->r2, 1e-6);
  EXPECT_EQ(scored->protocol, "causal");
  EXPECT_EQ(scored->clock, "continuous");

  evaluation.reset_each_trial = true;
  const auto reset = evaluate(evaluation, session());
  ASSERT_TRUE(reset) << reset.error().message;
  EXPECT_EQ(reset->steps, scored->steps);
  EXPECT_EQ(reset->clock, "reset-each-trial");
  EXPECT_NE(reset->r2, scored->r2);
}

TEST(Trainer, TrainsAWindowDecoderCausally) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("window.safetensors"));
  options.preset = "cortex-xs";
  options.model.latents = 4;
  options.model.window_bins = 8;
  options.model.window_steps.reset();
  options.model.receptive_steps.reset();
  options.iterations = 10;
  const auto report = train(options, session());
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(std::isfinite(report->r2));
  const auto model = load_model(options.out);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->config.kind, ModelKind::window);
  EXPECT_EQ(model->tensors.count("output.std"), 1u);
}

TEST(Trainer, AnInterruptedRunEndsWithTheSameBits) {
  const TempDir dir;
  const TrainOptions whole = tiny_options(dir.file("whole.safetensors"));
  ASSERT_TRUE(train(whole, session()));
  TrainOptions parts = tiny_options(dir.file("parts.safetensors"));
  parts.resume = true;
  parts.stop_after = 8;
  int starts = 0;
  while (true) {
    const auto report = train(parts, session());
    ASSERT_TRUE(report) << report.error().message;
    ++starts;
    if (report->complete) break;
    ASSERT_LT(starts, 10);
  }
  EXPECT_EQ(starts, 4);
  EXPECT_EQ(bytes_of(whole.out), bytes_of(parts.out));
}

TEST(Trainer, TwoRecordingsWithTheSameUnitsTrainTogether) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("two.safetensors"));
  options.iterations = 5;
  const auto report = train(options, {synthetic_recording(8, 8, 1), synthetic_recording(8, 12, 2)});
  ASSERT_TRUE(report) << report.error().message;
  const auto other = train(options, {synthetic_recording(8, 8, 1), synthetic_recording(7, 12, 2)});
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("107"), std::string::npos) << other.error().message;
}

TEST(Trainer, SessionsWithTheirOwnUnitsTrainTogether) {
  const TempDir dir;
  Recording first = synthetic_recording(8, 12, 1);
  Recording second = synthetic_recording(5, 12, 2);
  first.session_id = "day1";
  second.session_id = "day2";
  TrainOptions options = tiny_options(dir.file("two.safetensors"));
  options.data.units_by = "session";
  options.iterations = 5;
  const auto report = train(options, {first, second});
  ASSERT_TRUE(report) << report.error().message;
  const ModelFile model = load_model(options.out).value_or_throw();
  ASSERT_EQ(model.config.units.size(), 13u);
  EXPECT_EQ(model.config.units[0].id, "day1/100");
  EXPECT_EQ(model.config.units[8].id, "day2/100");
  EXPECT_EQ(model.config.units[8].session, "day2");
  EXPECT_GT(model.config.units[8].rate_hz, 5);
  // Each day is decoded with its own rows, alone or with the other.
  EvaluateOptions evaluation;
  evaluation.model = options.out;
  evaluation.threads = 1;
  const auto both = evaluate(evaluation, {first, second});
  ASSERT_TRUE(both) << both.error().message;
  EXPECT_EQ(both->steps, report->scored_steps);
  EXPECT_NEAR(both->r2, report->r2, 1e-6);
  const auto one = evaluate(evaluation, {second});
  ASSERT_TRUE(one) << one.error().message;
  EXPECT_LT(one->steps, both->steps);
  second.session_id = "day3";
  const auto unknown = evaluate(evaluation, {second});
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("day3/100"), std::string::npos);
}

double largest_difference(const std::string& a, const std::string& b) {
  const ModelFile x = load_model(a).value_or_throw();
  const ModelFile y = load_model(b).value_or_throw();
  double worst = 0;
  for (const auto& [name, tensor] : x.tensors)
    for (std::size_t i = 0; i < tensor.f32().size(); ++i)
      worst = std::max<double>(worst, std::abs(tensor.f32()[i] - y.at(name).f32()[i]));
  return worst;
}

TEST(Trainer, ANewSessionLearnsTheRowsOfItsUnitsAlone) {
  const TempDir dir;
  Recording first = synthetic_recording(8, 24, 1);
  Recording second = synthetic_recording(6, 24, 2);
  first.session_id = "day1";
  second.session_id = "day2";
  TrainOptions options = tiny_options(dir.file("day1"));
  options.iterations = 150;
  options.lr = 5e-3;
  options.ema = 0.9;
  options.unit_dropout = 0;
  ASSERT_TRUE(train(options, {first}));
  options.init = options.out;
  options.learn = "units";
  options.train_trials = {10};
  options.out = dir.file("day2");
  const auto adapted = train(options, {second});
  ASSERT_TRUE(adapted) << adapted.error().message;
  const ModelFile before = load_model(dir.file("day1")).value_or_throw();
  const ModelFile after = load_model(dir.file("day2")).value_or_throw();
  EXPECT_EQ(after.config.units.size(), 6u);
  for (const auto& [name, tensor] : before.tensors) {
    if (name == "tokenizer.unit_emb" || name == "tokenizer.additive") continue;
    const auto x = tensor.f32();
    const auto y = after.at(name).f32();
    EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << name;
  }
  // Better than rows that know nothing of these units.
  options.out = dir.file("untouched");
  options.iterations = 1;
  options.lr = 1e-9;
  const auto untouched = train(options, {second});
  ASSERT_TRUE(untouched) << untouched.error().message;
  EXPECT_GT(adapted->r2, untouched->r2 + 0.1);

  options.out = dir.file("refused");
  for (const std::vector<std::int64_t>& wrong :
       {std::vector<std::int64_t>{100}, std::vector<std::int64_t>{1, 2}}) {
    options.train_trials = wrong;
    EXPECT_EQ(train(options, {second}).error().field, "train-trials");
  }
  options.train_trials = {10};
  options.data.step_ms = 40;
  EXPECT_EQ(train(options, {second}).error().field, "init");
  options.init.clear();
  EXPECT_EQ(train(options, {second}).error().field, "learn");
}

TEST(Trainer, ABatchInPartsLearnsWhatTheWholeDoes) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("whole"));
  options.batch = 6;
  options.iterations = 10;
  ASSERT_TRUE(train(options, session()));
  options.out = dir.file("parts");
  options.accumulate = 4;
  ASSERT_TRUE(train(options, session()));
  EXPECT_LT(largest_difference(dir.file("whole"), dir.file("parts")), 1e-4);
  options.out = dir.file("other");
  options.seed = 2;
  ASSERT_TRUE(train(options, session()));
  EXPECT_GT(largest_difference(dir.file("whole"), dir.file("other")), 1e-2);
}

TEST(Trainer, BfloatProductsLearnNearlyTheSame) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("float"));
  options.iterations = 120;
  options.lr = 5e-3;
  options.unit_dropout = 0;
  options.ema = 0.9;
  const auto wide = train(options, session());
  ASSERT_TRUE(wide) << wide.error().message;
  options.out = dir.file("bfloat");
  options.bf16 = true;
  const auto narrow = train(options, session());
  ASSERT_TRUE(narrow) << narrow.error().message;
  EXPECT_NEAR(narrow->r2, wide->r2, 0.1);
  EXPECT_NE(narrow->r2, wide->r2);
}

TEST(Trainer, ARunIsNeverOverwrittenUnasked) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("model.safetensors"));
  options.iterations = 3;
  ASSERT_TRUE(train(options, session()));
  const auto again = train(options, session());
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().message.find("--resume"), std::string::npos);
  options.resume = true;
  options.seed = 2;
  const auto other = train(options, session());
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().field, "run");
}

void expect_refused(const TrainOptions& options, const std::vector<Recording>& recordings,
                    const std::string& names) {
  const auto report = train(options, recordings);
  ASSERT_FALSE(report) << names;
  EXPECT_NE(report.error().message.find(names), std::string::npos) << report.error().message;
}

TEST(Trainer, BadInputIsNamed) {
  const TempDir dir;
  const TrainOptions good = tiny_options(dir.file("model.safetensors"));
  TrainOptions o = good;
  o.lr = std::numeric_limits<double>::quiet_NaN();
  expect_refused(o, session(), "--lr");
  o = good;
  o.unit_dropout = 1;
  expect_refused(o, session(), "--unit-dropout");
  o = good;
  o.preset = "stream-huge";
  expect_refused(o, session(), "stream-huge");
  o = good;
  o.device = "gpu";
  expect_refused(o, session(), "gpu");
  o = good;
  o.data.target = "gaze";
  expect_refused(o, session(), "gaze");
  o = good;
  o.data.val_split = "holdout";
  expect_refused(o, session(), "holdout");
  o = good;
  o.crop_steps = 6;
  expect_refused(o, session(), "6 steps");
  o = good;
  o.model.receptive_steps = 9;
  expect_refused(o, session(), "receptive_steps");

  std::vector<Recording> silent = session();
  silent.front().behavior.clear();
  expect_refused(good, silent, "no behaviour");
  std::vector<Recording> unlabelled = session();
  for (Trial& trial : unlabelled.front().trials) trial.split = "test";
  expect_refused(good, unlabelled, "train");
  EXPECT_FALSE(std::filesystem::exists(good.out));
}

}  // namespace
}  // namespace cortex::train
