// The promise of the step path: from an event's arrival to its answer no thread allocates. This
// binary replaces every allocator of the C and C++ libraries by one that counts while armed.
#include <dlfcn.h>
#include <malloc.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "cache/stream_state.h"
#include "engine_fixture.h"
#include "kernels/profiling_ops.h"
#include "model/window_model.h"
#include "record/recording_engine.h"
#include "support/narrow_model.h"
#include "support/paths.h"

// A sanitizer has an allocator of its own.
#ifdef CORTEX_SANITIZED
#define CORTEX_COUNTS_ALLOCATIONS 0
#else
#define CORTEX_COUNTS_ALLOCATIONS 1
#endif

namespace {

std::atomic<bool> armed{false};
std::atomic<std::int64_t> allocations{0};
std::atomic<std::int64_t> frees{0};
std::atomic<void*> first_caller{nullptr};
thread_local std::int64_t on_this_thread = 0;

[[maybe_unused]] void count(void* caller) {
  if (!armed.load(std::memory_order_relaxed)) return;
  void* none = nullptr;
  first_caller.compare_exchange_strong(none, caller);
  allocations.fetch_add(1, std::memory_order_relaxed);
  ++on_this_thread;
}

[[maybe_unused]] void count_free() {
  if (armed.load(std::memory_order_relaxed)) frees.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

#if CORTEX_COUNTS_ALLOCATIONS
// The GNU C library's own entry points, under the names that leave malloc free to be replaced.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);
// NOLINTEND(bugprone-reserved-identifier)

void* malloc(std::size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_malloc(bytes);
}
void* calloc(std::size_t n, std::size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_calloc(n, bytes);
}
void* realloc(void* at, std::size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_realloc(at, bytes);
}
void* memalign(std::size_t alignment, std::size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** to, std::size_t alignment, std::size_t bytes) {
  count(__builtin_return_address(0));
  *to = __libc_memalign(alignment, bytes);
  return *to != nullptr ? 0 : ENOMEM;
}
void free(void* at) {
  count_free();
  __libc_free(at);
}
}

// The standard library's would end in malloc; these know who called. The other forms call them.
void* operator new(std::size_t bytes) {
  count(__builtin_return_address(0));
  if (void* at = __libc_malloc(bytes != 0 ? bytes : 1)) return at;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  count(__builtin_return_address(0));
  if (void* at = __libc_memalign(static_cast<std::size_t>(alignment), bytes)) return at;
  throw std::bad_alloc();
}
void operator delete(void* at) noexcept { free(at); }
void operator delete(void* at, std::size_t) noexcept { free(at); }
void operator delete(void* at, std::align_val_t) noexcept { free(at); }
void operator delete(void* at, std::size_t, std::align_val_t) noexcept { free(at); }
#endif

namespace cortex::testing {
namespace {

/// Counts what all threads allocate while it lives.
class Armed {
 public:
  Armed() {
    allocations = 0;
    frees = 0;
    first_caller = nullptr;
    armed = true;
  }
  ~Armed() { armed = false; }
  Armed(const Armed&) = delete;
  Armed& operator=(const Armed&) = delete;
};

/// Where the first allocation came from, for the message of a failure.
std::string culprit() {
  Dl_info info{};
  if (first_caller.load() == nullptr || ::dladdr(first_caller, &info) == 0) return "unknown";
  std::array<char, 256> text{};
  std::snprintf(text.data(), text.size(), "%s+0x%zx (%s)", info.dli_fname,
                static_cast<std::size_t>(static_cast<char*>(first_caller.load()) -
                                         static_cast<char*>(info.dli_fbase)),
                info.dli_sname != nullptr ? info.dli_sname : "?");
  return text.data();
}

/// Counts answers; keeps the last value so that nothing is optimised away.
class Tally final : public StepSink, public WindowSink {
 public:
  void on_step(const StepAnswer& a) noexcept override { take(a.error, a.behavior); }
  void on_window(const WindowAnswer& a) noexcept override { take(a.error, a.behavior); }
  void wait_for(std::int64_t n) const {
    while (answers.load() < n) std::this_thread::yield();
  }
  std::atomic<std::int64_t> answers{0};
  std::atomic<std::int64_t> errors{0};

