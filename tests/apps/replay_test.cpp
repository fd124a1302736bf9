#include <gtest/gtest.h>
#include <simdjson.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <numeric>
#include <regex>
#include <string>
#include <vector>

#include "replay_report.h"
#include "replay_scene.h"
#include "support/paths.h"

namespace cortex {
namespace {

constexpr std::int64_t kSteps = 200;
constexpr double kStepMs = 20;

/// Two trials of a hand that circles, rest between them; spikes everywhere.
SteppedRecording circles() {
  SteppedRecording stepped;
  stepped.bin_ms = 5;
  stepped.step_ms = kStepMs;
  stepped.unit_ids = {"a", "b", "c"};
  stepped.dims = 2;
  stepped.output_names = {"hand_vel_x", "hand_vel_y"};
  stepped.output_unit = "mm/s";
  stepped.indptr = {0};
  for (std::int64_t s = 0; s < kSteps; ++s) {
    stepped.events.push_back({static_cast<std::int32_t>(s % 3), 1, s * 4});
    stepped.indptr.push_back(s + 1);
    const bool moving = s < 80 || s >= 120;
    const double angle = static_cast<double>(s) * 0.1;
    stepped.target.push_back(moving ? static_cast<float>(100 * std::cos(angle)) : 0.0F);
    stepped.target.push_back(moving ? static_cast<float>(100 * std::sin(angle)) : 0.0F);
    stepped.trial.push_back(s < 80 ? 0 : s >= 120 ? 1 : -1);
    stepped.observed.push_back(1);
  }
  return stepped;
}

std::unique_ptr<ReplayTrace> decoded(float gain, float offset, std::int64_t done = kSteps) {
  SteppedRecording stepped = circles();
  std::vector<std::uint8_t> scored(kSteps);
  for (std::size_t s = 0; s < scored.size(); ++s) scored[s] = stepped.trial[s] >= 0 ? 1 : 0;
  auto trace = std::make_unique<ReplayTrace>(std::move(stepped), std::move(scored), kSteps, 2);
  for (std::size_t i = 0; i < static_cast<std::size_t>(done) * 2; ++i)
    trace->decoded[i] = trace->stepped.target[i] * gain + offset;
  for (std::size_t s = 0; s < static_cast<std::size_t>(done); ++s)
    trace->latency_ns[s] = static_cast<std::int64_t>(s + 1) * 1000;
  trace->done = done;
  return trace;
}

DecoderInfo decoder() {
  return {.model = "test",
          .precision = "fp32",
          .bin_ms = 5,
          .step_ms = kStepMs,
          .target_offset_ms = -10,
          .output_names = {"vel_x", "vel_y"},
          .output_units = {"mm/s", "mm/s"},
          .unit_ids = {"a", "b", "c"}};
}

ReplayContext context() {
  return {.recording = "r.nwb",
          .splits = "all",
          .where = "in process",
          .paced = true,
          .interrupted = false,
          .decoder = decoder()};
}

/// Columns that a line takes: escape sequences none, a character one.
int columns_of(const std::string& line) {
  const std::string plain = std::regex_replace(line, std::regex("\x1b\\[[0-9;?]*[a-zA-Z]"), "");
  return static_cast<int>(
      std::count_if(plain.begin(), plain.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

TEST(LatencySummary, QuantilesAreNearestRank) {
  std::vector<std::int64_t> ns(1000);
  std::iota(ns.begin(), ns.end(), 1);
  for (auto& value : ns) value *= 1000;
  const LatencySummary summary = summarize_latency(ns, 1000);
  EXPECT_DOUBLE_EQ(summary.p50_us, 500);
  EXPECT_DOUBLE_EQ(summary.p99_us, 990);
  EXPECT_DOUBLE_EQ(summary.p999_us, 999);
  EXPECT_DOUBLE_EQ(summary.max_us, 1000);
  EXPECT_DOUBLE_EQ(summarize_latency(ns, 1).max_us, 1);
  EXPECT_DOUBLE_EQ(summarize_latency({}, 0).max_us, 0);
}

TEST(ReplayReport, ScoresOnlyWhatIsMaskedIn) {
  const auto trace = decoded(1, 0);
  const ReplayReport report = make_report(*trace, 20);
  ASSERT_TRUE(report.r2);
  EXPECT_DOUBLE_EQ(report.r2->mean, 1);
  EXPECT_EQ(report.steps, kSteps);
  EXPECT_EQ(report.scored_steps, 160);
  ASSERT_TRUE(report.first_second);
  EXPECT_EQ(report.first_second->rows, 50);
}

TEST(ReplayReport, CountsAnswersLaterThanTheDeadlineAndWithheldOnes) {
  auto trace = decoded(1, 0);
  trace->withheld[3] = 1;
  const ReplayReport report = make_report(*trace, 0.190);  // latencies are 1 to 200 us
  EXPECT_EQ(report.missed, 11);
  EXPECT_EQ(report.withheld, 1);
}

TEST(ReplayReport, RestIsWhereTheTrueHandIsSlow) {
  const auto trace = decoded(1, 3);
  const ReplayReport report = make_report(*trace, 20);
  ASSERT_TRUE(report.rest);
  EXPECT_EQ(report.rest->steps, 40);
  EXPECT_DOUBLE_EQ(report.rest->truth, 0);
  EXPECT_NEAR(report.rest->decoded, std::hypot(3, 3), 1e-6);
  EXPECT_NEAR(report.rest->threshold, 5, 1e-3);
}

TEST(ReplayReport, TooFewStepsHaveNoScore) {
  const auto trace = decoded(1, 0, 5);
  const ReplayReport report = make_report(*trace, 20);
  EXPECT_EQ(report.scored_steps, 5);
  EXPECT_FALSE(report.r2);
  simdjson::dom::parser parser;
  simdjson::dom::element json;
  ASSERT_EQ(parser.parse(report_json(report, context())).get(json), simdjson::SUCCESS);
  EXPECT_TRUE(json["r2"].is_null());
  EXPECT_TRUE(json["first_second_r2"].is_null());
  EXPECT_FALSE(report_text(report, context()).empty());
}

TEST(ReplayReport, CsvRoundTripsEveryVelocity) {
  const auto trace = decoded(0.3F, 0.7F);
  const testing::TempDir folder;
  const std::string path = folder.file("out.csv");
  ASSERT_TRUE(write_csv(path, *trace, decoder()));
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  EXPECT_EQ(line, "step,time_s,trial,scored,vel_x,vel_y,true_vel_x,true_vel_y,latency_us,withheld");
  std::int64_t rows = 0;
  while (std::getline(file, line)) {
    std::smatch cells;
    ASSERT_TRUE(
        std::regex_match(line, cells, std::regex("(\\d+),[^,]+,-?\\d+,\\d,([^,]+),([^,]+),.*")));
    EXPECT_EQ(std::stof(cells[2]), trace->decoded_row(rows)[0]);
    EXPECT_EQ(std::stof(cells[3]), trace->decoded_row(rows)[1]);
    ++rows;
  }
  EXPECT_EQ(rows, kSteps);
}

TEST(ReplayScene, FramesStayInsideAnyTerminal) {
  const auto trace = decoded(0.9F, 1);
  ReplayScene scene(*trace, {.recording = "r.nwb",
                             .decoder = decoder(),
                             .trial_names = {"0 train", "1 val"},
                             .deadline_ms = 20});
  scene.advance();
  for (const int columns : {1, 20, 48, 71, 72, 80, 110, 300})
    for (const int rows : {1, 11, 12, 24, 60}) {
      const auto frame = scene.frame(columns, rows);
      EXPECT_LE(frame.size(), static_cast<std::size_t>(rows)) << columns << "x" << rows;
      // Below the plots lie two lines of text, which the terminal cuts where it is narrow.
      for (std::size_t i = 0; i < frame.size(); ++i)
        if (columns >= 72 || i + 2 < frame.size()) {
          EXPECT_LE(columns_of(frame[i]), columns) << columns << "x" << rows << " line " << i;
        }
    }
}

TEST(ReplayScene, ShowsTheScoreOfTheReport) {
  const auto trace = decoded(0.9F, 1);
  ReplayScene scene(*trace, {.recording = "r.nwb",
                             .decoder = decoder(),
                             .trial_names = {"0 train", "1 val"},
                             .deadline_ms = 20});
  scene.advance();
  std::string frame;
  for (const std::string& line : scene.frame(100, 30)) frame += line + "\n";
  const ReplayReport report = make_report(*trace, 20);
  char score[32];
  std::snprintf(score, sizeof score, "R2 %.3f", report.r2->mean);
  EXPECT_NE(frame.find(score), std::string::npos) << frame;
  EXPECT_NE(frame.find("trial 1 val"), std::string::npos) << frame;
  EXPECT_NE(frame.find("●"), std::string::npos) << frame;
}

TEST(ReplayScene, SurvivesARecordingWithoutBehaviourSpikesOrSteps) {
  SteppedRecording empty;
  empty.bin_ms = 5;
  empty.step_ms = kStepMs;
  empty.indptr = {0};
  const ReplayTrace trace(std::move(empty), {}, 0, 2);
  ReplayScene scene(trace, {.recording = "r", .decoder = decoder(), .trial_names = {}});
  scene.advance();
  EXPECT_FALSE(scene.frame(80, 24).empty());
  EXPECT_FALSE(scene.progress().empty());
  EXPECT_EQ(make_report(trace, 20).steps, 0);
}

}  // namespace
}  // namespace cortex
