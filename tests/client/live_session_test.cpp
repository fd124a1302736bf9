// A stream through a server's death, against `cortex serve` itself.
#include <cortex/live_session.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/server_process.h"

namespace cortex::testing {
namespace {

const std::string kModel = std::string(CORTEX_SOURCE_DIR) + "/models/stream-nano.safetensors";
constexpr int kUnits = 96;
constexpr int kBins = 1;

std::unique_ptr<ServerProcess> serve(const std::string& port = "0",
                                     const std::string& model = kModel,
                                     std::vector<std::string> more = {}) {
  std::vector<std::string> command = {CORTEX_BINARY, "serve", "--model",  model,
                                      "--port",      port,    "--device", "cpu"};
  command.insert(command.end(), more.begin(), more.end());
  return std::make_unique<ServerProcess>(command);
}

std::vector<Event> events_of(std::int64_t step) {
  std::mt19937_64 random(static_cast<std::uint64_t>(step) + 1);
  std::vector<Event> events;
  for (auto n = random() % 20; n > 0; --n)
    events.push_back({.unit = static_cast<std::int32_t>(random() % kUnits),
                      .value = 1,
                      .bin = step * kBins + static_cast<std::int64_t>(random() % kBins)});
  return events;
}

using Outputs = std::map<std::int64_t, std::vector<float>>;

/// What an uninterrupted stream answers; steps that are not in `steps` are silent.
Outputs uninterrupted(const std::vector<std::int64_t>& steps) {
  EngineOptions options;
  options.model_path = kModel;
  options.device = "cpu";
  const auto engine = Engine::create(options).value_or_throw();
  const auto session = engine->open_session({}).value_or_throw();
  Outputs outputs;
  std::int64_t expected = 0;
  for (const std::int64_t n : steps) {
    const auto events = events_of(n);
    outputs[n] = engine
                     ->step({.session = session.id,
                             .sequence = n,
                             .gap = n - expected,
                             .events = events,
                             .best_effort = true})
                     .value_or_throw()
                     .behavior;
    expected = n + 1;
  }
  return outputs;
}

std::vector<std::int64_t> steps_to(std::int64_t end) {
  std::vector<std::int64_t> steps;
  for (std::int64_t n = 0; n < end; ++n) steps.push_back(n);
  return steps;
}

/// A live session and what it answered.
struct Rig {
  explicit Rig(const std::string& url, FrameFormat format, double reconnect_s = 0) {
    LiveOptions options;
    options.client.format = format;
    options.client.connect_timeout_s = 30;  // of a busy machine
    options.reconnect_s = reconnect_s;
    session = LiveSession::open(url, options).value_or_throw();
  }
  /// Sends steps up to `end`.
  void run(std::int64_t end) {
    while (session->next_step() < end) step(session->next_step());
  }
  LiveAnswer step(std::int64_t n) {
    const auto events = events_of(n);
    auto answer = session->step(n, events, n - session->next_step()).value_or_throw();
    if (!answer.is_lost()) outputs[n] = answer.answer.behavior;
    return answer;
  }

