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
  for (const char* text : {"cortex-xs", "tokens", "gather_tokens", "block 4", "head", "whole"})
    EXPECT_NE(ran.out.find(text), std::string::npos) << text;
}

}  // namespace
}  // namespace cortex
