#include <gtest/gtest.h>
#include <simdjson.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "load_run.h"
#include "support/server_process.h"

namespace cortex::testing {
namespace {

ServerProcess serve(const std::string& model, std::vector<std::string> more = {}) {
  std::vector<std::string> command = {CORTEX_BINARY, "serve", "--model", model, "--port", "0"};
  command.insert(command.end(), more.begin(), more.end());
  return ServerProcess(command);
}

LoadOptions in_process(const std::string& model) {
  LoadOptions options;
  options.model = model;
  options.seconds = 0.3;
  options.warmup_s = 0.05;
  return options;
}

LoadOptions over_wire(const std::string& url, Wire wire) {
  LoadOptions options;
  options.url = url;
  options.wire = wire;
  options.windows = wire == Wire::http;
  if (options.windows) options.arrivals = Arrivals::closed;
  options.seconds = 0.3;
  options.warmup_s = 0.05;
  return options;
}

TEST(LoadHistogram, QuantilesAreThoseOfTheSamplesToWithinHalfAPercent) {
  LoadHistogram histogram;
  std::vector<std::int64_t> samples;
  samples.reserve(10'000);
  for (int i = 0; i < 10'000; ++i) samples.push_back(std::llround(std::pow(1.002, i)));
  for (const std::int64_t s : samples) histogram.record(s);
  for (const double q : {0.0, 0.1, 0.5, 0.9, 0.99, 0.999}) {
    const auto exact = static_cast<double>(samples[static_cast<std::size_t>(q * 10'000)]);
    EXPECT_NEAR(static_cast<double>(histogram.quantile_ns(q)), exact, 0.005 * exact + 1) << q;
  }
  EXPECT_EQ(histogram.max_ns(), samples.back());
  EXPECT_EQ(histogram.quantile_ns(1), samples.back());
  EXPECT_EQ(LoadHistogram().quantile_ns(0.5), 0);
}

TEST(LoadEvents, AreAFunctionOfSeedSessionAndStepAndLieInTheirStep) {
  LoadFacts facts;
  facts.bins_per_step = 4;
  facts.units = 7;
  facts.bins = 30;
  facts.max_events = 40;
  LoadOptions options;
  options.events = 20;
  LoadEvents one(facts, options);
  LoadEvents other(facts, options);
  const auto copy = [](std::span<const Event> e) { return std::vector<Event>(e.begin(), e.end()); };
  std::size_t fewest = 1000;
  std::size_t most = 0;
  for (std::int64_t n = 0; n < 200; ++n) {
    const auto events = copy(one.step(3, n));
    EXPECT_EQ(events, copy(other.step(3, n)));
    EXPECT_NE(events, copy(other.step(4, n)));
    fewest = std::min(fewest, events.size());
    most = std::max(most, events.size());
    for (const Event& e : events) {
      EXPECT_TRUE(e.unit >= 0 && e.unit < 7);
      EXPECT_TRUE(e.bin >= n * 4 && e.bin < n * 4 + 4);
    }
  }
  EXPECT_EQ(fewest, 10U);
  EXPECT_EQ(most, 30U);
  EXPECT_EQ(one.window(5).size(), 20U);
}

void expect_every_step_answered_and_right(const LoadReport& report, int sessions) {
  EXPECT_EQ(report.ports, sessions);
  EXPECT_GT(report.tally.offered, 0);
  EXPECT_EQ(report.tally.answered, report.tally.offered);
  EXPECT_EQ(report.tally.lost, 0);
  EXPECT_TRUE(report.tally.errors.empty());
  ASSERT_TRUE(report.verify);
  EXPECT_EQ(report.verify->streams, sessions);
  EXPECT_EQ(report.verify->wrong, 0);
  // The warm-up is verified but not counted.
  EXPECT_GT(report.verify->steps, report.tally.answered);
}

TEST(Load, EveryStepInProcessIsAnsweredAndVerified) {
  LoadOptions options = in_process("identity");
  options.sessions = 5;
  options.rate_hz = 200;
  options.verify = "identity";
  expect_every_step_answered_and_right(run_load(options), 5);
}

TEST(Load, GeneratorsShareTheSessionsAndSendWhatOneWouldHave) {
  LoadOptions options = in_process("identity");
  options.sessions = 7;
  options.generators = 3;
  options.rate_hz = 200;
  options.verify = "identity";
  const LoadReport report = run_load(options);
  expect_every_step_answered_and_right(report, 7);
  EXPECT_NEAR(static_cast<double>(report.tally.offered), 7 * 200 * options.seconds, 7);
  EXPECT_EQ(report.tally.latency.count(), report.tally.answered);
}

TEST(Load, UnpacedSessionsGoAsFastAsAnswersCome) {
  LoadOptions options = in_process("identity");
  options.arrivals = Arrivals::closed;
  options.sessions = 2;
  options.verify = "identity";
  const LoadReport report = run_load(options);
  EXPECT_GT(report.tally.answered, 0);
  EXPECT_EQ(report.verify->wrong, 0);
}

class LoadOverWire : public ::testing::TestWithParam<Wire> {};

TEST_P(LoadOverWire, AnswersAreThoseOfTheModelAndCounted) {
  const std::string model = GetParam() == Wire::http ? "identity-window" : "identity";
  const auto server = serve(model);
  LoadOptions options = over_wire(server.url(), GetParam());
  options.sessions = 3;
  options.verify = model;
  const LoadReport report = run_load(options);
  EXPECT_GT(report.tally.answered, 0);
  EXPECT_EQ(report.tally.answered, report.tally.offered);
  EXPECT_EQ(report.lost_ports, 0) << report.lost_because;
  if (report.check) {
    EXPECT_GE(report.check->compared, report.tally.answered);
    EXPECT_EQ(report.check->exact, report.check->compared);
  } else {
    EXPECT_EQ(report.verify->wrong, 0) << report.verify->first_wrong;
    EXPECT_GE(report.verify->steps, report.tally.answered);
  }
}

TEST_P(LoadOverWire, AServerThatDiesIsCountedAsLost) {
  auto server = serve(GetParam() == Wire::http ? "identity-window" : "identity");
  LoadOptions options = over_wire(server.url(), GetParam());
  options.seconds = 30;
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    server.kill();
  });
  const LoadReport report = run_load(options);
  EXPECT_EQ(report.lost_ports, report.ports);
  EXPECT_FALSE(report.lost_because.empty());
  EXPECT_LE(report.tally.answered, report.tally.offered);
  EXPECT_LT(report.seconds, options.seconds) << "it ended with the last of them";
}

INSTANTIATE_TEST_SUITE_P(Wires, LoadOverWire,
                         ::testing::Values(Wire::http, Wire::json, Wire::binary),
                         [](const auto& param_info) {
                           return param_info.param == Wire::http   ? "Http"
                                  : param_info.param == Wire::json ? "Json"
                                                                   : "Binary";
                         });

TEST(Load, AStallCountsForEveryRequestThatWasDueInIt) {
  const auto server = serve("identity-window");
  LoadOptions options = over_wire(server.url(), Wire::http);
  options.arrivals = Arrivals::clock;
  options.rate_hz = 500;
  options.connections = 2;
  options.seconds = 1.5;
  options.warmup_s = 0;
  constexpr auto kStall = std::chrono::milliseconds(400);
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    server.signal(SIGSTOP);
    std::this_thread::sleep_for(kStall);
    server.signal(SIGCONT);
  });
  const LoadReport report = run_load(options);
  // Two connections could send but two requests in the stall; 200 were due.
  EXPECT_NEAR(static_cast<double>(report.tally.offered), 750, 5);
  EXPECT_EQ(report.tally.answered, report.tally.offered);
  const auto stalled = 0.5 * std::chrono::nanoseconds(kStall).count();
  EXPECT_GT(static_cast<double>(report.tally.latency.quantile_ns(1 - 90.0 / 750)), stalled);
  // Those that were sent hide it.
  EXPECT_LT(static_cast<double>(report.tally.from_sent.quantile_ns(1 - 90.0 / 750)), stalled);
}

TEST(Load, AConnectionThatTheServerClosedBetweenTwoWindowsIsOpenedAnew) {
  const auto server = serve("identity-window", {"--read-timeout", "0.2", "--idle-timeout", "0.2"});
  const auto path = std::filesystem::temp_directory_path() / "cortex_load_gaps.txt";
  std::ofstream(path) << "0.01\n0.8\n0.8\n1.6\n";
  LoadOptions options = over_wire(server.url(), Wire::http);
  options.arrivals = Arrivals::trace;
  options.trace = path.string();
  options.connections = 3;
  options.seconds = 1.7;
  options.warmup_s = 0;
  const LoadReport report = run_load(options);
  EXPECT_EQ(report.tally.answered, 4);
  EXPECT_EQ(report.tally.lost, 0);
  EXPECT_EQ(report.lost_ports, 0) << report.lost_because;
  std::filesystem::remove(path);
}

TEST(Load, WindowsArriveAtTheTimesOfATrace) {
  const auto path = std::filesystem::temp_directory_path() / "cortex_load_trace.txt";
  std::ofstream(path) << "0.01\n0.01\n0.05\n0.2\n9.5\n";
  LoadOptions options = in_process("identity-window");
  options.windows = true;
  options.arrivals = Arrivals::trace;
  options.trace = path.string();
  options.warmup_s = 0;
  const LoadReport report = run_load(options);
  EXPECT_EQ(report.tally.offered, 4);  // the last is due after the end
  EXPECT_EQ(report.tally.answered, 4);
  std::ofstream(path) << "0.01\nsoon\n";
  try {
    run_load(options);
    FAIL();
  } catch (const Exception& e) {
    EXPECT_NE(e.error.message.find(":2: 'soon'"), std::string::npos) << e.error.message;
  }
  std::filesystem::remove(path);
}

TEST(Load, SessionsRefusedAtTheDoorAreCounted) {
  const auto server = serve("identity", {"--max-sessions", "2"});
  LoadOptions options = over_wire(server.url(), Wire::json);
  options.sessions = 5;
  const LoadReport report = run_load(options);
  EXPECT_EQ(report.ports, 2);
  EXPECT_EQ(report.refused.at("resource_exhausted"), 3);
  EXPECT_EQ(report.tally.answered, report.tally.offered);
}

TEST(Load, AnEchoOfTheSameBytesTakesTurns) {
  const auto server = serve("identity-window");
  LoadOptions options = over_wire(server.url(), Wire::http);
  options.even_events = true;
  options.echo = true;
  options.arrivals = Arrivals::clock;
  options.rate_hz = 200;
  options.connections = 2;
  const LoadReport report = run_load(options);
  ASSERT_TRUE(report.echo);
  EXPECT_EQ(report.echo->answered, report.echo->offered);
  EXPECT_NEAR(static_cast<double>(report.echo->offered), static_cast<double>(report.tally.offered),
              5);
  EXPECT_EQ(report.echo->lost, 0);
}

TEST(Load, AnEchoInProcessIsAHandOver) {
  LoadOptions options = in_process("identity");
  options.echo = true;
  options.sessions = 2;
  const LoadReport report = run_load(options);
  ASSERT_TRUE(report.echo);
  EXPECT_GT(report.echo->answered, 0);
  EXPECT_EQ(report.echo->answered, report.echo->offered);
}

class Verify : public ::testing::Test {
 protected:
  Verify() {
    facts_.kind = "stream";
    facts_.digest = "identity";
    facts_.bins_per_step = 4;
    facts_.units = 96;
    facts_.max_events = 4096;
    facts_.outputs = 2;
    EngineOptions options;
    options.model_path = "identity";
    const auto engine = Engine::create(options).value_or_throw();
    LoadEvents events(facts_, {});
    for (int s = 0; s < 3; ++s) {
      const auto session = engine->open_session({}).value_or_throw();
      SessionRecord record;
      for (std::int64_t n = 0; n < 150; ++n) {
        const auto answer =
            engine->step({.session = session.id, .sequence = n, .events = events.step(s, n)})
                .value_or_throw();
        record.outputs.insert(record.outputs.end(), answer.behavior.begin(), answer.behavior.end());
        ++record.steps_;
      }
      records_.push_back(record);
    }
  }
  VerifyReport verify() {
    LoadEvents events(facts_, {});
    return verify_sessions("identity", facts_, events, records_);
  }

  LoadFacts facts_;
  std::vector<SessionRecord> records_;
};

TEST_F(Verify, RightAnswersAreRight) {
  const VerifyReport report = verify();
  EXPECT_EQ(report.streams, 3);
  EXPECT_EQ(report.steps, 450);
  EXPECT_EQ(report.wrong, 0);
}

TEST_F(Verify, OneWrongBitOfOneStepIsFoundAndNamed) {
  float& wrong = records_[1].outputs[2 * 77];
  wrong = std::nextafter(wrong, 1e9F);
  const VerifyReport report = verify();
  EXPECT_EQ(report.wrong, 1);
  EXPECT_TRUE(report.first_wrong.starts_with("session 1, step 77: ")) << report.first_wrong;
}

TEST_F(Verify, AWithheldOutputIsNotComparedButTheStreamGoesOn) {
  for (int i = 0; i < 2; ++i) records_[2].outputs[2 * 5 + static_cast<std::size_t>(i)] = NAN;
  const VerifyReport report = verify();
  EXPECT_EQ(report.withheld, 1);
  EXPECT_EQ(report.steps, 449);
  EXPECT_EQ(report.wrong, 0);
}

TEST_F(Verify, AnotherModelIsRefused) {
  facts_.digest = "another";
  EXPECT_THROW(verify(), Exception);
}

TEST(LoadReport, IsServedByAnswersAndByRefusalsForADeadlineOrALimit) {
  LoadReport report;
  report.tally.offered = 3;
  report.tally.lost = 1;
  report.tally.unanswered = 1;
  report.tally.errors["invalid_argument"] = 1;
  EXPECT_FALSE(report.was_served());
  for (const char* code : {"deadline_exceeded", "resource_exhausted"}) {
    LoadReport refused = report;
    refused.tally.errors[code] = 1;
    EXPECT_TRUE(refused.was_served()) << code;
  }
  LoadReport withheld = report;
  withheld.tally.withheld = 1;
  EXPECT_TRUE(withheld.was_served());
  report.tally.answered = 1;
  EXPECT_TRUE(report.was_served());
}

TEST(LoadReport, IsOneJsonObjectWithWhatTheTextSays) {
  LoadOptions options = in_process("identity");
  options.verify = "identity";
  options.deadline_ms = 1000;
  const LoadReport report = run_load(options);
  simdjson::dom::parser parser;
  simdjson::dom::element json;
  const std::string text = load_json(report);
  ASSERT_EQ(parser.parse(text).get(json), simdjson::SUCCESS) << text;
  std::int64_t answered = 0;
  ASSERT_EQ(json["answered"].get(answered), simdjson::SUCCESS);
  EXPECT_EQ(answered, report.tally.answered);
  double p99 = 0;
  ASSERT_EQ(json["latency_us"]["p99"].get(p99), simdjson::SUCCESS);
  EXPECT_GT(p99, 0);
  double goodput = 0;
  ASSERT_EQ(json["goodput_hz"].get(goodput), simdjson::SUCCESS);
  EXPECT_GT(goodput, 0);
  EXPECT_NE(load_text(report).find("0 wrong"), std::string::npos);
}

int run(const std::string& flags) {
  const std::string command = std::string(CORTEX_BINARY) + " load " + flags + " >/dev/null 2>&1";
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(LoadCommand, FlagsThatDoNotGoTogetherAreUsageErrors) {
  for (const char* flags :
       {"", "--model identity --url http://127.0.0.1:1", "--model identity --wire json",
        "--url http://127.0.0.1:1 --wire http", "--model identity --arrivals poisson",
        "--model identity-window --windows --arrivals poisson",
        "--model identity-window --windows --arrivals closed --rate 5",
        "--model identity --rate fast", "--model identity --rate -1",
        "--model identity --echo --verify identity", "--model identity --sessions 0",
        "--model identity --sessions 2 --generators 3",
        "--model identity --sessions 2 --generators 2 --echo",
        "--model identity-window --windows --generators 2"})
    EXPECT_EQ(run(flags), 2) << flags;
}

TEST(LoadCommand, FailuresExitWith1) {
  EXPECT_EQ(run("--url http://127.0.0.1:1"), 1);
  EXPECT_EQ(run("--model identity-window"), 1) << "a window model has no sessions";
  EXPECT_EQ(run("--model nowhere.safetensors"), 1);
}

TEST(LoadCommand, ALoadThatMissesEveryDeadlineExitsWith0) {
  const std::string flags =
      "--model identity-window --windows --rate 100 --seconds 0.2 --warmup 0 ";
  EXPECT_EQ(run(flags + "--deadline-ms 0.000001"), 0) << "each is refused";
  EXPECT_EQ(run("--model identity --seconds 0.2 --warmup 0 --deadline-ms 0.000001"), 0)
      << "each is withheld";
}

TEST(LoadCommand, AGoodLoadExitsWith0) {
  EXPECT_EQ(run("--model identity --seconds 0.1 --warmup 0 --verify identity --json"), 0);
}

}  // namespace
}  // namespace cortex::testing
