// Several models: chosen by name, loaded, reloaded and unloaded while the server runs.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "serve/router.h"
#include "serve/test_server.h"
#include "support/paths.h"

namespace cortex::testing {
namespace {

constexpr char kAdmin[] = "key-of-the-operator-01";
constexpr char kLab[] = "key-of-a-laboratory-01";

/// A server that loads its models itself. What a model's path says: "xN" answers with N times the
/// spikes, "garbage" cannot be loaded, "slow" waits for let_go().
class ModelServer {
 public:
  explicit ModelServer(std::vector<NamedModel> models = {{"one", "x1"}, {"two", "x2"}}) {
    std::ofstream(dir_.file("keys")) << "ops " << kAdmin << " admin\nlab " << kLab << "\n";
    ServerOptions options;
    options.port = 0;
    options.handle_signals = false;
    options.api_key_file = dir_.file("keys");
    options.models = std::move(models);
    options.repository = dir_.file("");
    options.make_engine = [this](const NamedModel& source) { return load(source); };
    server_ = Server::create(options).value_or_throw();
    thread_ = std::thread([this] { server_->run(); });
  }
  ~ModelServer() {
    let_go();
    server_->stop();
    thread_.join();
  }

  /// What the next load of a name finds instead of what its path says.
  void replace(const std::string& name, const std::string& content) {
    const std::lock_guard lock(mutex_);
    contents_[name] = content;
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    go_.notify_all();
    gone_ = true;
  }

  bool ready() {
    return eventually([&] { return get("/ready").status == 200; });
  }
  std::string url() const { return server_->url(); }
  int port() const { return server_->port(); }
  HttpAnswer get(const std::string& path) {
    return http_get(url(), path, {.api_key = kLab}).value_or_throw();
  }
  HttpAnswer post(const std::string& path, const std::string& body = "",
                  const std::string& key = kLab) {
    return http_post(url(), path, body, {.api_key = key}).value_or_throw();
  }
  HttpAnswer load(const std::string& name) {
    return post("/v2/repository/models/" + name + "/load", "{}", kAdmin);
  }
  HttpAnswer unload(const std::string& name) {
    return post("/v2/repository/models/" + name + "/unload", "{}", kAdmin);
  }
  /// The factor that a model answers with, or minus the status.
  int factor(const std::string& query) {
    const HttpAnswer answer = post("/decode" + query, decode_body(event(1, 1, 1)));
    if (answer.status != 200) return -answer.status;
    return std::stoi(answer.body.substr(answer.body.find('[') + 1));
  }
  int alive() const { return alive_; }

 private:
  /// Counts the engines that there are.
  class CountedEngine final : public Engine {
   public:
    CountedEngine(const FakeOptions& options, std::atomic<int>& alive)
        : engine_(options), alive_(alive) {
      ++alive_;
    }
    ~CountedEngine() override { --alive_; }
    const ModelInfo& model() const override { return engine_.model(); }
    Result<SessionInfo> open_session(const SessionOptions& o) override {
      return engine_.open_session(o);
    }
    Result<SessionSummary> close_session(SessionId id) override {
      return engine_.close_session(id);
    }
    Result<void> submit(const StepRequest& r, StepSink& s) override { return engine_.submit(r, s); }
    Result<void> submit(const WindowRequest& r, WindowSink& s) override {
      return engine_.submit(r, s);
    }
    int expire_idle_sessions() override { return engine_.expire_idle_sessions(); }
    EngineStats stats() const override { return engine_.stats(); }

   private:
    FakeEngine engine_;
    std::atomic<int>& alive_;
  };

  Result<std::unique_ptr<Engine>> load(const NamedModel& source) {
    std::unique_lock lock(mutex_);
    const auto changed = contents_.find(source.name);
    const std::string content = changed == contents_.end() ? source.path : changed->second;
    if (content == "slow") go_.wait(lock, [this] { return gone_; });
    if (content == "garbage")
      return Error{ErrorCode::corrupt_data, source.path + ": not a safetensors file", "model"};
    FakeOptions options;
    options.name = source.name;
    options.scale = content.starts_with('x') ? std::stof(content.substr(1)) : 1;
    return std::unique_ptr<Engine>(std::make_unique<CountedEngine>(options, alive_));
  }

