#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "scheduler/batch_former.h"
#include "scheduler/cost_model.h"
#include "scheduler/ready_queue.h"
#include "scheduler/step_queue.h"
#include "scheduler/tenants.h"

namespace cortex {

struct SchedulerOptions {
  bool fifo = false;  ///< in order of arrival and without admission, to compare with
  int max_batch = 16;
  int max_windows = 256;  ///< waiting
  int max_streams = 0;    ///< that may have a step ready
  int max_tenants = 1;
  int max_tenant_windows = 0;   ///< 0: only its fair share of max_windows
  int max_tenant_sessions = 0;  ///< 0: no limit
  double max_utilisation = 1;   ///< share of the capacity that step rates may reserve
  double max_tenant_utilisation = 1;
  /// Share of the device that work without a promise gets while there is work with one.
  double background_share = 0.05;
  TimeNs tenant_active_ns = 1'000'000'000;
};

/// A stateless request at the door.
struct WindowOffer {
  std::uint64_t key = 0;
  TimeNs deadline = kNever;
  std::int32_t keys = 0;      ///< events of one forward
  std::int32_t forwards = 1;  ///< on a stream model the steps of the window
  std::uint32_t tenant = 0;
  bool best_effort = false;
};

enum class Verdict {
  taken,
  misses,      ///< it is predicted to miss, or would make what was taken miss
  full,        ///< too many windows are waiting
  tenant_full  ///< its tenant holds its share of the places, or of the time up to the deadline
};

/// The next step of a session is ready.
struct StepOffer {
  std::uint64_t key = 0;
  TimeNs arrived = 0;
  TimeNs deadline = kNever;
  std::int32_t keys = 0;
  std::int32_t forwards = 1;
};

/// Decides what runs next and what is refused. Pure: time is passed in, nothing is locked, and
/// after construction nothing allocates, so that an engine and a simulation run the same code.
///
/// Earliest deadline first, without waiting: next_steps() or next_windows() forms a batch whenever
/// the device is free, or ahead of that, to follow the batch in flight. Windows are taken only if
/// the forecast of the whole queue holds with them, for them and for all that was taken before.
/// Steps are never refused: their sessions were admitted by rate, and one that sends faster, or
/// whose deadline is lost, is put behind those that are in time (StepQueue): where the machine does
/// less than was predicted, few sessions bear that, in turn. Quotas are fair shares: of n active
/// tenants one may hold 1/n of the time up to a deadline and of the places in the queue, so none is
/// shut out by another's short deadlines.
class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, CostModel cost);

  enum class Door { open, over_capacity, behind, over_tenant_share, too_many_sessions };
  struct Reservation {
    Door door = Door::open;
    double reserved_hz = 0;  ///< by others, or by its tenant's others
    double capacity_hz = 0;
    double behind_hz = 0;  ///< of sessions that the device does not keep up with
  };
  /// Admits a session: what it reserved is counted until release_session(). Nothing changes where
  /// the door is not open. However much is predicted to fit, none is admitted while others are
  /// behind for longer than a stall explains.
  Reservation admit_session(const StepFlow& flow, TimeNs now);
  void release_session(const StepFlow& flow);

  Verdict offer(const WindowOffer& window, TimeNs now);
  /// A window was answered, given up or withdrawn.
  void release_window(std::uint32_t tenant) { --tenants_[tenant].windows; }
  void push_step(const StepOffer& step, StepFlow& flow);
  /// Takes out a session's ready step.
  void erase_step(std::uint64_t key) {
    steps_.erase_if([key](const Work& work) { return work.key == key; });
  }
  /// Takes out every ready step, and what begun windows still needed.
  template <class Each>
  void drain_steps(Each each) {
    steps_.erase_if([&](const Work& work) {
      window_forwards_ -= work.window ? work.forwards : 0;
      each(work);
      return true;
    });
  }
  /// Takes out waiting windows; how many.
  template <class Gone>
  int erase_windows(Gone gone) {
    return windows_.erase_if(gone);
  }

  /// To start at `now`, or behind the one batch that is in flight; valid until the next call.
  /// Batches of windows, for a window model.
  const FormedBatch& next_windows(TimeNs now);
  /// Batches of steps, for a stream model.
  const FormedBatch& next_steps(TimeNs now);
  /// Up to `places` windows that a stream model begins to run as streams of their own.
  const FormedBatch& begin_windows(int places, TimeNs now);
  /// Work of a stream needs its next forward: a window that has begun, a step with a gap. Its key
  /// and forwards are what they are now.
  void resume(const Work& work) { steps_.push(work); }
  /// Work that was taken will not be resumed, whatever forwards it still needed.
  void abandon(const Work& work) { window_forwards_ -= work.window ? work.forwards - 1 : 0; }
  /// The earliest batch in flight has been answered.
  void finished(TimeNs now);
  /// It was not: its computation failed, and says nothing of what one takes.
  void failed() { in_flight_.pop_front(); }

  bool steps_ready() const { return !steps_.empty(); }
  std::size_t ready_steps() const { return steps_.size(); }
  bool windows_waiting() const { return !windows_.empty(); }
  std::size_t waiting() const { return windows_.size(); }
  bool known(std::uint32_t tenant) const { return tenants_.known(tenant); }
  const CostModel& cost() const { return cost_; }
  double reserved_hz() const { return reserved_hz_; }
  double behind_hz() const { return steps_.behind_hz(); }
  /// Rows a second, where no batch takes longer than half of `period`.
  double capacity_hz(int streams, TimeNs period) const;

 private:
  struct Flight {
    int rows;
    std::int64_t keys;
    TimeNs started;
    TimeNs predicted;
  };
  /// Batches in flight, in the order of their dispatch; two at most.
  class Flights {
   public:
    bool empty() const { return count_ == 0; }
    const Flight& front() const { return flights_[0]; }
    void push_back(const Flight& flight) { flights_.at(count_++) = flight; }
    void pop_front() {
      if (count_ > 0 && --count_ > 0) flights_[0] = flights_[1];
    }

   private:
    std::array<Flight, 2> flights_ = {};
    std::size_t count_ = 0;
  };

  /// The forecast of the waiting windows holds with `work` among them.
  Verdict forecast(const Work& work, TimeNs now) const;
  /// When the device has done what is in flight.
  TimeNs free_at(TimeNs now) const { return in_flight_.empty() ? now : std::max(now, busy_until_); }
  /// When it has also done the windows that it has begun.
  TimeNs windows_start(TimeNs now) const;
  /// When work that has no promise is due, so that it gets its share and no more.
  TimeNs background_due(std::uint32_t tenant, TimeNs cost, TimeNs now);
  /// What form_batch() left in batch_ is in flight.
  const FormedBatch& dispatched(TimeNs now);
  /// How much longer than alone windows take beside what sessions have reserved.
  double stretch() const;

  SchedulerOptions options_;
  CostModel cost_;
  Tenants tenants_;
  WorkList windows_;
  StepQueue steps_;
  FormedBatch batch_;
  FormedBatch begun_;
  Flights in_flight_;
  TimeNs finished_ = -1;   // the last batch
  TimeNs busy_until_ = 0;  // predicted, of all in flight
  int sessions_ = 0;
  double reserved_hz_ = 0;
  double fastest_hz_ = 0;             // of the open sessions
  std::int64_t window_forwards_ = 0;  // that begun windows still need
};

}  // namespace cortex
