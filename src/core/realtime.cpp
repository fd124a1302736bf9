#include "core/realtime.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/thread.h"

namespace cortex {
namespace {

// Older C libraries have no names for these (Linux 5.14).
constexpr int kPopulateRead = 22;
constexpr int kPopulateWrite = 23;
// A larger mapping is somebody's reserve of addresses, not memory in use; the engine's own buffers
// have all been written.
constexpr std::uint64_t kLargestMapping = std::uint64_t{1} << 30;
constexpr std::size_t kStackBytes = 256 * 1024;
constexpr double kMb = 1024.0 * 1024.0;

std::string why(int error) { return std::strerror(error); }

std::string limit_text(rlim_t limit, double unit, const char* name) {
  if (limit == RLIM_INFINITY) return "unlimited";
  return fmt::format("{:.0f}{}", static_cast<double>(limit) / unit, name);
}

bool has_capability(unsigned capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  return (data[capability / 32].effective >> (capability % 32) & 1U) != 0;
}

/// A "VmXxx:" line of /proc/self/status in MB; 0 where there is none.
double status_mb(const std::string& name) {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    double kb = 0;
    if (word == name + ":" && status >> kb) return kb / 1024;
    status.ignore(4096, '\n');
  }
  return 0;
}

/// Raises the soft limit to the hard one, which needs no right.
rlimit lifted_limit(decltype(RLIMIT_MEMLOCK) resource) {
  rlimit limit{};
  ::getrlimit(resource, &limit);
  if (limit.rlim_cur != limit.rlim_max) {
    rlimit lifted = {limit.rlim_max, limit.rlim_max};
    if (::setrlimit(resource, &lifted) == 0) return lifted;
  }
  return limit;
}

RealtimeGrant pin(int core) {
  cpu_set_t before;
  CPU_ZERO(&before);
  ::sched_getaffinity(0, sizeof before, &before);
  if (!pin_this_thread(core))
    return {"core", false, fmt::format("core {} is not among those this process may use", core)};
  return {"core", true,
          fmt::format("pinned to core {}{}", core,
                      CPU_COUNT(&before) > 1 ? "" : ", the only one: shared with the network")};
}

RealtimeGrant ask_for_fifo() {
  const rlimit limit = lifted_limit(RLIMIT_RTPRIO);
  sched_param parameters{};
  parameters.sched_priority = kRealtimePriority;
  // Reset on fork: a thread that a backend starts must not compete with this one unasked.
  if (::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameters) == 0)
    return {"scheduler", true, fmt::format("SCHED_FIFO, priority {}", kRealtimePriority)};
  return {"scheduler", false,
          fmt::format("SCHED_FIFO: {}; needs CAP_SYS_NICE or an rtprio limit of at least {} (now "
                      "{})",
                      why(errno), kRealtimePriority, limit_text(limit.rlim_cur, 1, ""))};
}

RealtimeGrant end_timer_slack() {
  // 1 ns is the least: 0 would set the default again.
  if (::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL) == 0) return {"timer_slack", true, "1 ns"};
  return {"timer_slack", false, why(errno)};
}

[[gnu::noinline]] RealtimeGrant touch_stack() {
  volatile char stack[kStackBytes];
  for (std::size_t i = 0; i < kStackBytes; i += 1024) stack[i] = 0;
  return {"stack", true, fmt::format("{} KB touched", sizeof stack / 1024)};
}

struct Mapping {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool writable = false;
};

/// The mappings of this process whose pages a step could fault on.
std::vector<Mapping> mappings() {
  std::vector<Mapping> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    Mapping m;
    char dash = 0;
    std::string access;
    std::istringstream fields(line);
    fields >> std::hex >> m.begin >> dash >> m.end >> access;
    if (!fields || access.size() < 4 || access[0] != 'r' || access[3] != 'p') continue;
    if (line.find("[v") != std::string::npos || m.end - m.begin > kLargestMapping) continue;
    m.writable = access[1] == 'w';
    found.push_back(m);
  }
  return found;
}

}  // namespace

std::vector<int> compute_cores(int threads) {
  std::vector<int> allowed;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &set)) allowed.push_back(core);
  if (allowed.empty()) allowed.push_back(0);
  std::rotate(allowed.begin(), allowed.begin() + 1, allowed.end());
  std::vector<int> cores;
  cores.reserve(static_cast<std::size_t>(threads));
  for (int i = 0; i < threads; ++i)
    cores.push_back(allowed[static_cast<std::size_t>(i) % allowed.size()]);
  return cores;
}

std::vector<RealtimeGrant> make_this_thread_realtime(int core) {
  return {pin(core), ask_for_fifo(), end_timer_slack(), touch_stack()};
}

RealtimeGrant prefault_memory() {
  const double before = status_mb("VmRSS");
  int populated = 0;
  int error = 0;
  for (const Mapping& m : mappings()) {
    auto* const at = reinterpret_cast<void*>(m.begin);
    if (::madvise(at, m.end - m.begin, m.writable ? kPopulateWrite : kPopulateRead) == 0)
      ++populated;
    else
      error = errno;
  }
  // Single mappings may refuse (a device's, say); all of them do on an older kernel.
  if (populated == 0)
    return {"prefault", false,
            fmt::format("{}; needs Linux 5.14, pages fault on first use", why(error))};
  return {"prefault", true,
          fmt::format("{:.0f} MB resident, {:.0f} before", status_mb("VmRSS"), before)};
}

RealtimeGrant lock_memory() {
  const rlimit limit = lifted_limit(RLIMIT_MEMLOCK);
  // Under a finite limit a lock on all that is to come would make some later allocation fail.
  const bool endless = limit.rlim_cur == RLIM_INFINITY || has_capability(CAP_IPC_LOCK);
  if (::mlockall(endless ? MCL_CURRENT | MCL_FUTURE : MCL_CURRENT) == 0)
    return {"memory_lock", true,
            fmt::format("{:.0f} MB{}", status_mb("VmLck"),
                        endless ? " and all to come"
                                : fmt::format("; what is allocated later is not, under a memlock "
                                              "limit of {}",
                                              limit_text(limit.rlim_cur, kMb, " MB")))};
  return {"memory_lock", false,
          fmt::format("{}; needs CAP_IPC_LOCK or a memlock limit of at least {:.0f} MB (now {})",
                      why(errno), status_mb("VmSize"), limit_text(limit.rlim_cur, kMb, " MB"))};
}

std::string to_line(const RealtimeGrant& grant) {
  return fmt::format("realtime: {} {}: {}", grant.what, grant.granted ? "granted" : "refused",
                     grant.detail);
}

}  // namespace cortex
