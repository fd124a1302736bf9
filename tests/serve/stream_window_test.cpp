#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "serve/test_server.h"

namespace cortex::testing {
namespace {

TEST(WindowStream, EachFrameIsAWindowInAnyOrder) {
  FakeOptions fake;
  fake.window = true;
  TestServer server(fake);
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  for (const std::int64_t n : {5, 3, 3, 900}) {
    const std::vector<Event> events{{.unit = 1, .value = 2, .bin = 7}};
    const auto answer = client->step({.sequence = n, .events = events});
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_EQ(answer->sequence, n);
    EXPECT_EQ(answer->behavior, (std::vector<float>{2, 7}));
  }
  const auto summary = client->close();
  ASSERT_TRUE(summary);
  EXPECT_EQ(summary->steps, 4);
  EXPECT_GT(summary->max_us, 0);
}

TEST(WindowStream, OpeningSaysThatItIsOneAndAGapIsAnError) {
  FakeOptions fake;
  fake.window = true;
  TestServer server(fake);
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  const auto info = client->open({});
  ASSERT_TRUE(info);
  EXPECT_EQ(info->kind, "window");
  const auto gap = client->step({.sequence = 1, .gap = 1});
  ASSERT_FALSE(gap);
  EXPECT_EQ(gap.error().field, "gap");
}

TEST(WindowStream, AFullQueueSlowsTheSocketDown) {
  FakeOptions fake;
  fake.window = true;
  fake.max_queued_windows = 2;  // fewer than a socket may send ahead
  TestServer server(fake);
  const auto client = StreamClient::connect(server.url()).value_or_throw();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(client->send({.sequence = i}));
  for (int i = 0; i < 40; ++i) {
    const auto answer = client->receive();
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_EQ(answer->sequence, i);
  }
}

}  // namespace
}  // namespace cortex::testing
