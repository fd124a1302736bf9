#pragma once

#include <string>
#include <vector>

#include "model/forward.h"
#include "model/weights.h"

/// Models that decode nothing, so that what is left of a request's time is the server's own. They
/// have names instead of files: `identity` (a stream model) and `identity-window`.
///
/// Output 0 is the spikes of the step or window. Output 1 mixes the step's number and the events of
/// its receptive steps (of the window) into a whole number below 2^24, exact in float32, so that a
/// lost, doubled or misplaced event shows.
namespace cortex {

bool is_identity_name(const std::string& name);

/// The configuration, without a tensor. `name`: one of the above.
ModelFile identity_model(const std::string& name);

class IdentityStream final : public StreamForward {
 public:
  /// `capacity`: most steps a forward takes.
  explicit IdentityStream(int capacity);
  void launch(int lane) override;
  std::span<const float> finish(int lane) override;
  void warm_up() override {}

 private:
  std::vector<StreamEvent> events_;
  std::vector<float> y_;  // [capacity, 2]
};

class IdentityWindow final : public WindowForward {
 public:
  IdentityWindow(int capacity, std::int64_t max_events);
  std::span<const float> forward() override;
  void warm_up() override {}

 private:
  void lay_out_batch(std::int64_t windows, std::int64_t events) override;

  std::vector<double> room_;  // of the batch
  std::vector<float> y_;      // [capacity, 2]
};

}  // namespace cortex
