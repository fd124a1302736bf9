#include "terminal_view.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string_view>
#include <utility>

#include "core/thread.h"

namespace cortex {
namespace {

constexpr auto kFramePeriod = std::chrono::milliseconds(40);
constexpr auto kLinePeriod = std::chrono::seconds(2);
constexpr std::string_view kEnter = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
constexpr std::string_view kLeave = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
constexpr int kRendererNice = 10;

std::atomic<bool> terminal_taken{false};

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

winsize terminal_size() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    size.ws_col = 80;
    size.ws_row = 24;
  }
  return size;
}

}  // namespace

TerminalView::TerminalView(const ReplayTrace& trace, ViewLabels labels, Mode mode)
    : scene_(trace, std::move(labels)), mode_(mode) {
  if (mode_ == Mode::full) {
    terminal_taken = true;
    write_all(kEnter);
  }
  thread_ = std::thread([this] { run(); });
}

void TerminalView::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  scene_.advance();
  if (mode_ != Mode::full) return;
  if (terminal_taken.exchange(false)) write_all(kLeave);
  const winsize size = terminal_size();
  std::string last;
  for (const std::string& line : scene_.frame(size.ws_col, std::min<int>(size.ws_row - 1, 24)))
    last += line + "\n";
  write_all(last);
}

void TerminalView::restore_from_signal() {
  if (terminal_taken.exchange(false)) write_all(kLeave);
}

void TerminalView::run() {
  name_this_thread("cortex-view");
  // Of this thread alone: Linux keeps niceness by thread. A refusal costs nothing.
  ::setpriority(PRIO_PROCESS, 0, kRendererNice);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    wake_.wait_for(lock, mode_ == Mode::full ? std::chrono::milliseconds(kFramePeriod)
                                             : std::chrono::milliseconds(kLinePeriod));
    if (stopping_) return;
    lock.unlock();
    scene_.advance();
    draw();
    lock.lock();
  }
}

void TerminalView::draw() const {
  if (mode_ == Mode::progress) {
    std::fputs((scene_.progress() + "\n").c_str(), stderr);
    return;
  }
  const winsize size = terminal_size();
  std::string text = "\x1b[H";
  const auto lines = scene_.frame(size.ws_col, size.ws_row);
  for (std::size_t i = 0; i < lines.size(); ++i)
    text += (i == 0 ? "\x1b[2K" : "\r\n\x1b[2K") + lines[i];
  text += "\x1b[J";
  write_all(text);
}

}  // namespace cortex
