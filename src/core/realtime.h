#pragma once

#include <cortex/realtime.h>

#include <string>
#include <vector>

/// What real-time mode asks of the system. Every function tries, reports and goes on.
///
///     std::thread([&] { grants = make_this_thread_realtime(compute_cores(1).front()); ... });
///     grants.push_back(prefault_memory());
///     grants.push_back(lock_memory());     // last: what exists by now is what gets locked
///     for (const RealtimeGrant& g : grants) puts(to_line(g).c_str());
namespace cortex {

/// Of the threads that compute. Below 50, where kernels with threaded interrupts run those: the
/// network's must not starve behind a forward.
inline constexpr int kRealtimePriority = 40;

/// A core for each of `threads` computing threads, from those that this process may run on. The
/// lowest is left to the network and everything else, and comes last where all are needed; cores
/// repeat where there are too few.
std::vector<int> compute_cores(int threads);

/// Pins the calling thread to `core`, asks for SCHED_FIFO, ends its timer slack and touches its
/// stack. Threads that it starts afterwards inherit the core but not the priority.
std::vector<RealtimeGrant> make_this_thread_realtime(int core);

/// Makes every page of the process resident, so that none faults on first use.
RealtimeGrant prefault_memory();

/// Locks the process's memory: what it has and, where no limit could make a later allocation fail,
/// what it will have.
RealtimeGrant lock_memory();

/// "realtime: scheduler: granted: SCHED_FIFO, priority 40"
std::string to_line(const RealtimeGrant& grant);

}  // namespace cortex
