#pragma once

#include <pthread.h>

#include <mutex>

namespace cortex {

/// A mutex whose holder runs at the priority of whoever waits for it: a client that is preempted
/// while it holds the lock cannot keep a real-time thread waiting behind others' work. Use with
/// std::lock_guard and std::unique_lock.
class PriorityMutex {
 public:
  PriorityMutex();
  ~PriorityMutex() { pthread_mutex_destroy(&mutex_); }
  PriorityMutex(const PriorityMutex&) = delete;
  PriorityMutex& operator=(const PriorityMutex&) = delete;
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }
  pthread_mutex_t* native_handle() { return &mutex_; }

 private:
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
