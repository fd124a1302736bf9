#include "core/log_writer.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <thread>
#include <utility>

#include "core/thread.h"

namespace cortex::log {
namespace {

constexpr std::size_t kMostLines = 8192;
constexpr std::chrono::milliseconds kLastPatience{1000};

bool write_all(int fd, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const auto n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

struct Writer::State {
  explicit State(int descriptor) : fd(descriptor) {}
  const int fd;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::string> lines;
  bool busy = false;
  bool stopping = false;
  std::atomic<std::int64_t> lost{0};
};

Writer::Writer(int fd) : state_(std::make_shared<State>(fd)) {
  std::thread([state = state_] { run(state); }).detach();
}

Writer::~Writer() {
  flush(kLastPatience);
  const std::lock_guard lock(state_->mutex);
  state_->stopping = true;
  state_->changed.notify_all();
}

void Writer::run(const std::shared_ptr<State>& state) {
  name_this_thread("cortex-log");
  // A reader that went away is an error of write(), not the end of the process.
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
  std::unique_lock lock(state->mutex);
  for (;;) {
    state->changed.wait(lock, [&] { return state->stopping || !state->lines.empty(); });
    if (state->stopping) return;
    const std::string line = std::move(state->lines.front());
    state->lines.pop_front();
    state->busy = true;
    lock.unlock();
    if (!write_all(state->fd, line)) state->lost.fetch_add(1, std::memory_order_relaxed);
    lock.lock();
    state->busy = false;
    if (state->lines.empty()) state->changed.notify_all();
  }
}

void Writer::put(std::string line) {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->lines.size() >= kMostLines) {
      state_->lost.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    state_->lines.push_back(std::move(line));
  }
  state_->changed.notify_all();
}

void Writer::flush(std::chrono::milliseconds patience) {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_for(lock, patience, [&] { return state_->lines.empty() && !state_->busy; });
}

std::int64_t Writer::lost() const { return state_->lost.load(std::memory_order_relaxed); }

}  // namespace cortex::log
