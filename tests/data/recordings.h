#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "data/recording.h"
#include "support/paths.h"

namespace cortex::testing {

/// A genuine recording, by its path under the shared data folder; CORTEX_DATA_DIR overrides that.
inline std::string data_path(const std::string& relative) {
  const char* given = std::getenv("CORTEX_DATA_DIR");
  return given != nullptr ? (std::filesystem::path(given) / relative).string()
                          : shared_path("data/" + relative).string();
}

#define CORTEX_SKIP_WITHOUT(path)     \
  if (!std::filesystem::exists(path)) \
  GTEST_SKIP() << (path) << " is absent; set CORTEX_DATA_DIR to the folder with the recordings"

/// Two units, two trials, two series: every column that the layout knows, NaN included.
inline Recording tiny_recording() {
  Recording r;
  r.nwb_version = "2.4.0";
  r.identifier = "tiny";
  r.session_id = "one";
  r.subject_id = "nobody";
  r.description = "a test";
  r.session_start_time = "2001-02-03T04:05:06+00:00";
  r.electrodes = {{7, "M1", "array"}, {9, "PMd", "other/array"}};
  r.units.resize(2);
  r.units[0] = {"5", true, 1, {0.25, 0.5, 0.5, 1.75}, {{0, 1}, {1.5, 2}}};
  r.units[1] = {"-3", false, std::nullopt, {}, {{0, 2}}};
  r.trials = {{11, {0, 0.75}, "train", {{"move_onset_time", 0.5}, {"reach", std::nan("")}}},
              {12, {1.5, 2}, "val", {{"move_onset_time", 1.75}, {"reach", 2}}}};
  r.behavior.resize(3);
  r.behavior[0] = {"hand_pos",         "/processing/behavior/Position/hand_pos", "mm", 1.0, 2,
                   {0, 0.1, 0.5, 1.9}, {1, 2, 3, 4, std::nanf(""), 6, 7, 8}};
  r.behavior[1] = {"grip",
                   "/processing/behavior/grip",
                   "newton",
                   1e-3,
                   1,
                   {0, 0.1, 0.5, 1.9},
                   {0.1F, 0.2F, 0.3F, 1e-7F}};
  r.behavior[2] = {
      "hand_vel",        "/processing/behavior/hand_vel", "mm/s", 1.0, 2, {0.5, 0.625, 0.75},
      {1, 2, 3, 4, 5, 6}};
  return r;
}

inline bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

inline void expect_same_spans(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].start_s, b[i].start_s);
    EXPECT_EQ(a[i].stop_s, b[i].stop_s);
  }
}

/// Everything but the path; series in the order of their HDF5 paths.
inline void expect_same(const Recording& a, const Recording& b) {
  EXPECT_EQ(a.nwb_version, b.nwb_version);
  EXPECT_EQ(a.identifier, b.identifier);
  EXPECT_EQ(a.session_id, b.session_id);
  EXPECT_EQ(a.subject_id, b.subject_id);
  EXPECT_EQ(a.description, b.description);
  EXPECT_EQ(a.session_start_time, b.session_start_time);
  ASSERT_EQ(a.electrodes.size(), b.electrodes.size());
  for (std::size_t i = 0; i < a.electrodes.size(); ++i) {
    EXPECT_EQ(a.electrodes[i].id, b.electrodes[i].id);
    EXPECT_EQ(a.electrodes[i].location, b.electrodes[i].location);
    EXPECT_EQ(a.electrodes[i].group, b.electrodes[i].group);
  }
  ASSERT_EQ(a.units.size(), b.units.size());
  for (std::size_t i = 0; i < a.units.size(); ++i) {
    EXPECT_EQ(a.units[i].id, b.units[i].id);
    EXPECT_EQ(a.units[i].held_out, b.units[i].held_out);
    EXPECT_EQ(a.units[i].electrode, b.units[i].electrode);
    EXPECT_EQ(a.units[i].spike_times_s, b.units[i].spike_times_s);
    expect_same_spans(a.units[i].observed, b.units[i].observed);
  }
  ASSERT_EQ(a.trials.size(), b.trials.size());
  for (std::size_t i = 0; i < a.trials.size(); ++i) {
    EXPECT_EQ(a.trials[i].id, b.trials[i].id);
    EXPECT_EQ(a.trials[i].split, b.trials[i].split);
    expect_same_spans({a.trials[i].span}, {b.trials[i].span});
    ASSERT_EQ(a.trials[i].columns.size(), b.trials[i].columns.size());
    for (const auto& [name, value] : a.trials[i].columns)
      EXPECT_TRUE(same(value, b.trials[i].columns.at(name))) << name;
  }
  ASSERT_EQ(a.behavior.size(), b.behavior.size());
  for (const BehaviorSeries& x : a.behavior) {
    const BehaviorSeries* y = b.find_behavior(x.name);
    ASSERT_NE(y, nullptr) << x.name;
    EXPECT_EQ(x.path, y->path);
    EXPECT_EQ(x.unit, y->unit);
    EXPECT_EQ(x.conversion, y->conversion);
    EXPECT_EQ(x.dims, y->dims);
    EXPECT_EQ(x.times_s, y->times_s);
    ASSERT_EQ(x.values.size(), y->values.size());
    for (std::size_t i = 0; i < x.values.size(); ++i)
      EXPECT_TRUE(same(x.values[i], y->values[i])) << x.name << " " << i;
  }
}

}  // namespace cortex::testing
