#include <gtest/gtest.h>
#include <simdjson.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "bench_ceilings.h"
#include "bench_decode.h"
#include "bench_model.h"
#include "bench_work.h"
#include "support/paths.h"
#include "support/process.h"

namespace cortex {
namespace {

using testing::Ran;

Ran bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {CORTEX_BINARY, "bench"});
  return testing::run(std::move(arguments));
}

simdjson::dom::element parsed(simdjson::dom::parser& parser, const std::string& text) {
  simdjson::dom::element report;
  EXPECT_EQ(parser.parse(text).get(report), simdjson::SUCCESS) << text;
  return report;
}

double value_of(const simdjson::dom::element& report, const char* key) {
  double value = -1;
  EXPECT_EQ(report[key].get(value), simdjson::SUCCESS) << key;
  return value;
}

ModelConfig small_window() {
  ModelConfig c = preset_config("cortex-xs").value_or_throw();
  c.dim = 8;
  c.layers = 1;
  c.heads = 2;
  c.head_dim = 4;
  c.latents = 3;
  c.mlp_ratio = 2;
  return c;
}

TEST(BenchWork, FlopsOfAWindowAreThoseCountedByHand) {
  // D 8, L 3, E 5, H 16, 2 outputs, one layer.
  const ForwardFlops flops = window_flops(small_window(), 1, 5);
  // Rows x in x out of each linear: cross out, qkv, out, up, down.
  EXPECT_EQ(flops.linear, 2 * (3 * 8 * 8 + 3 * 8 * 24 + 3 * 8 * 8 + 3 * 8 * 16 + 3 * 16 * 8));
  // Queries x keys x D, for scores and for values: cross, block. Head: 2 outputs x 2 heads.
  EXPECT_EQ(flops.attention, 2 * 2 * 8 * (3 * 5 + 3 * 3) + 2 * (3 * 8 * 4 + 4 * 3 * 8 + 2 * 16));
  EXPECT_EQ(window_flops(small_window(), 7, 5).total(), 7 * flops.total());
}

TEST(BenchWork, FlopsOfAStreamStepAreThoseCountedByHand) {
  ModelConfig c = preset_config("stream-xs").value_or_throw();
  c.dim = 8;
  c.layers = 2;
  c.latents = 2;
  c.mlp_ratio = 2;
  c.window_steps = 10;
  c.receptive_steps = 3;
  const ForwardFlops flops = stream_flops(c, 1, 5);
  const double block = 2 * 8 * 24 + 2 * 8 * 8 + 2 * 8 * 16 + 2 * 16 * 8;
  EXPECT_EQ(flops.linear, 2 * (2 * 8 * 8 + 2 * block + 1 * 16 * 2));
  // 15 events and the null key by 2 latents; 2 x 20 keys a layer twice; the bag of 5 events.
  EXPECT_EQ(flops.attention, 2 * 2 * 16 * 8 + 2 * 2 * 2 * 2 * 20 * 8 + 2 * 5 * 2 * 8);
}

TEST(BenchWork, FlopsOfThePresetsAreTheKnownOnes) {
  const auto window = preset_config("cortex-s").value_or_throw();
  // By hand: 7 blocks of 12.58 M weights' worth of 256 rows, self and cross scores, the folded
  // ends.
  EXPECT_NEAR(window_flops(window, 1, 512).total(), 12.6e9, 0.1e9);
  const auto stream = preset_config("stream-s").value_or_throw();
  EXPECT_NEAR(stream_flops(stream, 1, 40).total(), 0.19e9, 0.01e9);
}

TEST(BenchWork, LinearsAreThoseOfTheFileAndMakeUpTheLinearFlops) {
  for (const std::string preset : {"stream-nano", "stream-xs", "cortex-xs"}) {
    const ModelFile file = random_preset(preset, DType::f32, 16, 1);
    double flops = 0;
    for (const LinearShape& l : forward_linears(file.config, 3)) {
      EXPECT_EQ(file.at(l.name).shape(), (Shape{l.out, l.in})) << l.name;
      flops += 2.0 * static_cast<double>(l.rows * l.in * l.out);
    }
    const bool stream = file.config.kind == ModelKind::stream;
    EXPECT_EQ(flops, stream ? stream_flops(file.config, 3, 20).linear
                            : window_flops(file.config, 3, 20).linear)
        << preset;
  }
}

TEST(BenchWork, FloorIsTheLongerOfArithmeticAndMemory) {
  Ceilings c;
  c.fp32_gflops = 100;
  c.bf16_gflops = 200;
  c.int8_gops = 400;
  c.reads = {{"l2", 1, 100}, {"dram", 100, 10}};
  const Floor busy = floor_of({8e6, 2e6}, {1e6, 0}, DType::i8, 0, c);
  EXPECT_DOUBLE_EQ(busy.arithmetic_us, 8e6 / 400e3 + 2e6 / 200e3);
  EXPECT_DOUBLE_EQ(busy.memory_us, 1e6 / 100e3);
  EXPECT_DOUBLE_EQ(busy.us(), busy.arithmetic_us);
  const Floor far = floor_of({8e6, 2e6}, {1e6, 0}, DType::i8, 200e6, c);
  EXPECT_EQ(far.level, "dram");
  EXPECT_DOUBLE_EQ(far.us(), 1e6 / 10e3);
  EXPECT_DOUBLE_EQ(c.read_of(10e6).gb_s, 55);  // halfway by the logarithm
}

