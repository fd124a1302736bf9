#include <gtest/gtest.h>
#include <simdjson.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "support/process.h"

namespace cortex {
namespace {

namespace dom = simdjson::dom;

class Doctor : public ::testing::Test {
 protected:
  dom::element examine(const std::string& seconds) {
    const auto ran =
        testing::run({CORTEX_BINARY, "doctor", "--device", "cpu", "--seconds", seconds, "--json"});
    EXPECT_EQ(ran.code, 0) << ran.err;
    dom::element report;
    EXPECT_EQ(parser_.parse(ran.out).get(report), simdjson::SUCCESS) << ran.out;
    return report;
  }
  dom::parser parser_;
};

TEST_F(Doctor, WhatItSaysFitsIsWhatItMeasured) {
  const dom::element report = examine("3");
  EXPECT_GT(report["isas"].get_array().size(), 0U);
  EXPECT_GT(report["realtime"].get_array().size(), 3U);
  EXPECT_NE(report["gpu"].is_null(), report["no_gpu"].is_null()) << "a GPU, or why there is none";
  const double stall = double(report["stall_us"]);
  EXPECT_GE(stall, 0);
  std::map<std::pair<std::string, std::int64_t>, std::int64_t> most;  // parameters that fit
  std::map<std::string, std::int64_t> parameters;
  int measured = 0;
  for (const dom::element row : report["presets"].get_array()) {
    if (row["p99_us"].is_null()) {
      EXPECT_EQ(row["fits_ms"].get_array().size(), 0U);
      continue;
    }
    ++measured;
    const std::string preset(row["preset"].get_c_str());
    parameters[preset] = std::int64_t(row["parameters"]);
    std::size_t fits = 0;
    for (const std::int64_t deadline : {10, 20, 50}) {
      if (double(row["p99_us"]) + stall > static_cast<double>(deadline) * 1e3) continue;
      ++fits;
      auto& best = most[{std::string(row["kind"].get_c_str()), deadline}];
      best = std::max(best, parameters[preset]);
    }
    EXPECT_EQ(row["fits_ms"].get_array().size(), fits) << preset;
  }
  EXPECT_GE(measured, 1);
  EXPECT_EQ(report["largest"].get_array().size(), 3U);
  for (const dom::element line : report["largest"].get_array())
    for (const std::string kind : {"stream", "window"}) {
      const dom::element best = line[kind];
      const auto found = most.find({kind, static_cast<std::int64_t>(double(line["deadline_ms"]))});
      EXPECT_EQ(best.is_null(), found == most.end());
      if (!best.is_null()) {
        EXPECT_EQ(parameters[std::string(best["preset"].get_c_str())], found->second);
      }
    }
}

TEST_F(Doctor, WhenTheTimeIsOverTheRestSaysSo) {
  const auto ran = testing::run({CORTEX_BINARY, "doctor", "--device", "cpu", "--seconds", "1"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  for (const std::string part :
       {"cpu       ", "gpu       ", "realtime: scheduler ", "jitter    ", "stream-nano", "cortex-m",
        "not measured: the time was over", " 10 ms    stream: ", " 50 ms    stream: "})
    EXPECT_NE(ran.out.find(part), std::string::npos) << part << "\n" << ran.out;
}

TEST_F(Doctor, ADeviceThatIsNotThereIsNamed) {
  const auto ran = testing::run({CORTEX_BINARY, "doctor", "--device", "abacus"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("abacus"), std::string::npos) << ran.err;
}

}  // namespace
}  // namespace cortex
