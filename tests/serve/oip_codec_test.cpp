#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "serve/codec_oip.h"

namespace cortex::testing {
namespace {

std::string tensor(const std::string& name, const std::string& data, int n,
                   const std::string& datatype = "INT32") {
  return R"({"name":")" + name + R"(","shape":[)" + std::to_string(n) + R"(],"datatype":")" +
         datatype + R"(","data":)" + data + "}";
}

std::string request(const std::string& more = "") {
  return R"({"id":"r","inputs":[)" + tensor("neuron_id", "[3,1]", 2) + "," +
         tensor("time_bin", "[0,5]", 2, "INT64") + "," + tensor("value", "[1,2]", 2) + "]" + more +
         "}";
}

TEST(OipCodec, ThreeTensorsAreEvents) {
  OipParser parser;
  const auto parsed = parser.infer(request(), "");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->id, "r");
  ASSERT_EQ(parsed->events.size(), 2U);
  EXPECT_EQ(parsed->events[0], (Event{3, 1, 0}));
  EXPECT_EQ(parsed->events[1], (Event{1, 2, 5}));
  EXPECT_TRUE(parsed->sequence_id.empty());
  EXPECT_FALSE(parsed->binary_output);
}

TEST(OipCodec, NoEventsAreAWindowToo) {
  OipParser parser;
  const auto parsed =
      parser.infer(R"({"inputs":[)" + tensor("neuron_id", "[]", 0) + "," +
                       tensor("time_bin", "[]", 0) + "," + tensor("value", "[]", 0) + "]}",
                   "");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_TRUE(parsed->events.empty());
}

TEST(OipCodec, ABatchOfOneMayBeNested) {
  OipParser parser;
  const std::string nested =
      R"({"inputs":[{"name":"neuron_id","shape":[1,2],"datatype":"INT32","data":[[3,1]]},)"
      R"({"name":"time_bin","shape":[2,1],"datatype":"UINT8","data":[[0],[5]]},)"
      R"({"name":"value","shape":[2],"datatype":"INT16","data":[1,2.0]}]})";
  const auto parsed = parser.infer(nested, "");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->events[1], (Event{1, 2, 5}));
}

TEST(OipCodec, SequenceParametersAndDeadlinesAreRead) {
  OipParser parser;
  const auto parsed = parser.infer(
      request(R"(,"parameters":{"sequence_id":77,"sequence_start":true,"sequence_end":true,)"
              R"("sequence_number":5,"gap":2,"first_step":3,"rate_hz":50,"timeout":2500,)"
              R"("best_effort":true,"reserve":false,"binary_data_output":true})"),
      "");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->sequence_id, "77");
  EXPECT_TRUE(parsed->sequence_start && parsed->sequence_end);
  EXPECT_EQ(parsed->sequence_number, 5);
  EXPECT_EQ(parsed->gap, 2);
  EXPECT_EQ(parsed->session.first_step, 3);
  EXPECT_EQ(parsed->session.step_rate_hz, 50);
  EXPECT_TRUE(parsed->session.best_effort);
  EXPECT_EQ(parsed->deadline_ms, 2.5);
  EXPECT_EQ(parsed->best_effort, true);
  EXPECT_TRUE(parsed->binary_output);
  EXPECT_EQ(parser.infer(request(R"(,"parameters":{"sequence_id":"arm 1"})"), "")->sequence_id,
            "arm 1");
  EXPECT_TRUE(parser.infer(request(R"(,"parameters":{"sequence_id":0})"), "")->sequence_id.empty());
  EXPECT_EQ(parser.infer(request(R"(,"parameters":{"sequence_id":18446744073709551615})"), "")
                ->sequence_id,
            "18446744073709551615");
}

