#include "train/adapt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "data/nwb.h"
#include "model/weights.h"
#include "support/paths.h"
#include "support/process.h"
#include "train/decode_model.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

using cortex::testing::TempDir;
using testing::synthetic_recording;
using testing::tiny_options;

/// Monday's units under the same ids, but unit n is tuned as unit n + 3 was: the array has moved.
Recording moved_day() {
  Recording day = synthetic_recording(8, 32, 2);
  day.session_id = "tuesday";
  for (std::size_t u = 0; u < day.units.size(); ++u)
    day.units[u].id = std::to_string(100 + (u + 5) % day.units.size());
  return day;
}

/// Monday and a decoder of it.
class Adapt : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempDir>();
    Recording monday = synthetic_recording(8, 24, 1);
    monday.session_id = "monday";
    TrainOptions options = tiny_options(folder_->file("monday"));
    options.iterations = 150;
    options.lr = 5e-3;
    options.ema = 0.9;
    options.unit_dropout = 0;
    train(options, {monday}).value_or_throw();
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static AdaptOptions options(const std::string& out) {
    AdaptOptions o;
    o.model = folder_->file("monday");
    o.out = out;
    o.trials = 10;
    o.iterations = 150;
    o.threads = 1;
    o.device = "cpu";
    o.quiet = true;
    return o;
  }

  static std::size_t files_in(const std::string& folder) {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder),
                                                  std::filesystem::directory_iterator()));
  }

  static std::unique_ptr<TempDir> folder_;
};
std::unique_ptr<TempDir> Adapt::folder_;

TEST_F(Adapt, ABetterModelIsWrittenWithItsCardAndNothingElse) {
  const TempDir dir;
  const auto report = adapt(options(dir.file("tuesday.safetensors")), {moved_day()});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->written);
  EXPECT_GT(report->after_r2, report->before_r2 + 0.1);
  EXPECT_EQ(report->trials, 8);
  EXPECT_EQ(report->units, 8u);
  EXPECT_EQ(report->known_units, 8u);
  EXPECT_EQ(files_in(dir.file(".")), 2u);
  EXPECT_TRUE(std::filesystem::exists(dir.file("tuesday.card.md")));

  // The number is that of the file, on the trials held back.
  EvaluateOptions evaluation;
  evaluation.model = dir.file("tuesday.safetensors");
  evaluation.threads = 1;
  const auto scored = evaluate(evaluation, {moved_day()});
  ASSERT_TRUE(scored) << scored.error().message;
  EXPECT_NEAR(scored->r2, report->after_r2, 1e-9);
  EXPECT_EQ(scored->steps, report->steps);

  const ModelFile before = load_model(folder_->file("monday")).value_or_throw();
  const ModelFile after = load_model(evaluation.model).value_or_throw();
  EXPECT_EQ(after.config.units.front().session, "tuesday");
  for (const auto& [name, tensor] : before.tensors) {
    const auto x = tensor.f32();
    const auto y = after.at(name).f32();
    const bool rows = name == "tokenizer.unit_emb" || name == "tokenizer.additive";
    EXPECT_EQ(std::equal(x.begin(), x.end(), y.begin(), y.end()), !rows) << name;
  }
}

TEST_F(Adapt, AWorseModelIsNotWrittenUnlessForced) {
  const TempDir dir;
  AdaptOptions o = options(dir.file("worse"));
  o.lr = 3;
  o.iterations = 30;
  Recording monday = synthetic_recording(8, 32, 1);
  const auto refused = adapt(o, {monday});
  ASSERT_TRUE(refused) << refused.error().message;
  EXPECT_FALSE(refused->written);
  EXPECT_LT(refused->after_r2, refused->before_r2);
  EXPECT_EQ(files_in(dir.file(".")), 0u);
  o.force = true;
  const auto forced = adapt(o, {monday});
  ASSERT_TRUE(forced) << forced.error().message;
  EXPECT_TRUE(forced->written);
  EXPECT_LT(forced->after_r2, forced->before_r2);
  EXPECT_TRUE(load_model(o.out));
}

