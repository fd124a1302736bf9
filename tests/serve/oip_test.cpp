// The Open Inference Protocol over HTTP.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "serve/test_server.h"

namespace cortex::testing {
namespace {

std::string body(const std::string& ids, const std::string& bins, const std::string& values, int n,
                 const std::string& more = "") {
  const auto tensor = [n](const char* name, const std::string& data) {
    return std::string(R"({"name":")") + name + R"(","shape":[)" + std::to_string(n) +
           R"(],"datatype":"INT64","data":[)" + data + "]}";
  };
  return R"({"id":"r1","inputs":[)" + tensor("neuron_id", ids) + "," + tensor("time_bin", bins) +
         "," + tensor("value", values) + "]" + more + "}";
}
std::string step_body(std::int64_t bin, const std::string& parameters) {
  return body("1", std::to_string(bin), "1", 1, R"(,"parameters":{)" + parameters + "}");
}

class Oip : public ::testing::Test {
 protected:
  HttpAnswer infer(const std::string& text) {
    return http_post(server_.url(), "/v2/models/fake/infer", text).value_or_throw();
  }
  TestServer server_;
};

TEST_F(Oip, PagesSayWhatThereIs) {
  EXPECT_TRUE(contains(server_.get("/v2").body, R"("extensions":["binary_tensor_data",)"));
  EXPECT_EQ(server_.get("/v2/health/live").body, R"({"live":true})");
  EXPECT_EQ(server_.get("/v2/health/ready").body, R"({"ready":true})");
  EXPECT_EQ(server_.get("/v2/models/fake/ready").status, 200);
  EXPECT_EQ(server_.get("/v2/models/fake/versions/1/ready").status, 200);
  const std::string model = server_.get("/v2/models/fake").body;
  EXPECT_TRUE(contains(model, R"({"name":"fake","versions":["1"],"platform":"cortex","inputs":)"))
      << model;
  EXPECT_TRUE(contains(model, R"({"name":"behavior","datatype":"FP32","shape":[2]})")) << model;
  EXPECT_TRUE(contains(http_post(server_.url(), "/v2/repository/index", "")->body,
                       R"([{"name":"fake","version":"1","state":"READY")"));
}

TEST_F(Oip, NothingIsReadyBeforeTheModelIsLoaded) {
  TestServer server({}, {}, false);
  EXPECT_EQ(server.get("/v2/health/live").status, 200);
  EXPECT_EQ(server.get("/v2/health/ready").status, 503);
  EXPECT_EQ(server.get("/v2/health/ready").body, R"({"ready":false})");
}

TEST_F(Oip, AWindowIsAnsweredAsByDecode) {
  const HttpAnswer answer = infer(body("3,1", "2,5", "2,1", 2));
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(contains(answer.body, R"({"model_name":"fake","model_version":"1","id":"r1",)"))
      << answer.body;
  EXPECT_TRUE(contains(answer.body, R"("data":[3,7])")) << answer.body;
}

TEST_F(Oip, ErrorsAreOneStringWithTheRightStatus) {
  const std::pair<std::string, int> cases[] = {
      {"{", 400},
      {body("900", "0", "1", 1), 400},
      {step_body(0, R"("sequence_end":true)"), 400},
      {step_body(0, R"("sequence_id":5)"), 404},
  };
  for (const auto& [text, status] : cases) {
    const HttpAnswer answer = infer(text);
    EXPECT_EQ(answer.status, status) << text;
    EXPECT_TRUE(answer.body.starts_with(R"({"error":")")) << answer.body;
  }
  for (const char* path : {"/v2/models/nobody", "/v2/models/fake/versions/9", "/v2/models",
                           "/v2/nothing", "/v2/models/fake/infer/more", "/v2/health"}) {
    const HttpAnswer answer = server_.get(path);
    EXPECT_EQ(answer.status, 404) << path;
    EXPECT_TRUE(answer.body.starts_with(R"({"error":")")) << answer.body;
  }
  EXPECT_EQ(server_.get("/v2/models/fake/infer").status, 405);
}

TEST_F(Oip, ASequenceIsASession) {
  const auto client = StreamClient::connect(server_.url()).value_or_throw();
  for (int i = 0; i < 5; ++i) {
    const std::vector<Event> events = {{1, 1, 4 * i}};
    const auto expected = client->step({.sequence = i, .events = events}).value_or_throw();
    std::string parameters = R"("sequence_id":7)";
    if (i == 0) parameters += R"(,"sequence_start":true)";
    if (i == 4) parameters += R"(,"sequence_end":true)";
    const HttpAnswer answer = infer(step_body(4 * i, parameters));
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_TRUE(contains(answer.body, R"("sequence_id":"7","sequence_number":)" +
                                          std::to_string(i) + R"(,"status":"fresh")"))
        << answer.body;
    char data[64];
    std::snprintf(data, sizeof data, "\"data\":[1,%.4g", expected.behavior[1]);
    EXPECT_TRUE(contains(answer.body, std::string(data).substr(0, 14))) << answer.body << data;
  }
  EXPECT_EQ(server_.engine().stats().sessions, 1) << "only the client's is left";
  EXPECT_EQ(infer(step_body(20, R"("sequence_id":7)")).status, 404) << "it has ended";
}

TEST_F(Oip, StepsOutOfOrderAre409AndTakeNothing) {
  EXPECT_EQ(infer(step_body(0, R"("sequence_id":1,"sequence_start":true)")).status, 200);
  const HttpAnswer jump = infer(step_body(20, R"("sequence_id":1,"sequence_number":5)"));
  EXPECT_EQ(jump.status, 409);
  EXPECT_TRUE(contains(jump.body, "expected 1")) << jump.body;
  EXPECT_EQ(infer(step_body(0, R"("sequence_id":1,"sequence_number":0)")).status, 409);
  EXPECT_EQ(infer(step_body(0, R"("sequence_id":1)")).status, 400) << "bin 0 is step 0's";
  EXPECT_EQ(infer(step_body(20, R"("sequence_id":1,"sequence_number":5,"gap":4)")).status, 200);
}

TEST_F(Oip, AStartOverALiveSequenceBeginsAnew) {
  for (int round = 0; round < 3; ++round) {
    const HttpAnswer answer = infer(step_body(0, R"("sequence_id":"a","sequence_start":true)"));
    EXPECT_EQ(answer.status, 200) << answer.body;
    EXPECT_TRUE(contains(answer.body, R"("data":[1,0.2857143])")) << answer.body;
  }
  EXPECT_EQ(server_.engine().stats().sessions, 1);
}

TEST_F(Oip, ASequenceThatCouldNotBeginLeavesNothingBehind) {
  EXPECT_EQ(infer(step_body(99, R"("sequence_id":1,"sequence_start":true)")).status, 400);
  EXPECT_EQ(server_.engine().stats().sessions, 0);
  EXPECT_EQ(infer(step_body(0, R"("sequence_id":1)")).status, 404);
}

TEST_F(Oip, SequencesWithoutAnEndExpireWithTheirSessions) {
  ServerOptions options;
  options.idle_timeout_s = 0.3;
  TestServer server({}, options);
  const auto start = [&](int id) {
    return http_post(server.url(), "/v2/models/fake/infer",
                     step_body(0, R"("sequence_start":true,"sequence_id":)" + std::to_string(id)))
        ->status;
  };
  for (int id = 1; id <= 4; ++id) EXPECT_EQ(start(id), 200);
  EXPECT_EQ(start(5), 429) << "all sessions are taken";
  EXPECT_TRUE(eventually([&] { return server.engine().stats().sessions == 0; }));
  EXPECT_TRUE(contains(server.get("/metrics").body, "\ncortex_sequences 0\n"));
  EXPECT_EQ(start(5), 200);
}

TEST_F(Oip, AnExpiredSessionIsToldAsAnUnknownSequence) {
  EXPECT_EQ(infer(step_body(0, R"("sequence_id":1,"sequence_start":true)")).status, 200);
  server_.engine().expire_all();
  ASSERT_TRUE(eventually([&] { return server_.engine().stats().sessions == 0; }));
  const HttpAnswer lost = infer(step_body(4, R"("sequence_id":1)"));
  EXPECT_EQ(lost.status, 404);
  EXPECT_TRUE(contains(lost.body, "sequence 1 is not known")) << lost.body;
}

TEST_F(Oip, AWindowModelKeepsNoSequences) {
  FakeOptions fake;
  fake.window = true;
  TestServer server(fake);
  const auto answer = http_post(server.url(), "/v2/models/fake/infer",
                                step_body(0, R"("sequence_id":1,"sequence_start":true)"));
  EXPECT_EQ(answer->status, 400);
  EXPECT_TRUE(contains(answer->body, "keeps no sequences")) << answer->body;
}

TEST_F(Oip, AWithheldStepIs504AndTheSequenceGoesOn) {
  EXPECT_EQ(infer(step_body(0, R"("sequence_id":1,"sequence_start":true)")).status, 200);
  server_.engine().hold();
  RawClient client(server_.port());
  const std::string text = step_body(4, R"("sequence_id":1,"deadline_ms":1)");
  client.send("POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\nContent-Length: " +
              std::to_string(text.size()) + "\r\n\r\n" + text);
  ASSERT_TRUE(eventually([&] { return server_.engine().stats().queue_depth == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  server_.engine().release();
  const std::string withheld = client.read_response();
  EXPECT_TRUE(contains(withheld, "504")) << withheld;
  EXPECT_TRUE(contains(withheld, "goes on with step 2")) << withheld;
  EXPECT_EQ(infer(step_body(8, R"("sequence_id":1)")).status, 200);
}

TEST_F(Oip, BinaryTensorsGoInAndOut) {
  RawClient client(server_.port());
  std::string tail;
  for (const std::int32_t n : {3, 1, 2, 5, 2, 1})
    tail.append(reinterpret_cast<const char*>(&n), sizeof n);
  std::string json = R"({"parameters":{"binary_data_output":true},"inputs":[)";
  for (const char* name : {"neuron_id", "time_bin", "value"})
    json += std::string(json.ends_with("[") ? "" : ",") + R"({"name":")" + name +
            R"(","shape":[2],"datatype":"INT32","parameters":{"binary_data_size":8}})";
  json += "]}";
  client.send(
      "POST /v2/models/fake/infer HTTP/1.1\r\nHost: x\r\n"
      "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: " +
      std::to_string(json.size()) + "\r\nContent-Length: " +
      std::to_string(json.size() + tail.size()) + "\r\n\r\n" + json + tail);
  const std::string answer = client.read_response();
  ASSERT_TRUE(contains(answer, "200 OK")) << answer;
  EXPECT_TRUE(contains(answer, "application/octet-stream")) << answer;
  const auto at = answer.find("Inference-Header-Content-Length: ");
  ASSERT_NE(at, std::string::npos) << answer;
  const std::size_t length = std::stoul(answer.substr(at + 33));
  const std::string text = answer.substr(answer.find("\r\n\r\n") + 4);
  ASSERT_EQ(text.size(), length + 8);
  float behavior[2];
  std::memcpy(behavior, text.data() + length, sizeof behavior);
  EXPECT_EQ(behavior[0], 3);
  EXPECT_EQ(behavior[1], 7);
}

}  // namespace
}  // namespace cortex::testing
