// Folds, protocols and their scores through trainer and evaluation; what a tested trial may not
// reach.
#include <gtest/gtest.h>

#include <cmath>

#include "data/nwb.h"
#include "model/weights.h"
#include "support/paths.h"
#include "train/compare.h"
#include "train/kalman.h"
#include "train/ridge.h"
#include "train/setup.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

using cortex::testing::TempDir;
using testing::bytes_of;
using testing::synthetic_recording;
using testing::tiny_options;

FoldOptions three_folds() {
  FoldOptions folds;
  folds.folds = 3;
  return folds;
}

/// The recording with everything that lies within trials of split "test" made into something else.
Recording spoil_tested(Recording r) {
  const auto tested = [&](double t) {
    for (const Trial& trial : r.trials)
      if (trial.split == "test" && t >= trial.span.start_s && t < trial.span.stop_s) return true;
    return false;
  };
  for (Unit& unit : r.units) std::erase_if(unit.spike_times_s, tested);
  for (BehaviorSeries& series : r.behavior)
    for (std::size_t i = 0; i < series.times_s.size(); ++i)
      for (std::size_t d = 0; d < series.dims && tested(series.times_s[i]); ++d)
        series.values[i * series.dims + d] = 1e6f;
  return r;
}

TEST(Leaks, NothingOfATestedTrialReachesTraining) {
  for (const FoldScheme scheme : {FoldScheme::trial, FoldScheme::block}) {
    FoldOptions folds = three_folds();
    folds.scheme = scheme;
    const auto folded = fold_recordings({synthetic_recording(6, 24, 4)}, folds, 1);
    ASSERT_TRUE(folded) << folded.error().message;
    const std::vector<Recording> spoiled = {spoil_tested(folded->front())};
    const auto digest = [&](const std::vector<Recording>& recordings, OtherTrials others) {
      return cut_timeline(recordings, {}, "train", others).value_or_throw().digest;
    };
    EXPECT_EQ(digest(*folded, OtherTrials::blank), digest(spoiled, OtherTrials::blank));
    // The test sees what it is there to see.
    EXPECT_NE(digest(*folded, OtherTrials::keep), digest(spoiled, OtherTrials::keep));
    const TempDir dir;
    KalmanOptions filter;
    filter.leads = {0, 1};
    filter.threads = 1;
    filter.data.val_split.clear();
    TrainOptions network = tiny_options("");
    network.iterations = 12;
    network.data.val_split = "test";
    network.select = "last";
    int i = 0;
    for (const auto& recordings : {*folded, spoiled}) {
      filter.out = dir.file("kalman" + std::to_string(i));
      ASSERT_TRUE(kalman(filter, recordings));
      network.out = dir.file("net" + std::to_string(i++));
      const auto trained = train(network, recordings);
      ASSERT_TRUE(trained) << trained.error().message;
    }
    EXPECT_EQ(bytes_of(dir.file("kalman0")), bytes_of(dir.file("kalman1")));
    const auto a = load_model(dir.file("net0")).value_or_throw();
    const auto b = load_model(dir.file("net1")).value_or_throw();
    for (const auto& [name, tensor] : a.tensors) {
      const auto x = tensor.f32();
      const auto y = b.at(name).f32();
      EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << name;
    }
  }
}

TEST(Leaks, WeightsAreNotChosenOnATestedFold) {
  const TempDir dir;
  TrainOptions options = tiny_options(dir.file("last"));
  const auto folded = fold_recordings({synthetic_recording(6, 24, 4)}, three_folds(), 0);
  options.data.val_split = "test";
  options.select = "last";
  ASSERT_TRUE(train(options, *folded));
  options.out = dir.file("unseen");
  options.data.val_split.clear();
  ASSERT_TRUE(train(options, *folded));
  const auto a = load_model(dir.file("last")).value_or_throw();
  const auto b = load_model(dir.file("unseen")).value_or_throw();
  for (const auto& [name, tensor] : a.tensors) {
    const auto x = tensor.f32();
    const auto y = b.at(name).f32();
    EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << name;
  }
}

TEST(Evaluate, AllFoldsTogetherAreEveryTrialByTheModelThatHasNotSeenIt) {
  const TempDir dir;
  const std::vector<Recording> recordings = {synthetic_recording(6, 24, 4)};
  for (int fold = 0; fold < 3; ++fold) {
    const auto folded = fold_recordings(recordings, three_folds(), fold).value_or_throw();
    for (const int lags : {1, 4}) {
      RidgeOptions options;
      options.data.val_split = "test";
      options.lags = lags;
      options.threads = 1;
      options.out = dir.file("ridge" + std::to_string(lags) + "_" + std::to_string(fold));
      const auto done = ridge(options, folded, folded);
      ASSERT_TRUE(done) << done.error().message;
    }
  }
  EvaluateOptions options;
  options.data.folds = three_folds();
  options.model = dir.file("ridge4_{fold}");
  options.against = dir.file("ridge1_{fold}");
  options.threads = 1;
  options.resamples = 300;
  const auto report = evaluate(options, recordings);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->trials, 24);
  EXPECT_EQ(report->protocol, "causal");
  EXPECT_LT(report->interval.low, report->r2);
  EXPECT_GT(report->interval.high, report->r2);
  EXPECT_NEAR(report->difference.difference, report->r2 - report->against_r2, 1e-12);
  EXPECT_GT(report->difference.low, 0);

  options.model = dir.file("ridge4_0");
  const auto one = evaluate(options, recordings);
  ASSERT_FALSE(one);
  EXPECT_NE(one.error().message.find("{fold}"), std::string::npos);
}

