#pragma once

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <utility>

#include "train/process_group.h"

/// What c10d's groups have in common; for their sources alone, built with USE_DISTRIBUTED.
namespace cortex::train {

/// What `body` returns; what c10d throws becomes Exception unavailable.
template <class Body>
auto together(Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (const Exception&) {
    throw;
  } catch (const std::exception& e) {
    throw Exception{
        {ErrorCode::unavailable, fmt::format("another rank is gone: {}", e.what()), "rank"}};
  }
}

class C10dPending final : public ProcessGroup::Pending {
 public:
  explicit C10dPending(c10::intrusive_ptr<c10d::Work> work) : work_(std::move(work)) {}
  void wait() override {
    together([&] { work_->wait(); });
  }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
};

/// A connection to where ranks find each other: torchrun's own store, or one that rank 0 serves
/// from its `first` connection on.
inline c10::intrusive_ptr<c10d::Store> connect(const RankEnvironment& environment,
                                               std::chrono::milliseconds timeout, bool first) {
  const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  const bool served = agent != nullptr && std::string_view(agent) == "True";
  c10d::TCPStoreOptions options;
  options.port = static_cast<std::uint16_t>(environment.master_port);
  options.isServer = first && !served && environment.rank == 0;
  options.waitWorkers = first && !served;
  options.numWorkers = static_cast<std::size_t>(environment.ranks);
  options.timeout = timeout;
  // As in PyTorch itself: not every LibTorch from 2.4 on was built with libuv.
  const char* libuv = std::getenv("USE_LIBUV");
  [&](auto& o) {
    if constexpr (requires { o.useLibUV; }) o.useLibUV = !libuv || std::string_view(libuv) != "0";
  }(options);
  // What an earlier attempt of torchrun's left is of no concern.
  const char* attempt = std::getenv("TORCHELASTIC_RESTART_COUNT");
  return c10::make_intrusive<c10d::PrefixStore>(
      fmt::format("cortex/{}", attempt == nullptr ? "0" : attempt),
      c10::make_intrusive<c10d::TCPStore>(environment.master_address, options));
}

std::unique_ptr<ProcessGroup> gloo_group(const RankEnvironment& environment,
                                         std::chrono::milliseconds timeout);
std::unique_ptr<ProcessGroup> nccl_group(const RankEnvironment& environment, torch::Device device,
                                         std::chrono::milliseconds timeout);

}  // namespace cortex::train
