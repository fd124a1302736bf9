#include <gtest/gtest.h>
#include <simdjson.h>

#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "data/nwb.h"
#include "data/simulator.h"
#include "model/weights.h"
#include "support/paths.h"
#include "support/process.h"

namespace cortex {
namespace {

using testing::Process;
using testing::Ran;

const std::string kCortex = CORTEX_BINARY;

Ran cortex_run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), kCortex);
  return testing::run(std::move(arguments));
}

std::string last_line(const std::string& text) {
  std::istringstream lines(text);
  std::string line, last;
  while (std::getline(lines, line))
    if (!line.empty()) last = line;
  return last;
}

/// The cells of a CSV file but for its latency column, which is the run's own.
std::vector<std::vector<std::string>> decoded_cells(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::vector<std::string>> rows;
  std::string line;
  while (std::getline(file, line)) {
    std::vector<std::string> cells;
    std::istringstream row(line);
    for (std::string cell; std::getline(row, cell, ',');) cells.push_back(cell);
    cells.erase(cells.end() - 2);
    rows.push_back(cells);
  }
  return rows;
}

/// A simulated session and a random stream model that knows its units.
class CliReplay : public ::testing::Test {
 protected:
  void SetUp() override {
    Recording recording =
        simulate({.population_seed = 3, .session_seed = 4, .units = 16, .minutes = 0.5})
            .value_or_throw();
    write_nwb(nwb_, recording).value_or_throw();
    save(model_, recording, {"vel_x", "vel_y"});
    save(three_, recording, {"x", "y", "z"});
  }

  static void save(const std::string& path, const Recording& recording,
                   std::vector<std::string> outputs) {
    ModelConfig config = preset_config("stream-nano").value_or_throw();
    config.output_units.assign(outputs.size(), "mm/s");
    config.output_names = std::move(outputs);
    for (const Unit& unit : recording.units)
      config.units.push_back({.id = unit.id, .session = "test", .electrode = {}, .rate_hz = 0});
    config.set_defaults();
    const ModelFile model = random_model(config, 5);
    save_model(path, model.config, model.tensors).value_or_throw();
  }

  /// The URL that a server says it serves on.
  static std::string url_of(const Process& server) {
    if (!server.says("serving")) return "";
    std::smatch found;
    const std::string text = server.out();
    return std::regex_search(text, found, std::regex("http://[0-9.:]+")) ? found.str() : "";
  }

  testing::TempDir folder_;
  const std::string nwb_ = folder_.file("session.nwb");
  const std::string model_ = folder_.file("model.safetensors");
  const std::string three_ = folder_.file("three.safetensors");
};

TEST(Cli, HelpIsZeroAndEverySubcommandShowsAnExample) {
  EXPECT_EQ(cortex_run({"--help"}).code, 0);
  for (const std::string command :
       {"simulate", "inspect", "serve", "replay", "quantize", "profile", "jitter", "bench", "load",
        "download", "import", "verify", "export", "doctor"}) {
    const Ran ran = cortex_run({command, "--help"});
    EXPECT_EQ(ran.code, 0) << command;
    EXPECT_NE(ran.out.find("Example"), std::string::npos) << command;
    EXPECT_NE(ran.out.find("Usage: cortex " + command), std::string::npos) << ran.out;
  }
}

TEST(Cli, WrongUsageIsTwo) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"--no-such-flag"},
      {"no-such-command"},
      {"replay"},
      {"replay", "--nwb", "a", "--model", "b", "--url", "c"},
      {"replay", "--nwb", "a", "--model", "b", "--speed", "fast"},
      {"replay", "--nwb", "a", "--model", "b", "--deadline-ms", "-1"},
      {"serve"},
      {"inspect"},
      {"quantize"},
      {"quantize", "--model", "a", "--out", "b"},
      {"quantize", "--model", "a", "--calibrate", "b", "--out", "c", "--precision", "int4"},
      {"quantize", "--model", "a", "--calibrate", "b", "--out", "c", "--max-error", "-1"},
      {"simulate", "--no-such-flag"}};
  for (const auto& arguments : wrong) {
    const Ran ran = cortex_run(arguments);
    EXPECT_EQ(ran.code, 2) << ::testing::PrintToString(arguments) << ran.err;
    EXPECT_FALSE((ran.out + ran.err).empty());
  }
}

TEST(Cli, FailureIsOneAndSaysWhat) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"inspect", "/no/such/file.nwb"},
           {"replay", "--nwb", "/no/such/file.nwb", "--model", "/no/such/model.safetensors"}}) {
    const Ran ran = cortex_run(arguments);
    EXPECT_EQ(ran.code, 1) << ran.err;
    EXPECT_EQ(ran.err.rfind("cortex: ", 0), 0U) << ran.err;
    EXPECT_NE(ran.err.find("/no/such/file.nwb"), std::string::npos) << ran.err;
  }
}

