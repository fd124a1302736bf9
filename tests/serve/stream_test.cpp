#include <gtest/gtest.h>

#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "serve/test_server.h"

namespace cortex::testing {
namespace {

using Behavior = std::vector<float>;

std::unique_ptr<StreamClient> connect(TestServer& server) {
  return StreamClient::connect(server.url()).value_or_throw();
}

std::vector<Event> some_events(std::int64_t step, int seed) {
  std::vector<Event> events;
  for (int i = 0; i < static_cast<int>((step * 7 + seed) % 5); ++i)
    events.push_back({.unit = static_cast<std::int32_t>((step * 3 + i + seed) % 16),
                      .value = 1 + (i + seed) % 3,
                      .bin = step * 4 + i % 4});
  return events;
}

TEST(Stream, APublishedClientNeedsNoOpening) {
  TestServer server;
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  client.send(RawClient::frame(step_frame(0, event(1, 0, 1))));
  const std::string answer = client.read_frame();
  EXPECT_TRUE(contains(answer, R"({"sequence_number":0,"behavior":[1,0.2857143],"latency_ms":)"))
      << answer;
  EXPECT_TRUE(contains(answer, R"("status":")"));
}

TEST(Stream, AnOpeningSaysWhatAClientMustKnow) {
  TestServer server;
  const auto client = connect(server);
  const auto info = client->open({.session = {.first_step = 7}});
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->kind, "stream");
  EXPECT_EQ(info->bin_ms, 5);
  EXPECT_EQ(info->step_ms, 20);
  EXPECT_EQ(info->bins_per_step, 4);
  EXPECT_EQ(info->next_sequence, 7);
  EXPECT_EQ(info->max_queued_steps, 4);
  EXPECT_EQ(info->digest, "00000000deadbeef");
  ASSERT_EQ(info->outputs.size(), 2U);
  EXPECT_EQ(info->outputs[1].name, "vel_y");
  EXPECT_EQ(info->outputs[1].unit, "mm/s");
  EXPECT_FALSE(client->step({.sequence = 0}));
  EXPECT_TRUE(client->step({.sequence = 7}));
}

TEST(Stream, AnOpeningWithWrongUnitsNamesThemAndMayBeRepeated) {
  TestServer server;
  const auto client = connect(server);
  OpenOptions wrong;
  wrong.session.unit_ids = {"u1", "nobody"};
  const auto refused = client->open(wrong);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused.error().field, "open.units");
  EXPECT_TRUE(contains(refused.error().message, "nobody"));
  EXPECT_TRUE(client->open({}));
  const auto twice = client->open({});
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().field, "open");
  EXPECT_TRUE(client->step({.sequence = 0}));
}

TEST(Stream, AJumpIs409NamingTheExpectedStepUnlessItIsAGap) {
  TestServer server;
  const auto client = connect(server);
  ASSERT_TRUE(client->step({.sequence = 0}));
  const auto jump = client->step({.sequence = 5});
  ASSERT_FALSE(jump);
  EXPECT_EQ(jump.error().code, ErrorCode::out_of_order);
  EXPECT_TRUE(contains(jump.error().message, "expected 1")) << jump.error().message;
  EXPECT_FALSE(client->step({.sequence = 0}));  // a duplicate
  EXPECT_FALSE(client->step({.sequence = 5, .gap = 3}));
  EXPECT_TRUE(client->step({.sequence = 5, .gap = 4}));
  EXPECT_TRUE(client->step({.sequence = 6}));
}

TEST(Stream, AGapIsItsEmptySteps) {
  TestServer server;
  const auto with_gap = connect(server);
  const auto with_steps = connect(server);
  const std::vector<Event> first = some_events(4, 0);
  std::vector<Event> events = first;
  for (Event& e : events) e.bin -= 16;
  ASSERT_TRUE(with_gap->step({.sequence = 0, .events = events}));
  ASSERT_TRUE(with_steps->step({.sequence = 0, .events = events}));
  for (int i = 1; i < 9; ++i) ASSERT_TRUE(with_steps->step({.sequence = i}));
  const auto a = with_gap->step({.sequence = 9, .gap = 8});
  const auto b = with_steps->step({.sequence = 9});
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->behavior, b->behavior);
}