  const TempDir dir_;
  std::mutex mutex_;
  std::condition_variable go_;
  bool gone_ = false;
  std::map<std::string, std::string> contents_;
  std::atomic<int> alive_{0};
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

TEST(Models, ARehearsedRequestIsOneThatTheModelTakesAndIsCountedNowhere) {
  ServeState state{ServerOptions{}};
  for (const bool window : {false, true})
    for (const int units : {0, 1, 16})
      for (const int max_events : {1, 64, 4096}) {
        const FakeEngine engine({.window = window, .units = units, .max_events = max_events});
        const auto rehearsed = rehearse_decode(state, engine.model());
        EXPECT_TRUE(rehearsed) << rehearsed.error().message;
      }
  ModelServer server;
  ASSERT_TRUE(server.ready());
  EXPECT_FALSE(contains(server.get("/metrics").body, "endpoint=\"/decode\""));
}

TEST(Models, AreChosenByNameAndTheFirstIsTheDefault) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  EXPECT_EQ(server.factor(""), 1);
  EXPECT_EQ(server.factor("?model=two"), 2);
  EXPECT_EQ(server.factor("?x=1&model=one"), 1);
  EXPECT_EQ(server.factor("?model=three"), -404);
  EXPECT_TRUE(contains(
      server.post("/decode?model=one", decode_body(event(1, 1, 1), R"(,"model":"two")")).body,
      "\"behavior\":[2,"))
      << "the field goes before the URL";
  EXPECT_TRUE(contains(server.get("/v1/model?model=two").body, R"("name":"two")"));
  EXPECT_TRUE(contains(server.get("/v2/models/two").body, R"("name":"two")"));
  EXPECT_EQ(server.get("/v2/models/three").status, 404);
}

TEST(Models, AStreamChoosesByUrlOrByItsOpening) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  const std::string key = "Authorization: Bearer " + std::string(kLab) + "\r\n";
  RawClient by_url(server.port());
  ASSERT_TRUE(by_url.upgrade(key, "/stream?model=two"));
  by_url.send(RawClient::frame(step_frame(0, event(1, 0, 1))));
  EXPECT_TRUE(contains(by_url.read_frame(), "\"behavior\":[2,"));
  RawClient by_open(server.port());
  ASSERT_TRUE(by_open.upgrade(key, "/v1/stream"));
  by_open.send(RawClient::frame(R"({"open":{"model":"three"}})"));
  EXPECT_TRUE(contains(by_open.read_frame(), R"("status":404)"));
  by_open.send(RawClient::frame(R"({"open":{"model":"two"}})"));
  EXPECT_TRUE(contains(by_open.read_frame(), R"("model":{"name":"two")"));
  by_open.send(RawClient::frame(step_frame(0, event(1, 0, 1))));
  EXPECT_TRUE(contains(by_open.read_frame(), "\"behavior\":[2,"));
  RawClient unknown(server.port());
  EXPECT_FALSE(unknown.upgrade(key, "/stream?model=three"));
}

TEST(Models, AReloadGivesNewSessionsTheNewModelAndLeavesTheOldOnesTheirs) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  const ClientOptions key{.api_key = kLab};
  const auto old_session = StreamClient::connect(server.url(), key).value_or_throw();
  const std::vector<Event> first = {{1, 1, 0}};
  EXPECT_EQ(old_session->step({.sequence = 0, .events = first})->behavior[0], 1);
  server.replace("one", "x5");
  EXPECT_EQ(server.load("one").status, 200);
  EXPECT_EQ(server.factor(""), 5);
  const std::vector<Event> second = {{1, 1, 4}};
  EXPECT_EQ(old_session->step({.sequence = 1, .events = second})->behavior[0], 1);
  const auto new_session = StreamClient::connect(server.url(), key).value_or_throw();
  EXPECT_EQ(new_session->step({.sequence = 0, .events = first})->behavior[0], 5);
  EXPECT_TRUE(contains(server.get("/v2/models/one").body, R"("versions":["2"])"));
  // Both are on the metrics page while both are there.
  const std::string page = server.get("/metrics").body;
  EXPECT_TRUE(contains(page, "cortex_sessions{model=\"one\",version=\"1\"} 1\n")) << page;
  EXPECT_TRUE(contains(page, "cortex_sessions{model=\"one\",version=\"2\"} 1\n")) << page;
  EXPECT_EQ(server.alive(), 3);
  EXPECT_TRUE(old_session->close());
  EXPECT_TRUE(eventually([&] { return server.alive() == 2; })) << "the old engine ends";
}

TEST(Models, AReloadUnderLoadDropsNoRequest) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  std::atomic<bool> stop{false};
  std::atomic<int> answered{0};
  std::atomic<int> failed{0};
  std::vector<std::thread> clients(3);
  for (std::thread& client : clients)
    client = std::thread([&] {
      while (!stop) ++(server.factor("") > 0 ? answered : failed);
    });
  for (int round = 0; round < 20; ++round) {
    server.replace("one", "x" + std::to_string(round + 1));
    EXPECT_EQ(server.load("one").status, 200);
  }
  EXPECT_TRUE(eventually([&] { return answered > 60; }));
  stop = true;
  for (auto& client : clients) client.join();
  EXPECT_EQ(failed, 0);
  EXPECT_TRUE(eventually([&] { return server.alive() == 2; }));
}

