#pragma once

#include <atomic>

namespace cortex {

/// From the compute thread to the network thread: an intrusive list and one wake-up, so that an
/// answer is handed over without an allocation or a lock.
class Mailbox {
 public:
  /// Posted at most once at a time.
  class Item {
   public:
    virtual ~Item() = default;
    /// Runs on the network thread.
    virtual void deliver() = 0;

   private:
    friend class Mailbox;
    Item* next_ = nullptr;
  };

  Mailbox();
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// Any thread. Wakes the reader, or with `wakes` false leaves that to wake(), which must follow.
  void post(Item& item, bool wakes = true) noexcept;
  /// Wakes the reader if something was posted that has not woken it.
  void wake() noexcept;
  /// Readable when there is something to deliver.
  int fd() const { return fd_; }
  /// Network thread: delivers everything posted so far, in order.
  void deliver_all();

 private:
  std::atomic<Item*> head_{nullptr};
  std::atomic<bool> owes_wake_{false};
  int fd_ = -1;
};

}  // namespace cortex