  std::unique_ptr<LiveSession> session;
  Outputs outputs;
};

class LiveSessionTest : public ::testing::TestWithParam<FrameFormat> {};

TEST_P(LiveSessionTest, AfterAKillTheAnswersHaveTheBitsOfAnUninterruptedSession) {
  auto server = serve();
  Rig rig(server->url(), GetParam());
  const std::int64_t context = rig.session->info().context_steps;
  const std::int64_t killed = context + 30;
  rig.run(killed);
  const std::string port = server->port();
  server->kill();
  rig.run(killed + 3);
  EXPECT_EQ(rig.session->totals().lost, 3);
  server = serve(port);
  const LiveAnswer first = rig.step(killed + 3);
  EXPECT_FALSE(first.is_lost());
  EXPECT_EQ(first.replayed_steps, context - 1);
  rig.run(killed + 40);

  Outputs expected = uninterrupted(steps_to(killed + 40));
  for (std::int64_t n = killed; n < killed + 3; ++n) expected.erase(n);
  EXPECT_EQ(rig.outputs, expected);
  const std::vector<StepRange> lost = {{killed, killed + 2}};
  EXPECT_TRUE(
      std::equal(lost.begin(), lost.end(), rig.session->lost().begin(), rig.session->lost().end()));
  EXPECT_EQ(rig.session->totals().resumed, 1);
  EXPECT_EQ(rig.session->totals().decoded, killed + 37);
}

TEST_P(LiveSessionTest, AYoungStreamIsReplayedWhole) {
  auto server = serve();
  Rig rig(server->url(), GetParam());
  rig.run(12);
  const std::string port = server->port();
  server->kill();
  server = serve(port);
  // The connection is dead, the server is there: not even this step is lost.
  EXPECT_EQ(rig.step(12).replayed_steps, 12);
  rig.run(30);
  EXPECT_EQ(rig.outputs, uninterrupted(steps_to(30)));
}

TEST_P(LiveSessionTest, AStepMayWaitForTheServerToComeBack) {
  auto server = serve();
  Rig rig(server->url(), GetParam(), 60);
  rig.run(5);
  const std::string port = server->port();
  server->kill();
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    server = serve(port);
  });
  rig.run(10);
  later.join();
  EXPECT_EQ(rig.session->totals().lost, 0);
  EXPECT_EQ(rig.outputs, uninterrupted(steps_to(10)));
}

TEST_P(LiveSessionTest, SilencesAndSeveralDeathsKeepTheStreamExact) {
  std::vector<std::int64_t> steps;
  for (std::int64_t n = 0; n < 260; ++n)
    if (n % 50 < 40 && (n < 100 || n > 130)) steps.push_back(n);
  auto server = serve();
  const std::string port = server->port();
  Rig rig(server->url(), GetParam());
  Outputs expected = uninterrupted(steps);
  for (const std::int64_t n : steps) {
    if (n == 85 || n == 131 || n == 200) {
      server->kill();
      if (n == 131) {
        EXPECT_TRUE(rig.step(n).is_lost());
        expected.erase(n);
        server = serve(port);
        continue;
      }
      server = serve(port);
    }
    EXPECT_FALSE(rig.step(n).is_lost()) << n;
  }
  EXPECT_EQ(rig.session->totals().resumed, 3);
  EXPECT_EQ(rig.outputs, expected);
}

TEST_P(LiveSessionTest, ASessionThatExpiredIsResumedToo) {
  const auto server = serve("0", kModel, {"--idle-timeout", "0.2"});
  Rig rig(server->url(), GetParam());
  rig.run(8);
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  rig.run(20);
  EXPECT_EQ(rig.session->totals().lost, 0);
  EXPECT_EQ(rig.session->totals().resumed, 1);
  EXPECT_EQ(rig.outputs, uninterrupted(steps_to(20)));
}

TEST_P(LiveSessionTest, AnotherModelNeverTakesOver) {
  auto server = serve();
  const std::string port = server->port();
  Rig rig(server->url(), GetParam());
  rig.run(3);
  server->kill();
  server = serve(port, "identity");
  const LiveAnswer answer = rig.step(3);
  ASSERT_TRUE(answer.is_lost());
  EXPECT_NE(answer.error->message.find("another model"), std::string::npos)
      << answer.error->message;
  server->kill();
  server = serve(port);
  rig.run(10);
  Outputs expected = uninterrupted(steps_to(10));
  expected.erase(3);
  EXPECT_EQ(rig.outputs, expected);
}