TEST(Stream, ARefusedFrameTakesNothing) {
  TestServer server;
  const auto clean = connect(server);
  RawClient noisy(server.port());
  ASSERT_TRUE(noisy.upgrade());
  const std::string junk[] = {"{",
                              "[]",
                              R"({"sequence_number":0,"events":[{}]})",
                              step_frame(0, event(99, 0, 1)),
                              step_frame(0, event(1, 4, 1)),
                              step_frame(0, event(1, 0, 0)),
                              step_frame(3),
                              R"({"open":5})"};
  for (int step = 0; step < 3; ++step) {
    for (std::string text : junk) {
      const auto at = text.find("\"sequence_number\":0");
      if (at != std::string::npos) text.replace(at + 18, 1, std::to_string(step));
      if (step > 0 && text.find("\"time_bin\":") != std::string::npos) continue;
      noisy.send(RawClient::frame(text));
      EXPECT_TRUE(contains(noisy.read_frame(), R"({"error":{"code":)")) << text;
    }
    noisy.send(RawClient::frame(step_frame(step, event(1, step * 4, 2))));
    const std::string answer = noisy.read_frame();
    const std::vector<Event> same{{.unit = 1, .value = 2, .bin = step * 4}};
    const auto expected = clean->step({.sequence = step, .events = same});
    ASSERT_TRUE(expected);
    char text[64];
    std::snprintf(text, sizeof text, "\"behavior\":[2,%.4g", expected->behavior[1]);
    EXPECT_TRUE(contains(answer, std::string(text).substr(0, 18))) << answer << text;
  }
}

TEST(Stream, ErrorsCarryStatusFieldAndNumber) {
  TestServer server;
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  client.send(RawClient::frame(step_frame(3)));
  const std::string jump = client.read_frame();
  EXPECT_TRUE(contains(jump, R"("code":"out_of_order")")) << jump;
  EXPECT_TRUE(contains(jump, R"("status":409,"expected":0},"sequence_number":3})")) << jump;
  client.send(RawClient::frame(step_frame(0, event(0, 9, 1))));
  const std::string bin = client.read_frame();
  EXPECT_TRUE(contains(bin, "events[0].time_bin = 9 is out of range: step 0 owns bins 0 to 3"));
  EXPECT_TRUE(contains(bin, R"("status":400)"));
  client.send(RawClient::frame("\x01\x02", 2));
  EXPECT_TRUE(contains(client.read_frame(), R"("status":415)"));
}

TEST(Stream, EventsOutsideTheirStepMayBeDroppedAndAreCounted) {
  TestServer server;
  const auto client = connect(server);
  ASSERT_TRUE(client->open({.session = {.drop_out_of_step = true}}));
  const std::vector<Event> events{{1, 1, 0}, {1, 1, 400}, {1, 1, 3}};
  const auto answer = client->step({.sequence = 0, .events = events});
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->behavior[0], 2);
  const auto summary = client->close();
  ASSERT_TRUE(summary);
  EXPECT_EQ(summary->dropped_events, 1);
  EXPECT_EQ(summary->steps, 1);
}