TEST(Evaluate, OnsetAndNlbScoreTheirOwnSteps) {
  const TempDir dir;
  Recording r = synthetic_recording(6, 24, 4);
  for (Trial& trial : r.trials) trial.columns["move_onset_time"] = trial.span.start_s + 0.25;
  const std::vector<Recording> recordings = {r};
  RidgeOptions fit;
  fit.threads = 1;
  fit.lags = 3;
  fit.out = dir.file("ridge");
  ASSERT_TRUE(ridge(fit, recordings, recordings));
  EvaluateOptions options;
  options.model = fit.out;
  options.threads = 1;
  options.data.protocol.protocol = Protocol::onset;
  const auto onset = evaluate(options, recordings);
  ASSERT_TRUE(onset) << onset.error().message;
  EXPECT_EQ(onset->steps, 6);
  EXPECT_EQ(onset->trials, 6);
  options.data.protocol.protocol = Protocol::nlb;
  options.data.protocol.from_ms = -150;
  options.data.protocol.to_ms = 100;
  const auto nlb = evaluate(options, recordings);
  ASSERT_TRUE(nlb) << nlb.error().message;
  EXPECT_NEAR(static_cast<double>(nlb->steps), 6 * 12.5, 6);
  EXPECT_EQ(nlb->protocol, "nlb");
}

TEST(Evaluate, UnitsThatFallSilentCost) {
  const TempDir dir;
  const std::vector<Recording> recordings = {synthetic_recording(12, 24, 4)};
  RidgeOptions fit;
  fit.threads = 1;
  fit.out = dir.file("ridge");
  ASSERT_TRUE(ridge(fit, recordings, recordings));
  EvaluateOptions options;
  options.model = fit.out;
  options.threads = 1;
  const double all = evaluate(options, recordings).value_or_throw().r2;
  options.units_kept = 0.5;
  EXPECT_LT(evaluate(options, recordings).value_or_throw().r2, all);
  options.units_kept = 0;
  EXPECT_EQ(evaluate(options, recordings).error().field, "units-kept");
}

TEST(Linear, AnExportedModelScoresAsItsFitDid) {
  const TempDir dir;
  const std::vector<Recording> recordings = {synthetic_recording(12, 40, 4)};
  RidgeOptions ridge_options;
  ridge_options.threads = 1;
  ridge_options.lags = 5;
  ridge_options.out = dir.file("ridge");
  const auto fitted = ridge(ridge_options, recordings, recordings);
  ASSERT_TRUE(fitted) << fitted.error().message;
  KalmanOptions kalman_options;
  kalman_options.threads = 1;
  kalman_options.out = dir.file("kalman");
  const auto filtered = kalman(kalman_options, recordings);
  ASSERT_TRUE(filtered) << filtered.error().message;
  EXPECT_GT(filtered->r2, 0.5);
  EXPECT_GE(filtered->memory_steps, 2);
  EvaluateOptions options;
  options.threads = 1;
  options.model = ridge_options.out;
  EXPECT_NEAR(evaluate(options, recordings).value_or_throw().r2, fitted->r2, 1e-5);
  options.model = kalman_options.out;
  EXPECT_NEAR(evaluate(options, recordings).value_or_throw().r2, filtered->r2, 1e-9);
  const ModelFile model = load_model(kalman_options.out).value_or_throw();
  EXPECT_EQ(model.config.kind, ModelKind::kalman);
  EXPECT_NE(model.config.training_json.find("lead_steps"), std::string::npos);
}

TEST(Linear, BadInputIsNamed) {
  const std::vector<Recording> recordings = {synthetic_recording(4, 12, 4)};
  KalmanOptions options;
  options.leads = {-1};
  EXPECT_EQ(kalman(options, recordings).error().field, "leads");
  options.leads = {20};
  EXPECT_EQ(kalman(options, recordings).error().field, "nwb");
}

TEST(Baselines, TrainAndAreScoredFromTheirFiles) {
  const TempDir dir;
  const std::vector<Recording> recordings = {synthetic_recording(8, 24, 4)};
  for (const char* name : {"gru", "transformer", "possm"}) {
    TrainOptions options = tiny_options(dir.file(name));
    options.preset = name;
    options.iterations = 60;
    options.lr = 5e-3;
    options.ema = 0.9;
    options.unit_dropout = 0;
    const auto report = train(options, recordings);
    ASSERT_TRUE(report) << name << ": " << report.error().message;
    EvaluateOptions evaluation;
    evaluation.model = options.out;
    evaluation.threads = 1;
    const auto scored = evaluate(evaluation, recordings);
    ASSERT_TRUE(scored) << name << ": " << scored.error().message;
    EXPECT_NEAR(scored->r2, report->r2, 1e-6) << name;
    EXPECT_GT(scored->r2, 0) << name;
    const auto served = load_model(options.out);
    ASSERT_FALSE(served) << name;
    EXPECT_NE(served.error().message.find("cortex.config"), std::string::npos);
  }
}