TEST_F(CliReplay, InspectEndsWithTheTrainingThatFits) {
  const Ran ran = cortex_run({"inspect", nwb_});
  EXPECT_EQ(last_line(ran.out),
            "    cortex-train train --nwb " + nwb_ + " --units held-in --out session.safetensors");
  // Positions every 50 ms, no split, no held-out units.
  Recording bare = read_nwb(nwb_).value_or_throw();
  BehaviorSeries position = *bare.find_behavior("hand_pos");
  std::vector<double> times;
  std::vector<float> values;
  for (std::size_t row = 0; row < position.times_s.size(); row += 50) {
    times.push_back(position.times_s[row]);
    for (std::size_t d = 0; d < position.dims; ++d)
      values.push_back(position.values[row * position.dims + d]);
  }
  position.times_s = times;
  position.values = values;
  bare.behavior = {position};
  for (Trial& trial : bare.trials) trial.split.clear();
  for (Unit& unit : bare.units) unit.held_out = false;
  const std::string path = folder_.file("a bare one.nwb");
  write_nwb(path, bare).value_or_throw();
  const Ran again = cortex_run({"inspect", path});
  EXPECT_EQ(last_line(again.out), "    cortex-train train --nwb '" + path +
                                      "' --bin-ms 50 --step-ms 50 --out 'a bare one.safetensors'");
  EXPECT_NE(again.out.find("over the last 50 ms"), std::string::npos) << again.out;
  EXPECT_NE(again.out.find("no split in the file"), std::string::npos) << again.out;
  bare.behavior.clear();
  write_nwb(path, bare).value_or_throw();
  EXPECT_NE(cortex_run({"inspect", path}).out.find("no behaviour"), std::string::npos);
}

TEST_F(CliReplay, InspectComparesADayWithAModelOrAnotherDay) {
  const std::string other = folder_.file("other.nwb");
  write_nwb(other, simulate({.population_seed = 8, .session_seed = 4, .units = 16, .minutes = 0.5})
                       .value_or_throw())
      .value_or_throw();
  const Ran same = cortex_run({"inspect", nwb_, "--drift", nwb_});
  EXPECT_EQ(same.code, 0) << same.err;
  EXPECT_NE(same.out.find("adapt not advised: 0 %"), std::string::npos) << same.out;
  const Ran moved = cortex_run({"inspect", other, "--drift", nwb_, "--json"});
  EXPECT_EQ(moved.code, 0) << moved.err;
  EXPECT_NE(last_line(moved.out).find("\"adapt_advised\":true"), std::string::npos) << moved.out;

  ModelFile model = load_model(model_).value_or_throw();
  const Ran without = cortex_run({"inspect", nwb_, "--drift", model_});
  EXPECT_NE(without.code, 0);
  EXPECT_NE(without.err.find("does not hold its units' rates"), std::string::npos) << without.err;
  for (ModelUnit& unit : model.config.units) unit.rate_hz = 1e3;
  save_model(model_, model.config, model.tensors).value_or_throw();
  const Ran drifted = cortex_run({"inspect", nwb_, "--drift", model_});
  EXPECT_EQ(drifted.code, 0) << drifted.err;
  EXPECT_NE(drifted.out.find("adapt advised: 100 %"), std::string::npos) << drifted.out;
  EXPECT_NE(cortex_run({"inspect", model_, "--drift", nwb_}).err.find("not a recording"),
            std::string::npos);
}

TEST(Cli, ImportWritesWhatItReads) {
  const testing::TempDir folder;
  std::ofstream(folder.file("s.csv")) << "unit,time_s\n4,0.5\n4,1\n";
  const Ran ran = cortex_run({"import", folder.file("s.csv"), "--out", folder.file("s.nwb")});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(read_nwb(folder.file("s.nwb")).value_or_throw().units.at(0).id, "4");
  std::ofstream(folder.file("s.csv")) << "unit,time_s\n4,soon\n";
  const Ran wrong = cortex_run({"import", folder.file("s.csv"), "--out", folder.file("s.nwb")});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_NE(wrong.err.find("line 2: column 'time_s': 'soon'"), std::string::npos) << wrong.err;
}

