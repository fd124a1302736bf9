#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "replay_scene.h"

namespace cortex {

/// Draws a scene from a thread of its own at low priority, so that the stepping thread never waits
/// for the terminal. `full` takes the terminal over until stop(); `progress` writes a line to
/// standard error now and then.
class TerminalView {
 public:
  enum class Mode { full, progress };

  TerminalView(const ReplayTrace& trace, ViewLabels labels, Mode mode);
  ~TerminalView() { stop(); }
  TerminalView(const TerminalView&) = delete;
  TerminalView& operator=(const TerminalView&) = delete;

  /// Gives the terminal back; in full mode the last frame stays above what is printed next.
  void stop();
  /// Gives the terminal back from a signal handler, if a view has it.
  static void restore_from_signal();

 private:
  void run();
  void draw() const;

  ReplayScene scene_;
  const Mode mode_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace cortex
