#include <gtest/gtest.h>

#include <set>
#include <sstream>
#include <string>

#include "serve/model_registry.h"
#include "serve/test_server.h"
#include "telemetry/catalog.h"

namespace cortex::testing {
namespace {

TEST(Metrics, PublishedNamesAreThereAndTrue) {
  TestServer server;
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(client->step({.sequence = i}));
  EXPECT_EQ(server.decode(decode_body("")).status, 200);
  EXPECT_EQ(server.decode("{").status, 400);
  const std::string page = server.get("/metrics").body;
  for (const char* line :
       {"cortex_requests_total{endpoint=\"/stream\",status=\"200\"} 3\n",
        "cortex_requests_total{endpoint=\"/decode\",status=\"200\"} 1\n",
        "cortex_requests_total{endpoint=\"/decode\",status=\"400\"} 1\n",
        "cortex_errors_total{error_type=\"invalid_argument\"} 1\n",
        "cortex_request_latency_seconds_count 4\n", "cortex_queue_wait_seconds_count 4\n",
        "cortex_inference_latency_seconds_count 4\n",
        "cortex_batch_size_bucket{model=\"fake\",version=\"1\",le=\"1\"} 4\n",
        "cortex_batch_size_sum{model=\"fake\",version=\"1\"} 4\n",
        "cortex_batch_size_count{model=\"fake\",version=\"1\"} 4\n",
        "cortex_queue_depth{model=\"fake\",version=\"1\"} 0\n",
        "cortex_sessions{model=\"fake\",version=\"1\"} 1\n",
        "cortex_kv_cache_pages_used{model=\"fake\",version=\"1\"} 4\n",
        "cortex_kv_cache_hit_rate{model=\"fake\",version=\"1\"} 1\n", "cortex_ready 1\n"})
    EXPECT_TRUE(contains(page, line)) << line << page;
}

TEST(Metrics, EveryLineIsWellFormedAndEveryNameIsCortexs) {
  TestServer server;
  EXPECT_EQ(server.decode(decode_body("")).status, 200);
  std::istringstream page(server.get("/metrics").body);
  std::set<std::string> families;
  std::string line;
  while (std::getline(page, line)) {
    ASSERT_FALSE(line.empty());
    if (line.starts_with("# TYPE ")) {
      const std::string name = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_TRUE(families.insert(name).second) << name << " has two headers";
      continue;
    }
    if (line.front() == '#') continue;
    EXPECT_TRUE(line.starts_with("cortex_")) << line;
    const auto space = line.rfind(' ');
    ASSERT_NE(space, std::string::npos);
    EXPECT_NO_THROW((void)std::stod(line.substr(space + 1))) << line;
  }
  EXPECT_TRUE(families.count(std::string(catalog::kRequestLatency.name)));
}

TEST(Metrics, RealTimeModeSaysWhatWasGranted) {
  EXPECT_FALSE(contains(TestServer().get("/metrics").body, "cortex_realtime"));
  TestServer server({.realtime = {{"core", true, "1"}, {"scheduler", false, "no"}}});
  const std::string page = server.get("/metrics").body;
  EXPECT_TRUE(
      contains(page, "cortex_realtime_granted{model=\"fake\",version=\"1\",what=\"core\"} 1\n"))
      << page;
  EXPECT_TRUE(contains(
      page, "cortex_realtime_granted{model=\"fake\",version=\"1\",what=\"scheduler\"} 0\n"))
      << page;
}

TEST(Metrics, TheGpusGaugesAreThereOnAGpuAlone) {
  TestServer server;
  EXPECT_FALSE(contains(server.get("/metrics").body, "\ncortex_gpu_"));
  server.engine().pretend_gpu(5'000'000);
  const std::string page = server.get("/metrics").body;
  EXPECT_TRUE(
      contains(page, "\ncortex_gpu_memory_used_bytes{model=\"fake\",version=\"1\"} 5000000\n"));
  EXPECT_TRUE(contains(page, "\ncortex_gpu_utilization_percent{model=\"fake\",version=\"1\"} 0\n"));
}

TEST(Metrics, UtilisationIsTheShareOfTimeBetweenTwoSamples) {
  Utilisation utilisation;
  constexpr TimeNs kSecond = 1'000'000'000;
  utilisation.sample(5 * kSecond, 7);
  EXPECT_EQ(utilisation.share(), 0) << "of one sample nothing follows";
  EXPECT_FALSE(utilisation.is_due(5 * kSecond + 1));
  ASSERT_TRUE(utilisation.is_due(7 * kSecond));
  utilisation.sample(7 * kSecond, 7 + kSecond / 2);
  EXPECT_DOUBLE_EQ(utilisation.share(), 0.25);
}

TEST(Metrics, UnknownPathsShareOneLabel) {
  TestServer server;
  for (int i = 0; i < 5; ++i) server.get("/x" + std::to_string(i));
  EXPECT_TRUE(contains(server.get("/metrics").body,
                       "cortex_requests_total{endpoint=\"none\",status=\"404\"} 5\n"));
}

}  // namespace
}  // namespace cortex::testing