TEST(Models, GarbageInPlaceOfAModelIsAnErrorAndTheOldOneGoesOn) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  server.replace("one", "garbage");
  const HttpAnswer answer = server.load("one");
  EXPECT_EQ(answer.status, 500);
  EXPECT_TRUE(contains(answer.body, "x1: not a safetensors file")) << answer.body;
  EXPECT_EQ(server.factor(""), 1);
  EXPECT_EQ(server.get("/ready").status, 200);
  const std::string index = server.post("/v2/repository/index").body;
  EXPECT_TRUE(contains(index, R"("name":"one","version":"1","state":"READY","reason":"x1: not a)"))
      << index;
  server.replace("one", "x3");
  EXPECT_EQ(server.load("one").status, 200);
  EXPECT_EQ(server.factor(""), 3);
}

TEST(Models, AnUnloadedModelIsGoneForNewRequestsAndNotForLiveSessions) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  const ClientOptions key{.api_key = kLab};
  const auto session = StreamClient::connect(server.url(), key).value_or_throw();
  ASSERT_TRUE(session->step({.sequence = 0}));
  const std::string start = R"({"parameters":{"sequence_id":7,"sequence_start":true},"inputs":[)"
                            R"({"name":"neuron_id","shape":[0],"datatype":"INT32","data":[]},)"
                            R"({"name":"time_bin","shape":[0],"datatype":"INT32","data":[]},)"
                            R"({"name":"value","shape":[0],"datatype":"INT32","data":[]}]})";
  ASSERT_EQ(server.post("/v2/models/one/infer", start).status, 200);
  EXPECT_EQ(server.unload("one").status, 200);
  EXPECT_EQ(server.factor("?model=one"), -404);
  EXPECT_EQ(server.factor("?model=two"), 2);
  EXPECT_EQ(server.get("/v2/models/one/ready").status, 404);
  EXPECT_TRUE(session->step({.sequence = 1}));
  std::string next = start;
  next.replace(next.find(R"("sequence_start":true)"), 21, R"("sequence_end":true)");
  EXPECT_EQ(server.post("/v2/models/one/infer", next).status, 200);
  EXPECT_EQ(server.post("/v2/models/one/infer", start).status, 404) << "a new one may not begin";
  EXPECT_TRUE(session->close());
  EXPECT_TRUE(eventually([&] { return server.alive() == 1; }));
  EXPECT_EQ(server.load("one").status, 200);
  EXPECT_EQ(server.factor("?model=one"), 1);
}

TEST(Models, NotReadyUntilEveryModelIs) {
  ModelServer server({{"one", "x1"}, {"late", "slow"}});
  EXPECT_TRUE(eventually([&] { return server.factor("?model=one") == 1; }));
  EXPECT_EQ(server.get("/ready").status, 503);
  EXPECT_EQ(server.factor("?model=late"), -503);
  server.let_go();
  EXPECT_TRUE(server.ready());
  EXPECT_EQ(server.factor("?model=late"), 1);
}

TEST(Models, WhileOneIsReloadedTheOldOneAnswers) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  server.replace("one", "slow");
  auto reload = std::async(std::launch::async, [&] { return server.load("one").status; });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(server.factor(""), 1);
  EXPECT_EQ(server.get("/ready").status, 200);
  server.let_go();
  EXPECT_EQ(reload.get(), 200);
}

TEST(Models, AreChangedByAdministratorsAlone) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  for (const char* verb : {"load", "unload"}) {
    const std::string path = std::string("/v2/repository/models/one/") + verb;
    const HttpAnswer lab = server.post(path);
    EXPECT_EQ(lab.status, 403);
    EXPECT_TRUE(contains(lab.body, "does not say admin")) << lab.body;
    EXPECT_EQ(http_post(server.url(), path, "")->status, 401);
  }
  EXPECT_EQ(server.factor(""), 1);
  TestServer keyless;
  const auto answer = http_post(keyless.url(), "/v2/repository/models/fake/unload", "");
  EXPECT_EQ(answer->status, 403);
  EXPECT_TRUE(contains(answer->body, "--api-key-file")) << answer->body;
}

TEST(Models, NamesFromTheRepositoryStayInIt) {
  ModelServer server;
  ASSERT_TRUE(server.ready());
  EXPECT_EQ(server.load("three").status, 200);
  EXPECT_EQ(server.factor("?model=three"), 1);
  for (const char* name : {"..", ".hidden", "a%2Fb", "a b", "x\"y"})
    EXPECT_GE(server.load(name).status, 400) << name;
  EXPECT_EQ(server.unload("nobody").status, 404);
}

}  // namespace
}  // namespace cortex::testing