TEST(Compare, UnderOnsetAModelLearnsTheStepThatIsScored) {
  const TempDir dir;
  const std::string nwb = dir.file("session.nwb");
  Recording session = synthetic_recording(4, 36, 4);
  for (Trial& trial : session.trials) trial.columns["move_onset_time"] = trial.span.start_s + 0.25;
  ASSERT_TRUE(write_nwb(nwb, session));
  CompareOptions options;
  options.data.nwb = {nwb};
  options.data.folds = three_folds();
  options.data.protocol.protocol = Protocol::onset;
  options.training = tiny_options("");
  options.models = {"ridge", "kalman"};
  options.lags = 2;
  options.run_dir = dir.file("run");
  options.resamples = 100;
  const auto report = compare(options, [](const std::string&) {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->steps, 36);
  RidgeOptions fit{
      .data = options.data, .eval_nwb = {}, .lags = 2, .out = dir.file("fit"), .threads = 1};
  fit.data.fold = 0;
  fit.data.val_split = "test";
  ASSERT_TRUE(ridge(fit));
  EXPECT_EQ(bytes_of(fit.out), bytes_of(dir.file("run/fold0/ridge.safetensors")));
}

/// Of three folds of a session that is written into the folder.
CompareOptions comparison(const TempDir& dir, std::vector<std::string> models) {
  const std::string nwb = dir.file("session.nwb");
  write_nwb(nwb, synthetic_recording(8, 24, 4)).value_or_throw();
  CompareOptions options;
  options.data.nwb = {nwb};
  options.data.folds = three_folds();
  options.training = tiny_options("");
  options.training.iterations = 10;
  options.models = std::move(models);
  options.lags = 4;
  options.resamples = 100;
  return options;
}

TEST(Compare, AFoldFittedApartIsTheFoldThatIsCompared) {
  const TempDir dir;
  CompareOptions options = comparison(dir, {"ridge", "stream-nano"});
  const auto fit_apart = [&](int fold) {
    options.data.fold = fold;
    std::vector<std::string> begun;
    const auto done = fit_fold(options, [&](const std::string& what) { begun.push_back(what); });
    EXPECT_TRUE(done) << done.error().message;
    return begun;
  };
  options.run_dir = dir.file("apart");
  for (const int fold : {2, 0}) EXPECT_EQ(fit_apart(fold).size(), options.models.size());
  EXPECT_FALSE(std::filesystem::exists(dir.file("apart/fold1")));
  EXPECT_EQ(compare(options, [](const std::string&) {}).error().field, "fold");

  options.data.fold = -1;
  ASSERT_TRUE(compare(options, [](const std::string&) {}));
  options.run_dir = dir.file("whole");
  ASSERT_TRUE(compare(options, [](const std::string&) {}));
  for (const std::string name : {"fold0/ridge", "fold1/stream-nano", "fold2/stream-nano"})
    EXPECT_EQ(bytes_of(dir.file("apart/" + name + ".safetensors")),
              bytes_of(dir.file("whole/" + name + ".safetensors")))
        << name;
  options.data.fold = 3;
  EXPECT_FALSE(fit_fold(options, [](const std::string&) {}));
}

TEST(Compare, OneTableOverTheSameTrials) {
  const TempDir dir;
  CompareOptions options = comparison(dir, {"ridge", "kalman", "gru", "stream-nano"});
  options.run_dir = dir.file("run");
  const auto report = compare(options, [](const std::string&) {});
  ASSERT_TRUE(report) << report.error().message;
  ASSERT_EQ(report->rows.size(), 4u);
  for (const CompareRow& row : report->rows) {
    EXPECT_EQ(row.trials.size(), 24u) << row.name;
    EXPECT_EQ(row.score.rows, report->steps) << row.name;
    EXPECT_EQ(row.by_units.size(), 5u);
    EXPECT_FALSE(row.by_lag.empty());
    EXPECT_EQ(row.by_minutes.empty(), !row.learned);
  }
  EXPECT_TRUE(report->best_baseline == "ridge" || report->best_baseline == "kalman");
  const std::string page = compare_page(*report, options);
  EXPECT_NE(page.find("<svg"), std::string::npos);
  for (const char* number : {">nan", "Mnan", "Lnan", ",nan"})
    EXPECT_EQ(page.find(number), std::string::npos);
  // Goes on from what is there.
  const auto again = compare(options, [](const std::string&) {});
  ASSERT_TRUE(again) << again.error().message;
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_EQ(again->rows[i].score.mean, report->rows[i].score.mean);

  options.models = {"lstm"};
  EXPECT_EQ(compare(options, [](const std::string&) {}).error().field, "models");
}

}  // namespace
}  // namespace cortex::train