TEST_P(LiveSessionTest, BadEventsAreTheCallersAndTakeNothing) {
  auto server = serve();
  Rig rig(server->url(), GetParam());
  rig.run(3);
  const auto refused = [&](Event event) {
    const auto answer = rig.session->step(3, std::span(&event, 1));
    return answer ? ErrorCode::internal : answer.error().code;
  };
  // With the server and without it alike.
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(refused({.unit = kUnits, .value = 1, .bin = 3}), ErrorCode::invalid_argument);
    EXPECT_EQ(refused({.unit = -1, .value = 1, .bin = 3}), ErrorCode::invalid_argument);
    EXPECT_EQ(refused({.unit = 1, .value = 0, .bin = 3}), ErrorCode::invalid_argument);
    EXPECT_EQ(refused({.unit = 1, .value = 1, .bin = 2}), ErrorCode::invalid_argument);
    EXPECT_EQ(rig.session->step(5, {}).error().code, ErrorCode::out_of_order);
    const std::vector<Event> many(5000, Event{.unit = 1, .value = 1, .bin = 3});
    EXPECT_EQ(rig.session->step(3, many).error().code, ErrorCode::too_large);
    if (round == 0) server->kill();
  }
  server = serve(server->port());
  rig.run(8);
  EXPECT_EQ(rig.outputs, uninterrupted(steps_to(8)));
}

TEST_P(LiveSessionTest, OpeningSaysWhatIsWrongAtOnce) {
  LiveOptions options;
  options.client.format = GetParam();
  const auto nobody = LiveSession::open("http://127.0.0.1:1", options);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, ErrorCode::unavailable);
  const auto server = serve("0", "identity-window");
  const auto window = LiveSession::open(server->url(), options);
  ASSERT_FALSE(window);
  EXPECT_EQ(window.error().code, ErrorCode::unsupported);
  const auto stream = serve();
  options.open.session.unit_ids = {"nobody knows me"};
  const auto units = LiveSession::open(stream->url(), options);
  ASSERT_FALSE(units);
  EXPECT_EQ(units.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(units.error().message.find("nobody knows me"), std::string::npos);
}

TEST(StreamClientTls, ACertificateIsCheckedAndTheStreamIsAsExact) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("cortex_tls_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::string cert = (folder / "cert.pem").string();
  const std::string key = (folder / "key.pem").string();
  const std::string make =
      "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
      "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout " +
      key + " -out " + cert + " 2>/dev/null";
  if (std::system(make.c_str()) != 0) GTEST_SKIP() << "no openssl to make a certificate with";
  {
    const auto server = serve("0", kModel, {"--tls-cert", cert, "--tls-key", key});
    ASSERT_TRUE(server->url().starts_with("https://")) << server->url();
    const auto stranger = StreamClient::connect(server->url());
    ASSERT_FALSE(stranger);
    EXPECT_EQ(stranger.error().code, ErrorCode::unavailable);
    EXPECT_NE(stranger.error().message.find("TLS: "), std::string::npos)
        << stranger.error().message;
    ClientOptions options;
    options.tls_ca_file = cert;
    EXPECT_EQ(http_get(server->url(), "/health", options)->status, 200);
    // The same server under a name that the certificate does not have.
    EXPECT_FALSE(http_get("https://localhost:" + server->port(), "/health", options));
    const auto client = StreamClient::connect(server->url(), options).value_or_throw();
    Outputs outputs;
    for (std::int64_t n = 0; n < 10; ++n) {
      const auto events = events_of(n);
      outputs[n] = client->step({.sequence = n, .events = events, .best_effort = true})
                       .value_or_throw()
                       .behavior;
    }
    EXPECT_EQ(outputs, uninterrupted(steps_to(10)));
    EXPECT_EQ(client->close().value_or_throw().steps, 10);
    options.tls_ca_file = key;
    EXPECT_EQ(StreamClient::connect(server->url(), options).error().code,
              ErrorCode::invalid_argument);
  }
  std::filesystem::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(Frames, LiveSessionTest,
                         ::testing::Values(FrameFormat::json, FrameFormat::binary),
                         [](const auto& param_info) {
                           return param_info.param == FrameFormat::json ? "Json" : "Binary";
                         });

}  // namespace
}  // namespace cortex::testing
