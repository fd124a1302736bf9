#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>

#include "commands.h"
#include "core/clock.h"
#include "core/log.h"
#include "data/nwb.h"
#include "data/prepare.h"
#include "realtime_report.h"
#include "replay_decoder.h"
#include "replay_report.h"
#include "serve/server.h"
#include "terminal_view.h"

namespace cortex {
namespace {

constexpr TimeNs kSecond = 1'000'000'000;
constexpr TimeNs kLeadIn = kSecond / 20;  // between opening the session and its first bin
constexpr int kInterrupted = 130;

struct ReplayFlags {
  std::string nwb;
  std::string split = "val";
  std::string model;
  std::string url;
  std::string api_key_file;
  std::string speed = "1";
  std::string view;
  std::string target;
  std::string split_by;
  std::string out;
  std::string events;
  double deadline_ms = 0;
  double seconds = 0;
  std::int64_t max_steps = 0;
  bool allow_missing_units = false;
  bool realtime = false;
  bool json = false;

  /// 0: as fast as answers come.
  double pace() const { return speed == "max" ? 0 : std::atof(speed.c_str()); }
};

std::atomic<bool> stop_asked{false};

extern "C" void ask_stop(int) {
  if (stop_asked.exchange(true)) {
    TerminalView::restore_from_signal();
    ::_exit(kInterrupted);
  }
}

/// While it lives SIGINT and SIGTERM end the replay after the step in hand; a second one at once.
class StopOnSignal {
 public:
  StopOnSignal() {
    stop_asked = false;
    struct sigaction action {};
    action.sa_handler = ask_stop;  // no SA_RESTART: sleeping ends
    ::sigaction(SIGINT, &action, &old_int_);
    ::sigaction(SIGTERM, &action, &old_term_);
  }
  ~StopOnSignal() {
    ::sigaction(SIGINT, &old_int_, nullptr);
    ::sigaction(SIGTERM, &old_term_, nullptr);
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

 private:
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
};

void sleep_until(TimeNs when) {
  const timespec at{.tv_sec = when / kSecond, .tv_nsec = when % kSecond};
  while (!stop_asked && ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
  }
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// The recording cut as the decoder wants it, and which of its steps are scored.
std::unique_ptr<ReplayTrace> make_trace(const Recording& recording, const DecoderInfo& decoder,
                                        const ReplayFlags& flags) {
  SteppedRecording stepped =
      step_recording(recording, {.bin_ms = decoder.bin_ms,
                                 .step_ms = decoder.step_ms,
                                 .target_offset_ms = decoder.target_offset_ms,
                                 .target = flags.target,
                                 .unit_ids = decoder.unit_ids,
                                 .allow_missing_units = flags.allow_missing_units})
          .value_or_throw();
  const std::size_t outputs = decoder.output_names.size();
  std::vector<std::uint8_t> scored(static_cast<std::size_t>(stepped.steps()), 0);
  if (stepped.dims == 0) {
    log::warn(flags.nwb + " has no behaviour: nothing is scored");
  } else {
    if (stepped.dims != outputs)
      throw Exception{{ErrorCode::invalid_argument,
                       fmt::format("{}: the target has {} dimensions ({}), the model decodes {} "
                                   "({}); --target chooses another series",
                                   flags.nwb, stepped.dims, join(stepped.output_names), outputs,
                                   join(decoder.output_names)),
                       "target"}};
    for (const std::string& unit : decoder.output_units)
      if (!unit.empty() && !stepped.output_unit.empty() && unit != stepped.output_unit) {
        log::warn(fmt::format("the model decodes in {}, {} states {}: R2 compares them as they are",
                              unit, flags.nwb, stepped.output_unit));
        break;
      }
    scored = scored_steps(stepped, recording, flags.split).value_or_throw();
  }
  std::int64_t total = stepped.steps();
  if (flags.max_steps > 0) total = std::min(total, flags.max_steps);
  if (flags.seconds > 0)
    total = std::min<std::int64_t>(total, std::llround(flags.seconds * 1e3 / decoder.step_ms));
  return std::make_unique<ReplayTrace>(std::move(stepped), std::move(scored), total, outputs);
}

/// Steps the whole trace; why it ended before its end, if a step failed.
std::optional<Error> run_steps(ReplayDecoder& decoder, ReplayTrace& trace, double pace,
                               double deadline_ms) {
  // Sleeping threads otherwise wake up to 50 us late to save power.
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  const RealClock& clock = RealClock::instance();
  const auto deadline = static_cast<TimeNs>(deadline_ms * 1e6);
  const double step_ns = trace.stepped.step_ms * 1e6;
  const TimeNs start = clock.now() + kLeadIn;
  for (std::int64_t s = 0; s < trace.total && !stop_asked; ++s) {
    const auto row = static_cast<std::size_t>(s);
    // The last spike of a step may arrive until its last bin ends: latency counts from there, so a
    // client that wakes late or waits for the answer before makes it longer, not shorter.
    TimeNs spikes_in = clock.now();
    if (pace > 0) {
      spikes_in = start + static_cast<TimeNs>(static_cast<double>(s + 1) * step_ns / pace);
      sleep_until(spikes_in);
      if (stop_asked) break;
      trace.wake_lag_ns[row] = std::max<TimeNs>(0, clock.now() - spikes_in);
    }
    const auto answer = decoder.step(s, trace.stepped.step_events(s), spikes_in + deadline);
    trace.latency_ns[row] = clock.now() - spikes_in;
    if (!answer) {
      Error error = answer.error();
      error.message = s == 0
                          ? fmt::format("no step was decoded: {}", error.message)
                          : fmt::format("step {} was the last decoded: {}", s - 1, error.message);
      return error;
    }
    float* decoded = trace.decoded.data() + row * trace.outputs;
    if (answer->behavior.size() == trace.outputs) {
      std::copy(answer->behavior.begin(), answer->behavior.end(), decoded);
    } else {
      // A rig without an answer holds its velocity.
      trace.withheld[row] = 1;
      if (s > 0)
        std::copy_n(trace.decoded_row(s - 1), trace.outputs, decoded);
      else
        std::fill_n(decoded, trace.outputs, 0.0F);
    }
    trace.done.store(s + 1, std::memory_order_release);
  }
  return std::nullopt;
}

std::optional<TerminalView::Mode> view_mode(const ReplayFlags& flags) {
  if (flags.view == "never" || (flags.view.empty() && flags.json)) return std::nullopt;
  const char* term = std::getenv("TERM");
  const bool capable =
      ::isatty(STDOUT_FILENO) == 1 && term != nullptr && term != std::string("dumb");
  if (flags.view == "always" || (flags.view == "auto" && capable)) return TerminalView::Mode::full;
  return TerminalView::Mode::progress;
}

ViewLabels make_labels(const Recording& recording, const DecoderInfo& decoder, double deadline_ms) {
  ViewLabels labels{.recording = std::filesystem::path(recording.path).filename().string(),
                    .decoder = decoder,
                    .trial_names = {},
                    .deadline_ms = deadline_ms};
  for (const Trial& trial : recording.trials)
    labels.trial_names.push_back(trial.split.empty() ? fmt::format("{}", trial.id)
                                                     : fmt::format("{} {}", trial.id, trial.split));
  return labels;
}

void check_flags(const ReplayFlags& flags) {
  if (flags.model.empty() == flags.url.empty())
    throw CLI::ValidationError("replay", "give one of --model and --url");
  if (flags.realtime && flags.model.empty())
    throw CLI::ValidationError("--realtime", "is the server's to take: start it with --realtime");
  if (flags.speed != "max") {
    char* end = nullptr;
    const double pace = std::strtod(flags.speed.c_str(), &end);
    if (*end != '\0' || !(pace > 0) || !std::isfinite(pace))
      throw CLI::ValidationError("--speed", "'" + flags.speed + "' is neither a speed nor 'max'");
  }
}

void replay(const ReplayFlags& flags) {
  check_flags(flags);
  const StopOnSignal signals;
  Recording recording = read_nwb(flags.nwb).value_or_throw();
  (void)prepare(recording, {.target = flags.target, .split = flags.split_by}).value_or_throw();
  const std::string api_key =
      flags.api_key_file.empty() ? "" : read_api_key(flags.api_key_file).value_or_throw();
  const auto decoder = (flags.url.empty() ? ReplayDecoder::load(flags.model, flags.realtime)
                                          : ReplayDecoder::connect(flags.url, api_key))
                           .value_or_throw();
  std::fputs(realtime_lines(decoder->realtime()).c_str(), stdout);
  const DecoderInfo& info = decoder->info();
  const auto trace = make_trace(recording, info, flags);
  const double deadline_ms = flags.deadline_ms > 0 ? flags.deadline_ms : info.step_ms;

  std::optional<TerminalView> view;
  if (const auto mode = view_mode(flags))
    view.emplace(*trace, make_labels(recording, info, deadline_ms), *mode);
  std::optional<Error> failure = run_steps(*decoder, *trace, flags.pace(), deadline_ms);
  view.reset();
  if (!failure)
    if (const auto closed = decoder->close(); !closed) failure = closed.error();

  if (!flags.out.empty()) write_csv(flags.out, *trace, info).value_or_throw();
  if (!flags.events.empty()) write_events_csv(flags.events, *trace).value_or_throw();
  if (failure) throw Exception{*failure};
  const ReplayReport report = make_report(*trace, deadline_ms);
  const ReplayContext context{.recording = flags.nwb,
                              .splits = flags.split,
                              .where = flags.url.empty() ? "in process" : flags.url,
                              .paced = flags.pace() > 0,
                              .interrupted = stop_asked,
                              .decoder = info,
                              .realtime = {decoder->realtime().begin(), decoder->realtime().end()}};
  std::fputs(report_text(report, context).c_str(), stdout);
  if (flags.json) std::puts(report_json(report, context).c_str());
}

}  // namespace

void add_replay(CLI::App& app) {
  auto flags = std::make_shared<ReplayFlags>();
  CLI::App* command = app.add_subcommand(
      "replay", "Stream a recording through a decoder as one live session and score it");
  command->add_option("--nwb", flags->nwb, "Recording (NWB 2.x)")->required();
  command
      ->add_option("--split", flags->split,
                   "Trials whose steps are scored: comma separated, or all")
      ->capture_default_str();
  command->add_option("--model", flags->model, "Decode in this process with a model file");
  command->add_option("--url", flags->url, "Decode on a server, e.g. ws://127.0.0.1:8080");
  command->add_option("--api-key-file", flags->api_key_file, "Key of a server that asks for one");
  command
      ->add_option("--speed", flags->speed,
                   "1: real time, n: n times that, max: as fast as answers come")
      ->capture_default_str();
  command
      ->add_flag("--view{auto}", flags->view,
                 "Terminal view where output is a terminal; --view=always, --view=never")
      ->check(CLI::IsMember({"auto", "always", "never"}));
  command
      ->add_option("--deadline-ms", flags->deadline_ms,
                   "From a step's last bin to its velocity; default: the model's step")
      ->check(CLI::PositiveNumber);
  command->add_option("--max-steps", flags->max_steps, "Stop after so many steps")
      ->check(CLI::PositiveNumber);
  command->add_option("--seconds", flags->seconds, "Stop after so many seconds of the recording")
      ->check(CLI::PositiveNumber);
  command->add_option("--target", flags->target,
                      "Behaviour to score against, as for training (auto)");
  command->add_option("--split-by", flags->split_by,
                      "Trials' split: a fraction for val or a column, as given for training");
  command->add_flag("--allow-missing-units", flags->allow_missing_units,
                    "Units that the recording lacks are silent instead of an error");
  command->add_flag("--realtime", flags->realtime, kRealtimeHelp);
  command->add_option("--out", flags->out, "Write every step's velocity and latency as CSV");
  command->add_option("--events", flags->events,
                      "Write the events of every step as CSV: what the programs in examples/ read");
  command->add_flag("--json", flags->json, "Print one JSON object last on standard output");
  command->footer(
      "Gaps between trials are replayed as empty steps; the split only chooses what is scored.\n"
      "Ctrl-C ends a replay early and still prints its summary.\n"
      "Example:\n  cortex replay --nwb session.nwb --model models/stream-nano.safetensors --view");
  command->callback([flags] { replay(*flags); });
}

}  // namespace cortex
