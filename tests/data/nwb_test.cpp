#include "data/nwb.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "data/simulator.h"
#include "recordings.h"

namespace cortex {
namespace {

using testing::data_path;
using testing::expect_same;
using testing::TempDir;
using testing::tiny_recording;

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Genuine {
  const char* file;
  std::size_t units;
  std::int64_t spikes;
  std::size_t trials;
  std::size_t series;
};
void PrintTo(const Genuine& genuine, std::ostream* out) { *out << genuine.file; }

class NwbGenuine : public ::testing::TestWithParam<Genuine> {};

TEST_P(NwbGenuine, IsReadWhole) {
  const Genuine& expected = GetParam();
  const std::string path = data_path(expected.file);
  CORTEX_SKIP_WITHOUT(path);
  const auto recording = read_nwb(path);
  ASSERT_TRUE(recording) << recording.error().message;
  EXPECT_EQ(recording->units.size(), expected.units);
  EXPECT_EQ(recording->spike_count(), expected.spikes);
  EXPECT_EQ(recording->trials.size(), expected.trials);
  EXPECT_EQ(recording->behavior.size(), expected.series);
  for (const Unit& unit : recording->units) EXPECT_EQ(unit.observed.size(), expected.trials);
}

TEST_P(NwbGenuine, SurvivesBeingWrittenAndReadAgain) {
  const std::string path = data_path(GetParam().file);
  CORTEX_SKIP_WITHOUT(path);
  const auto recording = read_nwb(path);
  ASSERT_TRUE(recording) << recording.error().message;
  const TempDir folder;
  ASSERT_TRUE(write_nwb(folder.file("copy.nwb"), *recording));
  const auto again = read_nwb(folder.file("copy.nwb"));
  ASSERT_TRUE(again) << again.error().message;
  expect_same(*recording, *again);
}

INSTANTIATE_TEST_SUITE_P(
    Files, NwbGenuine,
    ::testing::Values(
        Genuine{"nlb/sub-Jenkins_ses-full_desc-test_ecephys.nwb", 137, 230348, 574, 0},
        Genuine{"nlb/sub-Jenkins_ses-small_desc-test_ecephys.nwb", 107, 32897, 100, 0},
        Genuine{"nlb/mc_maze_two_trials.nwb", 182, 3444, 2, 3},
        Genuine{"reach/center_out_98.nwb", 98, 611604, 640, 2},
        Genuine{"reach/chewie_20131003.nwb", 174, 45021, 159, 2},
        Genuine{"reach/chewie_20131219.nwb", 155, 44144, 180, 2}));

TEST(NwbRead, TakesColumnsElectrodesAndSessionFromTheGenuineFile) {
  const std::string path = data_path("nlb/sub-Jenkins_ses-small_desc-test_ecephys.nwb");
  CORTEX_SKIP_WITHOUT(path);
  const auto recording = read_nwb(path);
  ASSERT_TRUE(recording) << recording.error().message;
  EXPECT_EQ(recording->nwb_version, "2.4.0");
  EXPECT_EQ(recording->session_id, "small");
  EXPECT_EQ(recording->subject_id, "Jenkins");
  ASSERT_EQ(recording->electrodes.size(), 192U);
  for (const Unit& unit : recording->units) EXPECT_TRUE(unit.electrode.has_value());
  for (const Trial& trial : recording->trials) {
    EXPECT_EQ(trial.split, "test");
    EXPECT_EQ(trial.columns.size(), 1U);
    EXPECT_TRUE(trial.columns.contains("move_onset_time"));
  }
}

TEST(NwbRead, KeepsTheUnitThatEachLabStates) {
  const std::string path = data_path("reach/chewie_20131003.nwb");
  CORTEX_SKIP_WITHOUT(path);
  const auto recording = read_nwb(path);
  ASSERT_TRUE(recording) << recording.error().message;
  ASSERT_NE(recording->find_behavior("hand_vel"), nullptr);
  EXPECT_EQ(recording->find_behavior("hand_vel")->unit, "cm/s");
  EXPECT_EQ(recording->find_behavior("no such series"), nullptr);
}

TEST(NwbWrite, WhatIsReadBackEqualsWhatWasWritten) {
  const TempDir folder;
  const Recording written = tiny_recording();
  ASSERT_TRUE(write_nwb(folder.file("a.nwb"), written));
  const auto read = read_nwb(folder.file("a.nwb"));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->path, folder.file("a.nwb"));
  expect_same(written, *read);
}

TEST(NwbWrite, BytesDependOnTheRecordingAlone) {
  const TempDir folder;
  ASSERT_TRUE(write_nwb(folder.file("a.nwb"), tiny_recording()));
  ASSERT_TRUE(write_nwb(folder.file("b.nwb"), tiny_recording()));
  EXPECT_EQ(bytes_of(folder.file("a.nwb")), bytes_of(folder.file("b.nwb")));
}

TEST(NwbWrite, AFailureLeavesTheOldFileAndNoPart) {
  const TempDir folder;
  const std::string path = folder.file("a.nwb");
  ASSERT_TRUE(write_nwb(path, tiny_recording()));
  const std::string before = bytes_of(path);
  Recording bad = tiny_recording();
  bad.units[0].id = "not a number";
  const auto written = write_nwb(path, bad);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(written.error().message.find("not a number"), std::string::npos);
  EXPECT_EQ(bytes_of(path), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.file("")), {}), 1);
}

TEST(NwbWrite, AFolderThatIsNotThereIsAnError) {
  const auto written = write_nwb("/no/such/folder/a.nwb", tiny_recording());
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::io_error);
}

TEST(NwbImage, ReadsTheSameFromMemory) {
  const TempDir folder;
  ASSERT_TRUE(write_nwb(folder.file("a.nwb"), tiny_recording()));
  const std::string bytes = bytes_of(folder.file("a.nwb"));
  const auto read = read_nwb_image(std::as_bytes(std::span(bytes)), "image");
  ASSERT_TRUE(read) << read.error().message;
  expect_same(tiny_recording(), *read);
}

RC_GTEST_PROP(NwbWrite, AnySpikesAndFlagsSurviveTheRoundTrip,
              (std::vector<std::vector<std::int32_t>> ticks)) {
  Recording recording;
  recording.nwb_version = "2.4.0";
  recording.session_start_time = "2001-02-03T04:05:06+00:00";
  for (std::size_t u = 0; u < ticks.size(); ++u) {
    std::sort(ticks[u].begin(), ticks[u].end());
    Unit unit;
    unit.id = std::to_string(static_cast<std::int64_t>(u) * 1000 - 1);
    unit.held_out = ticks[u].size() % 2 == 1;
    for (const std::int32_t tick : ticks[u]) unit.spike_times_s.push_back(tick / 30000.0);
    recording.units.push_back(std::move(unit));
  }
  const TempDir folder;
  RC_ASSERT(bool(write_nwb(folder.file("a.nwb"), recording)));
  const auto read = read_nwb(folder.file("a.nwb"));
  RC_ASSERT(bool(read));
  RC_ASSERT(read->units.size() == recording.units.size());
  for (std::size_t u = 0; u < ticks.size(); ++u) {
    RC_ASSERT(read->units[u].spike_times_s == recording.units[u].spike_times_s);
    RC_ASSERT(read->units[u].held_out == recording.units[u].held_out);
  }
}

}  // namespace
}  // namespace cortex