TEST_F(Adapt, TheCommandEndsWithOneAndNamesBothNumbersWhereItRefuses) {
  const TempDir dir;
  const std::string nwb = dir.file("monday.nwb");
  ASSERT_TRUE(write_nwb(nwb, synthetic_recording(8, 32, 1)));
  const auto run = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {CORTEX_TRAIN_EXE, "adapt", "--model",   folder_->file("monday"),
                                    "--nwb",          nwb,     "--out",     dir.file("out"),
                                    "--trials",       "10",    "--lr",      "3",
                                    "--iterations",   "30",    "--threads", "1",
                                    "--quiet",        "--json"};
    all.insert(all.end(), more.begin(), more.end());
    return cortex::testing::run(all);
  };
  const auto refused = run({});
  EXPECT_EQ(refused.code, 1) << refused.err;
  EXPECT_NE(refused.out.find("\"written\":false,\"before_r2\":0."), std::string::npos)
      << refused.out;
  // "r2 A against B as it was"
  EXPECT_NE(refused.err.find(" against 0."), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("--force"), std::string::npos) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(dir.file("out")));
  const auto forced = run({"--force"});
  EXPECT_EQ(forced.code, 0) << forced.err;
  EXPECT_TRUE(std::filesystem::exists(dir.file("out")));
}

TEST_F(Adapt, TheOldModelHearsTheUnitsThatItKnowsAndNoOthers) {
  const std::string model = folder_->file("monday");
  Recording monday = synthetic_recording(8, 24, 1);
  const auto score = [&](const Recording& recording) {
    return decode_model(model, {}, "val", {recording}, {.ignore_other_units = true})
        .value_or_throw()
        .decoded.values;
  };
  const std::vector<float> whole = score(monday);
  Recording more = monday;
  for (Unit unit : synthetic_recording(3, 24, 7).units) {
    unit.id = "new" + unit.id;
    more.units.push_back(unit);
  }
  EXPECT_EQ(score(more), whole);
  Recording silent = monday;
  silent.units[2].spike_times_s.clear();
  Recording fewer = monday;
  fewer.units.erase(fewer.units.begin() + 2);
  EXPECT_EQ(score(fewer), score(silent));
  EXPECT_NE(score(fewer), whole);
  // Anywhere else such a recording is refused.
  EXPECT_FALSE(decode_model(model, {}, "val", {fewer}, {}));
}

TEST_F(Adapt, UnitsOfTheSameIdStartWithTheirRows) {
  const TempDir dir;
  Recording day = synthetic_recording(8, 24, 2);
  day.session_id = "tuesday";
  AdaptOptions o = options(dir.file("out"));
  o.iterations = 1;
  o.lr = 1e-9;
  o.force = true;
  const auto by_id = adapt(o, {day});
  ASSERT_TRUE(by_id) << by_id.error().message;
  EXPECT_NEAR(by_id->after_r2, by_id->before_r2, 1e-3);
  o.init_rows = "session";
  const auto by_session = adapt(o, {day});
  ASSERT_TRUE(by_session) << by_session.error().message;
  EXPECT_LT(by_session->after_r2, by_session->before_r2 - 0.1);
}

TEST_F(Adapt, BadInputIsNamedAndNothingIsWritten) {
  const TempDir dir;
  const AdaptOptions good = options(dir.file("out"));
  const auto field = [](const AdaptOptions& o, const std::vector<Recording>& days) {
    const auto report = adapt(o, days);
    return report ? "" : report.error().field;
  };
  AdaptOptions o = good;
  o.trials = 100;
  EXPECT_EQ(field(o, {moved_day()}), "train-trials");
  o = good;
  o.trials = 0;
  EXPECT_EQ(field(o, {moved_day()}), "trials");
  o = good;
  o.data.val_split = "holdout";
  EXPECT_NE(field(o, {moved_day()}), "");
  o = good;
  o.init_rows = "place";
  EXPECT_EQ(field(o, {moved_day()}), "init-rows");
  o = good;
  o.out.clear();
  EXPECT_EQ(field(o, {moved_day()}), "out");
  EXPECT_EQ(field(good, {moved_day(), moved_day()}), "nwb");
  EXPECT_EQ(files_in(dir.file(".")), 0u);
}

}  // namespace
}  // namespace cortex::train
