#include "data/prepare.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "data/layouts.h"
#include "data/nwb.h"
#include "data/split.h"
#include "data/steps.h"
#include "data/target.h"
#include "data/unit_filter.h"
#include "recordings.h"

namespace cortex {
namespace {

using testing::data_path;
using testing::TempDir;
using testing::tiny_recording;

BehaviorSeries series(const std::string& path, std::size_t dims, std::vector<double> times,
                      std::vector<float> values, const std::string& unit = "mm") {
  return {
      path.substr(path.rfind('/') + 1), path, unit, 1.0, dims, std::move(times), std::move(values)};
}

/// Position samples every millisecond: x(t) = f(t).
template <class F>
BehaviorSeries sampled(const std::string& path, std::size_t count, F f, double from_s = 0) {
  std::vector<double> times;
  std::vector<float> values;
  for (std::size_t i = 0; i < count; ++i) {
    times.push_back(from_s + static_cast<double>(i) * 1e-3);
    values.push_back(static_cast<float>(f(static_cast<double>(i) * 1e-3)));
  }
  return series(path, 1, std::move(times), std::move(values));
}

void expect_error(const Result<std::string>& result, ErrorCode code, const std::string& what) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, code);
  EXPECT_NE(result.error().message.find(what), std::string::npos) << result.error().message;
}