TEST(BenchModel, RandomModelsOfEveryPrecisionDecode) {
  for (const std::string preset : {"stream-nano", "cortex-xs"}) {
    std::vector<float> reference;
    for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
      const ModelFile file = random_preset(preset, precision, 16, 3);
      EXPECT_EQ(file.precision(), precision);
      const auto ops = make_bench_ops(1);
      const auto decoder = make_bench_decoder(file, *ops, {.batch = 2, .events = 12, .seed = 4});
      decoder->prepare();
      const auto y = decoder->forward();
      ASSERT_EQ(y.size(), 4U);
      if (precision == DType::f32) reference.assign(y.begin(), y.end());
      EXPECT_NEAR(y[0], reference[0], 0.02) << preset << precision_name(precision);
    }
  }
}

TEST(BenchModel, CortexSInInt8KeepsAtMost30MBOfWeightsAndTables) {
  const ModelFile file = random_preset("cortex-s", DType::i8, 0, 1);
  const auto ops = make_bench_ops(1);
  const auto decoder = make_bench_decoder(file, *ops, {.batch = 1, .events = 512, .seed = 1});
  double linears = 0;
  for (const LinearShape& l : forward_linears(file.config, 1))
    linears += static_cast<double>(l.in * l.out);
  EXPECT_GT(static_cast<double>(decoder->resident_bytes()), linears) << "a byte a weight, at least";
  EXPECT_LE(static_cast<double>(decoder->resident_bytes()), 30e6);
}

TEST(BenchModel, Int8RowsHaveAScaleAndReachTheirEnds) {
  const ModelFile file = random_preset("stream-nano", DType::i8, 4, 1);
  const LinearTensor linear = file.linear("blocks.0.qkv");
  ASSERT_NE(linear.scale, nullptr);
  EXPECT_EQ(linear.scale->shape(), (Shape{3 * 128}));
  const auto* rows = reinterpret_cast<const std::int8_t*>(linear.weight.data());
  for (int row = 0; row < 3; ++row) {
    int largest = 0;
    for (int i = 0; i < 128; ++i) largest = std::max(largest, std::abs(int{rows[row * 128 + i]}));
    EXPECT_EQ(largest, 127);
  }
}

TEST(BenchDecode, RandomEventsAreSortedDifferentAndInRange) {
  std::uint64_t state = 9;
  for (const std::int64_t count : {0, 1, 37, 40}) {
    const auto events = random_events(state, count, 10, 100, 4);
    ASSERT_EQ(static_cast<std::int64_t>(events.size()), count);
    std::set<std::pair<std::int64_t, std::int32_t>> cells;
    for (const Event& e : events) {
      EXPECT_TRUE(e.unit >= 0 && e.unit < 10 && e.bin >= 100 && e.bin < 104 && e.value >= 1);
      EXPECT_TRUE(cells.empty() || *cells.rbegin() < std::pair(e.bin, e.unit));
      cells.emplace(e.bin, e.unit);
    }
  }
}

TEST(BenchDecode, QuantilesAreNearestRanks) {
  std::vector<double> us;
  for (int i = 200; i >= 1; --i) us.push_back(i);
  const Timing timing = summarize_times(us);
  EXPECT_EQ(timing.p50_us, 100);
  EXPECT_EQ(timing.p99_us, 198);
  EXPECT_EQ(timing.min_us, 1);
  EXPECT_EQ(timing.max_us, 200);
  EXPECT_EQ(timing.mean_us, 100.5);
  EXPECT_EQ(timing.iterations, 200);
}

TEST(BenchCli, DecodeReportsTheTimesAndTheFloor) {
  for (const std::vector<std::string>& flags : std::vector<std::vector<std::string>>{
           {"--preset", "stream-nano", "--precision", "int8", "--batch", "2", "--evict", "1"},
           {"--preset", "cortex-xs", "--events", "16"}}) {
    std::vector<std::string> command = {"decode", "--seconds", "0.01", "--json"};
    command.insert(command.end(), flags.begin(), flags.end());
    const Ran ran = bench(command);
    ASSERT_EQ(ran.code, 0) << ran.err;
    simdjson::dom::parser parser;
    const auto report = parsed(parser, ran.out);
    for (const char* key :
         {"p50_us", "p99_us", "mean_us", "min_us", "gflops", "floor_us", "fraction_of_floor",
          "iterations", "batch", "events", "threads", "resident_weight_bytes"})
      EXPECT_GT(value_of(report, key), 0) << key;
    for (const char* key : {"model", "precision", "backend", "kind", "machine", "ceilings"})
      EXPECT_EQ(report[key].error(), simdjson::SUCCESS) << key;
    EXPECT_GE(value_of(report, "iterations"), 3);
    EXPECT_LE(value_of(report, "min_us"), value_of(report, "p50_us"));
    EXPECT_LE(value_of(report, "p50_us"), value_of(report, "p99_us"));
  }
}

