#include <gtest/gtest.h>
#include <simdjson.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "data/nwb.h"
#include "data/simulator.h"
#include "data/split.h"
#include "model/weights.h"
#include "support/paths.h"
#include "support/process.h"

namespace cortex {
namespace {

using testing::Ran;

Ran cortex_run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), CORTEX_BINARY);
  return testing::run(std::move(arguments));
}

std::string last_line(const std::string& text) {
  std::istringstream lines(text);
  std::string line, last;
  while (std::getline(lines, line))
    if (!line.empty()) last = line;
  return last;
}

/// A simulated session and a random stream model that knows its units.
class CliQuantize : public ::testing::Test {
 protected:
  void SetUp() override {
    recording_ = simulate({.population_seed = 3, .session_seed = 4, .units = 16, .minutes = 0.5})
                     .value_or_throw();
    write_nwb(nwb_, recording_).value_or_throw();
    ModelConfig config = preset_config("stream-nano").value_or_throw();
    for (const Unit& unit : recording_.units)
      config.units.push_back({.id = unit.id, .session = "test", .electrode = {}, .rate_hz = 0});
    config.set_defaults();
    const ModelFile model = random_model(config, 5);
    save_model(model_, model.config, model.tensors).value_or_throw();
  }

  std::vector<std::string> command(std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"quantize", "--model",     model_, "--calibrate",
                                    nwb_,       "--out",       out_,   "--choice-steps",
                                    "100",      "--max-error", "100"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  simdjson::dom::element report(const Ran& ran) {
    simdjson::dom::element parsed;
    EXPECT_EQ(parser_.parse(last_line(ran.out)).get(parsed), simdjson::SUCCESS) << ran.out;
    return parsed;
  }

  testing::TempDir folder_;
  Recording recording_;
  simdjson::dom::parser parser_;
  const std::string nwb_ = folder_.file("session.nwb");
  const std::string model_ = folder_.file("model.safetensors");
  const std::string out_ = folder_.file("out.safetensors");
};

TEST_F(CliQuantize, JsonIsOneObjectLastOnStandardOutput) {
  const Ran ran = cortex_run(command({"--json"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(ran.err.empty()) << ran.err;
  const auto json = report(ran);
  EXPECT_EQ(std::string_view(json["precision"]), "int8");
  EXPECT_LT(std::int64_t(json["bytes_after"]), 0.5 * double(std::int64_t(json["bytes_before"])));
  EXPECT_EQ(std::int64_t(json["file_bytes_after"]),
            static_cast<std::int64_t>(std::filesystem::file_size(out_)));
  EXPECT_GT(double(json["output_error"]), 0);
  EXPECT_LT(double(json["output_error"]), 0.1);
  EXPECT_NEAR(double(json["r2_after"]), double(json["r2_before"]), 0.05);
  EXPECT_EQ(std::int64_t(json["compared"]), 30 * 50);
  EXPECT_GT(std::int64_t(json["scored"]), 0);
  EXPECT_EQ(simdjson::dom::array(json["layers"]).size(), 20U);
  for (const simdjson::dom::element layer : simdjson::dom::array(json["layers"])) {
    EXPECT_GT(double(layer["weight_error"]), 0);
    EXPECT_LT(double(layer["weight_error"]), 0.05);
  }
}

TEST_F(CliQuantize, WhatItWritesIsInspectedAndReplayedLikeAnyModel) {
  ASSERT_EQ(cortex_run(command()).code, 0);
  const Ran inspected = cortex_run({"inspect", out_, "--json"});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  const auto json = report(inspected);
  EXPECT_EQ(std::string_view(json["precision"]), "int8");
  EXPECT_EQ(std::int64_t(json["parameters"]),
            load_model(model_).value_or_throw().parameter_count());
  std::int64_t sum = 0;
  for (const char* dtype : {"F32", "BF16", "I8"}) {
    EXPECT_GT(std::int64_t(json["bytes_by_dtype"][dtype]), 0) << dtype;
    sum += std::int64_t(json["bytes_by_dtype"][dtype]);
  }
  EXPECT_EQ(sum, std::int64_t(json["bytes"]));
  EXPECT_NE(cortex_run({"inspect", out_}).out.find("int8"), std::string::npos);

  const Ran replayed = cortex_run({"replay", "--nwb", nwb_, "--model", out_, "--speed", "max",
                                   "--seconds", "5", "--split", "all", "--json"});
  ASSERT_EQ(replayed.code, 0) << replayed.err;
  EXPECT_EQ(std::string_view(report(replayed)["precision"]), "int8");
}

TEST_F(CliQuantize, Bf16HalvesTheLinears) {
  const Ran ran = cortex_run(command({"--precision", "bf16", "--json"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto json = report(ran);
  EXPECT_EQ(std::string_view(json["precision"]), "bf16");
  EXPECT_TRUE(json["clipping"].is_null());
  EXPECT_LT(double(json["output_error"]), 0.02);
  EXPECT_EQ(load_model(out_).value_or_throw().precision(), DType::bf16);
}

TEST_F(CliQuantize, TheSameFilesGiveTheSameModel) {
  ASSERT_EQ(cortex_run(command()).code, 0);
  const std::string digest = load_model(out_).value_or_throw().digest;
  ASSERT_EQ(cortex_run(command()).code, 0);
  EXPECT_EQ(load_model(out_).value_or_throw().digest, digest);
}

TEST_F(CliQuantize, WithoutASplitInTheFileTheTrialsAreScoredThatTrainingHoldsBack) {
  for (Trial& trial : recording_.trials) trial.split.clear();
  write_nwb(nwb_, recording_).value_or_throw();
  const Ran ran = cortex_run(command({"--json"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto json = report(ran);
  EXPECT_NE(std::string_view(json["held_out"]).find("'val'; no split in the file"),
            std::string_view::npos)
      << std::string_view(json["held_out"]);
  const std::int64_t scored = json["scored"];
  const double error = json["output_error"];
  EXPECT_GT(scored, 0);
  // As if the file named that split itself.
  (void)assign_split(recording_, "").value_or_throw();
  write_nwb(nwb_, recording_).value_or_throw();
  const Ran named = cortex_run(command({"--json"}));
  ASSERT_EQ(named.code, 0) << named.err;
  const auto as_named = report(named);
  EXPECT_EQ(std::int64_t(as_named["scored"]), scored);
  EXPECT_EQ(double(as_named["output_error"]), error);
}

TEST_F(CliQuantize, WhereNoTrialIsInTheSplitThatIsAskedForTheLastFifthIsScored) {
  const Ran ran = cortex_run(command({"--split", "nobody", "--json"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto json = report(ran);
  EXPECT_NE(std::string_view(json["held_out"]).find("last fifth of the trials"),
            std::string_view::npos);
  EXPECT_GT(std::int64_t(json["scored"]), 0);
  EXPECT_LT(std::int64_t(json["scored"]), 30 * 50 / 3);
}

TEST_F(CliQuantize, WithoutBehaviourTheErrorIsMeasuredAndNothingIsScored) {
  recording_.behavior.clear();
  write_nwb(nwb_, recording_).value_or_throw();
  const Ran ran = cortex_run(command({"--json"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto json = report(ran);
  EXPECT_TRUE(json["r2_before"].is_null());
  EXPECT_GT(double(json["output_error"]), 0);
}

TEST_F(CliQuantize, AWindowModelIsMeasuredOnWindows) {
  ModelConfig config = preset_config("cortex-xs").value_or_throw();
  config.dim = 32;
  config.layers = 1;
  config.heads = 2;
  config.head_dim = 16;
  config.latents = 8;
  config.max_neurons = 16;
  config.max_bins = 64;
  config.window_bins = 50;
  ModelFile model = random_model(config, 6);
  for (auto& [name, tensor] : model.tensors)
    if (name.find("norm") == std::string::npos)
      for (float& v : tensor.f32()) v *= 10;
  save_model(model_, model.config, model.tensors).value_or_throw();
  const Ran ran = cortex_run(command({"--windows", "40", "--json"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto json = report(ran);
  EXPECT_EQ(std::string_view(json["items"]), "windows");
  EXPECT_EQ(std::int64_t(json["compared"]), 40);
  EXPECT_GT(std::int64_t(json["scored"]), 10);
  EXPECT_EQ(load_model(out_).value_or_throw().precision(), DType::i8);
}

TEST_F(CliQuantize, FailureIsOneAndLeavesNoFile) {
  auto no_model = command();
  no_model[2] = "/no/such/model.safetensors";
  auto no_recording = command();
  no_recording[4] = "/no/such/session.nwb";
  for (const auto& arguments : {no_model, no_recording}) {
    const Ran ran = cortex_run(arguments);
    EXPECT_EQ(ran.code, 1) << ran.err;
    EXPECT_NE(ran.err.find("/no/such/"), std::string::npos) << ran.err;
    EXPECT_FALSE(std::filesystem::exists(out_));
  }
}

TEST_F(CliQuantize, WhereEveryLinearIsKeptTheModelIsBf16AndThatIsSaid) {
  auto strict = command({"--json"});
  *(std::find(strict.begin(), strict.end(), "--max-error") + 1) = "0";
  const Ran ran = cortex_run(strict);
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(std::string_view(report(ran)["precision"]), "bf16");
  EXPECT_NE(ran.err.find("--max-error"), std::string::npos) << ran.err;
}

TEST_F(CliQuantize, AnInt8ModelIsNotQuantisedAgain) {
  ASSERT_EQ(cortex_run(command()).code, 0);
  auto again = command();
  again[2] = out_;
  const Ran ran = cortex_run(again);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("int8 already"), std::string::npos) << ran.err;
}

}  // namespace
}  // namespace cortex
