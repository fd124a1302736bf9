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
  EXPECT_EQ(scored->protocol, "continuous");

  evaluation.reset_each_trial = true;
  const auto reset = evaluate(evaluation, session());
  ASSERT_TRUE(reset) << reset.error().message;
  EXPECT_EQ(reset->steps, scored->steps);
  EXPECT_EQ(reset->protocol, "reset-each-trial");
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
  expect_refused(good, silent, "hand_vel");
  std::vector<Recording> unlabelled = session();
  for (Trial& trial : unlabelled.front().trials) trial.split = "test";
  expect_refused(good, unlabelled, "train");
  EXPECT_FALSE(std::filesystem::exists(good.out));
}

}  // namespace
}  // namespace cortex::train
