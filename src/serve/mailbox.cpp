#include "serve/mailbox.h"

#include <cortex/result.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

namespace cortex {

Mailbox::Mailbox() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) throw Exception{{ErrorCode::io_error, "cannot create an eventfd", ""}};
}

Mailbox::~Mailbox() { ::close(fd_); }

void Mailbox::post(Item& item, bool wakes) noexcept {
  Item* head = head_.load(std::memory_order_relaxed);
  do {
    item.next_ = head;
  } while (!head_.compare_exchange_weak(head, &item, std::memory_order_release,
                                        std::memory_order_relaxed));
  if (head != nullptr) return;  // whoever found the list empty wakes the reader
  owes_wake_.store(true);
  if (wakes) wake();
}

void Mailbox::wake() noexcept {
  if (!owes_wake_.load() || !owes_wake_.exchange(false)) return;
  const std::uint64_t one = 1;
  // Fails only when the counter is about to overflow, and then the descriptor is readable anyway.
  [[maybe_unused]] const auto written = ::write(fd_, &one, sizeof one);
}

void Mailbox::deliver_all() {
  std::uint64_t count = 0;
  // Emptied before the list is taken: an item posted in between wakes the reader again.
  [[maybe_unused]] const auto got = ::read(fd_, &count, sizeof count);
  Item* newest = head_.exchange(nullptr, std::memory_order_acquire);
  Item* oldest = nullptr;
  while (newest != nullptr) {
    Item* next = newest->next_;
    newest->next_ = oldest;
    oldest = newest;
    newest = next;
  }
  while (oldest != nullptr) {
    Item* item = oldest;
    oldest = oldest->next_;
    item->deliver();  // may post the item again or destroy it
  }
}

}  // namespace cortex
