#include "core/realtime.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <thread>

#include "core/mutex.h"

namespace cortex::testing {
namespace {

int allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  ::sched_getaffinity(0, sizeof set, &set);
  return CPU_COUNT(&set);
}

/// Runs `body` in a child process without rights: neither capabilities nor limits.
int without_rights(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    ::setrlimit(RLIMIT_RTPRIO, &none);
    ::setrlimit(RLIMIT_MEMLOCK, &none);
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(77);
    ::_exit(body() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Realtime, ComputingThreadsHaveCoresOfTheirOwnAndTheLowestComesLast) {
  const int allowed = allowed_cores();
  const auto cores = compute_cores(allowed);
  EXPECT_EQ(std::set<int>(cores.begin(), cores.end()).size(), static_cast<std::size_t>(allowed));
  EXPECT_EQ(cores.back(), *std::min_element(cores.begin(), cores.end()));
  const auto more = compute_cores(allowed + 1);
  EXPECT_EQ(more.back(), more.front()) << "cores repeat where there are too few";
}

TEST(Realtime, TheThreadIsPinnedWhereTheReportSaysSo) {
  std::thread([] {
    const int core = compute_cores(1).front();
    const auto grants = make_this_thread_realtime(core);
    ASSERT_EQ(grants.size(), 4U);
    EXPECT_EQ(grants[0].what, "core");
    EXPECT_TRUE(grants[0].granted) << grants[0].detail;
    EXPECT_EQ(::sched_getcpu(), core);
    EXPECT_EQ(allowed_cores(), 1);
    EXPECT_EQ(grants[1].what, "scheduler");
    EXPECT_EQ((::sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_FIFO, grants[1].granted);
  }).join();
}

TEST(Realtime, ACoreThatDoesNotExistIsRefused) {
  std::thread([] {
    const auto grants = make_this_thread_realtime(CPU_SETSIZE - 1);
    EXPECT_FALSE(grants[0].granted);
    EXPECT_NE(grants[0].detail.find(std::to_string(CPU_SETSIZE - 1)), std::string::npos);
  }).join();
}

TEST(Realtime, ARefusalSaysWhyAndWhatWouldChangeIt) {
#ifdef CORTEX_SANITIZED
  GTEST_SKIP() << "the sanitizer answers mlockall itself";
#endif
  const int code = without_rights([] {
    const auto thread = make_this_thread_realtime(compute_cores(1).front());
    const RealtimeGrant memory = lock_memory();
    return !thread[1].granted &&
           to_line(thread[1]) ==
               "realtime: scheduler refused: SCHED_FIFO: Operation not permitted; needs "
               "CAP_SYS_NICE or an rtprio limit of at least 40 (now 0)" &&
           !memory.granted &&
           memory.detail.find("needs CAP_IPC_LOCK or a memlock limit of at least") !=
               std::string::npos;
  });
  if (code == 77) GTEST_SKIP() << "this process may not give up its rights";
  EXPECT_EQ(code, 0);
}

TEST(Realtime, MemoryIsLockedWhereTheReportSaysSo) {
#ifdef CORTEX_SANITIZED
  GTEST_SKIP() << "the sanitizer's own mappings are too large to lock";
#endif
  const RealtimeGrant prefault = prefault_memory();
  EXPECT_FALSE(prefault.detail.empty());
  const RealtimeGrant lock = lock_memory();
  if (lock.granted) {
    EXPECT_EQ(lock.detail.find("0 MB"), std::string::npos) << lock.detail;
  }
  ::munlockall();
}

class PriorityMutexTest : public ::testing::TestWithParam<bool> {};

TEST_P(PriorityMutexTest, GuardsAndWakesLikeAnyOther) {
  PriorityMutex mutex(GetParam());
  PriorityCondition changed;
  int turns = 0;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return turns % 2 == 1; });
      ++turns;
      changed.notify_one();
    }
  });
  for (int i = 0; i < 1000; ++i) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return turns % 2 == 0; });
    ++turns;
    changed.notify_one();
  }
  other.join();
  EXPECT_EQ(turns, 2000);
}
INSTANTIATE_TEST_SUITE_P(Inherits, PriorityMutexTest, ::testing::Bool());

}  // namespace
}  // namespace cortex::testing
