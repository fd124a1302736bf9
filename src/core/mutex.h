#pragma once

#include <pthread.h>

#include <mutex>

#include "core/thread.h"

namespace cortex {

/// A mutex whose holder, if `inherits`, runs at the priority of whoever waits for it: a client that
/// is preempted while it holds the lock cannot keep a real-time thread waiting behind others' work.
/// Such a lock is handed to the thread that sleeps longest, which must first wake up, so many
/// clients at once get it much less often than one that whoever runs may take. Use with
/// std::lock_guard and std::unique_lock.
class PriorityMutex {
 public:
  explicit PriorityMutex(bool inherits);
  ~PriorityMutex() { pthread_mutex_destroy(&mutex_); }
  PriorityMutex(const PriorityMutex&) = delete;
  PriorityMutex& operator=(const PriorityMutex&) = delete;
  /// Tries for a microsecond or two before it sleeps: those who hold it do so for less.
  void lock() {
    for (int i = 0; i < kTries; ++i) {
      if (pthread_mutex_trylock(&mutex_) == 0) return;
      relax_cpu();
    }
    pthread_mutex_lock(&mutex_);
  }
  void unlock() { pthread_mutex_unlock(&mutex_); }
  pthread_mutex_t* native_handle() { return &mutex_; }

 private:
  static constexpr int kTries = 50;
  pthread_mutex_t mutex_;
};

/// A condition variable for it.
class PriorityCondition {
 public:
  PriorityCondition() = default;
  ~PriorityCondition() { pthread_cond_destroy(&condition_); }
  PriorityCondition(const PriorityCondition&) = delete;
  PriorityCondition& operator=(const PriorityCondition&) = delete;
  template <class Predicate>
  void wait(std::unique_lock<PriorityMutex>& lock, Predicate done) {
    while (!done()) pthread_cond_wait(&condition_, lock.mutex()->native_handle());
  }
  void notify_one() { pthread_cond_signal(&condition_); }
  void notify_all() { pthread_cond_broadcast(&condition_); }

 private:
  pthread_cond_t condition_ = PTHREAD_COND_INITIALIZER;
};

}  // namespace cortex
