// The server over the engine itself: what comes out of a socket has the bits of a call in process.
#include <cortex/client.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine_fixture.h"
#include "model/weights.h"
#include "serve/server.h"

namespace cortex::testing {
namespace {

constexpr int kUnits = 12;

ModelFile tiny_stream() {
  ModelConfig config;
  config.kind = ModelKind::stream;
  config.preset = "tiny";
  config.dim = 32;
  config.layers = 2;
  config.heads = 2;
  config.head_dim = 16;
  config.window_steps = 8;
  config.output_names = {"vel_x", "vel_y"};
  config.output_units = {"mm/s", "mm/s"};
  for (int u = 0; u < kUnits; ++u) {
    ModelUnit unit;
    unit.id = "unit" + std::to_string(u);
    config.units.push_back(unit);
  }
  config.set_defaults();
  return random_model(config, 7);
}

ModelFile tiny_window() {
  ModelConfig config;
  config.kind = ModelKind::window;
  config.preset = "tiny";
  config.dim = 32;
  config.layers = 1;
  config.heads = 2;
  config.head_dim = 16;
  config.latents = 8;
  config.max_neurons = kUnits;
  config.max_bins = 40;
  config.output_names = {"vel_x", "vel_y"};
  config.output_units = {"mm/s", "mm/s"};
  config.set_defaults();
  return random_model(config, 8);
}

class Serving {
 public:
  explicit Serving(const ModelFile& model, int max_sessions = 8)
      : model_(model), config_(model.config) {
    ServerOptions options;
    options.port = 0;
    options.handle_signals = false;
    server_ = Server::create(options).value_or_throw();
    engine_ = make_engine(model_, max_sessions);
    server_->attach(*engine_);
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Serving() {
    server_->stop();
    thread_.join();
    engine_.reset();
  }
  std::string url() const { return server_->url(); }
  Engine& engine() { return *engine_; }
  const ModelConfig& config() const { return config_; }

  std::vector<std::vector<Event>> steps(int n, int seed) const {
    std::mt19937_64 random(static_cast<std::uint64_t>(seed));
    std::vector<std::vector<Event>> all;
    for (int i = 0; i < n; ++i) all.push_back(random_step(random, config_, i, 4));
    return all;
  }

 private:
  TemporaryModel model_;
  ModelConfig config_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
};

using Answers = std::vector<std::vector<float>>;

TEST(RealEngine, AStreamOverASocketHasTheBitsOfOneInProcess) {
  constexpr int kSessions = 3;
  Serving serving(tiny_stream());
  std::vector<Answers> direct(kSessions);
  std::vector<Answers> served(kSessions);
  for (int s = 0; s < kSessions; ++s) {
    const auto session = serving.engine().open_session({}).value_or_throw();
    std::int64_t n = 0;
    for (const auto& events : serving.steps(40, s)) {
      const auto answer =
          serving.engine().step({.session = session.id, .sequence = n++, .events = events});
      ASSERT_TRUE(answer) << answer.error().message;
      direct[s].push_back(answer->behavior);
    }
    ASSERT_TRUE(serving.engine().close_session(session.id));
  }
  std::vector<std::thread> threads;
  for (int s = 0; s < kSessions; ++s)
    threads.emplace_back([&, s] {
      const auto client = StreamClient::connect(serving.url()).value_or_throw();
      const auto info = client->open({}).value_or_throw();
      // Frames sent ahead, as far as the server says is worth it.
      const auto steps = serving.steps(40, s);
      std::size_t sent = 0;
      while (served[s].size() < steps.size()) {
        while (sent < steps.size() &&
               sent < served[s].size() + static_cast<std::size_t>(info.max_queued_steps)) {
          client->send({.sequence = static_cast<std::int64_t>(sent), .events = steps[sent]})
              .value_or_throw();
          ++sent;
        }
        served[s].push_back(client->receive().value_or_throw().behavior);
      }
    });
  for (auto& thread : threads) thread.join();
  for (int s = 0; s < kSessions; ++s) EXPECT_EQ(served[s], direct[s]) << "session " << s;
}

TEST(RealEngine, DecodeOnAStreamModelIsTheLastStepOfAnEmptySession) {
  Serving serving(tiny_stream());
  const auto client = StreamClient::connect(serving.url()).value_or_throw();
  std::string events;
  std::vector<float> last;
  const auto steps = serving.steps(5, 3);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    auto step = steps[i];
    // The last step decides how many there are, so it must not be silent.
    if (i + 1 == steps.size())
      step = {{.unit = 0, .value = 1, .bin = 5 * serving.config().bins_per_step() - 1}};
    for (const Event& e : step)
      events += (events.empty() ? "" : ",") + std::string("{\"neuron_id\":") +
                std::to_string(e.unit) + ",\"time_bin\":" + std::to_string(e.bin) +
                ",\"value\":" + std::to_string(e.value) + "}";
    last = client->step({.sequence = static_cast<std::int64_t>(i), .events = step})
               .value_or_throw()
               .behavior;
  }
  const auto answer = http_post(serving.url(), "/decode",
                                R"({"request_id":"r","session_id":"s","events":[)" + events + "]}");
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->status, 200) << answer->body;
  ASSERT_EQ(last.size(), 2U);
  const auto at = answer->body.find("\"behavior\":[") + 12;
  EXPECT_EQ(std::stof(answer->body.substr(at)), last[0]);
  EXPECT_EQ(std::stof(answer->body.substr(answer->body.find(',', at) + 1)), last[1]);
}

TEST(RealEngine, UnitsMatchByIdAndAMismatchListsThem) {
  Serving serving(tiny_stream());
  const auto client = StreamClient::connect(serving.url()).value_or_throw();
  OpenOptions options;
  options.session.unit_ids = {"unit3", "stranger"};
  const auto refused = client->open(options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused.error().field, "open.units");
  EXPECT_NE(refused.error().message.find("stranger"), std::string::npos);
  options.session.unit_ids = {"unit3", "unit1"};
  options.session.allow_missing_units = true;
  const auto info = client->open(options);
  ASSERT_TRUE(info) << info.error().message;
  const std::vector<Event> events{{.unit = 1, .value = 1, .bin = 0}};
  EXPECT_TRUE(client->step({.sequence = 0, .events = events}));
  const std::vector<Event> beyond{{.unit = 2, .value = 1, .bin = info->bins_per_step}};
  const auto wrong = client->step({.sequence = 1, .events = beyond});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().field, "events[0].neuron_id");
}