TEST(Cli, VersionNamesTheProgram) {
  const Ran ran = cortex_run({"--version"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_TRUE(std::regex_search(ran.out, std::regex("^cortex [0-9]+\\.[0-9]+\\.[0-9]+")));
}

TEST_F(CliReplay, JsonIsOneObjectLastOnStandardOutput) {
  const Ran ran = cortex_run(
      {"replay", "--nwb", nwb_, "--model", model_, "--speed", "max", "--split", "all", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(last_line(ran.out)).get(report), simdjson::SUCCESS) << ran.out;
  for (const char* key :
       {"r2", "r2_per_dim", "steps", "scored_steps", "latency_us", "missed", "model", "precision",
        "first_second_r2", "rest_speed", "deadline_ms", "protocol"}) {
    simdjson::dom::element value;
    EXPECT_EQ(report[key].get(value), simdjson::SUCCESS) << key;
  }
  for (const char* key : {"p50", "p99", "p999", "max"}) {
    double value = 0;
    EXPECT_EQ(report["latency_us"][key].get(value), simdjson::SUCCESS) << key;
    EXPECT_GT(value, 0) << key;
  }
  EXPECT_EQ(std::string_view(report["protocol"]), "continuous");
  EXPECT_EQ(std::string_view(report["model"]), "stream-nano");
  EXPECT_GT(std::int64_t(report["scored_steps"]), 0);
  EXPECT_EQ(std::int64_t(report["steps"]), 30 * 50);
}

TEST_F(CliReplay, RealTimeModeSaysWhatItWasGrantedAndDecodesTheSame) {
  const std::string plain = folder_.file("plain.csv");
  const std::string realtime = folder_.file("realtime.csv");
  const std::vector<std::string> replay = {"replay",  "--nwb",  nwb_,      "--model", model_,
                                           "--speed", "max",    "--split", "all",     "--max-steps",
                                           "100",     "--json", "--out"};
  auto arguments = replay;
  arguments.push_back(plain);
  ASSERT_EQ(cortex_run(arguments).code, 0);
  arguments.back() = realtime;
  arguments.emplace_back("--realtime");
  const Ran ran = cortex_run(arguments);
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("realtime: scheduler "), std::string::npos) << ran.out;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(last_line(ran.out)).get(report), simdjson::SUCCESS) << ran.out;
  EXPECT_EQ(simdjson::dom::array(report["realtime"]).size(), 6U);
  EXPECT_EQ(decoded_cells(realtime), decoded_cells(plain));
}

TEST_F(CliReplay, OverTheSocketDecodesTheBitsOfTheProcess) {
  const std::string here = folder_.file("here.csv");
  const std::string there = folder_.file("there.csv");
  const Ran local = cortex_run({"replay", "--nwb", nwb_, "--model", model_, "--speed", "max",
                                "--split", "all", "--out", here});
  ASSERT_EQ(local.code, 0) << local.err;
  Process server({kCortex, "serve", "--model", model_, "--port", "0"});
  const std::string url = url_of(server);
  ASSERT_FALSE(url.empty()) << server.err();
  const Ran remote = cortex_run(
      {"replay", "--nwb", nwb_, "--url", url, "--speed", "max", "--split", "all", "--out", there});
  ASSERT_EQ(remote.code, 0) << remote.err;
  const auto expected = decoded_cells(here);
  EXPECT_EQ(expected.size(), 1U + 30 * 50);
  EXPECT_EQ(decoded_cells(there), expected);
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait().code, 0);
}

TEST_F(CliReplay, LostConnectionNamesTheLastStepDecoded) {
  Process server({kCortex, "serve", "--model", model_, "--port", "0"});
  const std::string url = url_of(server);
  ASSERT_FALSE(url.empty()) << server.err();
  Process client({kCortex, "replay", "--nwb", nwb_, "--url", url, "--split", "all"});
  ASSERT_TRUE(client.says("step ")) << client.err();
  server.signal(SIGKILL);
  const Ran ran = client.wait();
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(std::regex_search(ran.err, std::regex("cortex: step [0-9]+ was the last decoded")))
      << ran.err;
}

TEST_F(CliReplay, NoServerIsAClearError) {
  const Ran ran = cortex_run({"replay", "--nwb", nwb_, "--url", "ws://127.0.0.1:1"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("127.0.0.1:1"), std::string::npos) << ran.err;
}

TEST_F(CliReplay, InterruptEndsEarlyWithASummary) {
  Process replay({kCortex, "replay", "--nwb", nwb_, "--model", model_, "--split", "all", "--json",
                  "--view=always"});
  ASSERT_TRUE(replay.says("spikes of 16 units"));
  replay.signal(SIGINT);
  const Ran ran = replay.wait();
  EXPECT_EQ(ran.code, 0) << ran.err;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(last_line(ran.out)).get(report), simdjson::SUCCESS) << ran.out;
  EXPECT_TRUE(bool(report["interrupted"]));
  EXPECT_NE(ran.out.find("\x1b[?25h"), std::string::npos) << "the cursor stays hidden";
}

TEST_F(CliReplay, OutputsThatDoNotMatchTheTargetAreNamed) {
  const Ran ran = cortex_run({"replay", "--nwb", nwb_, "--model", three_, "--speed", "max"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("2 dimensions"), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find("decodes 3"), std::string::npos) << ran.err;
}

TEST_F(CliReplay, SimulateAndInspectAgree) {
  const std::string path = folder_.file("fresh.nwb");
  const Ran made =
      cortex_run({"simulate", "--out", path, "--units", "8", "--minutes", "0.25", "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  const Ran seen = cortex_run({"inspect", path, "--json"});
  ASSERT_EQ(seen.code, 0) << seen.err;
  for (const std::string& text : {made.out, seen.out}) {
    simdjson::dom::parser parser;
    EXPECT_EQ(parser.parse(last_line(text)).error(), simdjson::SUCCESS) << text;
  }
}

}  // namespace
}  // namespace cortex