 private:
  void take(const Error* error, std::span<const float> behavior) {
    if (error != nullptr) errors.fetch_add(1);
    if (!behavior.empty()) last_ = behavior[0];
    answers.fetch_add(1);
  }
  std::atomic<float> last_{0};
};

#if CORTEX_COUNTS_ALLOCATIONS
#define SKIP_WITHOUT_COUNTING()
#else
#define SKIP_WITHOUT_COUNTING() \
  GTEST_SKIP() << "the sanitizer owns the allocator: allocations cannot be counted"
#endif

/// Keeps the compiler from leaving out an allocation that nothing uses.
void* used(void* at) {
  asm volatile("" : "+r"(at) : : "memory");
  return at;
}

std::int64_t count_of(const std::function<void()>& allocate) {
  const Armed counting;
  const std::int64_t before = on_this_thread;
  allocate();
  const std::int64_t here = on_this_thread - before;
  EXPECT_EQ(allocations, here);
  return here;
}

TEST(NoAllocation, TheCounterSeesEveryWayToAllocate) {
  SKIP_WITHOUT_COUNTING();
  EXPECT_EQ(count_of([] {}), 0);
  EXPECT_EQ(count_of([] { ::free(used(::malloc(8))); }), 1);
  EXPECT_EQ(count_of([] { ::free(used(::calloc(2, 8))); }), 1);
  EXPECT_EQ(count_of([] { ::free(used(::realloc(nullptr, 8))); }), 1);
  EXPECT_EQ(count_of([] { ::free(used(::aligned_alloc(64, 64))); }), 1);
  EXPECT_EQ(count_of([] { ::free(used(::memalign(64, 64))); }), 1);
  EXPECT_EQ(count_of([] {
              void* at = nullptr;
              if (::posix_memalign(&at, 64, 64) == 0) ::free(used(at));
            }),
            1);
  EXPECT_EQ(count_of([] { ::operator delete(used(::operator new(8))); }), 1);
  constexpr std::align_val_t kLine{64};
  EXPECT_EQ(count_of([] { ::operator delete(used(::operator new(64, kLine)), kLine); }), 1);
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!armed) std::this_thread::yield();
    ::free(used(::malloc(8)));
    done = true;
  });
  {
    const Armed counting;
    while (!done) std::this_thread::yield();
  }
  other.join();
  EXPECT_EQ(allocations, 1) << "that of the other thread";
  EXPECT_NE(culprit(), "unknown");
}

class NoAllocationOnSteps : public ::testing::Test {
 protected:
  static constexpr int kSessions = 5;
  static constexpr std::int64_t kWarmSteps = 50;
  static constexpr std::int64_t kSteps = 4000;

  /// A step's events: mostly a few, sometimes none, sometimes as many as a step may hold, with
  /// duplicates and out of order.
  std::vector<Event> events_of(std::int64_t step) {
    const int k = config_.bins_per_step();
    std::size_t n = random_() % 8;
    if (random_() % 10 == 0) n = 0;
    if (random_() % 50 == 0) n = static_cast<std::size_t>(config_.max_events_per_step);
    std::vector<Event> events;
    for (std::size_t i = 0; i < n; ++i)
      events.push_back(
          {static_cast<std::int32_t>(random_() % static_cast<std::uint64_t>(config_.unit_count())),
           static_cast<std::int32_t>(1 + random_() % 12),
           step * k + static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(k))});
    return events;
  }

  /// Five sessions of `steps` steps, with gaps and lost deadlines, up to three steps of each
  /// waiting at once; all but the first few are counted.
  void expect_no_allocation(Engine& engine, std::int64_t counted) {
    std::vector<SessionId> sessions;
    sessions.reserve(kSessions);
    for (int i = 0; i < kSessions; ++i)
      sessions.push_back(engine.open_session({}).value_or_throw().id);
    // What a client sends is made before the counting.
    std::vector<std::vector<Event>> events;
    std::vector<std::int64_t> gaps;
    std::int64_t step = -1;
    std::vector<std::int64_t> steps;
    for (std::int64_t n = 0; n < kWarmSteps + counted; ++n) {
      const std::int64_t gap = random_() % 40 == 0 ? static_cast<std::int64_t>(random_() % 60) : 0;
      step += gap + 1;
      gaps.push_back(gap);
      steps.push_back(step);
      events.push_back(events_of(step));
    }
    Tally tally;
    std::int64_t sent = 0;
    std::int64_t refused = 0;
    const auto run = [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t n = from; n < to; ++n) {
        const auto row = static_cast<std::size_t>(n);
        for (const SessionId id : sessions) {
          const StepRequest request = {.session = id,
                                       .sequence = steps[row],
                                       .gap = gaps[row],
                                       .events = events[row],
                                       .deadline_ns = n % 3 == 0 ? 1 : kNoDeadline,
                                       .best_effort = n % 2 == 0};
          if (engine.submit(request, tally))
            ++sent;
          else
            ++refused;
        }
        if (n % 3 == 0) tally.wait_for(sent);
      }
      tally.wait_for(sent);
    };
    run(0, kWarmSteps);
    {
      const Armed counting;
      run(kWarmSteps, kWarmSteps + counted);
      (void)engine.stats();
    }
    EXPECT_EQ(refused, 0);
    EXPECT_EQ(tally.answers, kSessions * (kWarmSteps + counted));
    EXPECT_EQ(tally.errors, 0);
    EXPECT_EQ(allocations, 0) << "the first from " << culprit();
    EXPECT_EQ(frees, 0);
  }

  ModelConfig config_ = tiny_stream_config();
  TemporaryModel file_{lively_stream_model(config_, 5)};
  std::mt19937_64 random_{7};
};

