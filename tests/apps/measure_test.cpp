#include <gtest/gtest.h>
#include <simdjson.h>

#include <string>
#include <vector>

#include "support/process.h"

/// The commands that time a model: what they print, never how long it took.
namespace cortex {
namespace {

using testing::Ran;

Ran cortex_run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), CORTEX_BINARY);
  return testing::run(std::move(arguments));
}

const std::string kModel = testing::source_path("models/stream-nano.safetensors").string();

void expect_keys(simdjson::dom::element object, const std::vector<const char*>& keys) {
  for (const char* key : keys) {
    simdjson::dom::element value;
    EXPECT_EQ(object[key].get(value), simdjson::SUCCESS) << key;
  }
}

TEST(CliProfile, HelpShowsAnExample) {
  const Ran ran = cortex_run({"profile", "--help"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_NE(ran.out.find("Example"), std::string::npos);
}

TEST(CliProfile, WrongUsageIsTwoAndFailureIsOne) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {"profile"},
           {"profile", "--model", kModel, "--preset", "stream-nano"},
           {"profile", "--preset", "stream-nano", "--batch", "0"},
           {"profile", "--preset", "stream-nano", "--precision", "fp8"},
           {"profile", "--preset", "stream-nano", "--events", "999999"}})
    EXPECT_EQ(cortex_run(wrong).code, 2) << ::testing::PrintToString(wrong);
  const Ran ran = cortex_run({"profile", "--preset", "no-such-preset"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("no-such-preset"), std::string::npos) << ran.err;
}

TEST(CliProfile, JsonNamesEverySectionAndOperationOfAForward) {
  const Ran ran = cortex_run({"profile", "--preset", "stream-nano", "--precision", "int8",
                              "--batch", "2", "--steps", "3", "--units", "16", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(ran.out).get(report), simdjson::SUCCESS) << ran.out;
  expect_keys(report, {"model", "backend", "precision", "parameters", "batch", "events", "forwards",
                       "forward_us", "ceilings", "whole", "between_us", "sections"});
  EXPECT_EQ(std::string_view(report["precision"]), "int8");
  EXPECT_EQ(std::int64_t(report["forwards"]), 3);
  EXPECT_TRUE(report["ceilings"].is_null());
  std::vector<std::string> names;
  double share = 0;
  for (const simdjson::dom::element section : simdjson::dom::array(report["sections"])) {
    names.emplace_back(std::string_view(section["name"]));
    share += double(section["share"]);
    expect_keys(section, {"us", "gflop", "gflop_per_s", "weight_mb", "gb_per_s", "floor_share"});
    for (const simdjson::dom::element operation : simdjson::dom::array(section["operations"]))
      expect_keys(operation, {"name", "calls", "us", "share", "gflop", "gflop_per_s", "weight_mb",
                              "gb_per_s", "floor_share", "out", "in"});
  }
  EXPECT_EQ(names, (std::vector<std::string>{"input", "tokens", "cross-attention", "block 0",
                                             "block 1", "block 2", "block 3", "head"}));
  EXPECT_GT(share, 0);
  EXPECT_LE(share, 1.0 + 1e-9);
}

TEST(CliProfile, CeilingsGiveSharesOfTheFloor) {
  const Ran ran = cortex_run({"profile", "--model", kModel, "--steps", "2", "--peak-gflops", "100",
                              "--peak-gbs", "50", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(ran.out).get(report), simdjson::SUCCESS) << ran.out;
  EXPECT_EQ(double(report["ceilings"]["gflop_per_s"]), 100);
  EXPECT_GT(double(report["whole"]["floor_us"]), 0);
  EXPECT_GT(double(report["whole"]["floor_share"]), 0);
}

TEST(CliProfile, ForAPersonItIsATable) {
  const Ran ran = cortex_run({"profile", "--preset", "cortex-xs", "--events", "8", "--steps", "1"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  for (const char* text : {"cortex-xs", "tokens", "project_tokens", "block 4", "head", "whole"})
    EXPECT_NE(ran.out.find(text), std::string::npos) << text;
}

TEST(CliJitter, HelpShowsAnExample) {
  const Ran ran = cortex_run({"jitter", "--help"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_NE(ran.out.find("Example"), std::string::npos);
}

TEST(CliJitter, WrongUsageIsTwoAndFailureIsOne) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {"jitter"},
           {"jitter", "--preset", "stream-nano", "--steps", "0"},
           {"jitter", "--preset", "stream-nano", "--period-us", "0"}})
    EXPECT_EQ(cortex_run(wrong).code, 2) << ::testing::PrintToString(wrong);
  const Ran window = cortex_run({"jitter", "--preset", "cortex-xs"});
  EXPECT_EQ(window.code, 1);
  EXPECT_NE(window.err.find("window model"), std::string::npos) << window.err;
}

TEST(CliJitter, JsonHoldsStepsAndIdleSpinsSideBySide) {
  const Ran ran =
      cortex_run({"jitter", "--model", kModel, "--steps", "30", "--period-us", "500", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(ran.out).get(report), simdjson::SUCCESS) << ran.out;
  expect_keys(report, {"model", "precision", "steps", "events", "period_us", "realtime", "step_us",
                       "idle_us", "submit_to_answer_us", "ratio", "ratio_target", "spin_reads",
                       "preemptions", "page_faults"});
  for (const char* row : {"step_us", "idle_us", "submit_to_answer_us"}) {
    expect_keys(report[row], {"p50", "p99", "p999", "max", "spread"});
    EXPECT_GT(double(report[row]["p50"]), 0) << row;
    EXPECT_LE(double(report[row]["p50"]), double(report[row]["max"])) << row;
  }
  EXPECT_EQ(std::int64_t(report["steps"]), 30);
  EXPECT_EQ(std::int64_t(report["period_us"]), 500);
  EXPECT_TRUE(report["realtime"].is_null()) << "not asked for";
}

TEST(CliRealtime, EveryCommandSaysWhatWasGrantedAndRefused) {
  const Ran jitter =
      cortex_run({"jitter", "--preset", "stream-nano", "--steps", "20", "--realtime", "--json"});
  ASSERT_EQ(jitter.code, 0) << jitter.err;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(jitter.out).get(report), simdjson::SUCCESS) << jitter.out;
  std::size_t grants = 0;
  for (const simdjson::dom::element grant : simdjson::dom::array(report["realtime"])) {
    expect_keys(grant, {"what", "granted", "detail"});
    ++grants;
  }
  EXPECT_EQ(grants, 6U);

  testing::Process server({CORTEX_BINARY, "serve", "--model", kModel, "--port", "0", "--realtime"});
  ASSERT_TRUE(server.says("serving")) << server.err();
  for (const char* what : {"core", "scheduler", "memory_lock"})
    EXPECT_NE(server.out().find(std::string("realtime: ") + what), std::string::npos)
        << server.out();
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait().code, 0);
}

TEST(CliRealtime, ReplayTakesItInProcessAlone) {
  const Ran ran =
      cortex_run({"replay", "--nwb", "a.nwb", "--url", "ws://127.0.0.1:1", "--realtime"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find("--realtime"), std::string::npos) << ran.err;
}

}  // namespace
}  // namespace cortex
