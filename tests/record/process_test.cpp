// `cortex serve --record` as a process: killed under load, out of disk; then verify and export.
#include <cortex/client.h>
#include <gtest/gtest.h>
#include <simdjson.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "data/nwb.h"
#include "data/steps.h"
#include "model/weights.h"
#include "record/record_fixture.h"
#include "support/process.h"
#include "support/server_process.h"

namespace cortex::testing {
namespace {

constexpr int kUnits = 12;

/// Events of step n of a client, the same whenever they are asked for.
std::vector<Event> load_events(int client, std::int64_t n) {
  const auto count = static_cast<int>((n * 7 + client) % 9);
  std::vector<Event> events;
  events.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i)
    events.push_back(
        {static_cast<std::int32_t>((n * 5 + i * (client + 3)) % kUnits), 1 + i % 2, n});
  return events;
}

class RecordedServer : public ::testing::Test {
 protected:
  void SetUp() override {
    ModelConfig config = preset_config("stream-nano").value_or_throw();
    config.bin_ms = 20;
    for (int u = 0; u < kUnits; ++u)
      config.units.push_back(
          {.id = "u" + std::to_string(u), .session = "test", .electrode = {}, .rate_hz = 0});
    config.set_defaults();
    const ModelFile model = random_model(config, 5);
    save_model(model_, model.config, model.tensors).value_or_throw();
    std::filesystem::create_directory(logs_);
  }

  std::vector<std::string> serve_command() const {
    return {CORTEX_BINARY, "serve", "--model",  model_, "--device",         "cpu",
            "--port",      "0",     "--record", logs_,  "--record-sync-ms", "20"};
  }
  std::string log_path() const {
    for (const auto& entry : std::filesystem::directory_iterator(logs_))
      if (entry.path().extension() == ".cortexlog") return entry.path().string();
    return {};
  }
  static Ran cortex(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), CORTEX_BINARY);
    return run(std::move(arguments));
  }

  TempDir folder_;
  const std::string model_ = folder_.file("m.safetensors");
  const std::string logs_ = folder_.file("logs");
};

double metric(const std::string& url, const std::string& name) {
  const auto page = http_get(url, "/metrics");
  if (!page) return -1;
  const auto at = page->body.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(page->body.substr(at + name.size() + 2));
}

TEST_F(RecordedServer, KilledUnderLoadItsLogVerifiesUpToTheLastSync) {
  ServerProcess server(serve_command());
  constexpr int kClients = 2;
  std::atomic<std::int64_t> answered[kClients] = {};
  std::vector<std::thread> clients;
  clients.reserve(kClients);
  for (int c = 0; c < kClients; ++c)
    clients.emplace_back([&, c] {
      const auto client = StreamClient::connect(server.url());
      if (!client || !(*client)->open({.best_effort = true})) return;
      for (std::int64_t n = 0;; ++n) {
        const auto events = load_events(c, n);
        if (!(*client)->step({.sequence = n, .events = events})) return;
        answered[c] = n + 1;
      }
    });
  ASSERT_TRUE(eventually([&] {
    return answered[0] > 300 && answered[1] > 300 &&
           metric(server.url(), "cortex_recorded_total") > 600;
  }));
  server.kill();
  for (std::thread& client : clients) client.join();

  const record::FlightLog log = record::read_flight_log(log_path()).value_or_throw();
  ASSERT_EQ(log.sessions.size(), 2U);
  ASSERT_GT(log.blocks, 1);
  for (const record::RecordedSession& session : log.sessions) {
    EXPECT_FALSE(session.is_closed);
    EXPECT_GT(session.steps.size(), 50U);
  }
  const Ran verified = cortex({"verify", log_path(), "--json"});
  ASSERT_EQ(verified.code, 0) << verified.err;
  simdjson::dom::parser parser;
  simdjson::dom::element report;
  ASSERT_EQ(parser.parse(verified.out).get(report), simdjson::SUCCESS) << verified.out;
  EXPECT_TRUE(bool(report["same"]));
  EXPECT_FALSE(bool(report["ended"]));
  EXPECT_EQ(std::int64_t(report["lost"]), 0);
  for (const simdjson::dom::element session : report["sessions"].get_array()) {
    EXPECT_GT(std::int64_t(session["equal"]), 50);
    EXPECT_EQ(std::int64_t(session["unknown"]), 0);
    EXPECT_LE(std::int64_t(session["unanswered"]), 4) << "no more than were under way";
  }

  // As a power cut may leave it: cut in the middle of its last block.
  const std::string cut = folder_.file("cut.cortexlog");
  std::filesystem::copy_file(log_path(), cut);
  std::filesystem::resize_file(cut, std::filesystem::file_size(cut) - 3);
  const Ran shorter = cortex({"verify", cut});
  EXPECT_EQ(shorter.code, 0) << shorter.err;
  EXPECT_NE(shorter.out.find("its end is cut off"), std::string::npos) << shorter.out;
  // Changed in a block that others follow: refused, and with it the export.
  const std::string changed = folder_.file("changed.cortexlog");
  std::filesystem::copy_file(log_path(), changed);
  {
    std::fstream file(changed, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file.write("garbage", 7);
  }
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"verify", changed}, {"export", changed, "--out", folder_.file("no.nwb")}}) {
    const Ran refused = cortex(arguments);
    EXPECT_EQ(refused.code, 1);
    EXPECT_NE(refused.err.find("its checksum differs"), std::string::npos) << refused.err;
  }

  // Two sessions: which is to be said. What is written reads back as the steps that were sent.
  const std::string nwb = folder_.file("session.nwb");
  const Ran which = cortex({"export", log_path(), "--out", nwb});
  EXPECT_EQ(which.code, 1);
  EXPECT_NE(which.err.find("say which --session"), std::string::npos) << which.err;
  const record::RecordedSession& session = log.sessions[0];
  const Ran made =
      cortex({"export", log_path(), "--out", nwb, "--session", std::to_string(session.id)});
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_NE(made.out.find("units are numbered"), std::string::npos) << made.out;
  const Recording recording = read_nwb(nwb).value_or_throw();
  ASSERT_EQ(recording.units.size(), static_cast<std::size_t>(kUnits));
  EXPECT_EQ(recording.units[3].id, "3");
  EXPECT_NE(recording.description.find("3 is u3"), std::string::npos) << recording.description;
  const auto stepped = step_recording(recording, {.target = "decoded"}).value_or_throw();
  ASSERT_EQ(stepped.steps(), static_cast<std::int64_t>(session.steps.size()));
  const BehaviorSeries* decoded = recording.find_behavior("decoded");
  ASSERT_NE(decoded, nullptr);
  EXPECT_EQ(decoded->unit, "mm/s");
  EXPECT_NE(recording.find_behavior("latency"), nullptr);
  std::size_t row = 0;
  for (const record::RecordedStep& step : session.steps) {
    auto sent = record::events_of(step);
    std::sort(sent.begin(), sent.end(), [](const Event& a, const Event& b) {
      return std::pair(a.bin, a.unit) < std::pair(b.bin, b.unit);
    });
    std::vector<Event> merged;
    for (const Event& e : sent)
      if (!merged.empty() && merged.back().unit == e.unit && merged.back().bin == e.bin)
        merged.back().value += e.value;
      else
        merged.push_back(e);
    const auto there = stepped.step_events(step.sequence);
    EXPECT_EQ(std::vector<Event>(there.begin(), there.end()), merged) << step.sequence;
    const auto outputs = record::outputs_of(step);
    if (outputs.empty()) continue;
    ASSERT_LT(row, decoded->times_s.size());
    EXPECT_EQ(decoded->values[2 * row], outputs[0]);
    EXPECT_EQ(decoded->values[2 * row + 1], outputs[1]);
    ++row;
  }
  EXPECT_EQ(row, decoded->times_s.size());
}