TEST_F(NoAllocationOnSteps, FromSubmitToTheSinkNoThreadAllocates) {
  SKIP_WITHOUT_COUNTING();
  const auto engine = make_engine(file_, kSessions, 3);
  expect_no_allocation(*engine, kSteps);
}

TEST_F(NoAllocationOnSteps, NorWithTwoBatchesOnTheirWayAndAComputeThreadThatPolls) {
  SKIP_WITHOUT_COUNTING();
  EngineOptions options;
  options.model_path = file_.path();
  options.max_sessions = kSessions;
  options.max_batch = 3;
  options.batches_in_flight = 2;
  options.busy_poll_us = 100;
  const auto engine = Engine::create(options).value_or_throw();
  expect_no_allocation(*engine, kSteps);
}

TEST_F(NoAllocationOnSteps, NeitherDoesAFlightRecorderBesideThem) {
  SKIP_WITHOUT_COUNTING();
  const TempDir folder;
  record::RecorderCounters counters;
  auto inner = make_engine(file_, kSessions, 3);
  auto recorder =
      record::Recorder::create(folder.file("log"), inner->model(), {}, counters).value_or_throw();
  const auto engine = record::record_sessions(std::move(inner), std::move(recorder),
                                              kSessions * EngineOptions().max_queued_steps);
  expect_no_allocation(*engine, kSteps);
  // Its thread writes now and then.
  for (int i = 0; i < 3000 && counters.written.value() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_GT(counters.written.value(), 0);
}

/// What the threads of that name have run, ns.
std::int64_t time_of_threads(const std::string& wanted) {
  std::int64_t total = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::int64_t ns = 0;
    std::ifstream(task.path() / "comm") >> name;
    std::ifstream(task.path() / "schedstat") >> ns;
    if (name == wanted) total += ns;
  }
  return total;
}

TEST_F(NoAllocationOnSteps, NeitherDoTwoThreadsThatShareAStepInAnyPrecision) {
  SKIP_WITHOUT_COUNTING();
  // Large enough that a step's linears are shared out.
  config_.dim = 128;
  config_.heads = 4;
  config_.head_dim = 32;
  config_.latents = 4;
  for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
    SCOPED_TRACE(to_string(precision));
    const TemporaryModel file(in_precision(lively_stream_model(config_, 5), precision));
    const auto engine = make_engine(file, kSessions, 3, 2);
    const std::int64_t before = time_of_threads("cortex-step");
    expect_no_allocation(*engine, kSteps / 10);
    EXPECT_GT(time_of_threads("cortex-step"), before) << "the helper had nothing to do";
  }
}

TEST_F(NoAllocationOnSteps, ClientsThatSubmitAtOnceDoNotEither) {
  SKIP_WITHOUT_COUNTING();
  const auto engine = make_engine(file_, kSessions, 3);
  std::vector<SessionId> sessions;
  sessions.reserve(kSessions);
  for (int i = 0; i < kSessions; ++i)
    sessions.push_back(engine->open_session({}).value_or_throw().id);
  std::vector<std::vector<Event>> events;
  events.reserve(500);
  for (std::int64_t n = 0; n < 500; ++n) events.push_back(events_of(n));
  std::array<Tally, kSessions> tallies;
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::atomic<int> finished{0};
  std::atomic<bool> leave{false};
  std::vector<std::thread> clients;
  for (std::size_t c = 0; c < kSessions; ++c)
    clients.emplace_back([&, c] {
      ++ready;
      while (!go) std::this_thread::yield();
      for (std::int64_t n = 0; n < 500; ++n) {
        if (!engine->submit({.session = sessions[c],
                             .sequence = n,
                             .events = events[static_cast<std::size_t>(n)]},
                            tallies[c]))
          break;
        tallies[c].wait_for(n + 1);
      }
      ++finished;
      while (!leave) std::this_thread::yield();
    });
  while (ready < kSessions) std::this_thread::yield();
  {
    const Armed counting;
    go = true;
    while (finished < kSessions) std::this_thread::yield();
  }
  leave = true;
  for (std::thread& client : clients) client.join();
  for (const Tally& tally : tallies) EXPECT_EQ(tally.answers, 500);
  EXPECT_EQ(allocations, 0) << "the first from " << culprit();
}