TEST(Velocity, OfAStraightLineIsItsSlope) {
  const auto v = velocity_of(sampled(
      "/processing/behavior/hand_pos", 200, [](double t) { return 3 - 40 * t; }, 90'000));
  EXPECT_EQ(v.name, "hand_vel");
  EXPECT_EQ(v.path, "/processing/behavior/hand_vel");
  EXPECT_EQ(v.unit, "mm/s");
  EXPECT_TRUE(std::isnan(v.values[0]));
  for (std::size_t i = 10; i < 200; ++i) EXPECT_NEAR(v.values[i], -40, 0.1);
}

TEST(Velocity, OfAParabolaLags25Milliseconds) {
  const auto v =
      velocity_of(sampled("/processing/behavior/x", 500, [](double t) { return 1000 * t * t; }));
  EXPECT_EQ(v.name, "x_vel");
  EXPECT_NEAR(v.values[400], 2000 * (0.400 - 0.025), 1);
}

TEST(Velocity, DependsOnThePastAlone) {
  const auto f = [](double t) { return 100 * std::sin(9 * t); };
  auto position = sampled("/processing/behavior/hand_pos", 300, f);
  const auto before = velocity_of(position);
  for (std::size_t i = 200; i < 300; ++i) position.values[i] = -7e3F;
  const auto after = velocity_of(position);
  for (std::size_t i = 1; i < 200; ++i) EXPECT_EQ(before.values[i], after.values[i]) << i;
  EXPECT_NE(before.values[200], after.values[200]);
}

TEST(Velocity, IsNotFittedAcrossAGapOrANaN) {
  auto position = sampled("/processing/behavior/hand_pos", 100, [](double t) { return 5 * t; });
  for (std::size_t i = 50; i < 100; ++i) {
    position.times_s[i] += 0.01;
    position.values[i] += 1000;
  }
  position.values[80] = NAN;
  for (std::size_t i = 81; i < 100; ++i) position.values[i] -= 500;
  const auto v = velocity_of(position);
  for (const std::size_t i : {0, 50, 80, 81}) EXPECT_TRUE(std::isnan(v.values[i])) << i;
  for (const std::size_t i : {40, 52, 79, 90}) EXPECT_NEAR(v.values[i], 5, 0.2) << i;
}

TEST(Velocity, OfCoarseSamplesIsTheirDifference) {
  const auto v = velocity_of(series("/processing/behavior/p", 1, {0, 0.1, 0.2}, {0, 1, 5}));
  EXPECT_NEAR(v.values[1], 10, 1e-4);
  EXPECT_NEAR(v.values[2], 40, 1e-4);
}

TEST(Target, IsFoundByTheEndOfItsPath) {
  Recording r = tiny_recording();
  r.behavior.push_back(series("/acquisition/lever/force", 1, {0, 1}, {1, 2}));
  for (const std::string wish : {"force", "lever/force", "/acquisition/lever/force"}) {
    ASSERT_TRUE(choose_target(r, wish)) << wish;
    EXPECT_EQ(r.target, "/acquisition/lever/force");
  }
  expect_error(choose_target(r, "orce"), ErrorCode::not_found, "/processing/behavior/hand_vel");
  expect_error(choose_target(r, "/lever/force"), ErrorCode::not_found, "'/lever/force'");
  r.behavior.push_back(series("/processing/other/force", 1, {0, 1}, {1, 2}));
  expect_error(choose_target(r, "force"), ErrorCode::invalid_argument, "several paths");
}

TEST(Target, OfAPreparedRecordingIsWhatStepsHave) {
  Recording r = tiny_recording();
  ASSERT_TRUE(prepare(r, {.target = "behavior/grip", .units = "all", .split = ""}));
  const auto stepped = step_recording(r, {}).value_or_throw();
  EXPECT_EQ(stepped.dims, 1U);
  EXPECT_EQ(stepped.output_unit, "newton");
}

TEST(Target, APositionAloneBecomesAVelocity) {
  Recording r = tiny_recording();
  std::erase_if(r.behavior, [](const BehaviorSeries& s) { return s.name != "hand_pos"; });
  for (const std::string wish : {"auto", "hand_vel", "velocity:Position/hand_pos"}) {
    Recording copy = r;
    const auto said = choose_target(copy, wish);
    ASSERT_TRUE(said) << said.error().message;
    EXPECT_EQ(copy.target, "/processing/behavior/Position/hand_vel");
    EXPECT_NE(said->find("50 ms"), std::string::npos) << *said;
    EXPECT_EQ(copy.find_path(copy.target)->unit, "mm/s");
  }
}

TEST(Target, AmbiguousFilesAskAndEmptyOnesDoNot) {
  Recording r = tiny_recording();
  r.behavior = {series("/processing/a/left", 1, {0, 1}, {1, 2}),
                series("/processing/a/right", 1, {0, 1}, {1, 2})};
  expect_error(choose_target(r, "auto"), ErrorCode::invalid_argument, "/processing/a/right");
  r.behavior.clear();
  EXPECT_TRUE(choose_target(r, ""));
  EXPECT_EQ(r.target, "");
}

TEST(Target, AGroupOfSeriesIsOneWithAColumnEach) {
  Recording r = tiny_recording();
  r.behavior = {series("/acquisition/finger_vel/index", 1, {0, 1}, {1, 2}, "au"),
                series("/acquisition/finger_vel/mrs", 1, {0, 1}, {3, 4}, "au")};
  Recording copy = r;
  ASSERT_TRUE(choose_target(copy, "acquisition/finger_vel"));
  const BehaviorSeries* all = copy.find_path("/acquisition/finger_vel");
  ASSERT_NE(all, nullptr);
  EXPECT_EQ(all->dims, 2U);
  EXPECT_EQ(all->values, (std::vector<float>{1, 3, 2, 4}));
  r.behavior[1].times_s[1] = 2;
  expect_error(choose_target(r, "finger_vel"), ErrorCode::invalid_argument, "not one target");
}

TEST(Layouts, OfFalconAreTheirGroupsUnderTheMask) {
  for (const auto& [group, name] :
       {std::pair("preprocessed_emg", "falcon_m1"), std::pair("finger_vel", "falcon_m2")}) {
    Recording r = tiny_recording();
    const std::string path = std::string("/acquisition/") + group;
    r.behavior = {series("/acquisition/eval_mask", 1, {0, 1, 2, 9}, {1, 0, 1, 1}),
                  series(path + "/a", 1, {0, 1, 2, 8}, {1, 2, 3, 4}),
                  series(path + "/b", 1, {0, 1, 2, 8}, {5, 6, 7, 8})};
    ASSERT_NE(find_layout(r), nullptr);
    EXPECT_EQ(std::string(find_layout(r)->name), name);
    ASSERT_TRUE(choose_target(r, "auto"));
    const std::vector<float>& values = r.find_path(path)->values;
    ASSERT_EQ(values.size(), 8U);
    // Not where the mask is 0, nor where its last sample is a gap away.
    for (const std::size_t row : {0, 1, 2, 3})
      EXPECT_EQ(std::isnan(values[2 * row]), row == 1 || row == 3) << row;
  }
}

TEST(Layouts, AreThoseThatSubjectAndSessionSpeakFor) {
  Recording r = tiny_recording();
  EXPECT_EQ(find_layout(r), nullptr);
  r.subject_id = "Jenkins";
  for (const auto& [session, name] :
       {std::pair("full", "mc_maze"), std::pair("large", "mc_maze_large"),
        std::pair("medium", "mc_maze_medium"), std::pair("small", "mc_maze_small")}) {
    r.session_id = session;
    ASSERT_NE(find_layout(r), nullptr);
    EXPECT_EQ(std::string(find_layout(r)->name), name);
  }
  r.session_id = "another";
  EXPECT_EQ(find_layout(r), nullptr);
  r.subject_id = "Indy";
  EXPECT_EQ(find_layout(r), nullptr);
  r.behavior[2].name = "finger_vel";
  EXPECT_EQ(std::string(find_layout(r)->name), "mc_rtt");
  r.subject_id = "Han";
  r.trials[0].columns["ctr_hold_bump"] = 1;
  EXPECT_EQ(std::string(find_layout(r)->name), "area2_bump");
}

TEST(Layouts, OnlyThoseWithGenuineFilesCountAsTested) {
  std::set<std::string> tested;
  for (const Layout& layout : layouts())
    if (*layout.tested_on != '\0') tested.insert(layout.name);
  EXPECT_EQ(tested, (std::set<std::string>{"mc_maze", "mc_maze_small"}));
}

TEST(Layouts, OfTheGenuineFilesAreRecognised) {
  for (const auto& [file, name] :
       {std::pair("nlb/sub-Jenkins_ses-full_desc-test_ecephys.nwb", "mc_maze"),
        std::pair("nlb/sub-Jenkins_ses-small_desc-test_ecephys.nwb", "mc_maze_small")}) {
    CORTEX_SKIP_WITHOUT(data_path(file));
    Recording r = read_nwb(data_path(file)).value_or_throw();
    ASSERT_NE(find_layout(r), nullptr);
    EXPECT_EQ(std::string(find_layout(r)->name), name);
    ASSERT_TRUE(prepare(r, {}));
    EXPECT_EQ(r.trials.front().split, "test");
  }
}

TEST(Layouts, SeriesUnderAcquisitionSurviveAFile) {
  const TempDir folder;
  Recording r = tiny_recording();
  r.behavior.push_back(series("/acquisition/finger_vel/index", 1, {0, 1, 5}, {1, 2, 3}));
  r.behavior.push_back(series("/acquisition/eval_mask", 1, {0, 1, 5}, {1, 0, 1}));
  ASSERT_TRUE(write_nwb(folder.file("a.nwb"), r));
  const Recording read = read_nwb(folder.file("a.nwb")).value_or_throw();
  testing::expect_same(r, read);
}

TEST(UnitFilter, EveryTermMustFit) {
  const auto left = [](const std::string& filter) {
    Recording r = tiny_recording();
    r.units.push_back({"12", false, 0, {0.5}, {{0, 2}}});
    auto ok = keep_units(r, filter);
    std::string ids;
    for (const Unit& unit : r.units) ids += unit.id + " ";
    return ok ? ids : ok.error().message;
  };
  EXPECT_EQ(left("all"), "5 -3 12 ");
  EXPECT_EQ(left("held-in"), "-3 12 ");
  EXPECT_EQ(left("held-out"), "5 ");
  EXPECT_EQ(left("rate>=0.5"), "5 12 ");
  EXPECT_EQ(left("rate<=0.5"), "-3 12 ");
  EXPECT_EQ(left("held-in,rate>=0.5"), "12 ");
  EXPECT_EQ(left("id=-3|10-12"), "-3 12 ");
  EXPECT_EQ(left("location=M1"), "12 ");
  EXPECT_EQ(left("group=other/array|array"), "5 12 ");
}

TEST(UnitFilter, WhatIsNotUnderstoodIsNamed) {
  Recording r = tiny_recording();
  for (const std::string filter :
       {"held_in", "rate>=", "rate>=fast", "id=", "id=a", "id=5-3", "rate>3", "all,,held-in"}) {
    const auto ok = keep_units(r, filter);
    ASSERT_FALSE(ok) << filter;
    EXPECT_NE(ok.error().message.find("units '"), std::string::npos) << filter;
  }
  const auto none = keep_units(r, "location=V1");
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("none of its 2 units fits 'location=V1'"), std::string::npos);
}

std::string splits_of(const Recording& r) {
  std::string text;
  for (const Trial& trial : r.trials) text += trial.split.empty() ? '-' : trial.split[0];
  return text;
}

Recording of_trials(std::size_t count) {
  Recording r = tiny_recording();
  r.trials.clear();
  for (std::size_t i = 0; i < count; ++i)
    r.trials.push_back({static_cast<std::int64_t>(i),
                        {static_cast<double>(i), static_cast<double>(i) + 0.5},
                        "",
                        {{"fold", static_cast<double>(i % 3)}}});
  return r;
}

TEST(Split, AFractionIsSpreadEvenlyAndTheFilesOwnStays) {
  Recording r = of_trials(10);
  ASSERT_TRUE(assign_split(r, "0.3"));
  EXPECT_EQ(splits_of(r), "tttvttvttv");
  ASSERT_TRUE(assign_split(r, ""));
  EXPECT_EQ(splits_of(r), "tttvttvttv");
  r = of_trials(10);
  const auto said = assign_split(r, "").value_or_throw();
  EXPECT_EQ(splits_of(r), "ttttvttttv");
  EXPECT_NE(said.find("no split in the file: 2 of 10"), std::string::npos) << said;
  r = of_trials(2);
  ASSERT_TRUE(assign_split(r, "0.01"));
  EXPECT_EQ(splits_of(r), "tv");
}

TEST(Split, AColumnSaysItAndOtherValuesAreNamed) {
  Recording r = of_trials(7);
  r.trials[6].columns["fold"] = std::nan("");
  ASSERT_TRUE(assign_split(r, "fold"));
  EXPECT_EQ(r.trials[2].split, "test");
  EXPECT_EQ(splits_of(r).substr(0, 2), "tv");
  EXPECT_EQ(r.trials[6].split, "");
  r.trials[4].columns["fold"] = 3;
  expect_error(assign_split(r, "fold"), ErrorCode::invalid_argument, "row 4 is 3");
  expect_error(assign_split(r, "none"), ErrorCode::invalid_argument, "they have: fold");
  for (const char* fraction : {"0", "1", "-0.5", "2", "nan"})
    expect_error(assign_split(r, fraction), ErrorCode::invalid_argument, "no fraction");
  r = of_trials(1);
  expect_error(assign_split(r, "0.5"), ErrorCode::invalid_argument, "1 trial");
}

TEST(Split, WithoutTrialsBlocksKeepASecondApart) {
  Recording r = of_trials(0);
  for (Unit& unit : r.units) unit.observed = {{100, 400}};
  ASSERT_TRUE(assign_split(r, ""));
  ASSERT_EQ(r.trials.size(), 30U);
  EXPECT_EQ(splits_of(r).substr(0, 10), "ttttvttttv");
  for (std::size_t i = 1; i < 30; ++i)
    EXPECT_NEAR(r.trials[i].span.start_s - r.trials[i - 1].span.stop_s, 1, 1e-9);
  for (Unit& unit : r.units) unit.observed = {{100, 103}};
  r.trials.clear();
  expect_error(assign_split(r, ""), ErrorCode::invalid_argument, "3 s are too short");
}

}  // namespace
}  // namespace cortex
