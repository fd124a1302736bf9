// The last look at a deadline: an answer that the engine gave in time and the server did not.
#include <gtest/gtest.h>

#include "serve/test_server.h"

namespace cortex::testing {
namespace {

double latency_ms(const std::string& answer) {
  const auto at = answer.find("\"latency_ms\":");
  return at == std::string::npos ? -1 : std::stod(answer.substr(at + 13));
}

TEST(Deadline, AStepThatIsInTimeByTheEngineAndNotByItsHandOverIsWithheld) {
  for (const FrameFormat format : {FrameFormat::json, FrameFormat::binary}) {
    TestServer server;
    const auto client = StreamClient::connect(server.url(), {.format = format}).value_or_throw();
    ASSERT_TRUE(client->open({}));
    server.engine().dawdle();
    const auto withheld = client->step({.sequence = 0, .deadline_ms = 5}).value_or_throw();
    EXPECT_EQ(withheld.status, StepStatus::refused);
    EXPECT_TRUE(withheld.behavior.empty());
    EXPECT_GT(withheld.latency_ms, 5);
    server.engine().dawdle();
    const auto marked = client->step({.sequence = 1}).value_or_throw();
    EXPECT_EQ(marked.status, StepStatus::late) << "the step itself was the deadline";
    EXPECT_EQ(marked.behavior.size(), 2U);
    EXPECT_GT(marked.latency_ms, 20);
    const auto fresh = client->step({.sequence = 2, .deadline_ms = 60'000}).value_or_throw();
    EXPECT_EQ(fresh.status, StepStatus::fresh) << "the stream goes on";
    const std::string page = server.get("/metrics").body;
    EXPECT_TRUE(contains(page, "kind=\"withheld\"} 1\n")) << page;
    EXPECT_TRUE(contains(page, "\ncortex_late_total{model=\"fake\",version=\"1\"} 1\n")) << page;
    const auto summary = client->close().value_or_throw();
    EXPECT_EQ(summary.steps, 3);
    EXPECT_EQ(summary.refused, 1);
    EXPECT_EQ(summary.late, 1);
  }
}

TEST(Deadline, AWindowThatIsInTimeByTheEngineAloneIs504UnlessItIsWantedLate) {
  FakeOptions fake;
  fake.window = true;
  TestServer server(fake);
  server.engine().dawdle();
  const HttpAnswer late = server.decode(decode_body("", R"(,"deadline_ms":5)"));
  EXPECT_EQ(late.status, 504) << late.body;
  EXPECT_TRUE(contains(late.body, R"("code":"deadline_exceeded")")) << late.body;
  server.engine().dawdle();
  const HttpAnswer wanted =
      server.decode(decode_body("", R"(,"deadline_ms":5,"best_effort":true)"));
  EXPECT_EQ(wanted.status, 200) << wanted.body;
  EXPECT_GT(latency_ms(wanted.body), 5);
  server.engine().dawdle();
  const auto infer = http_post(server.url(), "/v2/models/fake/infer",
                               R"({"parameters":{"deadline_ms":5},"inputs":[)"
                               R"({"name":"neuron_id","shape":[0],"datatype":"INT32","data":[]},)"
                               R"({"name":"time_bin","shape":[0],"datatype":"INT32","data":[]},)"
                               R"({"name":"value","shape":[0],"datatype":"INT32","data":[]}]})");
  EXPECT_EQ(infer->status, 504) << infer->body;
}

TEST(Deadline, NoAnswerTellsALatencyBeyondItsOwnDeadline) {
  FakeOptions fake;
  fake.window = true;
  TestServer server(fake);
  for (int i = 1; i <= 300; ++i) {
    // From what no machine can do to what most can.
    const double ms = 0.01 * i;
    const HttpAnswer answer =
        server.decode(decode_body("", ",\"deadline_ms\":" + std::to_string(ms)));
    if (answer.status != 200) {
      EXPECT_EQ(answer.status, 504) << answer.body;
      continue;
    }
    EXPECT_LE(latency_ms(answer.body), ms + 1e-6) << answer.body;
  }
}

}  // namespace
}  // namespace cortex::testing