TEST(BenchCli, DecodeTakesAModelFile) {
  const Ran ran =
      bench({"decode", "--model", testing::source_path("models/stream-nano.safetensors").string(),
             "--seconds", "0.01", "--events", "8", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  simdjson::dom::parser parser;
  EXPECT_EQ(std::string_view(parsed(parser, ran.out)["model"]), "stream-nano");
}

TEST(BenchCli, CeilingsAreMeasuredForEveryPrecisionAndLevel) {
  const Ran ran = bench({"ceilings", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  simdjson::dom::parser parser;
  simdjson::dom::element ceilings;
  ASSERT_EQ(parsed(parser, ran.out)["ceilings"].get(ceilings), simdjson::SUCCESS);
  for (const char* key : {"fp32_gflops", "bf16_gflops", "int8_gops"})
    EXPECT_GT(value_of(ceilings, key), 0);
  simdjson::dom::array reads;
  ASSERT_EQ(ceilings["reads"].get(reads), simdjson::SUCCESS);
  EXPECT_EQ(reads.size(), 5U);
  for (const auto read : reads) EXPECT_GT(value_of(read, "gb_s"), 0);
}

TEST(BenchCli, WrongUsageIsTwoAndFailureIsOne) {
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{
           {},
           {"no-such"},
           {"decode"},
           {"decode", "--preset", "no-such"},
           {"decode", "--preset", "stream-nano", "--model", "m"},
           {"decode", "--model", "m", "--precision", "int8"},
           {"decode", "--preset", "stream-nano", "--precision", "int4"},
           {"decode", "--preset", "stream-nano", "--batch", "0"},
           {"decode", "--preset", "stream-nano", "--threads", "0"},
           {"decode", "--preset", "stream-nano", "--seconds", "-1"},
           {"decode", "--preset", "stream-nano", "--events", "-1"},
           {"decode", "--preset", "stream-nano", "--evict", "-1"},
           {"ceilings", "--isa", "mmx"}})
    EXPECT_EQ(bench(wrong).code, 2) << ::testing::PrintToString(wrong);
  const Ran missing = bench({"decode", "--model", "/no/such/model.safetensors"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_NE(missing.err.find("/no/such/model.safetensors"), std::string::npos);
  const Ran table = bench({"decode", "--preset", "stream-nano", "--gemm-table",
                           testing::source_path("models/stream-nano.safetensors").string()});
  EXPECT_EQ(table.code, 1);
  EXPECT_NE(table.err.find("models/stream-nano.safetensors"), std::string::npos) << table.err;
  const Ran many = bench({"decode", "--preset", "stream-nano", "--events", "5000"});
  EXPECT_EQ(many.code, 1);
  EXPECT_NE(many.err.find("4096"), std::string::npos) << many.err;
}

class BenchRender : public ::testing::Test {
 protected:
  void SetUp() override {
    if (testing::run({"python3", "--version"}).code != 0) GTEST_SKIP() << "no python3";
  }
  Ran render(const std::string& results) {
    return testing::run({"python3", testing::source_path("benchmarks/render.py").string(),
                         "--results", results, "--plots", folder_.file("plots"), "--out",
                         folder_.file("BENCHMARKS.md")});
  }
  std::string text(const std::string& name) {
    std::ifstream file(folder_.file(name));
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
  }
  testing::TempDir folder_;
};

TEST_F(BenchRender, DocumentHoldsTheNumbersOfTheFiles) {
  const Ran ran = render(testing::source_path("tests/apps/benchmark_results").string());
  ASSERT_EQ(ran.code, 0) << ran.err;
  const std::string document = text("BENCHMARKS.md");
  for (const char* part : {"## The machine's ceilings", "## Windows", "## Streams", "## Peers",
                           "## Operations", "Sample CPU", "ONNX Runtime", "plots/cpu_cortex-xs.svg",
                           "plots/cpu_peers_cortex-xs.svg", "norm_linear"})
    EXPECT_NE(document.find(part), std::string::npos) << part;
  const std::string plot = text("plots/cpu_stream-nano.svg");
  EXPECT_EQ(plot.rfind("<svg", 0), 0U);
  EXPECT_NE(plot.find("</svg>"), std::string::npos);
}

TEST_F(BenchRender, NoResultsIsADocumentAndGarbledOnesAnError) {
  EXPECT_EQ(render(folder_.file("")).code, 0);
  std::ofstream(folder_.file("cpu_ceilings.json")) << "{\"results\": [{}]}";
  const Ran ran = render(folder_.file(""));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("render: "), std::string::npos) << ran.err;
}

}  // namespace
}  // namespace cortex