TEST_F(RecordedServer, ALogHasAnEndOnceItsServerIsStopped) {
  Process server(serve_command());
  ASSERT_TRUE(server.says("cortex: serving ")) << server.err();
  const Ran running = cortex({"verify", log_path()});
  EXPECT_EQ(running.code, 0) << running.err;
  EXPECT_NE(running.out.find("the log has no end"), std::string::npos) << running.out;
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait().code, 0);
  const Ran stopped = cortex({"verify", log_path()});
  EXPECT_EQ(stopped.code, 0) << stopped.err;
  EXPECT_EQ(stopped.out.find("the log has no end"), std::string::npos) << stopped.out;
}

TEST_F(RecordedServer, AnotherModelThanTheRecordedIsRefused) {
  {
    ServerProcess server(serve_command());
    const auto client = StreamClient::connect(server.url()).value_or_throw();
    for (std::int64_t n = 0; n < 5; ++n) ASSERT_TRUE(client->step({.sequence = n}));
    ASSERT_TRUE(client->close());
    ASSERT_TRUE(eventually([&] { return metric(server.url(), "cortex_recorded_total") == 10; }));
    EXPECT_EQ(metric(server.url(), "cortex_record_lost_total"), 0);
    EXPECT_EQ(metric(server.url(), "cortex_record_failing"), 0);
  }
  EXPECT_EQ(cortex({"verify", log_path()}).code, 0);
  ModelFile other = load_model(model_).value_or_throw();
  const std::string path = folder_.file("other.safetensors");
  const ModelFile random = random_model(other.config, 6);
  save_model(path, random.config, random.tensors).value_or_throw();
  const Ran refused = cortex({"verify", log_path(), "--model", path});
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("is not the model of the log"), std::string::npos) << refused.err;
  EXPECT_EQ(cortex({"verify", log_path(), "--session", "77"}).code, 1);
}

TEST_F(RecordedServer, WithAFullDiskItServesOnAndSaysSo) {
  // 64 KiB of file: soon full. The lines of the server's own log go to a pipe that is not.
  std::string command = "ulimit -f 64; exec";
  for (const std::string& word : serve_command()) command += " '" + word + "'";
  Process server({"bash", "-c", command});
  ASSERT_TRUE(server.says("cortex: serving ")) << server.err();
  std::string url = server.out();
  url = url.substr(url.find("http://"));
  url = url.substr(0, url.find('\n'));
  const auto client = StreamClient::connect(url).value_or_throw();
  std::int64_t n = 0;
  ASSERT_TRUE(eventually([&] {
    for (int i = 0; i < 50; ++i, ++n) {
      const auto events = load_events(0, n);
      if (!client->step({.sequence = n, .events = events, .best_effort = true})) return false;
    }
    // What room there is takes small blocks for a while yet.
    return metric(url, "cortex_record_lost_total") > 0 && metric(url, "cortex_record_failing") == 1;
  }));
  EXPECT_TRUE(client->step({.sequence = n}));
  EXPECT_TRUE(server.says("serving goes on, steps are not recorded")) << server.err();
  ASSERT_TRUE(client->close());
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait().code, 0);
  const Ran verified = cortex({"verify", log_path()});
  EXPECT_EQ(verified.code, 0) << verified.err;
  EXPECT_NE(verified.out.find("have the same bits"), std::string::npos) << verified.out;
}

}  // namespace
}  // namespace cortex::testing
