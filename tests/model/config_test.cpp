#include "model/config.h"

#include <gtest/gtest.h>

#include "model/rotary.h"
#include "model/weights.h"
#include "support/stream_oracle.h"

namespace cortex::testing {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Config, SurvivesJson) {
  ModelConfig c = tiny_stream_config();
  c.units[2].electrode = 17;
  c.training_json = R"({"r2":0.5})";
  const std::string json = to_json(c);
  EXPECT_EQ(to_json(parse_config(json, "f").value_or_throw()), json);
  const std::string window = to_json(preset_config("cortex-s").value_or_throw());
  EXPECT_EQ(to_json(parse_config(window, "f").value_or_throw()), window);
}

TEST(Config, AFaultNamesTheFieldAndTheFile) {
  const std::string json = to_json(tiny_stream_config());
  struct Case {
    const char* from;
    const char* to;
    const char* field;
  };
  for (const Case& c :
       {Case{"\"dim\":16", "\"dim\":\"x\"", "dim"}, Case{"\"dim\":16,", "", "dim"},
        Case{"\"dim\":16", "\"dim\":17", "head_dim"},
        Case{"\"layers\":2", "\"layers\":0", "layers"},
        Case{"\"format\":1", "\"format\":2", "format"},
        Case{"\"kind\":\"stream\"", "\"kind\":\"lstm\"", "kind"},
        Case{"\"dim\":16", "\"dim\":16,\"dimm\":3", "dimm"},
        Case{"\"step_ms\":20", "\"step_ms\":21", "step_ms"},
        Case{"\"bin_ms\":5", "\"bin_ms\":-5", "bin_ms"},
        Case{"\"cross_min_ms\":20", "\"cross_min_ms\":0", "rope.cross"},
        Case{"\"id\":\"u3\"", "\"id\":\"u2\"", "units"},
        Case{"\"units\":[\"mm/s\",\"mm/s\"]", "\"units\":[\"mm/s\"]", "output.units"},
        Case{"\"receptive_steps\":3", "\"receptive_steps\":6", "receptive_steps"}}) {
    const auto parsed = parse_config(replaced(json, c.from, c.to), "some.file");
    ASSERT_FALSE(parsed) << c.to;
    EXPECT_EQ(parsed.error().field, c.field) << parsed.error().message;
    EXPECT_EQ(parsed.error().code, ErrorCode::corrupt_data);
    EXPECT_NE(parsed.error().message.find("some.file"), std::string::npos);
  }
}

double millions(const ModelConfig& config) {
  std::int64_t n = 0;
  for (const TensorSpec& spec : tensor_specs(config)) n += element_count(spec.shape);
  return static_cast<double>(n) / 1e6;
}

TEST(Config, PresetsHaveTheStatedSizes) {
  const auto published = [](const char* name) {
    ModelConfig c = preset_config(name).value_or_throw();
    c.norm = NormKind::layernorm;
    const double pooled_spike_head = (c.dim + 1.0) * c.value_buckets / 1e6;
    return millions(c) + pooled_spike_head;
  };
  EXPECT_NEAR(published("cortex-xs"), 4.83, 0.01);
  EXPECT_NEAR(published("cortex-s"), 24.80, 0.01);
  EXPECT_NEAR(published("cortex-m"), 83.51, 0.01);
  ModelConfig nano = preset_config("stream-nano").value_or_throw();
  for (int u = 0; u < 200; ++u) nano.units.push_back({std::to_string(u), "", {}, 0});
  EXPECT_LT(millions(nano), 1.0);
}

TEST(Config, AnUnknownPresetListsTheKnownOnes) {
  const auto unknown = preset_config("cortex-xl");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("stream-nano"), std::string::npos);
}

TEST(Rotary, TimesAWholeNumberOfPeriodsApartHaveTheSamePhases) {
  const Rotary rotary(8, 40, 4000);
  EXPECT_EQ(rotary.periods_ms().front(), 40);
  EXPECT_NEAR(rotary.periods_ms().back(), 4000, 1e-9);
  float c0[4], s0[4], c1[4], s1[4];
  rotary.phases(15, c0, s0);
  rotary.phases(15 + 40.0 * 500'000'000, c1, s1);
  EXPECT_EQ(c0[0], c1[0]);
  EXPECT_EQ(s0[0], s1[0]);
}

}  // namespace
}  // namespace cortex::testing