RC_GTEST_PROP(OipCodec, BinaryTensorsSayWhatJsonSays, ()) {
  const int n = *rc::gen::inRange(0, 50);
  std::string ids, bins, values, json_ids, json_bins, json_values;
  for (int i = 0; i < n; ++i) {
    const auto id = *rc::gen::inRange<std::int32_t>(0, 1 << 30);
    const auto bin = *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 53);
    const auto value = *rc::gen::inRange<std::uint16_t>(0, 65535);
    ids.append(reinterpret_cast<const char*>(&id), sizeof id);
    bins.append(reinterpret_cast<const char*>(&bin), sizeof bin);
    values.append(reinterpret_cast<const char*>(&value), sizeof value);
    const char* comma = i == 0 ? "" : ",";
    json_ids += comma + std::to_string(id);
    json_bins += comma + std::to_string(bin);
    json_values += comma + std::to_string(value);
  }
  const auto binary = [n](const char* name, const char* type, const std::string& bytes) {
    return std::string(R"({"name":")") + name + R"(","shape":[)" + std::to_string(n) +
           R"(],"datatype":")" + type + R"(","parameters":{"binary_data_size":)" +
           std::to_string(bytes.size()) + "}}";
  };
  const std::string head = R"({"inputs":[)" + binary("neuron_id", "INT32", ids) + "," +
                           binary("time_bin", "INT64", bins) + "," +
                           binary("value", "UINT16", values) + "]}";
  const std::string json = R"({"inputs":[)" + tensor("neuron_id", "[" + json_ids + "]", n) + "," +
                           tensor("time_bin", "[" + json_bins + "]", n) + "," +
                           tensor("value", "[" + json_values + "]", n) + "]}";
  OipParser a;
  OipParser b;
  const auto from_binary = a.infer(head + ids + bins + values, std::to_string(head.size()));
  const auto from_json = b.infer(json, "");
  RC_ASSERT(static_cast<bool>(from_binary));
  RC_ASSERT(static_cast<bool>(from_json));
  RC_ASSERT(std::equal(from_binary->events.begin(), from_binary->events.end(),
                       from_json->events.begin(), from_json->events.end()));
}