TEST(Stream, LateAnswersAreMarkedOrWithheldAsAskedAndCounted) {
  TestServer server;
  const auto client = connect(server);
  ASSERT_TRUE(client->open({}));
  const auto late = [&](const StreamStep& step) {
    server.engine().hold();
    EXPECT_TRUE(client->send(step));
    EXPECT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(25));
    server.engine().release();
    return client->receive().value_or_throw();
  };
  // Past the step itself: handed over, marked.
  const StreamAnswer marked = late({.sequence = 0});
  EXPECT_EQ(marked.status, StepStatus::late);
  EXPECT_EQ(marked.behavior.size(), 2U);
  // Past a deadline that the client named: withheld.
  const StreamAnswer withheld = late({.sequence = 1, .deadline_ms = 1});
  EXPECT_EQ(withheld.status, StepStatus::refused);
  EXPECT_TRUE(withheld.behavior.empty());
  const auto fresh = client->step({.sequence = 2, .deadline_ms = 60'000});
  ASSERT_TRUE(fresh);
  EXPECT_EQ(fresh->status, StepStatus::fresh);
  const auto summary = client->close();
  ASSERT_TRUE(summary);
  EXPECT_EQ(summary->steps, 3);
  EXPECT_EQ(summary->late, 1);
  EXPECT_EQ(summary->refused, 1);
}

TEST(Stream, FramesSentAheadAreAnsweredInOrderWithErrorsInTheirPlace) {
  TestServer server;
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  constexpr int kFrames = 400;
  std::string all;
  for (int i = 0; i < kFrames; ++i) {
    if (i == 200) all += RawClient::frame(step_frame(i + 5));
    all += RawClient::frame(step_frame(i, event(i % 16, i * 4, 1)));
  }
  std::thread writer([&] { client.send(all); });
  for (int i = 0; i < kFrames; ++i) {
    if (i == 200) {
      EXPECT_TRUE(contains(client.read_frame(), R"("sequence_number":205)"));
    }
    EXPECT_TRUE(client.read_frame().starts_with("{\"sequence_number\":" + std::to_string(i) + ","));
  }
  writer.join();
}

TEST(Stream, SendingAheadSlowsTheClientDownInsteadOfFailing) {
  TestServer server;
  server.engine().hold();
  RawClient client(server.port());
  ASSERT_TRUE(client.upgrade());
  for (int i = 0; i < 50; ++i) client.send(RawClient::frame(step_frame(i)));
  EXPECT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 4; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(server.engine().stats().queue_depth, 4);
  server.engine().release();
  for (int i = 0; i < 50; ++i)
    EXPECT_TRUE(contains(client.read_frame(), "\"sequence_number\":" + std::to_string(i) + ","));
}

TEST(Stream, SessionsBesideEachOtherAnswerAsAlone) {
  constexpr int kSessions = 4;
  constexpr int kSteps = 120;
  const auto play = [](TestServer& server, int seed) {
    std::vector<Behavior> answers;
    const auto client = connect(server);
    for (int i = 0; i < kSteps; ++i) {
      const auto events = some_events(i, seed);
      answers.push_back(client->step({.sequence = i, .events = events}).value_or_throw().behavior);
    }
    return answers;
  };
  std::vector<std::vector<Behavior>> alone;
  for (int s = 0; s < kSessions; ++s) {
    TestServer server;
    alone.push_back(play(server, s));
  }
  TestServer server;
  std::vector<std::vector<Behavior>> together(kSessions);
  std::vector<std::thread> threads;
  for (int s = 0; s < kSessions; ++s)
    threads.emplace_back([&, s] { together[s] = play(server, s); });
  for (auto& thread : threads) thread.join();
  for (int s = 0; s < kSessions; ++s) EXPECT_EQ(together[s], alone[s]) << "session " << s;
}

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

TEST(Stream, AServerThatPollsForAnswersSleepsOnceTheyAreThereOrOverdue) {
  ServerOptions polls;
  polls.busy_poll_us = 1'000'000;
  TestServer server({}, polls);
  TestServer sleeper;
  const auto client = connect(server), other = connect(sleeper);
  for (int i = 0; i < 50; ++i) {
    const auto events = some_events(i, 1);
    EXPECT_EQ(client->step({.sequence = i, .events = events}).value_or_throw().behavior,
              other->step({.sequence = i, .events = events}).value_or_throw().behavior);
  }
  const double answered = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_LT(cpu_seconds() - answered, 0.2);

  polls.busy_poll_us = 1'000;
  TestServer waits({}, polls);
  waits.engine().hold();
  RawClient held(waits.port());
  ASSERT_TRUE(held.upgrade());
  held.send(RawClient::frame(step_frame(0)));
  EXPECT_TRUE(eventually([&] { return waits.engine().stats().queue_depth == 1; }));
  const double overdue = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_LT(cpu_seconds() - overdue, 0.2);
  waits.engine().release();
  EXPECT_TRUE(contains(held.read_frame(), R"("sequence_number":0)"));
}

TEST(Stream, WhenAllSessionsAreTakenTheNextIs429AndWaits) {
  FakeOptions fake;
  fake.max_sessions = 1;
  TestServer server(fake);
  auto first = connect(server);
  ASSERT_TRUE(first->step({.sequence = 0}));
  const auto second = connect(server);
  const auto refused = second->step({.sequence = 0});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  EXPECT_FALSE(second->open({}));
  first.reset();  // its session goes with it
  EXPECT_TRUE(eventually([&] { return static_cast<bool>(second->step({.sequence = 0})); }));
}

TEST(Stream, AClosedSessionGivesItsPlaceBackAndItsTotals) {
  TestServer server;
  const auto client = connect(server);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(client->step({.sequence = i}));
  const auto summary = client->close();
  ASSERT_TRUE(summary) << summary.error().message;
  EXPECT_EQ(summary->steps, 5);
  EXPECT_EQ(server.engine().stats().sessions, 0);
  const auto after = client->step({.sequence = 5});
  ASSERT_FALSE(after);
  EXPECT_EQ(after.error().code, ErrorCode::unavailable);
}

TEST(Stream, ALostSessionSaysSoUntilAnotherIsOpened) {
  TestServer server;
  const auto client = connect(server);
  ASSERT_TRUE(client->step({.sequence = 0}));
  server.engine().expire_all();
  ASSERT_TRUE(eventually([&] { return server.engine().stats().sessions == 0; }));
  for (int i = 0; i < 2; ++i) {
    const auto lost = client->step({.sequence = 1});
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().code, ErrorCode::not_found);
    EXPECT_TRUE(contains(lost.error().message, "the session was lost")) << lost.error().message;
  }
  ASSERT_TRUE(client->open({}));
  EXPECT_TRUE(client->step({.sequence = 0}));
}

TEST(Stream, ASessionLostWithStepsInFlightAnswersEachOfThem) {
  TestServer server;
  const auto client = connect(server);
  ASSERT_TRUE(client->step({.sequence = 0}));
  server.engine().hold();
  for (int i = 1; i < 4; ++i) ASSERT_TRUE(client->send({.sequence = i}));
  ASSERT_TRUE(eventually([&] { return server.engine().stats().queue_depth == 3; }));
  server.engine().lose_sessions();
  server.engine().release();
  for (int i = 1; i < 4; ++i) {
    const auto lost = client->receive();
    ASSERT_FALSE(lost);
    EXPECT_EQ(lost.error().code, ErrorCode::not_found);
  }
}

}  // namespace
}  // namespace cortex::testing
