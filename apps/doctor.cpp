#include "doctor.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "bench_commands.h"
#include "bench_model.h"
#include "core/clock.h"
#include "core/json_writer.h"
#include "engine/local_engine.h"
#include "kernels/backend.h"
#include "realtime_report.h"

namespace cortex {
namespace {

constexpr std::uint64_t kSeed = 1;
constexpr std::int64_t kJitterSteps = 5000;
constexpr const char* kPrecisions[] = {"fp32", "bf16", "int8"};
/// Of one preset in one precision, as a share of all the time there is.
constexpr double kShare = 1.0 / 60;

class Stopwatch {
 public:
  explicit Stopwatch(double seconds)
      : end_(RealClock::instance().now() + static_cast<TimeNs>(seconds * 1e9)) {}
  bool over() const { return RealClock::instance().now() >= end_; }

 private:
  TimeNs end_;
};

EngineOptions alone(const std::string& device) {
  EngineOptions options;
  options.device = device;
  options.max_sessions = 1;
  options.max_batch = 1;
  options.max_queued_windows = 1;
  return options;
}

void examine_jitter(DoctorReport& report) {
  const ModelFile file = random_preset("stream-nano", DType::f32, kBenchUnits, kSeed);
  EngineOptions options = alone("cpu");
  options.realtime = true;
  const auto engine = LocalEngine::create(options, file).value_or_throw();
  report.jitter = measure_jitter(*engine, file.config, {.steps = kJitterSteps});
  report.realtime = {engine->realtime().begin(), engine->realtime().end()};
}

Timing time_preset(const ModelFile& file, const DoctorOptions& options, const CpuOptions& cpu) {
  const Backend backend = make_backend(options.device, cpu).value_or_throw();
  const bool stream = file.config.kind == ModelKind::stream;
  const auto decoder = make_bench_decoder(
      file, *backend.ops,
      {.batch = 1, .events = stream ? kBenchStepEvents : kBenchWindowEvents, .seed = kSeed});
  return time_decoder(*decoder, options.seconds * kShare, 0, cpu.threads);
}

void examine_preset(const std::string& name, const DoctorOptions& options, const Stopwatch& watch,
                    DoctorReport& report) {
  std::optional<ModelFile> wide;
  if (!watch.over()) wide = random_preset(name, DType::f32, kBenchUnits, kSeed);
  const ModelConfig config = preset_config(name).value_or_throw();
  for (const char* precision : kPrecisions) {
    PresetTiming row{.preset = name, .kind = to_string(config.kind), .precision = precision};
    if (wide && !watch.over()) {
      const ModelFile file = with_precision(clone(*wide), precision_of(precision));
      const CpuOptions cpu = cpu_options(file, alone(options.device));
      row.parameters = file.parameter_count();
      row.threads = cpu.threads;
      row.timing = time_preset(file, options, cpu);
    }
    report.presets.push_back(std::move(row));
  }
}

std::string deadline_line(const DoctorReport& report, double deadline_ms) {
  std::string line = fmt::format("{:>3.0f} ms    ", deadline_ms);
  for (const char* kind : {"stream", "window"}) {
    const PresetTiming* best = report.best(kind, deadline_ms);
    line += fmt::format("{}{}: {}", kind == std::string("window") ? "; " : "", kind,
                        best ? best->preset + " " + best->precision : "none");
  }
  return line + "\n";
}

void write_best(JsonWriter& w, const DoctorReport& report, const char* kind, double deadline_ms) {
  w.key(kind);
  const PresetTiming* best = report.best(kind, deadline_ms);
  if (best == nullptr)
    w.null();
  else
    w.begin_object()
        .key("preset")
        .value(best->preset)
        .key("precision")
        .value(best->precision)
        .end_object();
}

}  // namespace

bool PresetTiming::fits(double deadline_ms, double stall_us) const {
  return timing && timing->p99_us + stall_us <= deadline_ms * 1e3;
}

const PresetTiming* DoctorReport::best(const std::string& kind, double deadline_ms) const {
  const PresetTiming* best = nullptr;
  // Precisions come from the widest to the narrowest.
  for (const PresetTiming& row : presets)
    if (row.kind == kind && row.fits(deadline_ms, stall_us()) &&
        (best == nullptr || row.parameters > best->parameters))
      best = &row;
  return best;
}

Result<DoctorReport> examine(const DoctorOptions& options) {
  const Stopwatch watch(options.seconds);
  DoctorReport report;
  report.isas = cpu_isas();
  report.cpu_backend = make_bench_ops(1)->name();
  {
    auto found = make_backend("auto", {});
    if (!found) return found.error();
    if (found->on_gpu)
      report.gpu = found->name;
    else
      report.no_gpu = found->note;
    auto chosen = make_backend(options.device, {});
    if (!chosen) return chosen.error();
    report.device = chosen->name;
  }
  for (const char* kind : {"stream", "window"})
    for (const std::string& name : preset_names())
      if (to_string(preset_config(name).value_or_throw().kind) == std::string(kind))
        examine_preset(name, options, watch, report);
  // Last, since it locks what memory there is.
  examine_jitter(report);
  return report;
}

std::string doctor_text(const DoctorReport& r) {
  std::string text = fmt::format("cpu       {}: {}, computes with {}\n", cpu_model(),
                                 fmt::join(r.isas, ", "), r.cpu_backend);
  text += fmt::format("gpu       {}\n", r.gpu.empty() ? "none: " + r.no_gpu : r.gpu);
  text += realtime_lines(r.realtime);
  const LatencySummary& idle = r.jitter.idle;
  text += fmt::format(
      "jitter    idle spins of {:.0f} us: p99 {:.0f} us, p99.9 {:.0f}, longest {:.0f}; a step "
      "spreads {} times as far\n\n",
      idle.p50_us, idle.p99_us, idle.p999_us, idle.max_us,
      jitter_ratio(r.jitter) ? fmt::format("{:.2f}", *jitter_ratio(r.jitter)) : "no");
  text += fmt::format("alone on {}, random weights: steps of {} events, windows of {}\n", r.device,
                      kBenchStepEvents, kBenchWindowEvents);
  text += fmt::format("{:<12} {:<9} {:>8} {:>9} {:>9}   fits within, ms\n", "preset", "precision",
                      "threads", "p50 ms", "p99 ms");
  for (const PresetTiming& row : r.presets) {
    if (!row.timing) {
      text +=
          fmt::format("{:<12} {:<9} not measured: the time was over\n", row.preset, row.precision);
      continue;
    }
    text += fmt::format("{:<12} {:<9} {:>8} {:>9.3f} {:>9.3f}  ", row.preset, row.precision,
                        row.threads, row.timing->p50_us * 1e-3, row.timing->p99_us * 1e-3);
    for (const double deadline : kDeadlinesMs)
      text += row.fits(deadline, r.stall_us()) ? fmt::format(" {:g}", deadline) : "";
    text += "\n";
  }
  text += fmt::format("\nlargest that fits, with {:.3f} ms for the machine's own stalls:\n",
                      r.stall_us() * 1e-3);
  for (const double deadline : kDeadlinesMs) text += deadline_line(r, deadline);
  return text;
}

std::string doctor_json(const DoctorReport& r) {
  JsonWriter w;
  w.begin_object();
  write_machine(w);
  w.key("isas").begin_array();
  for (const std::string& isa : r.isas) w.value(isa);
  w.end_array().key("cpu_backend").value(r.cpu_backend);
  w.key("gpu");
  r.gpu.empty() ? w.null() : w.value(r.gpu);
  w.key("no_gpu");
  r.gpu.empty() ? w.value(r.no_gpu) : w.null();
  w.key("device").value(r.device);
  write_realtime(w, r.realtime);
  const LatencySummary& idle = r.jitter.idle;
  w.key("idle_us").begin_object().key("p50").value(idle.p50_us).key("p99").value(idle.p99_us);
  w.key("p999").value(idle.p999_us).key("max").value(idle.max_us).end_object();
  w.key("jitter_ratio");
  const auto ratio = jitter_ratio(r.jitter);
  ratio ? w.value(*ratio) : w.null();
  w.key("stall_us").value(r.stall_us());
  w.key("step_events").value(kBenchStepEvents).key("window_events").value(kBenchWindowEvents);
  w.key("presets").begin_array();
  for (const PresetTiming& row : r.presets) {
    w.begin_object().key("preset").value(row.preset).key("kind").value(row.kind);
    w.key("precision").value(row.precision);
    if (row.timing) {
      w.key("parameters").value(row.parameters).key("threads").value(row.threads);
      w.key("iterations").value(row.timing->iterations);
      w.key("p50_us").value(row.timing->p50_us).key("p99_us").value(row.timing->p99_us);
    } else {
      w.key("p50_us").null().key("p99_us").null();
    }
    w.key("fits_ms").begin_array();
    for (const double deadline : kDeadlinesMs)
      if (row.fits(deadline, r.stall_us())) w.value(deadline);
    w.end_array().end_object();
  }
  w.end_array().key("largest").begin_array();
  for (const double deadline : kDeadlinesMs) {
    w.begin_object().key("deadline_ms").value(deadline);
    write_best(w, r, "stream", deadline);
    write_best(w, r, "window", deadline);
    w.end_object();
  }
  w.end_array().end_object();
  return w.text();
}

}  // namespace cortex