TEST_F(NoAllocationOnSteps, StatelessRequestsOnAStreamModelDoNotEither) {
  SKIP_WITHOUT_COUNTING();
  const auto engine = make_engine(file_, 1, 3);
  std::vector<std::vector<Event>> events;
  for (std::int64_t n = 0; n < 300; ++n) {
    std::vector<Event> window;
    for (std::int64_t s = 0; s < 1 + n % 20; ++s)
      for (const Event& e : events_of(s)) window.push_back(e);
    events.push_back(std::move(window));
  }
  Tally tally;
  {
    // Without a warm-up: every slot has its full size from the start.
    const Armed counting;
    std::int64_t sent = 0;
    for (std::size_t n = 0; n < events.size(); ++n) {
      const bool lost = n % 5 == 0;
      ASSERT_TRUE(engine->submit(
          WindowRequest{
              .events = events[n], .deadline_ns = lost ? 1 : kNoDeadline, .best_effort = lost},
          tally));
      if (++sent % 4 == 0) tally.wait_for(sent);
    }
    tally.wait_for(sent);
  }
  EXPECT_EQ(tally.errors, 0);
  EXPECT_EQ(allocations, 0) << "the first from " << culprit();
}

TEST(NoAllocation, WindowsThroughTheEngineDoNotAllocate) {
  SKIP_WITHOUT_COUNTING();
  ModelConfig c = preset_config("cortex-xs").value_or_throw();
  c.dim = 32;
  c.layers = 1;
  c.heads = 2;
  c.head_dim = 16;
  c.latents = 8;
  c.max_neurons = 20;
  c.max_bins = 64;
  c.receptive_ms = 60;
  const TemporaryModel file(random_model(c, 1));
  const auto engine = make_engine(file);
  std::mt19937_64 random(3);
  std::vector<std::vector<Event>> events;
  for (int n = 0; n < 400; ++n) {
    const std::size_t count = n % 40 == 0 ? 16384 : random() % 60;
    std::vector<Event> window;
    for (std::size_t i = 0; i < count; ++i)
      window.push_back({static_cast<std::int32_t>(random() % 20),
                        static_cast<std::int32_t>(random() % 9),
                        static_cast<std::int64_t>(random() % 64)});
    events.push_back(std::move(window));
  }
  Tally tally;
  {
    const Armed counting;
    std::int64_t sent = 0;
    for (std::size_t n = 0; n < events.size(); ++n) {
      const bool lost = n % 5 == 0;
      ASSERT_TRUE(engine->submit(
          WindowRequest{
              .events = events[n], .deadline_ns = lost ? 1 : kNoDeadline, .best_effort = lost},
          tally));
      if (++sent % 8 == 0) tally.wait_for(sent);
    }
    tally.wait_for(sent);
  }
  EXPECT_EQ(allocations, 0) << "the first from " << culprit();
}

TEST(NoAllocation, RecordingAProfileDoesNotAllocate) {
  SKIP_WITHOUT_COUNTING();
  ModelConfig c = preset_config("cortex-xs").value_or_throw();
  c.dim = 32;
  c.layers = 3;
  c.heads = 2;
  c.head_dim = 16;
  c.latents = 8;
  c.max_neurons = 20;
  c.max_bins = 64;
  const ModelFile file = random_model(c, 1);
  const auto inner = make_reference_ops();
  ProfilingOps ops(*inner);
  WindowModel model(file, ops, 1, 64);
  std::vector<Event> events(30);
  for (int e = 0; e < 30; ++e) events[static_cast<std::size_t>(e)] = {e % 20, 1, e};
  ops.record(true);
  {
    const Armed counting;
    model.begin_batch(1, 30).add_window(events, 64);
    (void)model.forward();
  }
  EXPECT_EQ(ops.forwards(), 1);
  EXPECT_EQ(allocations, 0) << "the first from " << culprit();
}

}  // namespace
}  // namespace cortex::testing
