#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "load_events.h"
#include "load_options.h"
#include "load_poller.h"
#include "load_port.h"

namespace cortex {

/// What a load runs against: a server, or an engine in this process.
class LoadTarget {
 public:
  struct Opened {
    std::vector<std::unique_ptr<LoadPort>> ports = {};
    std::map<std::string, int> refused = {};  ///< sessions refused at the door, by code
    std::string refused_because = {};         ///< the first message
  };

  virtual ~LoadTarget() = default;
  const LoadFacts& facts() const { return facts_; }
  /// Opens as many sessions, or connections for windows. The ports outlive neither the poller nor
  /// the target. Throws Exception where not even one could be opened for another reason.
  virtual Opened open(LoadPoller& poller, LoadEvents& events, int ports) = 0;
  /// As many ports as `like` to a bare echo: of the bytes of one request and its reply, or of a
  /// hand-over between threads. Throws Exception.
  virtual Opened open_echo(LoadPoller& poller, LoadEvents& events, int ports) = 0;

 protected:
  LoadFacts facts_;
};

/// Throws Exception.
std::unique_ptr<LoadTarget> make_server_target(const LoadOptions& options);
std::unique_ptr<LoadTarget> make_engine_target(const LoadOptions& options);

}  // namespace cortex