TEST(OipCodec, EachWrongRequestIsAnErrorThatNamesTheField) {
  const std::string ok_bin = tensor("time_bin", "[0,5]", 2);
  const std::string ok_value = tensor("value", "[1,2]", 2);
  const auto with_first = [&](const std::string& first) {
    return R"({"inputs":[)" + first + "," + ok_bin + "," + ok_value + "]}";
  };
  const auto binary = [&](const std::string& size, const std::string& type = "INT32") {
    return with_first(R"({"name":"neuron_id","shape":[2],"datatype":")" + type +
                      R"(","parameters":{"binary_data_size":)" + size + "}}");
  };
  struct Case {
    std::string body;
    std::string header;
    std::string says;
  };
  const Case cases[] = {
      {"", "", "not valid JSON"},
      {"[]", "", "must be an object"},
      {"{}", "", "inputs is missing"},
      {R"({"inputs":3})", "", "inputs must be an array"},
      {R"({"inputs":[]})", "", "the tensor neuron_id is missing"},
      {R"({"inputs":[3]})", "", "inputs[0] must be an object"},
      {with_first(ok_bin), "", "time_bin is given twice"},
      {with_first(tensor("spikes", "[1,2]", 2)), "", "the inputs are neuron_id"},
      {with_first(tensor("neuron_id", "[1,2]", 3)), "", "2 elements and its shape 3"},
      {with_first(tensor("neuron_id", "[1]", 1)), "", "neuron_id has 1 elements, time_bin has 2"},
      {with_first(tensor("neuron_id", "[1,2]", 2, "FP32")), "", "whole numbers are needed"},
      {with_first(tensor("neuron_id", "[1,-2]", 2)), "", "-2 is out of range"},
      {with_first(tensor("neuron_id", "[1,2.5]", 2)), "", "must be a whole number"},
      {with_first(tensor("neuron_id", "[1,1e400]", 2)), "", "not valid JSON"},
      {with_first(tensor("neuron_id", "[1,4294967296]", 2)), "", "out of range"},
      {with_first(tensor("neuron_id", "[[[[[[[1,2]]]]]]]", 2)), "", "nested too deeply"},
      {with_first(R"({"name":"neuron_id","shape":[2,2],"datatype":"INT32","data":[1,2,3,4]})"), "",
       "one dimension"},
      {with_first(R"({"name":"neuron_id","shape":[99999999999],"datatype":"INT32","data":[]})"), "",
       "out of range"},
      {binary("8"), "", "Inference-Header-Content-Length is missing"},
      {binary("8"), "0", "not valid JSON"},
      {binary("8"), "-1", "must be a whole number"},
      {binary("8"), "12x", "must be a whole number"},
      {binary("8"), "99999", "at most the body's"},
      {binary("8"), std::to_string(binary("8").size()), "only 0 bytes are left"},
      {binary("9"), std::to_string(binary("9").size()), "2 elements of INT32 have 8 bytes"},
      {binary("8") + std::string(9, '\0'), std::to_string(binary("8").size()),
       "1 bytes follow the last binary tensor"},
      {binary("8") + std::string(4, '\xff') + std::string(4, '\0'),
       std::to_string(binary("8").size()), "neuron_id[0] = -1 is out of range"},
      {request(R"(,"outputs":[{"name":"velocity"}])"), "", "the output is behavior"},
      {request(R"(,"outputs":[{"name":"behavior","parameters":{"classification":3}}])"), "",
       "not a classification"},
      {request(R"(,"parameters":{"sequence_id":-4})"), "", "out of range"},
      {request(R"(,"parameters":{"sequence_id":[1]})"), "", "parameters.sequence_id"},
      {request(R"(,"parameters":{"sequence_start":1})"), "", "must be true or false"},
      {request(R"(,"parameters":{"timeout":-1})"), "", "must be above 0"},
      {request(R"(,"parameters":{"gap":-1})"), "", "out of range"},
      {request(R"(,"parameters":7)"), "", "parameters must be an object"},
      {request(R"(,"id":"again")"), "", "id is given twice"},
  };
  OipParser parser;
  for (const Case& c : cases) {
    const auto parsed = parser.infer(c.body, c.header);
    ASSERT_FALSE(parsed) << c.body;
    EXPECT_NE(parsed.error().message.find(c.says), std::string::npos)
        << parsed.error().message << "\n"
        << c.body;
  }
  EXPECT_TRUE(parser.infer(request(), "")) << "and none of it did any harm";
}

TEST(OipCodec, AnAnswerCarriesItsTensorAsAsked) {
  const float behavior[] = {1.5F, -2};
  const InferAnswer answer{.model = "arm",
                           .version = 3,
                           .id = "r",
                           .behavior = behavior,
                           .sequence_id = "7",
                           .sequence_number = 4,
                           .status = "fresh"};
  const InferBody json = infer_body(answer, false);
  EXPECT_FALSE(json.json_length);
  EXPECT_NE(json.bytes.find(R"({"model_name":"arm","model_version":"3","id":"r","parameters":)"
                            R"({"sequence_id":"7","sequence_number":4,"status":"fresh",)"),
            std::string::npos)
      << json.bytes;
  EXPECT_NE(json.bytes.find(R"("outputs":[{"name":"behavior","datatype":"FP32","shape":[2],)"
                            R"("data":[1.5,-2]}]})"),
            std::string::npos)
      << json.bytes;
  const InferBody binary = infer_body(answer, true);
  ASSERT_TRUE(binary.json_length);
  ASSERT_EQ(binary.bytes.size(), *binary.json_length + 8);
  EXPECT_NE(binary.bytes.find(R"("parameters":{"binary_data_size":8}}]})"), std::string::npos);
  EXPECT_EQ(std::memcmp(binary.bytes.data() + *binary.json_length, behavior, 8), 0);
}

}  // namespace
}  // namespace cortex::testing