TEST(RealEngine, SessionsRunOutAndComeBack) {
  Serving serving(tiny_stream(), 1);
  auto first = StreamClient::connect(serving.url()).value_or_throw();
  ASSERT_TRUE(first->step({.sequence = 0}));
  const auto second = StreamClient::connect(serving.url()).value_or_throw();
  const auto refused = second->step({.sequence = 0});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  const auto summary = first->close();
  ASSERT_TRUE(summary);
  EXPECT_EQ(summary->steps, 1);
  EXPECT_TRUE(second->step({.sequence = 0}));
}

TEST(RealEngine, AWindowModelAnswersOverBothRoutes) {
  Serving serving(tiny_window());
  const std::vector<Event> events{{.unit = 2, .value = 1, .bin = 5},
                                  {.unit = 4, .value = 2, .bin = 9}};
  const auto direct = serving.engine().decode({.events = events});
  ASSERT_TRUE(direct) << direct.error().message;
  const auto client = StreamClient::connect(serving.url()).value_or_throw();
  const auto streamed = client->step({.sequence = 17, .events = events});
  ASSERT_TRUE(streamed) << streamed.error().message;
  EXPECT_EQ(streamed->sequence, 17);
  ASSERT_EQ(streamed->behavior.size(), direct->behavior.size());
  for (std::size_t i = 0; i < direct->behavior.size(); ++i)
    EXPECT_NEAR(streamed->behavior[i], direct->behavior[i], 1e-5);
  const auto answer = http_post(serving.url(), "/decode",
                                R"({"request_id":"r","session_id":"s","events":[)"
                                R"({"neuron_id":2,"time_bin":5,"value":1}]})");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200) << answer->body;
}

}  // namespace
}  // namespace cortex::testing
